//! The Node and its status as pure functions of what is known.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use runtime::cri::Image;
use serde_json::Value;

use super::Identity;
use super::machine::Machine;
use crate::KUBERNETES_VERSION;
use crate::pod::machine::status::whole_seconds;

/// As many images, and as many names of each, as the original reports.
const IMAGES_MAX: usize = 50;
const IMAGE_NAMES_MAX: usize = 5;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// `coracle://0.1.0`
    pub runtime_version: String,
    pub not_ready: Option<String>,
    pub images: Vec<Image>,
    pub pressure: Pressure,
}

pub fn new_node(identity: &Identity) -> core::Node {
    let machine = Machine::read(std::path::Path::new("/"));
    let mut labels = identity.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", identity.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.architecture.as_str()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine.architecture.as_str()),
    ] {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    core::Node {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(core::NodeSpec {
            pod_cidr: identity.pod_cidr.clone(),
            pod_cidrs: identity.pod_cidr.clone().map(|cidr| vec![cidr]),
            taints: (!identity.taints.is_empty()).then(|| identity.taints.clone()),
            ..core::NodeSpec::default()
        }),
        status: None,
    }
}

pub fn node_status(
    identity: &Identity,
    machine: &Machine,
    observed: &Observed,
    before: Option<&core::NodeStatus>,
    now: Timestamp,
) -> core::NodeStatus {
    let mut addresses: Vec<core::NodeAddress> = identity
        .ips
        .iter()
        .map(|ip| core::NodeAddress { type_: "InternalIP".to_owned(), address: ip.clone() })
        .collect();
    addresses.push(core::NodeAddress { type_: "Hostname".to_owned(), address: identity.name.clone() });

    core::NodeStatus {
        addresses: Some(addresses),
        capacity: Some(resources(identity, machine, false)),
        allocatable: Some(resources(identity, machine, true)),
        conditions: Some(conditions(observed, before, now)),
        daemon_endpoints: Some(core::NodeDaemonEndpoints {
            kubelet_endpoint: Some(core::DaemonEndpoint { port: i32::from(identity.port) }),
        }),
        images: Some(images(&observed.images)),
        node_info: Some(core::NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: observed.runtime_version.clone(),
            kernel_version: machine.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBERNETES_VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            swap: (machine.swap_bytes > 0).then_some(core::NodeSwapStatus { capacity: Some(machine.swap_bytes) }),
        }),
        ..core::NodeStatus::default()
    }
}

fn resources(identity: &Identity, machine: &Machine, allocatable: bool) -> BTreeMap<String, Quantity> {
    let (cpu, memory) = if allocatable {
        (identity.system_reserved_cpu_millis, identity.system_reserved_memory_bytes)
    } else {
        (0, 0)
    };
    let millis = machine.cpus * 1000 - cpu;
    let cpu = if millis % 1000 == 0 { (millis / 1000).to_string() } else { format!("{millis}m") };
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu)),
        ("memory".to_owned(), Quantity(format!("{}Ki", (machine.memory_bytes - memory) / 1024))),
        ("pods".to_owned(), Quantity(identity.max_pods.to_string())),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", machine.disk_bytes / 1024))),
        ("hugepages-1Gi".to_owned(), Quantity("0".to_owned())),
        ("hugepages-2Mi".to_owned(), Quantity("0".to_owned())),
    ])
}

fn conditions(observed: &Observed, before: Option<&core::NodeStatus>, now: Timestamp) -> Vec<core::NodeCondition> {
    let pressure = &observed.pressure;
    let pick = |under: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
        let (reason, message) = if under { yes } else { no };
        (if under { "True" } else { "False" }, reason.to_owned(), message.to_owned())
    };
    let ready = match &observed.not_ready {
        None => ("True", "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned()),
        Some(reason) => ("False", "KubeletNotReady".to_owned(), reason.clone()),
    };
    let all = [
        (
            "MemoryPressure",
            pick(
                pressure.memory,
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            pick(
                pressure.disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            pick(
                pressure.pids,
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
        ),
        ("Ready", ready),
    ];
    all.into_iter()
        .map(|(type_, (status, reason, message))| {
            let old = before.and_then(|before| before.conditions.iter().flatten().find(|condition| condition.type_ == type_));
            let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
            core::NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(Time(whole_seconds(now))),
                last_transition_time: since.or(Some(Time(whole_seconds(now)))),
            }
        })
        .collect()
}

fn images(images: &[Image]) -> Vec<core::ContainerImage> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    images
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| {
            let names = image.repo_digests.iter().chain(&image.repo_tags).take(IMAGE_NAMES_MAX).cloned().collect();
            core::ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
        })
        .collect()
}

pub fn conditions_of(node: &core::Node) -> BTreeMap<String, String> {
    in_order(node).into_iter().collect()
}

/// Whether `written` has the conditions of `wanted`; somebody else may have judged otherwise.
pub fn tells(written: &core::NodeStatus, wanted: &core::NodeStatus) -> bool {
    let of = |status: &core::NodeStatus| -> Vec<(String, String)> {
        status.conditions.iter().flatten().map(|condition| (condition.type_.clone(), condition.status.clone())).collect()
    };
    let written = of(written);
    of(wanted).iter().all(|condition| written.contains(condition))
}

/// Conditions as the object lists them.
pub fn in_order(node: &core::Node) -> Vec<(String, String)> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().map(|condition| (condition.type_.clone(), condition.status.clone())).collect()
}

pub fn transition_event(type_: &str, status: &str) -> Option<&'static str> {
    Some(match (type_, status) {
        ("Ready", "True") => "NodeReady",
        ("Ready", _) => "NodeNotReady",
        ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
        ("MemoryPressure", _) => "NodeHasSufficientMemory",
        ("DiskPressure", "True") => "NodeHasDiskPressure",
        ("DiskPressure", _) => "NodeHasNoDiskPressure",
        ("PIDPressure", "True") => "NodeHasInsufficientPID",
        ("PIDPressure", _) => "NodeHasSufficientPID",
        _ => return None,
    })
}

/// What is worth reporting at once when it differs.
pub fn without_heartbeat(status: &core::NodeStatus) -> Value {
    let own = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
    let mut value = serde_json::json!({
        "addresses": status.addresses,
        "capacity": status.capacity,
        "allocatable": status.allocatable,
        "images": status.images,
        "runtime": status.node_info.as_ref().map(|info| &info.container_runtime_version),
    });
    let mut conditions: Vec<Value> = status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| own.contains(&condition.type_.as_str()))
        .map(|condition| serde_json::json!([condition.type_, condition.status, condition.reason, condition.message]))
        .collect();
    conditions.sort_by_key(|condition| condition[0].to_string());
    value["conditions"] = Value::Array(conditions);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_node() {
        let identity = Identity { name: "n1".into(), ips: vec!["10.0.0.2".into()], port: 10250, max_pods: 110, ..Identity::default() };
        let machine = Machine { cpus: 2, memory_bytes: 4 << 30, ..Machine::default() };
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().expect("a time");
        let status = node_status(&identity, &machine, &Observed::default(), None, now);
        let lines: Vec<String> = status
            .conditions
            .iter()
            .flatten()
            .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(
            lines.join("\n"),
            "MemoryPressure=False KubeletHasSufficientMemory\nDiskPressure=False KubeletHasNoDiskPressure\n\
             PIDPressure=False KubeletHasSufficientPID\nReady=True KubeletReady"
        );
        assert_eq!(status.capacity.as_ref().map(|capacity| capacity["memory"].0.clone()), Some("4194304Ki".to_owned()));

        let later: Timestamp = "2026-11-21T10:05:00Z".parse().expect("a time");
        let broken = Observed { not_ready: Some("down".into()), ..Observed::default() };
        let next = node_status(&identity, &machine, &broken, Some(&status), later);
        let transitions: Vec<String> = next
            .conditions
            .iter()
            .flatten()
            .filter(|condition| condition.last_transition_time == Some(Time(later)))
            .map(|condition| condition.type_.clone())
            .collect();
        assert_eq!(transitions, ["Ready"]);
        assert_ne!(without_heartbeat(&status), without_heartbeat(&next));
    }
}
