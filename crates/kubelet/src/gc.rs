//! What nobody needs any more: pods that are gone from the API but left traces here, and images that no pod uses.
//!
//! Invariant: nothing is removed that a known pod could still want; images that a person imported stay.
//! Periodic work of this module: a look at the image disk every 5 minutes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use runtime::cri::{CriResult, Image, ImageService, RuntimeService};

use crate::container::config::POD_UID_LABEL;
use crate::node::NodeAgent;

/// Used share of the disk at which images are taken away, and down to which.
const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Stops and removes every sandbox of a pod, with its containers.
pub async fn remove_pod_from_runtime(runtime: &dyn RuntimeService, uid: &str) -> CriResult<()> {
    let sandboxes = runtime.list_pod_sandboxes().await?;
    for sandbox in sandboxes.iter().filter(|sandbox| sandbox.metadata.uid == uid) {
        runtime.stop_pod_sandbox(&sandbox.id).await?;
        for container in runtime.list_containers().await?.iter().filter(|container| container.pod_sandbox_id == sandbox.id) {
            runtime.remove_container(&container.id).await?;
        }
        runtime.remove_pod_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// UIDs of all pods of which the runtime or the disk holds something.
pub async fn uids(runtime: &dyn RuntimeService, data_dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for sandbox in runtime.list_pod_sandboxes().await.unwrap_or_default() {
        found.insert(sandbox.metadata.uid);
    }
    for container in runtime.list_containers().await.unwrap_or_default() {
        found.extend(container.labels.get(POD_UID_LABEL).cloned());
    }
    for entry in std::fs::read_dir(data_dir.join("pods")).into_iter().flatten().flatten() {
        found.insert(entry.file_name().to_string_lossy().into_owned());
    }
    found.remove("");
    found
}

/// Which images to take away: the unused ones, largest first, until enough would be free.
pub fn images_to_remove(images: &[Image], in_use: &BTreeSet<String>, mut surplus_bytes: u64) -> Vec<String> {
    let used = |image: &Image| {
        in_use.contains(&image.id) || image.repo_tags.iter().chain(&image.repo_digests).any(|name| in_use.contains(name))
    };
    let mut candidates: Vec<&Image> = images.iter().filter(|image| !image.pinned && !used(image)).collect();
    candidates.sort_by_key(|image| std::cmp::Reverse(image.size));
    let mut chosen = Vec::new();
    for image in candidates {
        if surplus_bytes == 0 {
            break;
        }
        surplus_bytes = surplus_bytes.saturating_sub(image.size);
        chosen.push(image.id.clone());
    }
    chosen
}

/// Bytes above the lower mark, once the upper one is passed.
fn surplus(capacity: u64, available: u64) -> u64 {
    let used = capacity.saturating_sub(available);
    if capacity == 0 || used * 100 < capacity * HIGH_PERCENT {
        return 0;
    }
    used.saturating_sub(capacity / 100 * LOW_PERCENT)
}

/// Frees the image disk when it is nearly full, until cancelled.
pub async fn keep_images_small(runtime: Arc<dyn RuntimeService>, images: Arc<dyn ImageService>, node: Arc<NodeAgent>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(usage) = images.image_fs_info().await else { continue };
        let Ok(stat) = nix::sys::statvfs::statvfs(Path::new(&usage.mountpoint)) else { continue };
        let size = stat.fragment_size();
        let wanted = surplus(stat.blocks() * size, stat.blocks_available() * size);
        if wanted == 0 {
            continue;
        }
        let Ok(containers) = runtime.list_containers().await else { continue };
        let in_use: BTreeSet<String> =
            containers.into_iter().flat_map(|container| [container.image, container.image_ref]).collect();
        let Ok(all) = images.list_images().await else { continue };
        let chosen = images_to_remove(&all, &in_use, wanted);
        if chosen.is_empty() {
            let message = format!("Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found 0 bytes eligible to free.");
            node.event(EventType::Warning, "FreeDiskSpaceFailed", &message);
        }
        for id in chosen {
            if let Err(error) = images.remove_image(&id).await {
                tracing::warn!(image = id, %error, "removing an unused image");
            }
        }
        node.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_images_go_largest_first() {
        let image = |id: &str, size: u64, pinned: bool| Image { id: id.into(), size, pinned, ..Image::default() };
        let images = [image("small", 1, false), image("large", 10, false), image("used", 50, false), image("kept", 90, true)];
        let in_use = BTreeSet::from(["used".to_owned()]);
        assert_eq!(images_to_remove(&images, &in_use, 5), ["large"]);
        assert_eq!(images_to_remove(&images, &in_use, 100), ["large", "small"]);
        assert_eq!(surplus(1000, 200), 0);
        assert_eq!(surplus(1000, 100), 100);
    }
}
