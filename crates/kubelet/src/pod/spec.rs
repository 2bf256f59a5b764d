//! What the node agent asks of a pod's specification, in one place.
//!
//! Invariant: pure reading; defaults that the API server fills in are repeated here only where an object may
//! arrive without them (static pods, other people's API servers). Absent: status, which the pod machine makes.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

pub const DEFAULT_GRACE_PERIOD_SECONDS: i64 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    Main,
    Ephemeral,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::OnceLock<PodSpec> = std::sync::OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
}

/// `web_default(6f1c...)`: how events and messages name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Every container in the order in which they may start: init and sidecars, main, ephemeral.
pub fn containers(pod: &Pod) -> Vec<(Role, Container)> {
    let spec = spec(pod);
    let init = spec.init_containers.iter().flatten().map(|container| {
        let role = if is_sidecar(container) { Role::Sidecar } else { Role::Init };
        (role, container.clone())
    });
    let main = spec.containers.iter().map(|container| (Role::Main, container.clone()));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| (Role::Ephemeral, as_container(container)));
    init.chain(main).chain(ephemeral).collect()
}

pub fn container(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    containers(pod).into_iter().find(|(_, container)| container.name == name)
}

/// The container into whose processes an ephemeral one looks.
pub fn ephemeral_target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let ephemeral = pod.spec.as_ref()?.ephemeral_containers.as_ref()?.iter().find(|container| container.name == name)?;
    ephemeral.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// An ephemeral container has all of a container's fields, and one more.
fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let from = ephemeral.clone();
    Container {
        args: from.args,
        command: from.command,
        env: from.env,
        env_from: from.env_from,
        image: from.image,
        image_pull_policy: from.image_pull_policy,
        name: from.name,
        resources: from.resources,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        tty: from.tty,
        volume_devices: from.volume_devices,
        volume_mounts: from.volume_mounts,
        working_dir: from.working_dir,
        ..Container::default()
    }
}

pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// `spec.containers{web}`: what an event about one container refers to.
pub fn field_path(role: Role, container: &str) -> String {
    match role {
        Role::Init | Role::Sidecar => format!("spec.initContainers{{{container}}}"),
        Role::Main => format!("spec.containers{{{container}}}"),
        Role::Ephemeral => format!("spec.ephemeralContainers{{{container}}}"),
    }
}

/// How long the pod may take to end: what the deletion said, else what the specification says.
pub fn grace_period_seconds(pod: &Pod) -> i64 {
    let asked = match pod.metadata.deletion_timestamp {
        Some(_) => pod.metadata.deletion_grace_period_seconds,
        None => None,
    };
    asked.or(spec(pod).termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_PERIOD_SECONDS).max(1)
}

pub fn quantity(list: Option<&BTreeMap<String, WireQuantity>>, resource: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(resource)?.0).ok()
}

pub fn request(resources: Option<&ResourceRequirements>, resource: &str) -> Option<Quantity> {
    let resources = resources?;
    // A limit without a request is a request for as much.
    quantity(resources.requests.as_ref(), resource).or_else(|| quantity(resources.limits.as_ref(), resource))
}

pub fn limit(resources: Option<&ResourceRequirements>, resource: &str) -> Option<Quantity> {
    quantity(resources?.limits.as_ref(), resource)
}

pub fn qos_class(pod: &Pod) -> QosClass {
    let spec = spec(pod);
    // Pod-level resources, where given, decide alone.
    let pod_level = spec.resources.iter().filter(|resources| resources.requests.is_some() || resources.limits.is_some());
    let mut all: Vec<Option<&ResourceRequirements>> = pod_level.map(Some).collect();
    if all.is_empty() {
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        all = containers.map(|container| container.resources.as_ref()).collect();
    }

    let mut any = false;
    let mut guaranteed = !all.is_empty();
    for resources in all {
        for resource in ["cpu", "memory"] {
            let requested = request(resources, resource).filter(|quantity| quantity.milli_value() > 0);
            let limited = limit(resources, resource).filter(|quantity| quantity.milli_value() > 0);
            any |= requested.is_some() || limited.is_some();
            guaranteed &= limited.is_some() && requested == limited;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// What the pod takes of a resource on the node, in the unit that `of` yields: the larger of what its containers
/// ask together and what any one init container asks beside the sidecars started before it, and the overhead.
pub fn pod_request(pod: &Pod, resource: &str, of: impl Fn(&Quantity) -> i64) -> i64 {
    let spec = spec(pod);
    let overhead = quantity(spec.overhead.as_ref(), resource).map_or(0, |quantity| of(&quantity));
    if let Some(whole) = request(spec.resources.as_ref(), resource) {
        return of(&whole) + overhead;
    }
    let one = |container: &Container| request(container.resources.as_ref(), resource).map_or(0, |quantity| of(&quantity));
    let mut sidecars = 0;
    let mut peak = 0;
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars += one(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + one(container));
        }
    }
    let main: i64 = spec.containers.iter().map(one).sum();
    peak.max(main + sidecars) + overhead
}

/// The pod's limit of a resource: None as soon as one container has none.
pub fn pod_limit(pod: &Pod, resource: &str, of: impl Fn(&Quantity) -> i64) -> Option<i64> {
    let spec = spec(pod);
    if let Some(whole) = limit(spec.resources.as_ref(), resource) {
        return Some(of(&whole));
    }
    let one = |container: &Container| limit(container.resources.as_ref(), resource).map(|quantity| of(&quantity));
    let mut sidecars = 0;
    let mut peak = 0;
    for container in spec.init_containers.iter().flatten() {
        let limit = one(container)?;
        if is_sidecar(container) {
            sidecars += limit;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + limit);
        }
    }
    let mut main = 0;
    for container in &spec.containers {
        main += one(container)?;
    }
    Some(peak.max(main + sidecars))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers}})).expect("a pod")
    }

    #[track_caller]
    fn check(resources: serde_json::Value, expected: QosClass) {
        assert_eq!(qos_class(&pod(json!([{"name": "a", "resources": resources}]))), expected);
    }

    #[test]
    fn quality_of_service() {
        check(json!({}), QosClass::BestEffort);
        check(json!({"requests": {"cpu": "0"}}), QosClass::BestEffort);
        check(json!({"requests": {"cpu": "100m"}}), QosClass::Burstable);
        check(json!({"limits": {"cpu": "100m"}}), QosClass::Burstable);
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), QosClass::Guaranteed);
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), QosClass::Burstable);
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}), QosClass::Guaranteed);
    }

    #[test]
    fn init_containers_run_one_after_another_and_sidecars_stay() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "init", "resources": {"requests": {"cpu": "500m"}}},
            ],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "200m"}}}],
            "overhead": {"cpu": "10m"},
        }}))
        .expect("a pod");
        assert_eq!(pod_request(&pod, "cpu", Quantity::milli_value), 610);
        assert_eq!(pod_limit(&pod, "cpu", Quantity::milli_value), None);
    }
}
