//! A mixed workload that a seed chooses: what users and machines do to a cluster while its faults are on.
//!
//! Invariant: all that is asked for can come true on the nodes that there are once the faults end; so whatever has
//! not settled by then is a defect.

use std::time::Duration;

use client::{DeleteOptions, ErrorKind, Patch, Propagation, error_kind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::{CRASHES, ENDS_AFTER, FAILS_PERCENT, FLAPS_AFTER, FaultRates, NodeConfig, NodeHandle, READY_AFTER, STARTS_AFTER, SimulatedCluster};

/// How long a driver insists while the server is away.
const TRIES: u32 = 40;
/// A pod of a Job that failed six times in a row waits for ten minutes and more.
const SETTLES_WITHIN: Duration = Duration::from_secs(3600);
const NAMESPACES: [&str; 2] = ["default", "team"];

/// What is going to happen.
pub struct Workload {
    random: StdRng,
    nodes: Vec<NodeHandle>,
    /// By kind's path below its namespace, namespace and name.
    things: Vec<Thing>,
    made: u32,
    /// Whether nodes fail and pods misbehave, which suspends what holds only of healthy ones.
    harsh: bool,
}

#[derive(Clone, Debug)]
struct Thing {
    sort: Sort,
    namespace: &'static str,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
}

impl Sort {
    fn collection(self, namespace: &str) -> String {
        let (group, plural) = match self {
            Sort::Deployment => ("apps/v1", "deployments"),
            Sort::ReplicaSet => ("apps/v1", "replicasets"),
            Sort::StatefulSet => ("apps/v1", "statefulsets"),
            Sort::DaemonSet => ("apps/v1", "daemonsets"),
            Sort::Job => ("batch/v1", "jobs"),
            Sort::CronJob => ("batch/v1", "cronjobs"),
        };
        format!("/apis/{group}/namespaces/{namespace}/{plural}")
    }
}

impl Thing {
    fn path(&self) -> String {
        format!("{}/{}", self.sort.collection(self.namespace), self.name)
    }
}

impl Workload {
    pub fn new(seed: u64) -> Workload {
        let random = StdRng::seed_from_u64(seed ^ 0x0b1e_c750);
        Workload { random, nodes: Vec::new(), things: Vec::new(), made: 0, harsh: seed % 2 == 1 }
    }

    /// Sets the stage, does `actions` things with faults on, ends the faults and waits until all is at rest. `Err`
    /// says what is wrong.
    pub async fn run(&mut self, cluster: &SimulatedCluster, actions: u32) -> Result<(), Vec<String>> {
        self.set_up(cluster).await;
        cluster.faults.begin(FaultRates::rough());
        for _ in 0..actions {
            self.act(cluster).await;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(50..3_000))).await;
            let broken = cluster.broken(false);
            if !broken.is_empty() {
                return Err(broken);
            }
        }
        cluster.faults.end();
        self.heal(cluster).await;
        let settled = cluster.settles(SETTLES_WITHIN).await;
        let mut broken = cluster.broken(settled.is_ok());
        if let Err(unsettled) = settled {
            broken.extend(unsettled.into_iter().map(|text| format!("not at rest: {text}")));
        }
        if broken.is_empty() { Ok(()) } else { Err(broken) }
    }

    async fn set_up(&mut self, cluster: &SimulatedCluster) {
        for index in 0..self.random.random_range(2..5) {
            let zone = ["a", "b"][index % 2];
            let config = NodeConfig { cpu: "6".into(), ..NodeConfig::named(format!("node-{index}")) };
            self.nodes.push(cluster.add_node(config.label("topology.kubernetes.io/zone", zone)));
        }
        post(cluster, "/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
        post(cluster, "/apis/storage.k8s.io/v1/storageclasses", json!({
            "metadata": {"name": "disk"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Retain",
        })).await;
        for index in 0..12 {
            post(cluster, "/api/v1/persistentvolumes", json!({
                "metadata": {"name": format!("disk-{index}")},
                "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "disk",
                    "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/data"}},
            })).await;
        }
        if self.random.random_bool(0.5) {
            post(cluster, "/api/v1/namespaces/team/resourcequotas", json!({
                "metadata": {"name": "limits"},
                "spec": {"hard": {"pods": "14", "requests.cpu": "10", "configmaps": "20", "services": "5", "count/replicasets.apps": "60"}},
            })).await;
        }
        for _ in 0..2 {
            self.make(cluster).await;
        }
    }

    async fn act(&mut self, cluster: &SimulatedCluster) {
        match self.random.random_range(0..22) {
            0..4 => self.make(cluster).await,
            4..7 => self.roll(cluster).await,
            7..10 => self.scale(cluster).await,
            10 => self.pause(cluster).await,
            11..13 => self.delete(cluster).await,
            13 => self.delete_a_pod(cluster).await,
            14 => self.drain(cluster).await,
            15 => self.delete_namespace(cluster).await,
            16 => self.restart_server(cluster).await,
            17 => cluster.kill("kube-controller-manager-0"),
            18 => cluster.kill("kube-scheduler-0"),
            19 if self.harsh => self.part_a_node().await,
            20 if self.harsh => self.crash_a_node().await,
            _ => {}
        }
    }

    async fn make(&mut self, cluster: &SimulatedCluster) {
        if self.things.len() >= 5 {
            return;
        }
        self.made += 1;
        let sorts = [Sort::Deployment, Sort::Deployment, Sort::ReplicaSet, Sort::StatefulSet, Sort::DaemonSet, Sort::Job, Sort::Job, Sort::CronJob];
        let sort = self.one_of(sorts);
        let name = format!("{}-{}", format!("{sort:?}").to_lowercase(), self.made);
        let thing = Thing { sort, namespace: self.one_of(NAMESPACES), name };
        let body = match sort {
            Sort::Deployment => self.deployment(&thing),
            Sort::ReplicaSet => json!({"spec": {"replicas": self.random.random_range(1..4), "selector": selector(&thing), "template": self.template(&thing)}}),
            Sort::StatefulSet => self.stateful_set(&thing),
            Sort::DaemonSet => self.daemon_set(&thing),
            Sort::Job => json!({"spec": self.job(&thing)}),
            Sort::CronJob => json!({"spec": {
                "schedule": "* * * * *",
                "concurrencyPolicy": self.one_of(["Allow", "Forbid", "Replace"]),
                "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1, "suspend": false,
                "jobTemplate": {"spec": self.job(&thing)},
            }}),
        };
        let mut object = body;
        object["metadata"] = json!({"name": thing.name, "labels": {"app": thing.name}});
        post(cluster, &sort.collection(thing.namespace), object).await;
        if self.random.random_bool(0.5) {
            post(cluster, &format!("/api/v1/namespaces/{}/services", thing.namespace), json!({
                "metadata": {"name": thing.name},
                "spec": {"selector": {"app": thing.name}, "ports": [{"port": 80}]},
            })).await;
        }
        if sort == Sort::Deployment && self.random.random_bool(0.3) {
            post(cluster, &format!("/apis/policy/v1/namespaces/{}/poddisruptionbudgets", thing.namespace), json!({
                "metadata": {"name": thing.name}, "spec": {"maxUnavailable": 1, "selector": selector(&thing)},
            })).await;
        }
        if sort == Sort::Deployment && self.random.random_bool(0.2) {
            // Without metrics it still keeps the size within its bounds.
            post(cluster, &format!("/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers", thing.namespace), json!({
                "metadata": {"name": thing.name},
                "spec": {"minReplicas": 2, "maxReplicas": 4, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": thing.name}},
            })).await;
        }
        self.things.push(thing);
    }

    fn deployment(&mut self, thing: &Thing) -> Value {
        let strategy = match self.random.random_range(0..5) {
            0 => json!({"type": "Recreate"}),
            1 => json!({"type": "RollingUpdate"}),
            2 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
            3 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}),
            _ => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 2}}),
        };
        json!({"spec": {
            "replicas": self.random.random_range(1..5), "selector": selector(thing), "strategy": strategy,
            "revisionHistoryLimit": self.random.random_range(0..3), "minReadySeconds": 0, "template": self.template(thing),
        }})
    }

    fn stateful_set(&mut self, thing: &Thing) -> Value {
        let mut set = json!({"spec": {
            "replicas": self.random.random_range(1..4), "serviceName": thing.name, "selector": selector(thing),
            "podManagementPolicy": self.one_of(["OrderedReady", "Parallel"]),
            "template": self.template(thing),
        }});
        // With none a pod's successor may start while it still runs, as the documentation warns.
        set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(2);
        if self.random.random_bool(0.5) {
            set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "disk", "resources": {"requests": {"storage": "1Gi"}},
            }}]);
            set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        }
        set
    }

    fn daemon_set(&mut self, thing: &Thing) -> Value {
        let rolling = self.one_of([json!({"maxUnavailable": 1}), json!({"maxSurge": 1, "maxUnavailable": 0})]);
        let mut template = self.template(thing);
        template["spec"]["affinity"] = Value::Null;
        json!({"spec": {"selector": selector(thing), "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}, "template": template}})
    }

    fn job(&mut self, thing: &Thing) -> Value {
        let mut template = self.template(thing);
        template["spec"]["restartPolicy"] = json!(self.one_of(["Never", "Never", "OnFailure"]));
        template["spec"]["affinity"] = Value::Null;
        template["metadata"]["annotations"] = json!({
            ENDS_AFTER: self.random.random_range(100..3_000).to_string(),
            FAILS_PERCENT: self.one_of([0, 20, 40]).to_string(),
        });
        let completions = self.random.random_range(1..6);
        let indexed = self.random.random_bool(0.4);
        let mut spec = json!({
            "completions": completions, "parallelism": self.random.random_range(1..4), "backoffLimit": 50, "template": template,
            "completionMode": if indexed { "Indexed" } else { "NonIndexed" },
        });
        if indexed && self.random.random_bool(0.3) {
            spec["backoffLimitPerIndex"] = json!(20);
            spec["backoffLimit"] = Value::Null;
            spec["template"]["spec"]["restartPolicy"] = json!("Never");
        }
        if self.random.random_bool(0.3) {
            spec["ttlSecondsAfterFinished"] = json!(20);
        }
        spec
    }

    fn template(&mut self, thing: &Thing) -> Value {
        let mut annotations = json!({
            STARTS_AFTER: self.random.random_range(10..1_500).to_string(),
            READY_AFTER: self.random.random_range(0..1_500).to_string(),
        });
        if self.harsh && self.random.random_bool(0.25) {
            annotations[FLAPS_AFTER] = json!(self.random.random_range(1_000..9_000).to_string());
        }
        if self.harsh && self.random.random_bool(0.2) {
            annotations[ENDS_AFTER] = json!(self.random.random_range(500..9_000).to_string());
            annotations[CRASHES] = json!("2");
        }
        let soon = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10});
        let mut spec = json!({
            "containers": [{"name": "c", "image": format!("image:{}", self.random.random_range(0..1_000)),
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}],
            "tolerations": [soon("node.kubernetes.io/unreachable"), soon("node.kubernetes.io/not-ready")],
            "terminationGracePeriodSeconds": self.random.random_range(0..3),
        });
        if self.random.random_bool(0.2) {
            spec["affinity"] = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                "weight": 10, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector(thing)},
            }]}});
        }
        json!({"metadata": {"labels": {"app": thing.name}, "annotations": annotations}, "spec": spec})
    }

    fn one_of<T, const N: usize>(&mut self, choices: [T; N]) -> T {
        let chosen = self.random.random_range(0..N);
        choices.into_iter().nth(chosen).expect("within the bound")
    }

    fn any(&mut self, sorts: &[Sort]) -> Option<Thing> {
        let fitting: Vec<&Thing> = self.things.iter().filter(|thing| sorts.contains(&thing.sort)).collect();
        if fitting.is_empty() {
            return None;
        }
        Some(fitting[self.random.random_range(0..fitting.len())].clone())
    }

    /// A new template; one in three goes back to a fixed one, as a rollback would.
    async fn roll(&mut self, cluster: &SimulatedCluster) {
        let Some(thing) = self.any(&[Sort::Deployment, Sort::StatefulSet, Sort::DaemonSet]) else { return };
        let image = if self.random.random_bool(0.33) { 0 } else { self.random.random_range(1..1_000) };
        let image = format!("image:{image}");
        patch(cluster, &thing.path(), json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})).await;
    }

    async fn scale(&mut self, cluster: &SimulatedCluster) {
        let Some(thing) = self.any(&[Sort::Deployment, Sort::StatefulSet, Sort::ReplicaSet]) else { return };
        patch(cluster, &thing.path(), json!({"spec": {"replicas": self.random.random_range(0..5)}})).await;
    }

    async fn pause(&mut self, cluster: &SimulatedCluster) {
        let (paused, suspended) = (self.random.random_bool(0.5), self.random.random_bool(0.5));
        match self.any(&[Sort::Deployment, Sort::Job]) {
            Some(thing) if thing.sort == Sort::Job => patch(cluster, &thing.path(), json!({"spec": {"suspend": suspended}})).await,
            Some(thing) => patch(cluster, &thing.path(), json!({"spec": {"paused": paused}})).await,
            None => {}
        }
    }

    async fn delete(&mut self, cluster: &SimulatedCluster) {
        if self.things.is_empty() {
            return;
        }
        let thing = self.things.swap_remove(self.random.random_range(0..self.things.len()));
        let propagation = self.one_of([Propagation::Background, Propagation::Background, Propagation::Foreground, Propagation::Orphan]);
        // A pod that nobody owns any more stays for good; that is well for running ones.
        let propagation = if thing.sort == Sort::CronJob { Propagation::Background } else { propagation };
        delete(cluster, &thing.path(), propagation).await;
    }

    async fn delete_a_pod(&mut self, cluster: &SimulatedCluster) {
        let pods: Vec<(String, String)> = cluster.world(|world| world.pods().map(|pod| (pod.namespace.clone(), pod.name.clone())).collect());
        if pods.is_empty() {
            return;
        }
        let (namespace, name) = &pods[self.random.random_range(0..pods.len())];
        // Said to be a disruption, so that the available pods may be fewer for it.
        let condition = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "Deleted", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        patch(cluster, &format!("{path}/status"), condition).await;
        delete(cluster, &path, Propagation::Background).await;
    }

    /// Cordons a node, evicts what runs there as budgets allow, and lets pods in again.
    async fn drain(&mut self, cluster: &SimulatedCluster) {
        let name = self.nodes[self.random.random_range(0..self.nodes.len())].name().to_owned();
        let path = format!("/api/v1/nodes/{name}");
        patch(cluster, &path, json!({"spec": {"unschedulable": true}})).await;
        for _ in 0..3 {
            let pods: Vec<(String, String)> = cluster.world(|world| {
                let drained = world.pods_on(&name).filter(|pod| pod.owner_kind != "DaemonSet" && pod.is_active());
                drained.map(|pod| (pod.namespace.clone(), pod.name.clone())).collect()
            });
            for (namespace, name) in pods {
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}});
                // Refused as long as a budget says so.
                let _ = cluster.rest.post_at::<Value>(format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"), &eviction).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if self.random.random_bool(0.7) {
            patch(cluster, &path, json!({"spec": {"unschedulable": false}})).await;
        }
    }

    async fn delete_namespace(&mut self, cluster: &SimulatedCluster) {
        self.things.retain(|thing| thing.namespace != "team");
        delete(cluster, "/api/v1/namespaces/team", Propagation::Background).await;
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let gone = cluster.world(|world| world.get("namespaces", "", "team").is_none());
            if gone {
                break;
            }
        }
        // Posting to it is refused for as long as it is on its way out; then it is made anew.
        post(cluster, "/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
    }

    async fn restart_server(&mut self, cluster: &SimulatedCluster) {
        let down = Duration::from_millis(self.random.random_range(100..4_000));
        cluster.restart_server(down).await.expect("the store is intact");
    }

    async fn part_a_node(&mut self) {
        let node = self.random.random_range(0..self.nodes.len());
        self.nodes[node].set_cut(true);
        let lasts = self.one_of([Duration::from_secs(5), Duration::from_secs(70)]);
        tokio::time::sleep(lasts).await;
        self.nodes[node].set_cut(false);
    }

    async fn crash_a_node(&mut self) {
        let node = self.random.random_range(0..self.nodes.len());
        self.nodes[node].crash();
        let lasts = self.one_of([Duration::from_secs(4), Duration::from_secs(70)]);
        tokio::time::sleep(lasts).await;
        self.nodes[node].boot();
    }

    /// All machines are on, joined and open to pods; what was held is let go.
    async fn heal(&mut self, cluster: &SimulatedCluster) {
        for node in &self.nodes {
            node.boot();
            node.set_cut(false);
            patch(cluster, &format!("/api/v1/nodes/{}", node.name()), json!({"spec": {"unschedulable": false}})).await;
        }
        for thing in self.things.clone() {
            match thing.sort {
                Sort::Job => patch(cluster, &thing.path(), json!({"spec": {"suspend": false}})).await,
                Sort::Deployment => patch(cluster, &thing.path(), json!({"spec": {"paused": false}})).await,
                // It would never be at rest.
                Sort::CronJob => patch(cluster, &thing.path(), json!({"spec": {"suspend": true}})).await,
                _ => {}
            }
        }
        // A quota that is too small for all of it would keep it from coming to rest.
        let quota = "/api/v1/namespaces/team/resourcequotas/limits";
        patch(cluster, quota, json!({"spec": {"hard": {"pods": "100", "requests.cpu": "100"}}})).await;
    }
}

fn selector(thing: &Thing) -> Value {
    json!({"matchLabels": {"app": thing.name}})
}

async fn post(cluster: &SimulatedCluster, path: &str, object: Value) {
    insist(async || cluster.rest.post_at::<Value>(path.to_owned(), &object).await.map(drop)).await;
}

async fn patch(cluster: &SimulatedCluster, path: &str, change: Value) {
    let change = Patch::Strategic(change);
    insist(async || cluster.rest.patch_at::<Value>(path.to_owned(), &change).await.map(drop)).await;
}

async fn delete(cluster: &SimulatedCluster, path: &str, propagation: Propagation) {
    let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
    insist(async || cluster.rest.delete_at(path.to_owned(), &options).await.map(drop)).await;
}

/// Tries again while the server is away; what it refuses stays refused.
async fn insist(attempt: impl AsyncFn() -> Result<(), kube::Error>) {
    for _ in 0..TRIES {
        match attempt().await {
            Err(error) if matches!(error_kind(&error), ErrorKind::Unreachable | ErrorKind::TooManyRequests) => {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            _ => return,
        }
    }
}
