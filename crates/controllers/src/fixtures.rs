//! Pods for tests, from short words.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a valid time")
}

pub(crate) fn ago(seconds: i64) -> Time {
    Time(Timestamp::from_second(now().as_second() - seconds).expect("a valid time"))
}

/// Words of the form `name[:flag[,flag]]`. A pod runs and is ready for an hour unless a flag says
/// otherwise: `unready`, `pending`, `failed`, `succeeded`, `deleting`, `age=SECONDS` (created and ready),
/// `node=NAME`, `cost=N`, `restarts=N`, `label=NAME/VALUE`, `ip=ADDRESS`, `exit=CODE`, `finished=SECONDS`, `disrupted`.
pub(crate) fn pods(words: &str) -> Vec<Arc<Pod>> {
    words.split_whitespace().map(|word| Arc::new(pod(word))).collect()
}

pub(crate) fn pod(word: &str) -> Pod {
    let (name, flags) = word.split_once(':').unwrap_or((word, ""));
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.into());
    pod.metadata.namespace = Some("ns".into());
    pod.metadata.uid = Some(format!("uid-{name}"));
    pod.metadata.creation_timestamp = Some(ago(3600));
    let mut spec = PodSpec::default();
    let mut status = PodStatus { phase: Some("Running".into()), ..PodStatus::default() };
    let mut ready = PodCondition {
        type_: "Ready".into(),
        status: "True".into(),
        last_transition_time: Some(ago(3600)),
        ..PodCondition::default()
    };
    let mut disrupted = false;
    for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
        let (flag, value) = flag.split_once('=').unwrap_or((flag, ""));
        match flag {
            "unready" => ready.status = "False".into(),
            "pending" | "failed" | "succeeded" => {
                let mut phase = flag.to_owned();
                phase[..1].make_ascii_uppercase();
                status.phase = Some(phase);
                ready.status = "False".into();
            }
            "deleting" => pod.metadata.deletion_timestamp = Some(ago(1)),
            "age" => {
                let age = ago(value.parse().expect("seconds"));
                pod.metadata.creation_timestamp = Some(age.clone());
                ready.last_transition_time = Some(age);
            }
            "node" => spec.node_name = Some(value.into()),
            "ip" => status.pod_ip = Some(value.into()),
            "cost" => {
                let key = "controller.kubernetes.io/pod-deletion-cost".to_owned();
                pod.metadata.annotations.get_or_insert_default().insert(key, value.into());
            }
            "label" => {
                let (name, value) = value.split_once('/').expect("name/value");
                pod.metadata.labels.get_or_insert_default().insert(name.into(), value.into());
            }
            "restarts" => container(&mut status).restart_count = value.parse().expect("a number"),
            "exit" => terminated(&mut status).exit_code = value.parse().expect("a number"),
            "finished" => terminated(&mut status).finished_at = Some(ago(value.parse().expect("seconds"))),
            "disrupted" => disrupted = true,
            other => panic!("unknown flag {other}"),
        }
    }
    status.conditions = Some(vec![ready]);
    if disrupted {
        let target = PodCondition { type_: "DisruptionTarget".into(), status: "True".into(), ..PodCondition::default() };
        status.conditions.get_or_insert_default().push(target);
    }
    pod.spec = Some(spec);
    pod.status = Some(status);
    pod
}

fn container(status: &mut PodStatus) -> &mut ContainerStatus {
    let statuses = status.container_statuses.get_or_insert_default();
    if statuses.is_empty() {
        statuses.push(ContainerStatus { name: "main".into(), ..ContainerStatus::default() });
    }
    &mut statuses[0]
}

fn terminated(status: &mut PodStatus) -> &mut ContainerStateTerminated {
    let state: &mut ContainerState = container(status).state.get_or_insert_default();
    state.terminated.get_or_insert_default()
}
