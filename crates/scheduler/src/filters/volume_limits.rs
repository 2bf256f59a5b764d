//! How many volumes of a CSI driver a node can have attached, as its CSINode says.
//!
//! Deliberately absent: volumes of the old in-tree kinds, which the original counts for the driver they moved to.

use std::collections::BTreeMap;

use super::{Filter, Rejection};
use crate::cycle::Cycle;
use crate::node_info::NodeInfo;

pub fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    let storage = &cycle.cluster.storage;
    if cycle.attachable.is_empty() {
        return Ok(());
    }
    let Some(limits) = storage.limits.get(&node.name).filter(|limits| !limits.is_empty()) else { return Ok(()) };
    // Each volume counts once, however many pods use it, and whether a pod does or only an attachment is left of it.
    let used = node.pods.values().flat_map(|other| storage.attachable(&other.key.namespace, &other.claims));
    let mut attached: BTreeMap<String, String> = used.collect();
    attached.extend(storage.attached_to(&node.name));
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, driver) in cycle.attachable.iter().filter(|(volume, _)| !attached.contains_key(*volume)) {
        *wanted.entry(driver).or_default() += 1;
    }
    let exceeds = |(driver, wanted): (&&str, &usize)| {
        let there = attached.values().filter(|other| other == driver).count();
        limits.get(*driver).is_some_and(|limit| there + wanted > *limit)
    };
    match wanted.iter().any(exceeds) {
        true => Err(Rejection::resolvable(Filter::NodeVolumeLimits, "node(s) exceed max volume count")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::cluster::Cluster;
    use crate::testing::{add_attachment, add_csi_node, add_storage, cluster, fits, place, pod};

    const DRIVER: &str = "ebs.csi.example.com";

    /// Claims `a`, `b`, `c` bound to volumes of the driver, `other` to another's, `plain` to none, `new` to be made by
    /// the driver; two volumes of it fit on `n1`, and any number on `n2`.
    fn with_limit(limit: Option<i32>) -> Cluster {
        let mut cluster = cluster("n1 n2", "", "");
        let volume = |name: &str, source: Value| {
            let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": source});
            volume["spec"]["claimRef"] = json!({"namespace": "default", "name": name});
            volume
        };
        let claim = |name: &str, bound: bool| {
            let annotations = if bound { json!({"pv.kubernetes.io/bind-completed": "yes"}) } else { json!({}) };
            let volume = if bound { json!(name) } else { Value::Null };
            json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default", "annotations": annotations},
                "spec": {"volumeName": volume, "storageClassName": "fast"}})
        };
        let csi = |driver: &str, handle: &str| json!({"csi": {"driver": driver, "volumeHandle": handle}});
        for (name, source) in [("a", csi(DRIVER, "1")), ("b", csi(DRIVER, "2")), ("c", csi(DRIVER, "3")), ("other", csi("nfs", "1")), ("plain", json!({"hostPath": {"path": "/"}}))] {
            add_storage(&mut cluster, volume(name, source));
            add_storage(&mut cluster, claim(name, true));
        }
        add_storage(&mut cluster, claim("new", false));
        add_storage(&mut cluster, json!({"kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": DRIVER, "volumeBindingMode": "WaitForFirstConsumer"}));
        let allocatable = limit.map(|count| json!({"count": count}));
        add_csi_node(&mut cluster, json!({"metadata": {"name": "n1"}, "spec": {"drivers": [{"name": DRIVER, "nodeID": "n1", "allocatable": allocatable}]}}));
        cluster
    }

    fn using(name: &str, claims: &str) -> Value {
        let volumes: Vec<Value> = claims.split_whitespace().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
        json!({"metadata": {"name": name}, "spec": {"volumes": volumes}})
    }

    #[track_caller]
    fn check(limit: Option<i32>, there: &[&str], wanted: &str, expected: &str) {
        let mut cluster = with_limit(limit);
        for (number, claims) in there.iter().enumerate() {
            place(&mut cluster, using(&format!("there-{number}"), claims), "n1");
        }
        assert_eq!(fits(&cluster, &pod(using("wanted", wanted))), expected, "{limit:?} {there:?} {wanted}");
    }

    #[test]
    fn no_more_than_the_driver_can_attach() {
        check(Some(2), &[], "a b", "n1 n2");
        check(Some(2), &[], "a b c", "n2");
        check(Some(2), &["a"], "b", "n1 n2");
        check(Some(2), &["a b"], "c", "n2");
        check(Some(2), &["a b"], "a", "n1 n2"); // It is there already.
        check(Some(2), &["a", "a"], "b", "n1 n2"); // One volume, however many pods use it.
        check(Some(2), &["a b"], "other", "n1 n2"); // Another driver's.
        check(Some(2), &["a b"], "plain", "n1 n2");
        check(Some(2), &["a other plain"], "b", "n1 n2");
        check(Some(2), &["a b"], "new", "n2"); // To be made yet.
        check(Some(2), &["a"], "new", "n1 n2");
        check(Some(0), &[], "a", "n2");
        check(None, &["a b"], "c", "n1 n2");
        check(Some(2), &["a gone"], "b", "n1 n2"); // A claim that is no more counts for nothing.
    }

    #[test]
    fn what_is_still_attached_counts() {
        let mut cluster = with_limit(Some(1));
        let attachment = |volume: &str, node: &str| json!({"metadata": {"name": volume}, "spec": {"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": volume}}, "status": {"attached": true}});
        add_attachment(&mut cluster, attachment("a", "n1"));
        assert_eq!(fits(&cluster, &pod(using("wanted", "b"))), "n2");
        assert_eq!(fits(&cluster, &pod(using("wanted", "a"))), "n1 n2");
        let mut elsewhere = with_limit(Some(1));
        add_attachment(&mut elsewhere, attachment("a", "n2"));
        assert_eq!(fits(&elsewhere, &pod(using("wanted", "b"))), "n1 n2");
    }
}
