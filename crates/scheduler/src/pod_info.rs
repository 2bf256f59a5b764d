//! A pod as the scheduler reads it: parsed once when it arrives, compared many times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::selector::LabelSelector;
use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodAffinityTerm, PodSpec, PodStatus, TopologySpreadConstraint, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::filters::volume_restrictions::Disk;
use crate::profile::Profile;
use crate::resources::{Resources, assumed_requests_of, requests_of};

pub struct PodInfo {
    /// The whole object. Of a pod seen on a node only what is below is kept: there may be many of those, and an old
    /// version held here would be one more copy in memory beside the informers'.
    pod: Option<Arc<Pod>>,
    pub key: ObjectKey,
    pub uid: String,
    /// By which it is scheduled.
    pub profile: Arc<Profile>,
    pub labels: BTreeMap<String, String>,
    pub priority: i32,
    pub terminating: bool,
    /// Succeeded and failed pods hold nothing on their node any more.
    pub finished: bool,
    /// It goes because another one needs its room.
    pub preempted: bool,
    /// One that has not started yet counts as the youngest.
    pub started: Timestamp,
    pub generation: Option<i64>,
    pub node_name: Option<String>,
    /// On its node, by whoever told, and not only assumed there.
    pub seen: bool,
    /// Names of the claims that it uses, those of ephemeral volumes included.
    pub claims: Vec<String>,
    /// Disks that it names itself, without a claim.
    pub disks: Vec<Disk>,
    pub requests: Resources,
    /// milli-CPU and bytes, with an assumed amount where nothing is asked.
    pub assumed_requests: (i64, i64),
    pub host_ports: Vec<HostPort>,
    pub images: Vec<String>,
    pub required_affinity: Vec<AffinityTerm>,
    pub required_anti_affinity: Vec<AffinityTerm>,
    pub preferred_affinity: Vec<(i64, AffinityTerm)>,
    pub preferred_anti_affinity: Vec<(i64, AffinityTerm)>,
    pub spread: Vec<SpreadConstraint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Empty for all addresses.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let same_address = self.ip == other.ip || self.ip.is_empty() || other.ip.is_empty();
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

/// Pods in some namespaces that match a selector, and the node label that says what counts as one place.
#[derive(Clone)]
pub struct AffinityTerm {
    pub namespaces: BTreeSet<String>,
    pub namespace_selector: Option<LabelSelector>,
    pub selector: Selector,
    pub topology_key: String,
    /// The same for terms that say the same.
    pub text: String,
}

/// A selector with its canonical text, by which counts of it are found again.
#[derive(Clone)]
pub struct Selector {
    pub matcher: LabelSelector,
    pub text: String,
}

#[derive(Clone)]
pub struct SpreadConstraint {
    pub max_skew: i64,
    pub min_domains: i64,
    pub topology_key: String,
    /// Whether it forbids (DoNotSchedule) or only weighs (ScheduleAnyway).
    pub hard: bool,
    pub selector: Selector,
    /// Nodes that the pod's node selector and affinity exclude are no domains.
    pub honor_affinity: bool,
    /// Nodes whose taints the pod does not tolerate are no domains.
    pub honor_taints: bool,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        PodInfo::with_profile(pod, Profile::standard())
    }

    pub fn with_profile(pod: Arc<Pod>, profile: Arc<Profile>) -> Self {
        PodInfo { pod: Some(pod.clone()), ..PodInfo::placed(&pod, profile) }
    }

    /// What is kept of a pod that has a node.
    pub fn placed(pod: &Pod, profile: Arc<Profile>) -> Self {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let key = ObjectKey::of(&pod.metadata);
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|spec| spec.affinity.as_ref());
        let with = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let term = |term: &PodAffinityTerm| AffinityTerm::new(term, &key.namespace, &labels);
        let required = |terms: Option<&Vec<PodAffinityTerm>>| terms.into_iter().flatten().map(term).collect();
        let preferred = |terms: Option<&Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm>>| {
            terms.into_iter().flatten().map(|weighted| (i64::from(weighted.weight), term(&weighted.pod_affinity_term))).collect()
        };
        let spread = spec.and_then(|spec| spec.topology_spread_constraints.as_ref());
        PodInfo {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            profile,
            priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")),
            preempted: is_preempted(pod),
            started: pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(Timestamp::MAX, |time| time.0),
            generation: pod.metadata.generation,
            node_name: spec.and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty()),
            seen: spec.is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty())),
            claims: claims(pod),
            disks: spec.map(crate::filters::volume_restrictions::disks).unwrap_or_default(),
            requests: requests_of(pod),
            assumed_requests: assumed_requests_of(pod),
            host_ports: spec.map(host_ports).unwrap_or_default(),
            images: spec.map(images).unwrap_or_default(),
            required_affinity: required(with.and_then(|with| with.required_during_scheduling_ignored_during_execution.as_ref())),
            required_anti_affinity: required(apart.and_then(|apart| apart.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred_affinity: preferred(with.and_then(|with| with.preferred_during_scheduling_ignored_during_execution.as_ref())),
            preferred_anti_affinity: preferred(apart.and_then(|apart| apart.preferred_during_scheduling_ignored_during_execution.as_ref())),
            spread: spread.into_iter().flatten().map(|constraint| SpreadConstraint::new(constraint, &labels)).collect(),
            labels,
            key,
            pod: None,
        }
    }

    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.as_ref()?.spec.as_ref()
    }

    pub fn status(&self) -> Option<&PodStatus> {
        self.pod.as_ref()?.status.as_ref()
    }

    /// Who controls it.
    pub fn controller(&self) -> Option<&meta::OwnerReference> {
        let owners = self.pod.as_ref()?.metadata.owner_references.as_ref()?;
        owners.iter().find(|owner| owner.controller == Some(true))
    }

    /// What an event about it names it by.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.key.namespace.clone()),
            name: Some(self.key.name.clone()),
            uid: Some(self.uid.clone()),
            resource_version: self.pod.as_ref().and_then(|pod| pod.metadata.resource_version.clone()),
            field_path: None,
        }
    }

    /// Whether its node selector or affinity leaves nodes out.
    pub fn is_particular(&self) -> bool {
        self.spec().is_some_and(|spec| {
            let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
            spec.node_selector.as_ref().is_some_and(|selector| !selector.is_empty())
                || affinity.is_some_and(|affinity| affinity.required_during_scheduling_ignored_during_execution.is_some())
        })
    }

    /// Whether it draws other pods near or pushes them away.
    pub fn weighs_on_others(&self) -> bool {
        !self.required_affinity.is_empty() || !self.preferred_affinity.is_empty() || !self.preferred_anti_affinity.is_empty()
    }
}

impl AffinityTerm {
    fn new(term: &PodAffinityTerm, own_namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(own_namespace.to_owned());
        }
        let keys = |keys: &Option<Vec<String>>| keys.clone().unwrap_or_default();
        let namespace_selector = term.namespace_selector.as_ref().map(|selector| parse(Some(selector)));
        let (same, other) = (keys(&term.match_label_keys), keys(&term.mismatch_label_keys));
        let selector = with_label_keys(term.label_selector.as_ref(), labels, &same, &other);
        let anywhere = namespace_selector.as_ref().map(|selector| &selector.text);
        AffinityTerm {
            text: format!("{namespaces:?} {anywhere:?} {} {}", term.topology_key, selector.text),
            namespaces,
            namespace_selector: namespace_selector.map(|selector| selector.matcher),
            selector,
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether `pod` is one of those that the term speaks of. `namespace_labels` looks a namespace up.
    pub fn matches(&self, pod: &PodInfo, namespaces: &BTreeMap<String, BTreeMap<String, String>>) -> bool {
        self.covers_namespace(&pod.key.namespace, namespaces) && self.selector.matcher.matches(&pod.labels)
    }

    pub fn covers_namespace(&self, namespace: &str, namespaces: &BTreeMap<String, BTreeMap<String, String>>) -> bool {
        if self.namespaces.contains(namespace) {
            return true;
        }
        let Some(selector) = &self.namespace_selector else { return false };
        let none = BTreeMap::new();
        selector.matches(namespaces.get(namespace).unwrap_or(&none))
    }
}

impl SpreadConstraint {
    fn new(constraint: &TopologySpreadConstraint, labels: &BTreeMap<String, String>) -> Self {
        let keys = constraint.match_label_keys.clone().unwrap_or_default();
        SpreadConstraint {
            max_skew: i64::from(constraint.max_skew),
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            topology_key: constraint.topology_key.clone(),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            selector: with_label_keys(constraint.label_selector.as_ref(), labels, &keys, &[]),
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

impl Selector {
    pub fn new(matcher: LabelSelector) -> Self {
        // Printed, `nothing` looks like `everything`.
        let text = if matcher == LabelSelector::nothing() { "!".to_owned() } else { matcher.to_string() };
        Selector { matcher, text }
    }

    /// It has no requirements.
    pub fn is_everything(&self) -> bool {
        self.text.is_empty()
    }
}

/// The selector narrowed to pods with (`same`) or without (`other`) this pod's values of these labels. The API
/// server may have done so already; doing it twice changes nothing.
fn with_label_keys(
    selector: Option<&meta::LabelSelector>,
    labels: &BTreeMap<String, String>,
    same: &[String],
    other: &[String],
) -> Selector {
    let Some(selector) = selector else { return parse(None) };
    let mut selector = selector.clone();
    let narrowed = same.iter().map(|key| (key, "In")).chain(other.iter().map(|key| (key, "NotIn")));
    for (key, operator) in narrowed {
        if let Some(value) = labels.get(key) {
            let requirement = meta::LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            };
            let requirements = selector.match_expressions.get_or_insert_default();
            if !requirements.contains(&requirement) {
                requirements.push(requirement);
            }
        }
    }
    parse(Some(&selector))
}

/// No selector matches nothing; nor does one that cannot be read, which the API server lets in nowhere.
fn parse(selector: Option<&meta::LabelSelector>) -> Selector {
    let matcher = selector.and_then(|selector| LabelSelector::from_typed(selector).ok());
    Selector::new(matcher.unwrap_or_else(LabelSelector::nothing))
}

fn is_preempted(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let told = |reason: Option<&str>| reason == Some("PreemptionByScheduler");
    pod.metadata.deletion_timestamp.is_some()
        && conditions.into_iter().any(|it| it.type_ == "DisruptionTarget" && it.status == "True" && told(it.reason.as_deref()))
}

fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let name = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name)),
        (None, None) => None,
    };
    volumes.filter_map(name).collect()
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let on_host = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let ip = port.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
        Some(HostPort { ip, protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port: number })
    });
    on_host.collect()
}

fn images(spec: &PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.filter_map(|container| container.image.as_deref()).map(normalized_image).collect()
}

/// With the tag that is meant when none is written, as nodes list it.
pub fn normalized_image(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}
