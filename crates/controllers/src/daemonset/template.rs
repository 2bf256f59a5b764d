//! A daemon's pod: the template, tied to one node and tolerant of that node's troubles.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::history::POD_REVISION_LABEL;
use crate::owners::controller_reference;
use crate::pods;

const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

pub(super) fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let empty = k8s_openapi::api::apps::v1::DaemonSetSpec::default();
    let spec = set.spec.as_ref().unwrap_or(&empty);
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(&spec.template, namespace, controller_reference(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_REVISION_LABEL.into(), hash.to_owned());
    let generation = set.metadata.annotations.as_ref().and_then(|all| all.get(GENERATION_ANNOTATION));
    if let Some(generation) = generation {
        labels.insert(GENERATION_LABEL.into(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    pin(spec, node);
    tolerate(spec);
    pod
}

/// The node that a pod was made for, before the scheduler has bound it.
pub(super) fn target_node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let by_name = fields.find(|field| field.key == "metadata.name" && field.operator == "In")?;
    by_name.values.as_ref()?.first().map(String::as_str)
}

/// Takes the place of the template's own required node affinity, which was judged already.
fn pin(spec: &mut PodSpec, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![by_name]), match_expressions: None };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: vec![term] });
}

/// Also used to judge which nodes are fit.
pub(super) fn tolerate(spec: &mut PodSpec) {
    const ALWAYS: [(&str, &str); 6] = [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let on_host = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in ALWAYS.into_iter().chain(on_host.then_some(network)) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        let same = |known: &&mut Toleration| known.key == toleration.key && known.effect == toleration.effect;
        match tolerations.iter_mut().find(same) {
            Some(known) => *known = toleration,
            None => tolerations.push(toleration),
        }
    }
}

/// For `fits`: nothing but the name is looked at.
pub(super) fn names_other_node(spec: &PodSpec, node: &Node) -> bool {
    spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && Some(name) != node.metadata.name.as_deref())
}
