//! The built-in provisioner `coracle.io/local-path`: a volume is a directory on the node that its first pod runs on.
//!
//! Invariant: a directory is removed only below the root that was configured. Deliberately absent: quotas on the
//! directories' size, and removal on other machines than those that `LocalDirectories` reaches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, ErrorKind, Informer, ObjectKey, error_kind, object_ref};
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{BOUND_BY_CONTROLLER, DEFAULT_CLASS, PROVISIONED_BY, annotate, name_of};
use crate::context::Context;
use crate::failure::Failure;
use crate::runner::{Controller, Next, Queue};

pub(crate) const PROVISIONER: &str = "coracle.io/local-path";
const CLASS: &str = "local-path";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Reaches the directories of volumes on nodes.
#[async_trait]
pub trait LocalDirectories: Send + Sync {
    /// Removes the directory and all that is in it; one that is gone already is fine. `Err` is a sentence for the user.
    async fn remove(&self, node: &str, directory: &Path) -> Result<(), String>;
}

/// The directories of the machine that this process runs on.
pub struct OwnMachine {
    pub node_name: String,
}

#[async_trait]
impl LocalDirectories for OwnMachine {
    async fn remove(&self, node: &str, directory: &Path) -> Result<(), String> {
        if node != self.node_name {
            return Err(format!("directory {} is on node \"{node}\": remove it there, then delete the volume", directory.display()));
        }
        match tokio::fs::remove_dir_all(directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", directory.display())),
            _ => Ok(()),
        }
    }
}

/// Where the provisioner makes directories, and who removes them.
#[derive(Clone)]
pub(crate) struct LocalPaths {
    pub root: PathBuf,
    pub directories: Arc<dyn LocalDirectories>,
}

/// Pure. The volume for the claim, promised to it; `Err` says why there can be none.
pub(crate) fn volume_for(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: Option<&Node>,
    root: &Path,
) -> Result<PersistentVolume, String> {
    let node = node.ok_or("configuration error, no node was specified")?;
    let wanted = claim.spec.clone().unwrap_or_default();
    if wanted.volume_mode.as_deref() == Some("Block") {
        return Err(format!("{PROVISIONER} does not support block volume provisioning"));
    }
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let name = format!("pvc-{uid}");
    let directory = format!("{name}_{}_{}", claim.metadata.namespace.as_deref().unwrap_or_default(), name_of(&claim.metadata));
    let host_name = node.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME));
    let requirement = NodeSelectorRequirement {
        key: HOSTNAME.into(),
        operator: "In".into(),
        values: Some(vec![host_name.map_or_else(|| name_of(&node.metadata).to_owned(), String::clone)]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
    let mut volume = PersistentVolume::default();
    volume.metadata.name = Some(name);
    annotate(&mut volume.metadata, BOUND_BY_CONTROLLER, "yes");
    annotate(&mut volume.metadata, PROVISIONED_BY, PROVISIONER);
    volume.spec = Some(PersistentVolumeSpec {
        access_modes: wanted.access_modes,
        capacity: wanted.resources.and_then(|resources| resources.requests),
        claim_ref: Some(object_ref(claim)),
        host_path: Some(HostPathVolumeSource {
            path: root.join(directory).display().to_string(),
            type_: Some("DirectoryOrCreate".into()),
        }),
        mount_options: class.mount_options.clone(),
        node_affinity: Some(VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }),
        persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into())),
        storage_class_name: class.metadata.name.clone(),
        volume_mode: Some("Filesystem".into()),
        ..PersistentVolumeSpec::default()
    });
    Ok(volume)
}

/// Removes the directory of a volume that `volume_for` made.
pub(crate) async fn remove(local_paths: &LocalPaths, volume: &PersistentVolume) -> Result<(), String> {
    let (node, directory) = place(&local_paths.root, volume)?;
    local_paths.directories.remove(&node, &directory).await
}

/// Pure. Node and directory, if the directory lies directly below the root.
fn place(root: &Path, volume: &PersistentVolume) -> Result<(String, PathBuf), String> {
    let spec = volume.spec.as_ref();
    let path = spec.and_then(|spec| spec.host_path.as_ref()).map(|source| PathBuf::from(&source.path)).unwrap_or_default();
    let plain = path.file_name().is_some_and(|name| path == root.join(name));
    if !plain {
        return Err(format!("directory {} is not one of {PROVISIONER}", path.display()));
    }
    let affinity = spec.and_then(|spec| spec.node_affinity.as_ref()).and_then(|affinity| affinity.required.as_ref());
    let terms = affinity.map(|required| required.node_selector_terms.as_slice()).unwrap_or_default();
    let requirements = terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    let node = requirements.filter(|requirement| requirement.key == HOSTNAME).find_map(|requirement| requirement.values.as_ref()?.first());
    let node = node.ok_or_else(|| format!("volume {} says no node", name_of(&volume.metadata)))?;
    Ok((node.clone(), path))
}

/// Sees that there is a class `local-path`, the default one, when it starts.
pub(crate) struct LocalPathClass {
    context: Arc<Context>,
    classes: Arc<Informer<StorageClass>>,
}

impl LocalPathClass {
    pub fn new(context: &Arc<Context>) -> Self {
        LocalPathClass { context: context.clone(), classes: context.informer() }
    }
}

#[async_trait]
impl Controller for LocalPathClass {
    fn name(&self) -> &'static str {
        "local-path-class"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        queue.add(ObjectKey::cluster(CLASS));
        // Nothing to do for what changes later: who deletes or alters the class means it.
        self.classes.subscribe(|_: &Change<StorageClass>| {});
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        if self.context.settings.local_paths.is_none() || self.classes.get(key).is_some() {
            return Ok(Next::Settled);
        }
        let mut class = StorageClass { provisioner: PROVISIONER.into(), ..StorageClass::default() };
        class.metadata.name = Some(CLASS.into());
        class.reclaim_policy = Some("Delete".into());
        class.volume_binding_mode = Some("WaitForFirstConsumer".into());
        let other_default = self.classes.list().iter().any(|class| super::annotation(&class.metadata, DEFAULT_CLASS) == Some("true"));
        if !other_default {
            annotate(&mut class.metadata, DEFAULT_CLASS, "true");
        }
        match self.context.create(&class).await {
            Err(error) if error_kind(&error) == ErrorKind::AlreadyExists => {}
            outcome => {
                outcome?;
            }
        }
        Ok(Next::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_is_a_directory_below_the_root() {
        let claim = json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u1"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let class: StorageClass = serde_json::from_value(json!({"metadata": {"name": "local-path"}, "provisioner": PROVISIONER})).unwrap();
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        let root = Path::new("/data/storage");
        assert_eq!(volume_for(&claim, &class, None, root).unwrap_err(), "configuration error, no node was specified");
        let mut volume = volume_for(&claim, &class, Some(&node), root).unwrap();
        assert_eq!(place(root, &volume), Ok(("n1".to_owned(), "/data/storage/pvc-u1_ns_data".into())));

        let mut check = |path: &str| {
            volume.spec.as_mut().unwrap().host_path.as_mut().unwrap().path = path.into();
            place(root, &volume).is_ok()
        };
        assert!(!check("/data/storage"));
        assert!(!check("/data/storage/.."));
        assert!(!check("/data/storage/a/b"));
        assert!(!check("/etc"));
    }
}
