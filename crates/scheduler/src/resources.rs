//! Amounts that pods ask for and nodes have.
//!
//! Invariant: a pod's request is what the kubelet will have to admit at its worst moment: the sum of the containers
//! and sidecars, or the greediest init container with the sidecars before it, and the overhead on top.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WrittenQuantity;

/// What a container without a request counts for when nodes are compared, so that such pods spread all the same.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Huge pages and extended resources, by name.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// `pods` is not among them: a node's count of pods is not requested but taken.
    pub fn of(amounts: Option<&BTreeMap<String, WrittenQuantity>>) -> Self {
        let mut resources = Resources::default();
        for (name, amount) in amounts.into_iter().flatten() {
            match name.as_str() {
                "cpu" => resources.milli_cpu = milli(amount),
                "memory" => resources.memory = whole(amount),
                "ephemeral-storage" => resources.ephemeral_storage = whole(amount),
                "pods" => {}
                _ => {
                    resources.extended.insert(name.clone(), whole(amount));
                }
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, |mine, theirs| mine + theirs);
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, |mine, theirs| mine - theirs);
        self.extended.retain(|_, amount| *amount != 0);
    }

    fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, join: fn(i64, i64) -> i64) {
        self.milli_cpu = join(self.milli_cpu, other.milli_cpu);
        self.memory = join(self.memory, other.memory);
        self.ephemeral_storage = join(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_insert(0);
            *mine = join(*mine, *amount);
        }
    }
}

/// What the pod asks for.
pub fn requests_of(pod: &Pod) -> Resources {
    let allocated = |container: &Container| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let status = statuses.into_iter().find(|status| status.name == container.name);
        let mut requests = Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
        // While a container is resized in place the larger of both amounts is taken.
        requests.raise_to(&Resources::of(status.and_then(|status| status.allocated_resources.as_ref())));
        requests
    };
    total(pod, &allocated)
}

/// The same with an assumed amount of CPU and memory where a container asks for none: milli-CPU and bytes.
pub fn assumed_requests_of(pod: &Pod) -> (i64, i64) {
    let assumed = |container: &Container| {
        let mut requests = Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        if asked.is_none_or(|asked| !asked.contains_key("cpu")) {
            requests.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if asked.is_none_or(|asked| !asked.contains_key("memory")) {
            requests.memory = DEFAULT_MEMORY;
        }
        requests
    };
    let total = total(pod, &assumed);
    (total.milli_cpu, total.memory)
}

fn total(pod: &Pod, requests_of: &dyn Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&requests_of(container));
    }
    let mut sidecars = Resources::default();
    let mut worst_start = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut starting = requests_of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&starting);
            sidecars.add(&starting);
            starting = sidecars.clone();
        } else {
            starting.add(&sidecars);
        }
        worst_start.raise_to(&starting);
    }
    total.raise_to(&worst_start);
    // A request of the pod as a whole takes the place of its containers'.
    if let Some(of_pod) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let amounts = Resources::of(Some(of_pod));
        if of_pod.contains_key("cpu") {
            total.milli_cpu = amounts.milli_cpu;
        }
        if of_pod.contains_key("memory") {
            total.memory = amounts.memory;
        }
        total.extended.extend(amounts.extended);
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

/// An amount that cannot be read counts as none; the API server lets no such amount in.
fn milli(amount: &WrittenQuantity) -> i64 {
    Quantity::parse(&amount.0).map_or(0, |amount| amount.milli_value())
}

pub fn whole(amount: &WrittenQuantity) -> i64 {
    Quantity::parse(&amount.0).map_or(0, |amount| amount.value())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod_from;

    #[track_caller]
    fn check(spec: Value, milli_cpu: i64, memory: i64) {
        let requests = requests_of(&pod_from(json!({"spec": spec.clone()})));
        assert_eq!((requests.milli_cpu, requests.memory), (milli_cpu, memory), "{spec}");
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn counts_the_worst_moment() {
        let mut sidecar = container("10m", "10");
        sidecar["restartPolicy"] = json!("Always");
        let (small, large) = (container("100m", "100"), container("1", "1Ki"));
        check(json!({"containers": [small, small]}), 200, 200);
        check(json!({"containers": [small], "initContainers": [large]}), 1000, 1024);
        check(json!({"containers": [small], "initContainers": [sidecar, large]}), 1010, 1034);
        check(json!({"containers": [small], "initContainers": [large, sidecar]}), 1000, 1024);
        check(json!({"containers": [small], "initContainers": [sidecar]}), 110, 110);
        check(json!({"containers": [small], "overhead": {"cpu": "1m", "memory": "1"}}), 101, 101);
        check(json!({"containers": [small], "resources": {"requests": {"cpu": "2"}}}), 2000, 100);
    }

    #[test]
    fn assumes_something_where_nothing_is_asked() {
        let pod = pod_from(json!({"spec": {"containers": [{"name": "c"}, container("1m", "1")]}}));
        assert_eq!(assumed_requests_of(&pod), (101, DEFAULT_MEMORY + 1));
        assert_eq!(requests_of(&pod).milli_cpu, 1);
    }
}
