//! Which news may make a pod fit that some filters have rejected.
//!
//! Invariant: news that could help is never passed over; news that surely changes nothing for the pod wakes nobody.
//! The rules are those by which the original's plugins give their queueing hints.

use std::collections::BTreeMap;

use client::ObjectKey;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::cluster::Cluster;
use crate::filters::{Filter, node_affinity, node_resources, node_unschedulable, taint_toleration};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// What happened in the cluster.
pub enum News<'a> {
    NodeCame(&'a NodeInfo),
    NodeChanged { old: &'a NodeInfo, new: &'a NodeInfo },
    NodeLeft(&'a NodeInfo),
    /// A pod left a node or takes less there.
    PodLeft(&'a PodInfo),
    /// A pod came to a node.
    PodCame(&'a PodInfo),
    /// A pod on a node has other labels.
    PodRelabelled { old: &'a PodInfo, new: &'a PodInfo },
    Claim(&'a PersistentVolumeClaim),
    Volume { old: Option<&'a PersistentVolume>, new: &'a PersistentVolume },
    Class { old: Option<&'a StorageClass>, new: &'a StorageClass },
    /// A node can have more volumes attached, or has fewer.
    AttachmentRoom,
    NamespaceChanged,
}

/// Whether a rejection by the filter may be void now.
pub fn helps(news: &News<'_>, filter: Filter, pod: &PodInfo, cluster: &Cluster) -> bool {
    match filter {
        Filter::NodeUnschedulable => node_turned(news, |node| node_unschedulable::check(pod, node).is_ok()),
        Filter::NodeName => matches!(news, News::NodeCame(node) if pod.node_name.as_ref().is_none_or(|name| *name == node.name)),
        Filter::TaintToleration => node_turned(news, |node| taint_toleration::tolerates_all(pod, node)),
        Filter::NodeAffinity => node_turned(news, |node| node_affinity::check(pod, node).is_ok()),
        Filter::NodePorts => match news {
            News::NodeCame(_) => true,
            News::PodLeft(other) => pod.host_ports.iter().any(|port| other.host_ports.iter().any(|taken| taken.conflicts(port))),
            _ => false,
        },
        Filter::NodeResourcesFit => resources(news, pod),
        Filter::VolumeRestrictions => match news {
            News::NodeCame(_) => true,
            News::PodLeft(other) => {
                let shares_claim = other.key.namespace == pod.key.namespace && other.claims.iter().any(|claim| pod.claims.contains(claim));
                shares_claim || pod.disks.iter().any(|disk| other.disks.iter().any(|taken| disk.conflicts(taken)))
            }
            News::Claim(claim) => is_own_claim(pod, claim),
            _ => false,
        },
        Filter::NodeVolumeLimits => match news {
            News::AttachmentRoom | News::NodeCame(_) => true,
            News::PodLeft(other) => !other.claims.is_empty(),
            News::Claim(claim) => is_own_claim(pod, claim),
            _ => false,
        },
        Filter::VolumeBinding => match news {
            News::NodeCame(_) | News::Volume { .. } => true,
            News::NodeChanged { old, new } => old.labels != new.labels,
            News::Claim(claim) => is_own_claim(pod, claim),
            News::Class { old, new } => old.is_none_or(|old| old.allowed_topologies != new.allowed_topologies),
            _ => false,
        },
        Filter::VolumeZone => match news {
            News::NodeCame(_) => true,
            News::NodeChanged { old, new } => old.labels != new.labels,
            News::Claim(claim) => is_own_claim(pod, claim),
            News::Volume { old, new } => old.is_none_or(|old| old.metadata.labels != new.metadata.labels),
            News::Class { old: None, new } => new.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            _ => false,
        },
        Filter::PodTopologySpread => spread(news, pod, cluster),
        Filter::InterPodAffinity => affinity(news, pod, cluster),
        Filter::Unsupported => false,
    }
}

/// A node that would not do before does now.
fn node_turned(news: &News<'_>, will_do: impl Fn(&NodeInfo) -> bool) -> bool {
    match news {
        News::NodeCame(node) => will_do(node),
        News::NodeChanged { old, new } => !will_do(old) && will_do(new),
        _ => false,
    }
}

fn resources(news: &News<'_>, pod: &PodInfo) -> bool {
    match news {
        News::NodeCame(node) => node_resources::check(pod, node).is_ok(),
        News::NodeChanged { old, new } => {
            let (wanted, before, now) = (&pod.requests, &old.allocatable, &new.allocatable);
            let more = new.allocatable_pods > old.allocatable_pods
                || wanted.milli_cpu > 0 && now.milli_cpu > before.milli_cpu
                || wanted.memory > 0 && now.memory > before.memory
                || wanted.ephemeral_storage > 0 && now.ephemeral_storage > before.ephemeral_storage
                || wanted.extended.keys().any(|name| now.extended.get(name) > before.extended.get(name));
            more && node_resources::check(pod, new).is_ok()
        }
        News::PodLeft(_) => true,
        _ => false,
    }
}

fn is_own_claim(pod: &PodInfo, claim: &PersistentVolumeClaim) -> bool {
    let key = ObjectKey::of(&claim.metadata);
    key.namespace == pod.key.namespace && pod.claims.contains(&key.name)
}

fn spread(news: &News<'_>, pod: &PodInfo, cluster: &Cluster) -> bool {
    let constraints = match pod.spread.is_empty() {
        true => cluster.default_selectors.constraints(pod),
        false => pod.spread.clone(),
    };
    let hard = || constraints.iter().filter(|constraint| constraint.hard);
    let counts = |other: &PodInfo| {
        other.key.namespace == pod.key.namespace && hard().any(|constraint| constraint.selector.matcher.matches(&other.labels))
    };
    let places = |node: &NodeInfo| -> Option<Vec<String>> {
        hard().map(|constraint| node.labels.get(&constraint.topology_key).cloned()).collect()
    };
    match news {
        News::PodCame(other) | News::PodLeft(other) => counts(other),
        News::PodRelabelled { old, new } => counts(old) != counts(new),
        News::NodeCame(node) | News::NodeLeft(node) => places(node).is_some(),
        News::NodeChanged { old, new } => {
            let taints_matter = hard().any(|constraint| constraint.honor_taints);
            places(old) != places(new)
                || places(new).is_some()
                    && taints_matter
                    && taint_toleration::tolerates_all(pod, old) != taint_toleration::tolerates_all(pod, new)
                || pod.is_particular() && old.labels != new.labels
        }
        _ => false,
    }
}

fn affinity(news: &News<'_>, pod: &PodInfo, cluster: &Cluster) -> bool {
    let namespaces = &cluster.namespaces;
    let draws = |other: &PodInfo| pod.required_affinity.iter().any(|term| term.matches(other, namespaces));
    let repels = |other: &PodInfo| {
        pod.required_anti_affinity.iter().any(|term| term.matches(other, namespaces))
            || other.required_anti_affinity.iter().any(|term| term.matches(pod, namespaces))
    };
    let terms = || pod.required_affinity.iter().chain(&pod.required_anti_affinity);
    match news {
        News::PodCame(other) => draws(other),
        News::PodLeft(other) => repels(other),
        News::PodRelabelled { old, new } => !draws(old) && draws(new) || repels(old) && !repels(new),
        News::NodeCame(node) => pod.required_affinity.iter().all(|term| node.labels.contains_key(&term.topology_key)),
        // What pods elsewhere keep it away from may be named by any label.
        News::NodeChanged { old, new } => match terms().next() {
            Some(_) => terms().any(|term| old.labels.get(&term.topology_key) != new.labels.get(&term.topology_key)) || new_labels(old, new),
            None => new_labels(old, new),
        },
        News::NamespaceChanged => true,
        _ => false,
    }
}

fn new_labels(old: &NodeInfo, new: &NodeInfo) -> bool {
    let gone: BTreeMap<_, _> = old.labels.iter().filter(|(key, value)| new.labels.get(*key) != Some(*value)).collect();
    !gone.is_empty()
}

/// Whether a node's change is more than a heartbeat.
pub fn is_touched(old: &Node, new: &Node) -> bool {
    let status = |node: &Node| node.status.as_ref().map(|status| (status.allocatable.clone(), status.images.clone()));
    let spec = |node: &Node| node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable.unwrap_or(false)));
    old.metadata.labels != new.metadata.labels || status(old) != status(new) || spec(old) != spec(new)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster_of, node, pod, pod_from};

    /// The pod that waits; rows say what it wants by their own.
    fn waiting(spec: Value) -> PodInfo {
        pod(json!({"metadata": {"name": "waiting", "labels": {"app": "web"}}, "spec": spec}))
    }

    fn on_node(name: &str, labels: Value, spec: Value) -> PodInfo {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let object = pod_from(json!({"metadata": {"name": name, "labels": labels}, "spec": spec}));
        PodInfo::placed(&object, crate::profile::Profile::standard())
    }

    fn node_of(labels: Value, spec: Value, cpu: &str) -> NodeInfo {
        node(json!({"metadata": {"name": "n1", "labels": labels}, "spec": spec, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}}))
    }

    #[track_caller]
    fn check(filter: Filter, spec: Value, news: &News<'_>, expected: bool) {
        let mut cluster = cluster_of(&[]);
        cluster.namespaces.insert("team".into(), [("env".to_owned(), "prod".to_owned())].into());
        assert_eq!(helps(news, filter, &waiting(spec.clone()), &cluster), expected, "{filter:?} {spec}");
    }

    #[test]
    fn news_of_nodes() {
        let plain = || node_of(json!({"zone": "a"}), json!({}), "1");
        let cordoned = || node_of(json!({}), json!({"unschedulable": true}), "1");
        let tainted = |key: &str| node_of(json!({}), json!({"taints": [{"key": key, "effect": "NoSchedule"}]}), "1");
        let changed = |old: NodeInfo, new: NodeInfo| (old, new);
        let came = |filter: Filter, spec: Value, node: NodeInfo, expected: bool| check(filter, spec, &News::NodeCame(&node), expected);
        let turned = |filter: Filter, spec: Value, (old, new): (NodeInfo, NodeInfo), expected: bool| {
            check(filter, spec, &News::NodeChanged { old: &old, new: &new }, expected);
        };
        came(Filter::NodeUnschedulable, json!({}), plain(), true);
        came(Filter::NodeUnschedulable, json!({}), cordoned(), false);
        turned(Filter::NodeUnschedulable, json!({}), changed(cordoned(), plain()), true);
        turned(Filter::NodeUnschedulable, json!({}), changed(plain(), plain()), false);
        turned(Filter::NodeUnschedulable, json!({}), changed(plain(), cordoned()), false);

        came(Filter::TaintToleration, json!({}), plain(), true);
        came(Filter::TaintToleration, json!({}), tainted("a"), false);
        came(Filter::TaintToleration, json!({"tolerations": [{"key": "a", "operator": "Exists"}]}), tainted("a"), true);
        turned(Filter::TaintToleration, json!({}), changed(tainted("a"), plain()), true);
        turned(Filter::TaintToleration, json!({}), changed(tainted("a"), tainted("b")), false);
        turned(Filter::TaintToleration, json!({}), changed(plain(), plain()), false);

        let wants_zone = |zone: &str| json!({"nodeSelector": {"zone": zone}});
        came(Filter::NodeAffinity, wants_zone("a"), plain(), true);
        came(Filter::NodeAffinity, wants_zone("b"), plain(), false);
        turned(Filter::NodeAffinity, wants_zone("a"), changed(cordoned(), plain()), true);
        turned(Filter::NodeAffinity, wants_zone("a"), changed(plain(), plain()), false);
        turned(Filter::NodeAffinity, wants_zone("b"), changed(cordoned(), plain()), false);

        came(Filter::NodeName, json!({}), plain(), true);
        came(Filter::NodeName, json!({"nodeName": "n1"}), plain(), true);
        came(Filter::NodeName, json!({"nodeName": "n2"}), plain(), false);
        came(Filter::NodePorts, json!({}), plain(), true);
        turned(Filter::NodePorts, json!({}), changed(cordoned(), plain()), false);

        let asks = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        let sized = |cpu: &str| node_of(json!({}), json!({}), cpu);
        came(Filter::NodeResourcesFit, asks("1"), sized("1"), true);
        came(Filter::NodeResourcesFit, asks("2"), sized("1"), false);
        turned(Filter::NodeResourcesFit, asks("2"), changed(sized("1"), sized("2")), true);
        turned(Filter::NodeResourcesFit, asks("4"), changed(sized("1"), sized("2")), false);
        turned(Filter::NodeResourcesFit, asks("1"), changed(sized("2"), sized("1")), false);
        turned(Filter::NodeResourcesFit, asks("1"), changed(sized("2"), sized("2")), false);

        for filter in [Filter::VolumeBinding, Filter::VolumeZone] {
            came(filter, json!({}), plain(), true);
            turned(filter, json!({}), changed(cordoned(), plain()), true);
            turned(filter, json!({}), changed(sized("1"), sized("2")), false);
        }
        came(Filter::VolumeRestrictions, json!({}), plain(), true);
        came(Filter::NodeVolumeLimits, json!({}), plain(), true);
        came(Filter::Unsupported, json!({}), plain(), false);
    }

    fn spread_over(key: &str, more: Value) -> Value {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
        constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"topologySpreadConstraints": [constraint]})
    }

    #[test]
    fn news_for_spreading() {
        let filter = Filter::PodTopologySpread;
        let zone = || spread_over("zone", json!({}));
        let (web, db) = (on_node("web", json!({"app": "web"}), json!({})), on_node("db", json!({"app": "db"}), json!({})));
        for (other, expected) in [(&web, true), (&db, false)] {
            check(filter, zone(), &News::PodCame(other), expected);
            check(filter, zone(), &News::PodLeft(other), expected);
        }
        check(filter, zone(), &News::PodRelabelled { old: &db, new: &web }, true);
        check(filter, zone(), &News::PodRelabelled { old: &web, new: &db }, true);
        check(filter, zone(), &News::PodRelabelled { old: &db, new: &db }, false);
        let mut elsewhere = on_node("web", json!({"app": "web"}), json!({}));
        elsewhere.key.namespace = "team".into();
        check(filter, zone(), &News::PodLeft(&elsewhere), false);
        let soft = spread_over("zone", json!({"whenUnsatisfiable": "ScheduleAnyway"}));
        check(filter, soft, &News::PodLeft(&web), false);

        let (with, without) = (node_of(json!({"zone": "a"}), json!({}), "1"), node_of(json!({}), json!({}), "1"));
        let moved = node_of(json!({"zone": "b"}), json!({}), "1");
        let tainted = node_of(json!({"zone": "a"}), json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}), "1");
        for (node, expected) in [(&with, true), (&without, false)] {
            check(filter, zone(), &News::NodeCame(node), expected);
            check(filter, zone(), &News::NodeLeft(node), expected);
        }
        check(filter, zone(), &News::NodeChanged { old: &without, new: &with }, true);
        check(filter, zone(), &News::NodeChanged { old: &with, new: &moved }, true);
        check(filter, zone(), &News::NodeChanged { old: &with, new: &with }, false);
        check(filter, zone(), &News::NodeChanged { old: &tainted, new: &with }, false);
        check(filter, spread_over("zone", json!({"nodeTaintsPolicy": "Honor"})), &News::NodeChanged { old: &tainted, new: &with }, true);
    }

    fn term(kind: &str, more: Value) -> Value {
        let mut term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}});
        term.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    #[test]
    fn news_for_affinity() {
        let filter = Filter::InterPodAffinity;
        let (near, apart) = (|| term("podAffinity", json!({})), || term("podAntiAffinity", json!({})));
        let (web, db) = (on_node("web", json!({"app": "web"}), json!({})), on_node("db", json!({"app": "db"}), json!({})));
        check(filter, near(), &News::PodCame(&db), true);
        check(filter, near(), &News::PodCame(&web), false);
        check(filter, near(), &News::PodLeft(&db), false);
        check(filter, apart(), &News::PodLeft(&db), true);
        check(filter, apart(), &News::PodLeft(&web), false);
        check(filter, apart(), &News::PodCame(&db), false);
        check(filter, near(), &News::PodRelabelled { old: &web, new: &db }, true);
        check(filter, near(), &News::PodRelabelled { old: &db, new: &web }, false);
        check(filter, apart(), &News::PodRelabelled { old: &db, new: &web }, true);
        check(filter, apart(), &News::PodRelabelled { old: &web, new: &db }, false);
        // One that keeps the waiting pod away.
        let loner = on_node("loner", json!({}), term("podAntiAffinity", json!({"labelSelector": {"matchLabels": {"app": "web"}}})));
        check(filter, json!({}), &News::PodLeft(&loner), true);
        check(filter, json!({}), &News::PodLeft(&web), false);
        // In other namespaces.
        let mut there = on_node("db", json!({"app": "db"}), json!({}));
        there.key.namespace = "team".into();
        check(filter, near(), &News::PodCame(&there), false);
        check(filter, term("podAffinity", json!({"namespaces": ["team"]})), &News::PodCame(&there), true);
        check(filter, term("podAffinity", json!({"namespaceSelector": {"matchLabels": {"env": "prod"}}})), &News::PodCame(&there), true);
        check(filter, term("podAffinity", json!({"namespaceSelector": {"matchLabels": {"env": "dev"}}})), &News::PodCame(&there), false);
        check(filter, near(), &News::NamespaceChanged, true);

        let (with, without) = (node_of(json!({"zone": "a"}), json!({}), "1"), node_of(json!({}), json!({}), "1"));
        check(filter, near(), &News::NodeCame(&with), true);
        check(filter, near(), &News::NodeCame(&without), false);
        check(filter, apart(), &News::NodeCame(&without), true);
        check(filter, near(), &News::NodeChanged { old: &without, new: &with }, true);
        check(filter, near(), &News::NodeChanged { old: &with, new: &with }, false);
        check(filter, apart(), &News::NodeChanged { old: &with, new: &without }, true);
    }

    #[test]
    fn news_of_pods_and_volumes() {
        let claim = |name: &str| json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]});
        let port = |port: i32, ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": port, "hostIP": ip}]}]});
        let left = |filter: Filter, spec: Value, other: Value, expected: bool| {
            check(filter, spec, &News::PodLeft(&on_node("other", json!({}), other)), expected);
        };
        left(Filter::NodeResourcesFit, json!({}), json!({}), true);
        left(Filter::NodePorts, port(80, ""), port(80, "10.0.0.1"), true);
        left(Filter::NodePorts, port(80, ""), port(81, ""), false);
        left(Filter::NodePorts, port(80, "10.0.0.1"), port(80, "10.0.0.2"), false);
        left(Filter::TaintToleration, json!({}), json!({}), false);
        left(Filter::NodeAffinity, json!({}), json!({}), false);
        left(Filter::VolumeBinding, claim("a"), claim("a"), false);
        left(Filter::VolumeZone, claim("a"), claim("a"), false);
        left(Filter::VolumeRestrictions, claim("a"), claim("a"), true);
        left(Filter::VolumeRestrictions, claim("a"), claim("b"), false);
        let disk = json!({"volumes": [{"name": "v", "awsElasticBlockStore": {"volumeID": "1"}}]});
        left(Filter::VolumeRestrictions, disk.clone(), disk.clone(), true);
        left(Filter::VolumeRestrictions, disk, json!({}), false);
        left(Filter::NodeVolumeLimits, claim("a"), claim("b"), true);
        left(Filter::NodeVolumeLimits, claim("a"), json!({}), false);
        for filter in [Filter::NodeResourcesFit, Filter::NodePorts, Filter::VolumeRestrictions, Filter::NodeVolumeLimits] {
            check(filter, claim("a"), &News::PodCame(&on_node("other", json!({}), claim("a"))), false);
        }

        let all = [Filter::VolumeRestrictions, Filter::NodeVolumeLimits, Filter::VolumeBinding, Filter::VolumeZone];
        for (name, namespace, expected) in [("a", "default", true), ("b", "default", false), ("a", "team", false)] {
            let object: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}})).unwrap();
            for filter in all {
                check(filter, claim("a"), &News::Claim(&object), expected);
            }
        }
        let volume = |zone: &str| -> PersistentVolume { serde_json::from_value(json!({"metadata": {"name": "v", "labels": {"topology.kubernetes.io/zone": zone}}})).unwrap() };
        let (here, there) = (volume("a"), volume("b"));
        check(Filter::VolumeBinding, claim("a"), &News::Volume { old: Some(&here), new: &here }, true);
        check(Filter::VolumeZone, claim("a"), &News::Volume { old: None, new: &here }, true);
        check(Filter::VolumeZone, claim("a"), &News::Volume { old: Some(&there), new: &here }, true);
        check(Filter::VolumeZone, claim("a"), &News::Volume { old: Some(&here), new: &here }, false);
        check(Filter::NodeVolumeLimits, claim("a"), &News::Volume { old: None, new: &here }, false);
        let class = |mode: &str, zone: &str| -> StorageClass {
            serde_json::from_value(json!({"provisioner": "p", "volumeBindingMode": mode, "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]})).unwrap()
        };
        let (waits, at_once, wider) = (class("WaitForFirstConsumer", "a"), class("Immediate", "a"), class("WaitForFirstConsumer", "b"));
        check(Filter::VolumeBinding, claim("a"), &News::Class { old: None, new: &at_once }, true);
        check(Filter::VolumeBinding, claim("a"), &News::Class { old: Some(&waits), new: &wider }, true);
        check(Filter::VolumeBinding, claim("a"), &News::Class { old: Some(&waits), new: &waits }, false);
        check(Filter::VolumeZone, claim("a"), &News::Class { old: None, new: &waits }, true);
        check(Filter::VolumeZone, claim("a"), &News::Class { old: None, new: &at_once }, false);
        check(Filter::NodeVolumeLimits, claim("a"), &News::AttachmentRoom, true);
        check(Filter::VolumeBinding, claim("a"), &News::AttachmentRoom, false);
    }
}
