//! Volumes of bound claims must be within reach of the node, and what waits for a node must find or be given one there.

use std::borrow::Cow;

use super::{Filter, Rejection};
use crate::cycle::Cycle;
use crate::node_info::NodeInfo;

pub fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    let volumes = &cycle.volumes;
    if volumes.is_empty() {
        return Ok(());
    }
    let unbindable = volumes.has_waiting() && cycle.cluster.storage.plan(volumes, node).is_none();
    let unbindable = unbindable.then_some("node(s) didn't find available persistent volumes to bind");
    let (missing, out_of_reach) = match volumes.conflict(node) {
        Some(reason) if reason.ends_with("pv(s)") => (Some(reason), None),
        reason => (None, reason),
    };
    let reasons: Vec<Cow<'static, str>> = [out_of_reach, unbindable, missing].into_iter().flatten().map(Cow::Borrowed).collect();
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Rejection { filter: Filter::VolumeBinding, reasons, resolvable: false }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::cluster::Cluster;
    use crate::cycle::Cycle;
    use crate::testing::{add_storage, cluster, fits, outcome, place, pod};

    fn volume(name: &str, more: Value) -> Value {
        let mut volume = json!({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {"storageClassName": "local", "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}});
        merge(&mut volume, more);
        volume
    }

    fn claim(name: &str, more: Value) -> Value {
        let mut claim = json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"}, "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}});
        merge(&mut claim, more);
        claim
    }

    fn bound(name: &str, volume: &str) -> Value {
        claim(name, json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}}))
    }

    fn merge(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(into), Value::Object(more)) => more.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value)),
            (into, more) => *into = more,
        }
    }

    fn class(name: &str, provisioner: &str, more: Value) -> Value {
        let mut class = json!({"kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
        merge(&mut class, more);
        class
    }

    /// Reachable from the nodes with this label alone.
    fn at(zone: &str) -> Value {
        let terms = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]);
        json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}})
    }

    fn using(claims: &str) -> Value {
        let volumes: Vec<Value> = claims.split_whitespace().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
        json!({"metadata": {"name": "web", "uid": "web"}, "spec": {"volumes": volumes}})
    }

    fn with(objects: &[Value]) -> Cluster {
        let mut cluster = cluster("a[zone=a] b[zone=b]", "", "");
        for object in objects {
            add_storage(&mut cluster, object.clone());
        }
        cluster
    }

    /// Which of the nodes a and b, in zones of those names, will do; or why none is looked at; or what they say.
    #[track_caller]
    fn check(objects: &[Value], wanted: Value, expected: &str) {
        let (cluster, wanted) = (with(objects), pod(wanted));
        let found = match Cycle::new(&wanted, &cluster) {
            Err((reason, _)) => reason,
            Ok(cycle) => match fits(&cluster, &wanted) {
                names if names.is_empty() => outcome(cycle.check(&cluster.nodes()[0])),
                names => names,
            },
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn claims_that_are_not_ready() {
        check(&[], using("data"), "persistentvolumeclaim \"data\" not found");
        let leaving = claim("data", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        check(&[leaving], using("data"), "persistentvolumeclaim \"data\" is being deleted");
        let lost = claim("data", json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}}));
        check(&[lost], using("data"), "persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"v\"");
        let unbound = "pod has unbound immediate PersistentVolumeClaims";
        check(&[claim("data", json!({}))], using("data"), unbound); // Its class is not there.
        check(&[claim("data", json!({})), class("local", "p", json!({"volumeBindingMode": "Immediate"}))], using("data"), unbound);
        check(&[claim("data", json!({"spec": {"volumeName": "v"}})), class("local", "p", json!({}))], using("data"), unbound); // Promised, not bound.
        check(&[bound("data", "v"), claim("more", json!({}))], using("data more"), unbound);
        check(&[bound("data", "v")], using("data"), "persistentvolume \"v\" not found");
    }

    #[test]
    fn ephemeral_volumes_have_claims_of_their_own() {
        let wanted = json!({"metadata": {"name": "web", "uid": "web"}, "spec": {"volumes": [{"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}});
        let waiting = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"web-data\"";
        check(&[], wanted.clone(), waiting);
        check(&[claim("web-data", json!({}))], wanted.clone(), "PVC default/web-data was not created for pod default/web (pod is not owner)");
        let owned = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "web", "controller": true}]}});
        let mut own = bound("web-data", "v");
        merge(&mut own, owned);
        check(&[own.clone(), volume("v", json!({}))], wanted.clone(), "a b");
        check(&[own], wanted, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
    }

    #[test]
    fn bound_volumes_are_used_where_they_can_be_reached() {
        check(&[bound("data", "v"), volume("v", json!({}))], using("data"), "a b");
        check(&[bound("data", "v"), volume("v", at("b"))], using("data"), "b");
        check(&[bound("data", "v"), volume("v", at("c"))], using("data"), "node(s) didn't match PersistentVolume's node affinity");
        check(&[bound("data", "v"), volume("v", at("a")), bound("more", "w"), volume("w", at("b"))], using("data more"), "node(s) didn't match PersistentVolume's node affinity");
    }

    #[test]
    fn zones_of_volumes() {
        let check_zones = |labels: Value, expected: &str| {
            let mut cluster = cluster("a[topology.kubernetes.io/zone=a] b[topology.kubernetes.io/zone=b] old[failure-domain.beta.kubernetes.io/zone=a] none", "", "");
            add_storage(&mut cluster, bound("data", "v"));
            add_storage(&mut cluster, volume("v", json!({"metadata": {"labels": labels.clone()}})));
            assert_eq!(fits(&cluster, &pod(using("data"))), expected, "{labels}");
        };
        check_zones(json!({}), "a b old none");
        check_zones(json!({"topology.kubernetes.io/zone": "a"}), "a none");
        check_zones(json!({"topology.kubernetes.io/zone": "a__b"}), "a b none");
        check_zones(json!({"failure-domain.beta.kubernetes.io/zone": "a"}), "a old none"); // As the label is called now, too.
        check_zones(json!({"topology.kubernetes.io/region": "r"}), "none");
        check_zones(json!({"other": "a"}), "a b old none");
        let cluster = {
            let mut cluster = cluster("a[topology.kubernetes.io/zone=a]", "", "");
            add_storage(&mut cluster, bound("data", "v"));
            add_storage(&mut cluster, volume("v", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "b"}}})));
            cluster
        };
        let wanted = pod(using("data"));
        let cycle = Cycle::new(&wanted, &cluster).ok().unwrap();
        assert_eq!(outcome(cycle.check(&cluster.nodes()[0])), "node(s) had no available volume zone");
    }

    #[test]
    fn what_waits_finds_a_volume_or_is_given_one() {
        const NONE: &str = "node(s) didn't find available persistent volumes to bind";
        let local = || class("local", "kubernetes.io/no-provisioner", json!({}));
        let data = || claim("data", json!({}));
        let found = |volumes: &[Value], claim: Value, expected: &str| {
            let mut objects = vec![local(), claim];
            objects.extend_from_slice(volumes);
            check(&objects, using("data"), expected);
        };
        found(&[], data(), NONE);
        found(&[volume("v", at("b"))], data(), "b");
        found(&[volume("v", json!({"spec": {"capacity": {"storage": "4Gi"}}}))], data(), NONE);
        found(&[volume("v", json!({"spec": {"storageClassName": "other"}}))], data(), NONE);
        found(&[volume("v", json!({"spec": {"storageClassName": "", }, "metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "local"}}}))], data(), "a b");
        found(&[volume("v", json!({"spec": {"accessModes": ["ReadOnlyMany"]}}))], data(), NONE);
        found(&[volume("v", json!({"spec": {"volumeMode": "Block"}}))], data(), NONE);
        found(&[volume("v", json!({"spec": {"volumeMode": "Filesystem"}}))], data(), "a b");
        found(&[volume("v", json!({"spec": {"volumeAttributesClassName": "gold"}}))], data(), NONE);
        found(&[volume("v", json!({"spec": {"volumeAttributesClassName": "gold"}}))], claim("data", json!({"spec": {"volumeAttributesClassName": "gold"}})), "a b");
        found(&[volume("v", json!({"status": {"phase": "Released"}}))], data(), NONE);
        found(&[volume("v", json!({"status": {"phase": "Pending"}}))], data(), NONE);
        found(&[volume("v", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))], data(), NONE);
        found(&[volume("v", json!({"spec": {"claimRef": {"namespace": "default", "name": "other"}}}))], data(), NONE);
        found(&[volume("v", json!({"spec": {"claimRef": {"namespace": "default", "name": "data"}}}))], data(), "a b");
        found(&[volume("v", json!({"metadata": {"labels": {"disk": "ssd"}}}))], claim("data", json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}})), "a b");
        found(&[volume("v", json!({"metadata": {"labels": {"disk": "hdd"}}}))], claim("data", json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}})), NONE);
        // Its provisioning has begun somewhere.
        let selected = |node: &str| claim("data", json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}}));
        check(&[class("local", "p", json!({})), selected("b")], using("data"), "b");
        // A provisioner makes one, where it may.
        check(&[class("local", "p", json!({})), data()], using("data"), "a b");
        let allowed = |topologies: Value| class("local", "p", json!({"allowedTopologies": topologies}));
        check(&[allowed(json!([{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}])), data()], using("data"), "b");
        check(&[allowed(json!([{}])), data()], using("data"), NONE);
        // Both at once: what is bound is told first.
        let both = [local(), data(), bound("more", "w"), volume("w", at("c"))];
        check(&both, using("data more"), "node(s) didn't match PersistentVolume's node affinity, node(s) didn't find available persistent volumes to bind");
    }

    #[test]
    fn several_claims_share_out_the_volumes() {
        let sized = |name: &str, size: &str| claim(name, json!({"spec": {"resources": {"requests": {"storage": size}}}}));
        let offered = |name: &str, size: &str| volume(name, json!({"spec": {"capacity": {"storage": size}}}));
        let local = || class("local", "kubernetes.io/no-provisioner", json!({}));
        let objects = [local(), sized("large", "8Gi"), sized("small", "1Gi"), offered("v1", "10Gi"), offered("v2", "2Gi")];
        check(&objects, using("large small"), "a b");
        check(&objects[..4], using("large small"), "node(s) didn't find available persistent volumes to bind");
        // The smallest that will do is taken.
        let cluster = with(&[local(), sized("small", "1Gi"), offered("v1", "10Gi"), offered("v2", "2Gi"), offered("v3", "5Gi")]);
        let wanted = pod(using("small"));
        let cycle = Cycle::new(&wanted, &cluster).ok().unwrap();
        let plan = cluster.storage.plan(&cycle.volumes, &cluster.nodes()[0]).unwrap();
        assert_eq!(plan.bind[0].0, "v2");
    }

    #[test]
    fn a_claim_for_one_pod_is_used_by_one() {
        let objects = [claim("data", json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v", "accessModes": ["ReadWriteOncePod"]}})), volume("v", json!({}))];
        let mut cluster = with(&objects);
        assert_eq!(fits(&cluster, &pod(using("data"))), "a b");
        let mut other = using("data");
        other["metadata"] = json!({"name": "other"});
        place(&mut cluster, other, "a");
        let wanted = pod(using("data"));
        assert_eq!(fits(&cluster, &wanted), "");
        let cycle = Cycle::new(&wanted, &cluster).ok().unwrap();
        let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode (resolvable)";
        assert_eq!(outcome(cycle.check(&cluster.nodes()[0])), reason);
    }
}
