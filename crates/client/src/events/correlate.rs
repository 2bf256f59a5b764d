//! Which events are told, counted, combined or dropped. Pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// Distinct messages of one kind about one object before they are combined.
const SIMILAR_MAX: usize = 10;
const SIMILAR_INTERVAL_SECONDS: f64 = 600.0;
/// Events of one source about one object: a burst, then one in five minutes.
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// Objects and events remembered.
const REMEMBERED: usize = 4096;

pub(super) enum Outcome {
    Skip,
    Create { event: Event, key: String },
    Patch { event: Event, key: String },
}

#[derive(Default)]
pub(super) struct Correlator {
    similar: Recent<Similar>,
    told: Recent<Told>,
    spam: Recent<Bucket>,
}

struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

#[derive(Clone)]
struct Told {
    count: i32,
    first: Option<Time>,
    name: Option<String>,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Correlator {
    pub fn correlate(&mut self, event: Event, now: Timestamp) -> Outcome {
        let object_key = object_key(&event);
        let (mut event, key) = self.combine(event, &object_key, now);
        let known = self.told.get(&key).cloned();
        if let Some(known) = &known {
            event.metadata.name.clone_from(&known.name);
            event.first_timestamp.clone_from(&known.first);
            event.count = Some(known.count + 1);
        }
        self.told.put(
            &key,
            Told {
                count: event.count.unwrap_or(1),
                first: event.first_timestamp.clone(),
                name: event.metadata.name.clone(),
            },
        );
        if !self.admit(&object_key, now) {
            return Outcome::Skip;
        }
        match known {
            Some(_) => Outcome::Patch { event, key },
            None => Outcome::Create { event, key },
        }
    }

    /// The server may have answered with another name or count.
    pub fn written(&mut self, key: &str, event: &Event) {
        self.told.put(
            key,
            Told {
                count: event.count.unwrap_or(1),
                first: event.first_timestamp.clone(),
                name: event.metadata.name.clone(),
            },
        );
    }

    /// From the tenth distinct message on, one event stands for all of the same reason.
    fn combine(&mut self, mut event: Event, object_key: &str, now: Timestamp) -> (Event, String) {
        let similar_key = format!(
            "{object_key}{}{}{}{}",
            text(&event.type_),
            text(&event.reason),
            text(&event.reporting_component),
            text(&event.reporting_instance)
        );
        let message = text(&event.message).to_owned();
        let similar = self.similar.entry(&similar_key, || Similar { messages: BTreeSet::new(), last: now });
        if seconds_between(similar.last, now) > SIMILAR_INTERVAL_SECONDS {
            similar.messages.clear();
        }
        similar.messages.insert(message.clone());
        similar.last = now;
        if similar.messages.len() < SIMILAR_MAX {
            let field_path = text(&event.involved_object.field_path).to_owned();
            return (event, format!("{similar_key}{field_path}{message}"));
        }
        similar.messages.pop_first();
        event.message = Some(format!("(combined from similar events): {message}"));
        (event, similar_key)
    }

    fn admit(&mut self, object_key: &str, now: Timestamp) -> bool {
        let bucket = self.spam.entry(object_key, || Bucket { tokens: SPAM_BURST, at: now });
        bucket.tokens = (bucket.tokens + seconds_between(bucket.at, now) * SPAM_PER_SECOND).min(SPAM_BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

/// What changes when an event repeats.
pub(super) fn patch_of(event: &Event) -> Value {
    json!({
        "count": event.count,
        "lastTimestamp": event.last_timestamp,
        "message": event.message,
    })
}

fn object_key(event: &Event) -> String {
    let object = &event.involved_object;
    let source = event.source.as_ref();
    [
        source.and_then(|source| source.component.as_deref()),
        source.and_then(|source| source.host.as_deref()),
        object.kind.as_deref(),
        object.namespace.as_deref(),
        object.name.as_deref(),
        object.uid.as_deref(),
        object.api_version.as_deref(),
    ]
    .map(|part| part.unwrap_or_default())
    .join("\u{1f}")
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}

/// A map that forgets what was used longest ago.
struct Recent<V> {
    entries: HashMap<String, (u64, V)>,
    by_age: BTreeMap<u64, String>,
    tick: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Recent { entries: HashMap::new(), by_age: BTreeMap::new(), tick: 0 }
    }
}

impl<V> Recent<V> {
    fn get(&self, key: &str) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    fn put(&mut self, key: &str, value: V) {
        self.tick += 1;
        if let Some((age, _)) = self.entries.insert(key.to_owned(), (self.tick, value)) {
            self.by_age.remove(&age);
        }
        self.by_age.insert(self.tick, key.to_owned());
        if self.entries.len() > REMEMBERED
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    fn entry(&mut self, key: &str, make: impl FnOnce() -> V) -> &mut V {
        let value = match self.entries.remove(key) {
            Some((age, value)) => {
                self.by_age.remove(&age);
                value
            }
            None => make(),
        };
        self.put(key, value);
        &mut self.entries.get_mut(key).expect("just put").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, message: &str) -> Event {
        let mut event = Event { count: Some(1), message: Some(message.into()), ..Event::default() };
        event.metadata.name = Some(name.into());
        event.involved_object.name = Some("web".into());
        event.reason = Some("Created".into());
        event
    }

    /// `second:message` items; the outcome is `+` for create, `~count` for patch, `.` for skip.
    #[track_caller]
    fn check(script: &[(i64, &str)], expected: &str) {
        let mut correlator = Correlator::default();
        let outcomes: Vec<String> = script
            .iter()
            .map(|(second, message)| {
                let now = Timestamp::from_second(*second).unwrap();
                match correlator.correlate(event("e", message), now) {
                    Outcome::Skip => ".".into(),
                    Outcome::Create { event, .. } if event.message.as_deref().unwrap().starts_with("(combined") => "C".into(),
                    Outcome::Create { .. } => "+".into(),
                    Outcome::Patch { event, .. } => format!("~{}", event.count.unwrap()),
                }
            })
            .collect();
        assert_eq!(outcomes.join(""), expected);
    }

    #[test]
    fn repeats_are_counted_and_floods_are_dropped() {
        check(&[(0, "a"), (1, "a"), (2, "b"), (3, "a")], "+~2+~3");
        let many: Vec<String> = (0..13).map(|n| format!("pod {n}")).collect();
        let many: Vec<(i64, &str)> = many.iter().map(|message| (0, message.as_str())).collect();
        check(&many, "+++++++++C~2~3~4");
        check(&[(0, "a"); 27], "+~2~3~4~5~6~7~8~9~10~11~12~13~14~15~16~17~18~19~20~21~22~23~24~25..");
        check(&[(0, "a"), (0, "a"), (100_000, "a")], "+~2~3");
    }
}
