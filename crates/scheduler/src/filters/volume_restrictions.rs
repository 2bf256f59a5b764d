//! Volumes that only one pod may use: disks named in the pod itself, and claims with ReadWriteOncePod.

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::{Filter, Rejection};
use crate::cycle::Cycle;
use crate::node_info::NodeInfo;

/// A disk that cannot be mounted twice on one node, or only for reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its kind with its name; of a RADOS image its pool with its name.
    name: String,
    /// Of a RADOS image; one in common makes it the same.
    monitors: Vec<String>,
    read_only: bool,
}

pub fn disks(spec: &PodSpec) -> Vec<Disk> {
    spec.volumes.iter().flatten().filter_map(disk).collect()
}

fn disk(volume: &Volume) -> Option<Disk> {
    let disk = |name: String, read_only: Option<bool>| Disk { name, monitors: Vec::new(), read_only: read_only.unwrap_or(false) };
    if let Some(source) = &volume.gce_persistent_disk {
        return Some(disk(format!("gce {}", source.pd_name), source.read_only));
    }
    if let Some(source) = &volume.aws_elastic_block_store {
        return Some(disk(format!("aws {}", source.volume_id), None)); // Not even for reading.
    }
    if let Some(source) = &volume.iscsi {
        return Some(disk(format!("iscsi {}", source.iqn), source.read_only));
    }
    let source = volume.rbd.as_ref()?;
    let name = format!("rbd {} {}", source.pool.as_deref().unwrap_or("rbd"), source.image);
    Some(Disk { monitors: source.monitors.clone(), ..disk(name, source.read_only) })
}

impl Disk {
    pub fn conflicts(&self, other: &Disk) -> bool {
        let same_cluster = self.monitors.is_empty() || self.monitors.iter().any(|monitor| other.monitors.contains(monitor));
        self.name == other.name && same_cluster && !(self.read_only && other.read_only)
    }
}

pub fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    let (pod, exclusive) = (cycle.pod, &cycle.volumes.exclusive);
    if !pod.disks.is_empty() {
        let taken = node.pods.values().flat_map(|other| &other.disks);
        if taken.into_iter().any(|taken| pod.disks.iter().any(|disk| disk.conflicts(taken))) {
            return Err(Rejection::resolvable(Filter::VolumeRestrictions, "node(s) had no available disk"));
        }
    }
    if cycle.exclusive_claim_elsewhere {
        // Victims on this very node may hold the claim.
        let here = |claim: &String| {
            let others = node.pods.values().filter(|other| other.key.namespace == pod.key.namespace);
            others.into_iter().any(|other| other.claims.contains(claim))
        };
        let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        if exclusive.iter().any(here) || !cycle.relieved {
            return Err(Rejection::resolvable(Filter::VolumeRestrictions, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{cluster, fits, place, pod};

    fn using(volume: Value) -> Value {
        json!({"metadata": {"name": "other"}, "spec": {"volumes": [volume]}})
    }

    #[track_caller]
    fn check(there: Value, wanted: Value, expected: &str) {
        let mut cluster = cluster("n1 n2", "", "");
        place(&mut cluster, using(there.clone()), "n1");
        assert_eq!(fits(&cluster, &pod(using(wanted.clone()))), expected, "{there} {wanted}");
    }

    #[test]
    fn a_disk_is_mounted_once_or_only_for_reading() {
        let gce = |name: &str, read_only: bool| json!({"gcePersistentDisk": {"pdName": name, "readOnly": read_only}});
        check(gce("a", false), gce("a", false), "n2");
        check(gce("a", true), gce("a", true), "n1 n2");
        check(gce("a", false), gce("a", true), "n2");
        check(gce("a", false), gce("b", false), "n1 n2");
        let aws = |name: &str| json!({"awsElasticBlockStore": {"volumeID": name, "readOnly": true}});
        check(aws("a"), aws("a"), "n2");
        check(aws("a"), aws("b"), "n1 n2");
        check(aws("a"), gce("a", false), "n1 n2");
        let iscsi = |iqn: &str, lun: i32, read_only: bool| json!({"iscsi": {"targetPortal": "10.0.0.1", "iqn": iqn, "lun": lun, "readOnly": read_only}});
        check(iscsi("iqn.a", 0, false), iscsi("iqn.a", 1, false), "n2");
        check(iscsi("iqn.a", 0, true), iscsi("iqn.a", 0, true), "n1 n2");
        check(iscsi("iqn.a", 0, false), iscsi("iqn.b", 0, false), "n1 n2");
        let rbd = |monitors: &[&str], pool: &str, image: &str, read_only: bool| json!({"rbd": {"monitors": monitors, "pool": pool, "image": image, "readOnly": read_only}});
        check(rbd(&["a", "b"], "p", "i", false), rbd(&["b", "c"], "p", "i", false), "n2");
        check(rbd(&["a"], "p", "i", false), rbd(&["c"], "p", "i", false), "n1 n2");
        check(rbd(&["a"], "p", "i", false), rbd(&["a"], "q", "i", false), "n1 n2");
        check(rbd(&["a"], "p", "i", false), rbd(&["a"], "p", "j", false), "n1 n2");
        check(rbd(&["a"], "p", "i", true), rbd(&["a"], "p", "i", true), "n1 n2");
        check(json!({"emptyDir": {}}), json!({"emptyDir": {}}), "n1 n2");
    }
}
