//! Claims, volumes and classes, and what a pod's claims allow.
//!
//! Invariant: a volume that one pod was promised is not promised to another before the promise is kept or broken.
//! Deliberately absent: storage capacity reported by CSI drivers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, StorageClass, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::node_info::NodeInfo;
use crate::node_selector;
use crate::pod_info::PodInfo;
use crate::resources::whole;

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[derive(Default)]
pub struct Storage {
    pub claims: HashMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    pub classes: HashMap<String, Arc<StorageClass>>,
    /// By node: how many volumes of a driver it can have attached.
    pub limits: HashMap<String, BTreeMap<String, usize>>,
    /// What is attached to which node, whoever uses it.
    pub attachments: BTreeMap<String, Arc<VolumeAttachment>>,
    /// Volumes promised to claims by decisions that are being carried out.
    pub promised: HashMap<String, ObjectKey>,
}

/// What a pod's claims come down to, before any node is looked at.
#[derive(Default)]
pub struct PodVolumes {
    /// Volumes of bound claims; `None` for one that does not exist.
    bound: Vec<Option<Arc<PersistentVolume>>>,
    /// Claims whose binding waited for a pod.
    waiting: Vec<Arc<PersistentVolumeClaim>>,
    /// Claims that only one pod may use.
    pub exclusive: Vec<String>,
}

/// What is to be done for the claims before the pod is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumePlan {
    pub bind: Vec<(String, ObjectKey)>,
    pub provision: Vec<ObjectKey>,
}

impl VolumePlan {
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

impl Storage {
    /// `Err` says why no node will do.
    pub fn of_pod(&self, pod: &PodInfo) -> Result<PodVolumes, String> {
        let mut found = PodVolumes::default();
        let volumes = pod.spec().into_iter().flat_map(|spec| spec.volumes.iter().flatten());
        let ephemeral: Vec<String> = volumes
            .filter(|volume| volume.ephemeral.is_some())
            .map(|volume| format!("{}-{}", pod.key.name, volume.name))
            .collect();
        let (mut unbound, mut missing) = (false, None);
        for name in &pod.claims {
            let key = ObjectKey::new(&pod.key.namespace, name);
            let Some(claim) = self.claims.get(&key) else {
                return Err(if ephemeral.contains(name) {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let volume_name = volume_of(claim);
            if claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Lost")) {
                return Err(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume_name}\""));
            }
            let owned = |claim: &PersistentVolumeClaim| {
                claim.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == pod.uid)
            };
            if ephemeral.contains(name) && !owned(claim) {
                return Err(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.key));
            }
            if claim.spec.as_ref().is_some_and(|spec| spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod")) {
                found.exclusive.push(name.clone());
            }
            if is_bound(claim) {
                let volume = self.volumes.get(volume_name).cloned();
                if volume.is_none() && !ephemeral.contains(name) {
                    missing.get_or_insert_with(|| format!("persistentvolume \"{volume_name}\" not found"));
                }
                found.bound.push(volume);
            } else if volume_name.is_empty() && self.waits_for_consumer(claim) {
                found.waiting.push(claim.clone());
            } else {
                unbound = true;
            }
        }
        match (unbound, missing) {
            (true, _) => Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
            (false, Some(reason)) => Err(reason),
            (false, None) => Ok(found),
        }
    }

    pub fn set_csi_node(&mut self, node: &CSINode) {
        let limit = |driver: &CSINodeDriver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.clone(), usize::try_from(count).unwrap_or(0)))
        };
        let limits = node.spec.drivers.iter().filter_map(limit).collect();
        self.limits.insert(node.metadata.name.clone().unwrap_or_default(), limits);
    }

    /// The volumes of CSI drivers behind these claims, with their driver; what is yet to be made has its claim's name.
    pub fn attachable(&self, namespace: &str, claims: &[String]) -> impl Iterator<Item = (String, String)> {
        claims.iter().filter_map(move |name| {
            let claim = self.claims.get(&ObjectKey::new(namespace, name))?;
            match self.volumes.get(volume_of(claim)) {
                Some(volume) => csi_volume(volume),
                None => {
                    let class = self.classes.get(class_of(claim))?;
                    Some((format!("{} {namespace}/{name}", class.provisioner), class.provisioner.clone()))
                }
            }
        })
    }

    /// The same for what is attached to the node.
    pub fn attached_to(&self, node: &str) -> impl Iterator<Item = (String, String)> {
        let here = self.attachments.values().filter(move |attachment| attachment.spec.node_name == node);
        here.filter_map(|attachment| csi_volume(self.volumes.get(attachment.spec.source.persistent_volume_name.as_ref()?)?))
    }

    fn waits_for_consumer(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = self.classes.get(class_of(claim));
        class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
    }

    /// What would be done for the waiting claims on this node; `None` if they cannot be served there.
    pub fn plan(&self, volumes: &PodVolumes, node: &NodeInfo) -> Option<VolumePlan> {
        let mut plan = VolumePlan::default();
        // The smallest claim chooses first, so that it leaves the large volumes to the large ones.
        let mut waiting: Vec<_> = volumes.waiting.iter().collect();
        waiting.sort_by_key(|claim| requested(claim));
        for claim in waiting {
            let key = ObjectKey::of(&claim.metadata);
            let selected = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SELECTED_NODE));
            let matching = match selected {
                Some(selected) if *selected != node.name => return None,
                Some(_) => None, // It is being provisioned already.
                None => self.smallest_match(claim, &key, node, &plan),
            };
            match matching {
                Some(volume) => plan.bind.push((volume, key)),
                None if self.may_provision(claim, node) => plan.provision.push(key),
                None => return None,
            }
        }
        Some(plan)
    }

    fn smallest_match(&self, claim: &PersistentVolumeClaim, key: &ObjectKey, node: &NodeInfo, plan: &VolumePlan) -> Option<String> {
        let spec = claim.spec.as_ref()?;
        let wanted = requested(claim);
        let selector = spec.selector.as_ref().map(api::selector::LabelSelector::from_typed);
        let empty = BTreeMap::new();
        let fits = |(name, volume): &(&String, &Arc<PersistentVolume>)| {
            let Some(offered) = &volume.spec else { return None };
            let modes = offered.access_modes.as_deref().unwrap_or_default();
            let capacity = offered.capacity.as_ref().and_then(|amounts| amounts.get("storage")).map_or(0, whole);
            let free = match &offered.claim_ref {
                None => volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Available")),
                Some(owner) => {
                    owner.name.as_ref() == Some(&key.name)
                        && owner.namespace.as_ref() == Some(&key.namespace)
                        && owner.uid.as_ref().is_none_or(|uid| Some(uid) == claim.metadata.uid.as_ref())
                }
            };
            let fits = free
                && volume.metadata.deletion_timestamp.is_none()
                && self.promised.get(*name).is_none_or(|promised| promised == key)
                && plan.bind.iter().all(|(planned, _)| planned != *name)
                && class_of_volume(volume) == class_of(claim)
                && class_of_attributes(&offered.volume_attributes_class_name) == class_of_attributes(&spec.volume_attributes_class_name)
                && offered.volume_mode.as_deref().unwrap_or("Filesystem") == spec.volume_mode.as_deref().unwrap_or("Filesystem")
                && spec.access_modes.iter().flatten().all(|mode| modes.contains(mode))
                && capacity >= wanted
                && selector.as_ref().is_none_or(|selector| {
                    selector.as_ref().is_ok_and(|selector| selector.matches(volume.metadata.labels.as_ref().unwrap_or(&empty)))
                })
                && reaches(volume, node);
            // A volume made for this very claim comes first, then the smallest.
            fits.then(|| (offered.claim_ref.is_none(), capacity, (*name).clone()))
        };
        self.volumes.iter().filter_map(|volume| fits(&volume)).min().map(|(_, _, name)| name)
    }

    fn may_provision(&self, claim: &PersistentVolumeClaim, node: &NodeInfo) -> bool {
        let Some(class) = self.classes.get(class_of(claim)) else { return false };
        let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
        class.provisioner != NO_PROVISIONER
            && (topologies.is_empty() || topologies.iter().any(|topology| topology_matches(topology, node)))
    }
}

impl PodVolumes {
    /// Why the bound volumes cannot be used on the node.
    pub fn conflict(&self, node: &NodeInfo) -> Option<&'static str> {
        if self.bound.iter().any(Option::is_none) {
            return Some("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
        }
        let out_of_reach = self.bound.iter().flatten().any(|volume| !reaches(volume, node));
        out_of_reach.then_some("node(s) didn't match PersistentVolume's node affinity")
    }

    /// Whether a bound volume is labelled with a zone or region that is not the node's.
    pub fn zone_conflict(&self, node: &NodeInfo) -> bool {
        const PLACES: [&str; 4] = [
            "topology.kubernetes.io/zone",
            "topology.kubernetes.io/region",
            "failure-domain.beta.kubernetes.io/zone",
            "failure-domain.beta.kubernetes.io/region",
        ];
        let zoned = PLACES.iter().any(|place| node.labels.contains_key(*place));
        zoned
            && self.bound.iter().flatten().any(|volume| {
                let labels = volume.metadata.labels.iter().flatten().filter(|(key, _)| PLACES.contains(&key.as_str()));
                labels.into_iter().any(|(key, zones)| {
                    let here = node.labels.get(key).or_else(|| node.labels.get(&current_name(key)));
                    here.is_none_or(|here| zones.split("__").all(|zone| zone != here))
                })
            })
    }

    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.waiting.is_empty()
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

fn current_name(label: &str) -> String {
    label.replace("failure-domain.beta.kubernetes.io", "topology.kubernetes.io")
}

pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let completed = claim.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(BIND_COMPLETED));
    completed && !volume_of(claim).is_empty()
}

fn volume_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let amounts = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    amounts.and_then(|amounts| amounts.get("storage")).map_or(0, whole)
}

fn csi_volume(volume: &Arc<PersistentVolume>) -> Option<(String, String)> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some((format!("{}/{}", source.driver, source.volume_handle), source.driver.clone()))
}

/// No class of attributes and the empty one are the same.
fn class_of_attributes(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or_default()
}

/// As it was written before there was a field for it.
fn class_annotation(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get("volume.beta.kubernetes.io/storage-class").map(String::as_str)
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let field = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    class_annotation(&volume.metadata).or(field).unwrap_or_default()
}

fn class_of(claim: &PersistentVolumeClaim) -> &str {
    if let Some(name) = class_annotation(&claim.metadata) {
        return name;
    }
    claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

fn reaches(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| node_selector::matches(required, &node.labels, &node.name))
}

fn topology_matches(topology: &TopologySelectorTerm, node: &NodeInfo) -> bool {
    let requirements = topology.match_label_expressions.as_deref().unwrap_or_default();
    !requirements.is_empty() && requirements.iter().all(|requirement| node.labels.get(&requirement.key).is_some_and(|value| requirement.values.contains(value)))
}
