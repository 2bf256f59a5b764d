//! Where a container's root file system comes from: the seam to the image store.

use std::io;

use crate::cri::{CriResult, ImageService};
use crate::image::{ImageStore, Rootfs};

/// Calls may take as long as the disk does: they are made from blocking threads.
pub trait RootfsProvider: Send + Sync + 'static {
    /// Makes a writable layer; the same container gets the same one again.
    fn prepare(&self, image_id: &str, container_id: &str) -> CriResult<Rootfs>;
    /// Idempotent.
    fn release(&self, container_id: &str) -> CriResult<()>;
    /// The containers that have a writable layer.
    fn owners(&self) -> io::Result<Vec<String>>;
    /// What a container's status calls its image: name, and name with digest.
    fn names(&self, image_id: &str) -> (String, String);
}

impl RootfsProvider for ImageStore {
    fn prepare(&self, image_id: &str, container_id: &str) -> CriResult<Rootfs> {
        self.prepare_rootfs(image_id, container_id)
    }

    fn release(&self, container_id: &str) -> CriResult<()> {
        self.release_rootfs(container_id)
    }

    fn owners(&self) -> io::Result<Vec<String>> {
        self.rootfs_owners()
    }

    fn names(&self, image_id: &str) -> (String, String) {
        let image = futures::executor::block_on(self.image_status(image_id)).ok().flatten().unwrap_or_default();
        let digest = image.repo_digests.into_iter().next();
        let name = image.repo_tags.into_iter().next().or(digest.clone()).unwrap_or_else(|| image_id.to_string());
        (name, digest.unwrap_or_else(|| image_id.to_string()))
    }
}
