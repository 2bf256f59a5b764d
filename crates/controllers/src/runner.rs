//! Runs a controller: keys come in from informers, `reconcile` observes, decides and acts.
//!
//! Invariant: keys trigger and carry no data; one key is worked on by one worker at a time. A round that
//! fails or panics is repeated later and stops nobody else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{ErrorKind, ObjectKey, WorkQueue, run_workers};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::failure::Failure;

/// When to look at the key again without being told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Next {
    #[default]
    Settled,
    After(Duration),
}

impl Next {
    pub fn after_seconds(seconds: Option<i64>) -> Self {
        match seconds {
            Some(seconds) => Next::After(Duration::from_secs(seconds.max(0) as u64)),
            None => Next::Settled,
        }
    }

    /// The earlier of the two.
    pub fn or(self, other: Next) -> Next {
        match (self, other) {
            (Next::Settled, next) | (next, Next::Settled) => next,
            (Next::After(a), Next::After(b)) => Next::After(a.min(b)),
        }
    }
}

pub(crate) type Queue = WorkQueue<ObjectKey>;

/// What the original calls the queue of a controller, which dashboards know. Others go by their controller's name.
pub(crate) fn queue_name(controller: &'static str) -> &'static str {
    match controller {
        "bootstrap-signer-controller" => "bootstrap_signer_queue",
        "certificatesigningrequest-approving-controller" => "csr-approving",
        "certificatesigningrequest-signing-controller" => "csr-signing",
        "clusterrole-aggregation-controller" => "ClusterRoleAggregator",
        "cronjob-controller" => "cronjob",
        "daemonset-controller" => "daemonset",
        "deployment-controller" => "deployment",
        "disruption-controller" => "disruption",
        "endpoint-controller" => "endpoint",
        "endpoint-slice-controller" => "endpoint_slice",
        "endpoint-slice-mirroring-controller" => "endpoint_slice_mirroring",
        "ephemeral-volume-controller" => "ephemeral_volume",
        "horizontal-pod-autoscaler-controller" => "horizontalpodautoscaler",
        "job-controller" => "job",
        "namespace-controller" => "namespace",
        "node-ipam-controller" => "cidrallocator_node",
        "node-lifecycle-controller" => "node_lifecycle_controller",
        "persistentvolume-binder-controller" => "claims",
        "persistentvolume-controller" => "volumes",
        "persistentvolume-protection-controller" => "pvprotection",
        "persistentvolumeclaim-protection-controller" => "pvcprotection",
        "pod-garbage-collector-controller" => "orphaned_pods_nodes",
        "replicaset-controller" => "replicaset",
        "replicationcontroller-controller" => "replicationmanager",
        "resourcequota-controller" => "resourcequota_primary",
        "root-ca-certificate-publisher-controller" => "root_ca_cert_publisher",
        "service-account-controller" => "serviceaccount",
        "service-lb-controller" => "service",
        "serviceaccount-token-controller" => "serviceaccount_tokens_secret",
        "stale-disruption-controller" => "stale_pod_disruption",
        "statefulset-controller" => "statefulset",
        "taint-eviction-controller" => "noexec_taint_pod",
        "token-cleaner-controller" => "token_cleaner",
        "ttl-after-finished-controller" => "ttl_jobs_to_delete",
        "ttl-controller" => "ttlcontroller",
        other => other,
    }
}

#[async_trait]
pub(crate) trait Controller: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// How many keys are worked on at once.
    fn workers(&self) -> usize {
        5
    }

    /// How long a key that keeps failing waits at most.
    fn longest_delay(&self) -> Duration {
        client::FAILURE_MAX
    }

    /// Subscribes to informers so that whatever may change a key's outcome queues the key.
    fn watch(&self, queue: &Queue);

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure>;
}

/// Works on `controller` until `cancel`. Its caches are filled first.
pub(crate) async fn run(controller: Arc<dyn Controller>, synced: impl Future<Output = ()>, queue: Queue, cancel: CancellationToken) {
    tokio::select! {
        biased;
        _ = cancel.cancelled() => return,
        _ = synced => {}
    }
    let workers = controller.workers();
    let requeue = queue.clone();
    run_workers(queue, workers, cancel, move |key: ObjectKey| {
        let (controller, queue) = (controller.clone(), requeue.clone());
        async move {
            match controller.reconcile(&key).await {
                Ok(Next::Settled) => Ok(()),
                Ok(Next::After(delay)) => {
                    queue.add_after(key, delay);
                    Ok(())
                }
                // Somebody else wrote first: nothing worth a line in the log.
                Err(failure) if failure.kind() == Some(ErrorKind::Conflict) => {
                    debug!(controller = controller.name(), %key, %failure, "conflict, will be tried again");
                    queue.add_rate_limited(key);
                    Ok(())
                }
                Err(failure) => Err(format!("{} {key}: {failure}", controller.name())),
            }
        }
    })
    .await;
}
