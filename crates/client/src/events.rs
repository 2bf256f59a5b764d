//! Events about objects, told to the API server without holding anybody up.
//!
//! Invariant: recording never waits and never fails. What the bounded queue cannot take is dropped, and
//! what repeats is counted rather than told again: an object that misbehaves for a year has a handful of
//! events. The rules and their figures are client-go's correlator's.

mod correlate;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api::clock::Clock;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::errors::{ErrorKind, error_kind};
use crate::key::ObjectKey;
use crate::rest::{Patch, Rest};
use correlate::{Correlator, Outcome};

/// Events that may wait for the API server; further ones are dropped.
const QUEUE_LIMIT: usize = 1000;
const TRIES: usize = 12;
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

/// Cheap to clone; clones share queue and correlation.
#[derive(Clone)]
pub struct EventRecorder {
    clock: Clock,
    source: Arc<EventSource>,
    queue: mpsc::Sender<Event>,
    last_nanosecond: Arc<AtomicI64>,
}

impl EventRecorder {
    /// Starts the task that sends; it ends when the last clone is dropped. `host` is empty for components
    /// that are not bound to a node.
    pub fn new(client: Client, clock: Clock, component: &str, host: &str) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_LIMIT);
        tokio::spawn(send_all(Rest::new(client), clock.clone(), receiver));
        let source = EventSource {
            component: Some(component.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
        };
        EventRecorder { clock, source: Arc::new(source), queue, last_nanosecond: Arc::new(AtomicI64::new(0)) }
    }

    pub fn event(&self, about: &ObjectReference, event_type: EventType, reason: &str, message: impl Into<String>) {
        let event = self.make(about, event_type, reason, message.into());
        if self.queue.try_send(event).is_err() {
            warn!(reason, "event dropped: the queue is full");
        }
    }

    fn make(&self, about: &ObjectReference, event_type: EventType, reason: &str, message: String) -> Event {
        let now = self.clock.now();
        let mut event = Event {
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            involved_object: about.clone(),
            message: Some(message),
            reason: Some(reason.to_owned()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some((*self.source).clone()),
            type_: Some(format!("{event_type:?}")),
            ..Event::default()
        };
        event.metadata.namespace =
            Some(about.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".into()));
        event.metadata.name =
            Some(format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), self.unique_nanosecond(now)));
        event
    }

    /// The time, or a little later when two events meet in one nanosecond, as they do on a paused clock.
    fn unique_nanosecond(&self, now: jiff::Timestamp) -> i64 {
        let now = now.as_nanosecond() as i64;
        let last = self
            .last_nanosecond
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)))
            .expect("the closure always yields a value");
        now.max(last + 1)
    }
}

async fn send_all(rest: Rest, clock: Clock, mut receiver: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    while let Some(event) = receiver.recv().await {
        match correlator.correlate(event, clock.now()) {
            Outcome::Skip => {}
            Outcome::Create { event, key } => {
                if let Some(written) = send(&rest, &event, None).await {
                    correlator.written(&key, &written);
                }
            }
            Outcome::Patch { event, key } => {
                let patch = correlate::patch_of(&event);
                if let Some(written) = send(&rest, &event, Some(Patch::Strategic(patch))).await {
                    correlator.written(&key, &written);
                }
            }
        }
    }
}

async fn send(rest: &Rest, event: &Event, mut patch: Option<Patch>) -> Option<Event> {
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        let mut answer = match &patch {
            Some(patch) => rest.patch(&ObjectKey::of(&event.metadata), patch, "").await,
            None => rest.create(event).await,
        };
        if patch.is_some() && answer.as_ref().is_err_and(|error| error_kind(error) == ErrorKind::NotFound) {
            patch = None; // It has expired meanwhile.
            let mut fresh = event.clone();
            fresh.metadata.resource_version = None;
            answer = rest.create(&fresh).await;
        }
        match answer {
            Ok(written) => return Some(written),
            Err(error) => match error_kind(&error) {
                ErrorKind::Unreachable => debug!(%error, "event not sent, will be tried again"),
                ErrorKind::AlreadyExists => return None,
                _ => {
                    warn!(%error, "event refused");
                    return None;
                }
            },
        }
    }
    None
}
