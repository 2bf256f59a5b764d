//! Takes events away an hour after they were last seen, as the original's leases do.
//!
//! Invariant: sleeps until the next event may be due, and not at all while there are none.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::{Compare, Transaction, Write};

use crate::cache::{Cache, Entry, Filter};
use crate::error::RequestError;
use crate::kinds::registry;
use crate::server::ApiServer;

const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Events that fall due close together go together.
const REST_MIN: Duration = Duration::from_secs(60);

pub async fn run(server: Arc<ApiServer>) {
    let Some(kind) = registry::by_plural("", "v1", "events") else { return };
    let cache = server.cache.clone();
    let cancel = server.config.cancel.clone();
    // The loop must not keep the server alive.
    let clock = server.config.clock.clone();
    drop(server);
    let mut changed = cache.shelf(kind).subscribe();
    loop {
        changed.borrow_and_update();
        let now = clock.now();
        let entries = cache.select(kind, &Filter::default(), None, 0).entries;
        let mut next: Option<Timestamp> = None;
        let mut due: Vec<Arc<Entry>> = Vec::new();
        for entry in entries {
            let end = last_seen(&entry.value()).unwrap_or(now) + EVENT_LIFE;
            if end <= now {
                due.push(entry);
            } else {
                next = Some(next.map_or(end, |next| next.min(end)));
            }
        }
        for batch in due.chunks(store::TRANSACTION_MAX) {
            if let Err(cause) = delete(&cache, batch).await {
                tracing::warn!("deleting old events: {cause}");
            }
        }
        drop(due);
        let rest = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or(REST_MIN).max(REST_MIN));
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(rest.unwrap_or(REST_MIN)), if rest.is_some() => {}
            result = changed.changed(), if rest.is_none() => {
                if result.is_err() {
                    return;
                }
            }
        }
    }
}

async fn delete(cache: &Cache, batch: &[Arc<Entry>]) -> Result<(), RequestError> {
    let Some(kind) = registry::by_plural("", "v1", "events") else { return Ok(()) };
    let shelf = cache.shelf(kind);
    let mut transaction = Transaction::default();
    for entry in batch {
        let key = shelf.store_key(entry.namespace(), entry.name());
        transaction.compares.push(Compare::ModRevision { key: key.clone(), equals: entry.revision });
        transaction.writes.push(Write::Delete { key });
    }
    // One that changed meanwhile spoils the batch; it is tried again next time.
    cache.store().commit(transaction).await?;
    Ok(())
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    [&event["metadata"]["creationTimestamp"], &event["lastTimestamp"], &event["eventTime"], &event["series"]["lastObservedTime"]]
        .into_iter()
        .filter_map(|time| time.as_str()?.parse().ok())
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repeats_keep_an_event_alive() {
        let event = json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": "2026-01-01T00:30:00Z",
        });
        assert_eq!(last_seen(&event), "2026-01-01T00:30:00Z".parse().ok());
        assert_eq!(last_seen(&json!({})), None);
    }
}
