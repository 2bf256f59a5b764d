//! Images: pulled from registries or imported, unpacked into layers, lent to containers as overlayfs lowers.
//!
//! Invariant: a record exists only when all its layers are whole; a layer that an image or a container uses is
//! never removed. Deliberately absent: mounting (the container side does it) and compressed blobs (not kept).

mod archive;
mod layer;
mod pull;
mod records;
mod registries;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use oci_client::Reference;
use oci_spec::image::ImageConfiguration;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use registries::{Endpoint, Mirror, RegistriesConfig, RegistryAuth, RegistryConfig, RegistryTls};

use crate::cri::{AuthConfig, CriError, CriResult, FilesystemUsage, Image, ImageService};
use layer::Layers;
use pull::PullError;
use records::{ImageRecord, Records};

/// A container's root file system, ready to be mounted as an overlay.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// Topmost layer first, as overlayfs wants them.
    pub lower_dirs: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub config: ImageConfiguration,
}

/// All images of a node, under one directory.
pub struct ImageStore {
    root: PathBuf,
    layers: Layers,
    records: Mutex<Records>,
    registries: RegistriesConfig,
    /// One lock per reference: a second pull waits for the first and finds its work done.
    pulls: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// What a container holds on to, kept as `containers/<id>/rootfs.json`.
#[derive(Serialize, Deserialize)]
struct Lease {
    image: String,
    diff_ids: Vec<String>,
}

impl ImageStore {
    pub fn open(root: &Path, registries: RegistriesConfig) -> io::Result<Arc<ImageStore>> {
        fs::create_dir_all(root.join("containers"))?;
        Ok(Arc::new(ImageStore {
            root: root.into(),
            layers: Layers::open(root)?,
            records: Mutex::new(Records::open(root)?),
            registries,
            pulls: Mutex::default(),
        }))
    }

    /// Makes the writable layer of a container. The same container gets the same one again.
    pub fn prepare_rootfs(&self, image_id: &str, container_id: &str) -> CriResult<Rootfs> {
        let record = self
            .records
            .lock()
            .get(image_id)
            .cloned()
            .ok_or_else(|| CriError::NotFound(format!("image {image_id:?}: not found")))?;
        let config: ImageConfiguration = serde_json::from_str(&record.config)
            .map_err(|cause| CriError::Internal(format!("image {image_id:?}: config: {cause}")))?;
        let home = self.container_home(container_id);
        let rootfs = Rootfs {
            lower_dirs: record.diff_ids.iter().rev().map(|diff_id| self.layers.path(diff_id)).collect(),
            upper: home.join("upper"),
            work: home.join("work"),
            config,
        };
        let lease = Lease { image: record.id, diff_ids: record.diff_ids };
        let made = fs::create_dir_all(&rootfs.upper)
            .and_then(|()| fs::create_dir_all(&rootfs.work))
            .and_then(|()| fs::write(home.join("rootfs.json"), serde_json::to_vec(&lease)?));
        match made {
            Ok(()) => Ok(rootfs),
            Err(cause) => {
                // Nothing half made: a full disk leaves no directory behind.
                let _ = fs::remove_dir_all(&home);
                Err(CriError::Internal(format!("failed to create containerd container: snapshot: {cause}")))
            }
        }
    }

    /// Removes a container's writable layer; idempotent. The overlay must be unmounted.
    pub fn release_rootfs(&self, container_id: &str) -> CriResult<()> {
        match fs::remove_dir_all(self.container_home(container_id)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(CriError::Internal(format!("container {container_id}: {cause}")))
            }
            _ => Ok(()),
        }
    }

    /// The IDs of containers that have a writable layer here.
    pub fn rootfs_owners(&self) -> io::Result<Vec<String>> {
        fs::read_dir(self.root.join("containers"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Imports an archive and pins its images. Returns their references, or IDs where they have none.
    pub async fn import(self: &Arc<Self>, path: PathBuf) -> CriResult<Vec<String>> {
        let store = self.clone();
        let work = move || {
            let name = path.display().to_string();
            let records = archive::import(&path, &store.layers)
                .map_err(|cause| CriError::InvalidArgument(format!("{name}: {cause}")))?;
            let mut names = Vec::new();
            for record in records {
                match record.tags.is_empty() {
                    true => names.push(record.id.clone()),
                    false => names.extend(record.tags.iter().cloned()),
                }
                let mut known = store.records.lock();
                known.put(record).map_err(|cause| CriError::Internal(format!("{name}: {cause}")))?;
            }
            Ok(names)
        };
        tokio::task::spawn_blocking(work).await.map_err(|cause| CriError::Internal(cause.to_string()))?
    }

    fn find(&self, image: &str) -> Option<ImageRecord> {
        let records = self.records.lock();
        let by_name = normalised(image).ok().and_then(|reference| {
            records.by_reference(&reference.whole()).cloned()
        });
        by_name.or_else(|| records.by_id_prefix(image).cloned())
    }

    fn container_home(&self, container_id: &str) -> PathBuf {
        self.root.join("containers").join(container_id)
    }

    fn pull_lock(&self, reference: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut pulls = self.pulls.lock();
        pulls.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = pulls.get(reference).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        pulls.insert(reference.to_string(), Arc::downgrade(&lock));
        lock
    }

    /// Removes layers that neither an image nor a container uses.
    fn remove_unused_layers(&self) -> io::Result<()> {
        let records = self.records.lock(); // Held throughout: no image may appear meanwhile.
        let mut used: BTreeSet<String> = records.list().flat_map(|record| record.diff_ids.iter().cloned()).collect();
        for owner in self.rootfs_owners()? {
            if let Ok(bytes) = fs::read(self.container_home(&owner).join("rootfs.json"))
                && let Ok(lease) = serde_json::from_slice::<Lease>(&bytes)
            {
                used.extend(lease.diff_ids);
            }
        }
        for diff_id in self.layers.list()? {
            if !used.contains(&diff_id) {
                self.layers.remove(&diff_id)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ImageService for ImageStore {
    async fn list_images(&self) -> CriResult<Vec<Image>> {
        Ok(self.records.lock().list().map(image).collect())
    }

    async fn image_status(&self, name: &str) -> CriResult<Option<Image>> {
        Ok(self.find(name).as_ref().map(image))
    }

    async fn pull_image(&self, name: &str, auth: &[AuthConfig]) -> CriResult<String> {
        let reference = normalised(name).map_err(|cause| {
            CriError::InvalidArgument(format!("failed to parse image name {name:?}: {cause}"))
        })?;
        let whole = reference.whole();
        let lock = self.pull_lock(&whole);
        // Somebody else pulling this very image now saves us the work.
        let waited = match lock.try_lock() {
            Ok(guard) => Err(guard),
            Err(_) => Ok(lock.lock().await),
        };
        if waited.is_ok()
            && let Some(record) = self.find(&whole)
        {
            return Ok(record.id);
        }
        let record = pull::pull(&reference, auth, &self.registries, &self.layers).await.map_err(|cause| {
            let text = format!("failed to pull and unpack image {whole:?}: {cause}");
            match cause {
                PullError::NotFound(_) => CriError::NotFound(text),
                _ => CriError::Internal(text),
            }
        })?;
        let id = record.id.clone();
        self.records.lock().put(record).map_err(|cause| CriError::Internal(format!("image {whole:?}: {cause}")))?;
        Ok(id)
    }

    async fn remove_image(&self, name: &str) -> CriResult<()> {
        let Some(record) = self.find(name) else { return Ok(()) };
        let failed = |cause: io::Error| CriError::Internal(format!("image {name:?}: {cause}"));
        self.records.lock().remove(&record.id).map_err(failed)?;
        self.remove_unused_layers().map_err(failed)
    }

    async fn image_fs_info(&self) -> CriResult<FilesystemUsage> {
        let layers =
            self.layers.list().map_err(|cause| CriError::Internal(format!("{}: {cause}", self.root.display())))?;
        let usage = layers.iter().map(|diff_id| self.layers.usage(diff_id));
        let (used_bytes, inodes_used) =
            usage.fold((0, 0), |(bytes, inodes), layer| (bytes + layer.bytes, inodes + layer.inodes));
        Ok(FilesystemUsage { mountpoint: self.root.display().to_string(), used_bytes, inodes_used })
    }
}

/// `nginx` -> `docker.io/library/nginx:latest`. A reference with both tag and digest goes by its digest.
fn normalised(name: &str) -> Result<Reference, String> {
    let reference: Reference = name.parse().map_err(|cause| format!("invalid reference format: {cause}"))?;
    let (registry, repository) = (reference.registry().to_string(), reference.repository().to_string());
    Ok(match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Reference::with_digest(registry, repository, digest.to_string()),
        (None, tag) => Reference::with_tag(registry, repository, tag.unwrap_or("latest").to_string()),
    })
}

fn image(record: &ImageRecord) -> Image {
    // `user[:group]`; the group is looked up when a container is made.
    let user = record.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok();
    Image {
        id: record.id.clone(),
        repo_tags: record.tags.iter().cloned().collect(),
        repo_digests: record.digests.iter().cloned().collect(),
        size: record.bytes,
        uid,
        username: if uid.is_none() { user.to_string() } else { String::new() },
        pinned: record.pinned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        let found = match normalised(name) {
            Ok(reference) => reference.whole(),
            Err(cause) => cause.split(':').next().unwrap_or_default().to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn references_are_completed_as_docker_does() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.16", "docker.io/library/nginx:1.16");
        check("a/b", "docker.io/a/b:latest");
        check("localhost:5000/a", "localhost:5000/a:latest");
        check("Nginx", "invalid reference format");
        check("nginx:", "invalid reference format");
        let digest = "sha256:0123456789012345678901234567890123456789012345678901234567890123";
        check(&format!("nginx:1@{digest}"), &format!("docker.io/library/nginx@{digest}"));
    }
}
