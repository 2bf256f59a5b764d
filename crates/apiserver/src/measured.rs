//! A store that notes how long it takes, for `/metrics`.
//!
//! Invariant: what is noted is bounded by the kinds there are. Watches and bookkeeping are passed through.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use store::{
    Compare, KeyRange, RangeRequest, RangeResponse, Revision, SharedStore, Store, StoreError, Transaction,
    TransactionResponse, WatchMessage, Write,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use api::histogram::Histogram;
use crate::kinds::registry::REGISTRY;

/// Upper bounds in seconds; the original's.
static BUCKETS: [f64; 15] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0];

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Labels {
    group: &'static str,
    resource: &'static str,
    operation: &'static str,
}

struct Series {
    times: Histogram<{ BUCKETS.len() }>,
    errors: u64,
}

#[derive(Default)]
pub struct StoreTimes(Mutex<HashMap<Labels, Series>>);

pub struct MeasuredStore {
    inner: SharedStore,
    times: Arc<StoreTimes>,
    /// Group and resource by storage name.
    resources: HashMap<&'static str, (&'static str, &'static str)>,
}

impl MeasuredStore {
    pub fn over(inner: SharedStore) -> (SharedStore, Arc<StoreTimes>) {
        let times = Arc::new(StoreTimes::default());
        let stored = REGISTRY.iter().filter(|kind| !kind.storage.is_empty() && kind.conversion.is_none());
        let resources = stored.map(|kind| (kind.storage, (kind.group, kind.plural))).collect();
        (Arc::new(MeasuredStore { inner, times: times.clone(), resources }), times)
    }

    fn note(&self, key: &[u8], operation: &'static str, began: Instant, failed: bool) {
        let (group, resource) = self.resource(key).unwrap_or(("", ""));
        self.times.note(Labels { group, resource, operation }, began.elapsed(), failed);
    }

    /// What lies under `/registry/<one or two steps>/`.
    fn resource(&self, key: &[u8]) -> Option<(&'static str, &'static str)> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix("/registry/")?;
        let mut slashes = key.match_indices('/').map(|(at, _)| at);
        let one = slashes.next().and_then(|end| self.resources.get(&key[..end]));
        one.or_else(|| slashes.next().and_then(|end| self.resources.get(&key[..end]))).copied()
    }
}

fn operation(transaction: &Transaction) -> &'static str {
    match (transaction.writes.first(), transaction.compares.first()) {
        (Some(Write::Delete { .. }), _) => "delete",
        (Some(Write::Put { .. }), Some(Compare::ModRevision { equals: 0, .. })) => "create",
        _ => "update",
    }
}

#[async_trait]
impl Store for MeasuredStore {
    async fn commit(&self, transaction: Transaction) -> Result<TransactionResponse, StoreError> {
        let operation = operation(&transaction);
        let key = transaction.writes.first().map(|write| write.key().clone()).unwrap_or_default();
        let began = Instant::now();
        let result = self.inner.commit(transaction).await;
        self.note(&key, operation, began, result.is_err());
        result
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let operation = if request.range.end.is_some() { "list" } else { "get" };
        let (key, began) = (request.range.start.clone(), Instant::now());
        let result = self.inner.range(request).await;
        self.note(&key, operation, began, result.is_err());
        result
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<mpsc::Receiver<WatchMessage>, StoreError> {
        self.inner.watch(range, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}

impl StoreTimes {
    fn note(&self, labels: Labels, elapsed: Duration, failed: bool) {
        let mut all = self.0.lock();
        let series = all.entry(labels).or_insert_with(|| Series { times: Histogram::new(&BUCKETS), errors: 0 });
        series.times.observe(elapsed.as_secs_f64());
        series.errors += u64::from(failed);
    }

    pub fn print(&self, out: &mut String) -> std::fmt::Result {
        let all = self.0.lock();
        let mut sorted: Vec<(&Labels, &Series)> = all.iter().collect();
        sorted.sort_by_key(|(labels, _)| **labels);
        let common = |labels: &Labels| {
            format!("group=\"{}\",operation=\"{}\",resource=\"{}\"", labels.group, labels.operation, labels.resource)
        };
        writeln!(out, "# HELP etcd_request_duration_seconds [ALPHA] Etcd request latency in seconds for each operation and object type.")?;
        writeln!(out, "# TYPE etcd_request_duration_seconds histogram")?;
        for (labels, series) in &sorted {
            series.times.print(out, "etcd_request_duration_seconds", &common(labels))?;
        }
        writeln!(out, "# HELP etcd_requests_total [ALPHA] Etcd request counts for each operation and object type.")?;
        writeln!(out, "# TYPE etcd_requests_total counter")?;
        for (labels, series) in &sorted {
            writeln!(out, "etcd_requests_total{{{}}} {}", common(labels), series.times.count())?;
        }
        writeln!(out, "# HELP etcd_request_errors_total [ALPHA] Etcd failed request counts for each operation and object type.")?;
        writeln!(out, "# TYPE etcd_request_errors_total counter")?;
        for (labels, series) in sorted.iter().filter(|(_, series)| series.errors > 0) {
            writeln!(out, "etcd_request_errors_total{{{}}} {}", common(labels), series.errors)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use store::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn operations_are_counted_by_resource() {
        let (store, times) = MeasuredStore::over(Arc::new(MemoryStore::new()));
        let put = |key: &'static str, equals: Revision| Transaction {
            compares: vec![Compare::ModRevision { key: key.into(), equals }],
            writes: vec![Write::Put { key: key.into(), value: "{}".into() }],
        };
        store.commit(put("/registry/services/specs/a/b", 0)).await.expect("is written");
        store.commit(put("/registry/deployments/a/b", 0)).await.expect("is written");
        store.commit(put("/registry/deployments/a/b", 3)).await.expect("is written");
        store.range(RangeRequest::newest(KeyRange::prefix("/registry/"))).await.expect("is read");
        let mut text = String::new();
        times.print(&mut text).expect("prints");
        for line in [
            r#"etcd_requests_total{group="",operation="create",resource="services"} 1"#,
            r#"etcd_requests_total{group="apps",operation="update",resource="deployments"} 1"#,
            r#"etcd_request_duration_seconds_count{group="",operation="list",resource=""} 1"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
