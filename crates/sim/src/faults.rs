//! What goes wrong between a component and the API server, and when, decided by a seed.
//!
//! Invariant: every decision comes from one seeded stream of random numbers, asked in the order of the requests; so
//! the same run meets the same faults. Nothing is made up that a real network or server could not do: a request
//! without an answer was carried out or was not, never half.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use kube::client::Body;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How often, in events per 10,000 requests (or, of watches, per 10,000 opened).
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    pub lost_request: u32,
    pub lost_answer: u32,
    pub conflict: u32,
    pub unavailable: u32,
    /// Of a component, at one of its writes: half of the times before, half after it is done.
    pub death: u32,
    pub watch_cut: u32,
    pub watch_expired: u32,
    pub watch_stalled: u32,
    /// The longest a request or its answer travels.
    pub latency_max: Duration,
    /// What an answer may take on top of that.
    pub answer_delay_max: Duration,
    /// The longest that a stalled watch shows an old world.
    pub stall_max: Duration,
}

impl FaultRates {
    /// Rough weather: each kind of fault every few seconds of a busy cluster.
    pub fn rough() -> FaultRates {
        FaultRates {
            lost_request: 150,
            lost_answer: 150,
            conflict: 200,
            unavailable: 100,
            death: 60,
            watch_cut: 3_000,
            watch_expired: 500,
            watch_stalled: 2_000,
            latency_max: Duration::from_millis(8),
            answer_delay_max: Duration::ZERO,
            stall_max: Duration::from_secs(4),
        }
    }
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    LostRequest,
    LostAnswer,
    Conflict,
    Unavailable,
    DeathBefore,
    DeathAfter,
    Expired,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Journey {
    pub fate: Fate,
    pub there: Duration,
    pub back: Duration,
}

impl Journey {
    pub const SMOOTH: Journey = Journey { fate: Fate::Answered, there: Duration::ZERO, back: Duration::ZERO };
}

/// What becomes of one watch that was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WatchFate {
    pub cut_after: Option<Duration>,
    /// Starts so long after opening, and lasts so long.
    pub stall: Option<(Duration, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Read,
    Write,
    /// A PUT, which may conflict.
    Replace,
    Watch,
}

impl Sort {
    pub fn of(request: &Request<Body>) -> Sort {
        match *request.method() {
            Method::GET if request.uri().query().is_some_and(|query| query.contains("watch=")) => Sort::Watch,
            Method::GET => Sort::Read,
            Method::PUT => Sort::Replace,
            _ => Sort::Write,
        }
    }
}

/// The seeded weather that all links of a cluster share; fair until told otherwise.
#[derive(Clone)]
pub struct Faults(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    rates: Option<FaultRates>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Faults {
        // Another stream than the server's, which has the plain seed.
        let random = StdRng::seed_from_u64(seed ^ 0xfa17_5eed);
        Faults(Arc::new(Mutex::new(State { random, rates: None })))
    }

    pub fn begin(&self, rates: FaultRates) {
        self.0.lock().rates = Some(rates);
    }

    pub fn end(&self) {
        self.0.lock().rates = None;
    }

    pub(crate) fn below(&self, bound: Duration) -> Duration {
        let mut state = self.0.lock();
        Duration::from_micros(state.random.random_range(0..bound.as_micros().max(1) as u64))
    }

    pub(crate) fn journey(&self, sort: Sort, mortal: bool) -> Journey {
        let State { random, rates } = &mut *self.0.lock();
        let Some(rates) = rates else { return Journey::SMOOTH };
        let writes = matches!(sort, Sort::Write | Sort::Replace);
        let only_if = |applies: bool, rate: u32| if applies { rate } else { 0 };
        let chances = [
            (rates.lost_request, Fate::LostRequest),
            (only_if(sort != Sort::Watch, rates.lost_answer), Fate::LostAnswer),
            (only_if(sort == Sort::Replace, rates.conflict), Fate::Conflict),
            (rates.unavailable, Fate::Unavailable),
            (only_if(writes && mortal, rates.death) / 2, Fate::DeathBefore),
            (only_if(writes && mortal, rates.death) / 2, Fate::DeathAfter),
            (only_if(sort == Sort::Watch, rates.watch_expired), Fate::Expired),
        ];
        let mut drawn = random.random_range(0..10_000u32);
        let mut fate = Fate::Answered;
        for (chance, then) in chances {
            if drawn < chance {
                fate = then;
                break;
            }
            drawn -= chance;
        }
        let mut travel = |most: Duration| Duration::from_micros(random.random_range(0..most.as_micros().max(1) as u64));
        Journey { fate, there: travel(rates.latency_max), back: travel(rates.latency_max + rates.answer_delay_max) }
    }

    pub(crate) fn watch(&self) -> WatchFate {
        let State { random, rates } = &mut *self.0.lock();
        let Some(rates) = rates else { return WatchFate::default() };
        let happens = |rate: u32, random: &mut StdRng| random.random_range(0..10_000u32) < rate;
        let cut = happens(rates.watch_cut, random);
        let stalled = happens(rates.watch_stalled, random);
        let mut span = |most: Duration| Duration::from_micros(random.random_range(0..most.as_micros().max(1) as u64));
        WatchFate {
            cut_after: cut.then(|| span(Duration::from_secs(30))),
            stall: stalled.then(|| (span(Duration::from_secs(20)), span(rates.stall_max))),
        }
    }
}
