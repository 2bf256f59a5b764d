//! API priority and fairness: each request falls under a flow schema, which names the priority level whose seats it
//! takes.
//!
//! Invariant: a request holds its seats until its answer is made, whatever becomes of its future; who is exempt never
//! waits. Watches hold a seat only while they start; other long-running requests are not counted here.
//! The objects are compiled again when, and only when, one of them changed.

pub mod built_in;
mod floor;
mod metrics;
mod reconcile;
mod schema;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::Value;
use store::Revision;
use tokio::time::Instant;

use crate::cache::{Cache, Filter, Shelf};
use crate::http::query::Query;
use crate::http::request_info::RequestInfo;
use crate::kinds::registry;
use crate::user::User;
use built_in::{GROUP, LEVELS, SCHEMAS};
use floor::{Floor, Limits, Outcome, flow_number};
use schema::{Distinguisher, SchemaSpec};

pub use reconcile::{fresh, run};

/// How long a request may wait for a seat: a quarter of what it may take, as the original.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Objects that a list may go through per seat, and the seats that one takes at most; the original's figures.
const OBJECTS_PER_SEAT: usize = 100;
const LIST_SEATS_MAX: u64 = 10;
/// The part of a level's seats that one list may take.
const LIST_PART: f64 = 0.15;
/// Bounds of the histogram of waits, in seconds; the original's.
pub const WAIT_BUCKETS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

/// How many requests may be at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSettings {
    /// Whether flow schemas count; else the two figures below are limits of their own.
    pub priority_and_fairness: bool,
    /// Reads.
    pub requests_max: usize,
    /// Writes.
    pub mutating_requests_max: usize,
}

impl Default for FlowSettings {
    fn default() -> Self {
        FlowSettings { priority_and_fairness: true, requests_max: 400, mutating_requests_max: 200 }
    }
}

pub struct FlowControl {
    enabled: bool,
    cache: Arc<Cache>,
    schemas: Arc<Shelf>,
    levels: Arc<Shelf>,
    compiled: ArcSwap<Compiled>,
    floor: Mutex<Floor>,
    reads: InFlight,
    writes: InFlight,
}

/// Requests at work, and how many may be.
struct InFlight {
    now: AtomicI64,
    max: i64,
}

#[derive(Default)]
struct Compiled {
    revisions: [Revision; 2],
    schemas: Vec<Arc<Schema>>,
}

struct Schema {
    name: String,
    uid: HeaderValue,
    spec: SchemaSpec,
    distinguisher: Distinguisher,
    level: usize,
    level_name: String,
    level_uid: HeaderValue,
    exempt: bool,
    counts: Arc<Counts>,
}

/// What became of a schema's requests.
#[derive(Default)]
struct Counts {
    dispatched: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
    waits: [AtomicU64; WAIT_BUCKETS.len() + 1],
    waited_micros: AtomicU64,
}

const REASONS: [&str; 4] = ["queue-full", "concurrency-limit", "time-out", "cancelled"];

impl Counts {
    fn refuse(&self, reason: &str) {
        if let Some(at) = REASONS.iter().position(|own| *own == reason) {
            self.refused[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run(&self, waited: Duration) {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        let seconds = waited.as_secs_f64();
        let at = WAIT_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(WAIT_BUCKETS.len());
        self.waits[at].fetch_add(1, Ordering::Relaxed);
        self.waited_micros.fetch_add(waited.as_micros() as u64, Ordering::Relaxed);
    }
}

/// What a request's answer tells of its flow.
#[derive(Clone)]
pub struct FlowNames {
    pub schema_uid: HeaderValue,
    pub level_uid: HeaderValue,
}

/// There is no place for the request.
pub struct Refused;

/// A request's seats; returned when it is dropped.
pub struct Place {
    flow: Arc<FlowControl>,
    mutating: bool,
    seats: Option<Seats>,
}

struct Seats {
    level: usize,
    seats: u64,
    /// Where it waited before it started, and when that was.
    waited: Option<(usize, Instant)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.flow.in_flight(self.mutating).now.fetch_sub(1, Ordering::Relaxed);
        if let Some(Seats { level, seats, waited }) = self.seats {
            let seconds = waited.map_or(0.0, |(_, started)| started.elapsed().as_secs_f64());
            self.flow.floor.lock().leave(level, seats, waited.map(|(queue, _)| queue), seconds);
        }
    }
}

/// Somebody who waits in a queue; leaves it when dropped.
struct InQueue<'a> {
    flow: &'a Arc<FlowControl>,
    schema: &'a Schema,
    seats: u64,
    queue: usize,
    id: u64,
    /// Neither a seat nor a refusal came of it yet.
    open: bool,
}

impl InQueue<'_> {
    fn seated(mut self) -> Seats {
        self.open = false;
        Seats { level: self.schema.level, seats: self.seats, waited: Some((self.queue, Instant::now())) }
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let mut floor = self.flow.floor.lock();
        if !floor.give_up(self.schema.level, self.queue, self.id) {
            // A seat came in the same moment.
            floor.leave(self.schema.level, self.seats, Some(self.queue), 0.0);
        }
    }
}

impl FlowControl {
    pub fn new(settings: &FlowSettings, cache: Arc<Cache>) -> Arc<FlowControl> {
        let shelf = |plural: &str| {
            let kind = registry::by_plural(GROUP, "v1", plural).expect("a built-in kind");
            cache.shelf(kind).clone()
        };
        let in_flight = |max: usize| InFlight { now: AtomicI64::new(0), max: i64::try_from(max).unwrap_or(i64::MAX) };
        let total = settings.requests_max + settings.mutating_requests_max;
        Arc::new(FlowControl {
            enabled: settings.priority_and_fairness,
            schemas: shelf(SCHEMAS),
            levels: shelf(LEVELS),
            compiled: ArcSwap::default(),
            floor: Mutex::new(Floor::new(total.max(1) as u64)),
            reads: in_flight(settings.requests_max),
            writes: in_flight(settings.mutating_requests_max),
            cache,
        })
    }

    /// Reads and writes at work.
    pub fn at_work(&self) -> [i64; 2] {
        [&self.reads, &self.writes].map(|places| places.now.load(Ordering::Relaxed))
    }

    fn in_flight(&self, mutating: bool) -> &InFlight {
        if mutating { &self.writes } else { &self.reads }
    }

    /// A place for a request, when there is one.
    pub async fn enter(
        self: &Arc<Self>,
        user: &User,
        info: &RequestInfo,
        query: &Query,
        names: &mut Option<FlowNames>,
    ) -> Result<Place, Refused> {
        let mutating = !matches!(info.verb, "get" | "list" | "watch" | "head" | "options");
        let at_work = self.in_flight(mutating).now.fetch_add(1, Ordering::Relaxed);
        let mut place = Place { flow: self.clone(), mutating, seats: None };
        if !self.enabled {
            // So many reads and so many writes, and no waiting; but a way in for who must mend an overloaded server.
            let max = self.in_flight(mutating).max;
            let full = max > 0 && at_work >= max && !user.in_group(crate::user::SYSTEM_MASTERS);
            return if full { Err(Refused) } else { Ok(place) };
        }
        let compiled = self.current();
        let Some(schema) = compiled.schemas.iter().find(|schema| schema.spec.matches(user, info)) else {
            return Ok(place); // The mandatory catch-all takes whoever has been identified.
        };
        *names = Some(FlowNames { schema_uid: schema.uid.clone(), level_uid: schema.level_uid.clone() });
        let outcome = {
            let mut floor = self.floor.lock();
            let seats = if schema.exempt { 1 } else { self.seats(info, query, || floor.nominal(schema.level)) };
            let outcome = floor.enter(schema.level, seats, || {
                flow_number(&schema.name, match schema.distinguisher {
                    Distinguisher::None => "",
                    Distinguisher::User => &user.name,
                    Distinguisher::Namespace => &info.namespace,
                })
            });
            (outcome, seats)
        };
        let seats = outcome.1;
        match outcome.0 {
            Outcome::Run => {
                schema.counts.run(Duration::ZERO);
                place.seats = Some(Seats { level: schema.level, seats, waited: None });
                Ok(place)
            }
            Outcome::Refuse(reason) => {
                schema.counts.refuse(reason);
                Err(Refused)
            }
            Outcome::Wait { id, queue, heard } => {
                let begun = Instant::now();
                let waiting = InQueue { flow: self, schema, seats, queue, id, open: true };
                if tokio::time::timeout(WAIT_MAX, heard).await.is_ok_and(|heard| heard.is_ok()) {
                    schema.counts.run(begun.elapsed());
                    place.seats = Some(waiting.seated());
                    return Ok(place);
                }
                schema.counts.refuse("time-out");
                Err(Refused)
            }
        }
    }

    /// How wide a request is: lists by what they go through.
    fn seats(&self, info: &RequestInfo, query: &Query, nominal: impl FnOnce() -> u64) -> u64 {
        if info.verb != "list" || !info.name.is_empty() {
            return 1;
        }
        let Some(kind) = registry::by_plural(&info.group, &info.version, &info.resource) else { return 1 };
        if kind.storage.is_empty() {
            return 1;
        }
        let stored = self.cache.shelf(kind).len();
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0).unwrap_or(stored);
        let wanted = stored.min(limit).div_ceil(OBJECTS_PER_SEAT) as u64;
        if wanted <= 1 {
            return 1;
        }
        wanted.min(LIST_SEATS_MAX).min(((nominal() as f64 * LIST_PART).ceil() as u64).max(1))
    }

    fn current(&self) -> Arc<Compiled> {
        let revisions = [self.schemas.revision(), self.levels.revision()];
        let compiled = self.compiled.load_full();
        if compiled.revisions == revisions { compiled } else { self.compile(revisions) }
    }

    fn compile(&self, revisions: [Revision; 2]) -> Arc<Compiled> {
        // The lock makes two that compile at once agree on the places of levels.
        let mut floor = self.floor.lock();
        let before = self.compiled.load_full();
        if before.revisions == revisions {
            return before;
        }
        let all = |shelf: &Shelf| -> Vec<Value> {
            let selected = shelf.select(&Filter::default(), None, 0, || self.cache.applied());
            selected.entries.iter().map(|entry| entry.value()).collect()
        };
        let mut schemas = all(&self.schemas);
        let mut levels = all(&self.levels);
        // The mandatory ones hold also where somebody has just deleted them.
        for (plural, object) in built_in::objects() {
            let list = if plural == LEVELS { &mut levels } else { &mut schemas };
            let name = &object["metadata"]["name"];
            if built_in::is_mandatory(name.as_str().unwrap_or("")) && !list.iter().any(|own| own["metadata"]["name"] == *name) {
                list.push(object);
            }
        }
        let limits: Vec<(String, Limits)> =
            levels.iter().map(|level| (text(level, "name").to_owned(), schema::limits(level))).collect();
        let places = floor.configure(&limits);
        let mut compiled: Vec<Arc<Schema>> = Vec::with_capacity(schemas.len());
        for object in &schemas {
            let spec = SchemaSpec::of(object);
            let wanted = &spec.priority_level_configuration.name;
            // One whose level is missing matches nothing.
            let Some(at) = limits.iter().position(|(name, _)| name == wanted) else { continue };
            let name = text(object, "name");
            let known = before.schemas.iter().find(|known| known.name == name);
            compiled.push(Arc::new(Schema {
                name: name.to_owned(),
                uid: header(text(object, "uid")),
                distinguisher: spec.distinguisher(),
                level: places[at],
                level_name: wanted.clone(),
                level_uid: header(text(&levels[at], "uid")),
                exempt: limits[at].1.exempt,
                counts: known.map(|known| known.counts.clone()).unwrap_or_default(),
                spec,
            }));
        }
        compiled.sort_by(|a, b| (a.spec.matching_precedence, &a.name).cmp(&(b.spec.matching_precedence, &b.name)));
        let compiled = Arc::new(Compiled { revisions, schemas: compiled });
        self.compiled.store(compiled.clone());
        compiled
    }

    /// Levels by name.
    fn figures(&self) -> Vec<floor::Figures> {
        self.current();
        let mut figures = self.floor.lock().figures();
        figures.sort_by(|a, b| a.level.cmp(&b.level));
        figures
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or("")
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
