//! What a container uses, and a look at the host's mounts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::EmbeddedRuntime;
use super::state::Container;
use crate::cri::{ContainerStats, CriError, CriResult, Mount, MountPropagation};
use crate::sys::now_nanoseconds;

pub fn stats(runtime: &EmbeddedRuntime, container: &Container) -> CriResult<ContainerStats> {
    container.running()?;
    let usage = runtime.cgroups.group(&container.cgroup()).usage().map_err(|cause| {
        CriError::Internal(format!("failed to fetch metrics for container {:?}: {cause}", container.id))
    })?;
    let upper = container.record.lock().upper.clone();
    let (bytes, inodes) = directory_usage(&upper);
    Ok(ContainerStats {
        container_id: container.id.clone(),
        timestamp: now_nanoseconds(),
        cpu_usage_core_nanoseconds: usage.cpu_nanoseconds,
        memory_usage_bytes: usage.memory_bytes,
        memory_working_set_bytes: usage.working_set_bytes,
        memory_rss_bytes: usage.rss_bytes,
        writable_layer_used_bytes: bytes,
        writable_layer_inodes: inodes,
    })
}

/// Bytes on disk and inodes; a file with several names counts once.
fn directory_usage(root: &Path) -> (u64, u64) {
    let (mut bytes, mut inodes) = (0, 0);
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        // Files come and go while they are counted.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                pending.push(entry.path());
            }
            if metadata.nlink() == 1 || metadata.is_dir() || seen.insert(metadata.ino()) {
                bytes += metadata.blocks() * 512;
                inodes += 1;
            }
        }
    }
    (bytes, inodes)
}

/// A mount can share its later mounts only where the host's mount that it lies on does.
pub fn check_propagation(mounts: &[Mount]) -> Result<(), String> {
    if mounts.iter().all(|mount| mount.propagation == MountPropagation::Private) {
        return Ok(());
    }
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(|cause| cause.to_string())?;
    mounts.iter().try_for_each(|mount| {
        let source = fs::canonicalize(&mount.host_path).unwrap_or_else(|_| PathBuf::from(&mount.host_path));
        check_against(&mountinfo, &source, mount)
    })
}

fn check_against(mountinfo: &str, source: &Path, mount: &Mount) -> Result<(), String> {
    // The longest mount point that the source lies below; of several at one place the last is on top.
    let lies_on = mountinfo
        .lines()
        .filter_map(|line| Some((line, Path::new(line.split(' ').nth(4)?))))
        .filter(|(_, place)| source.starts_with(place))
        .enumerate()
        .max_by_key(|(index, (_, place))| (place.components().count(), *index));
    let Some((_, (line, place))) = lies_on else { return Ok(()) };
    let fields = line.split(" - ").next().unwrap_or_default();
    let has = |word: &str| fields.split(' ').skip(6).any(|field| field.starts_with(word));
    let (path, place) = (&mount.host_path, place.display().to_string());
    match mount.propagation {
        MountPropagation::Bidirectional if !has("shared:") => {
            Err(format!("path {path:?} is mounted on {place:?} but it is not a shared mount"))
        }
        MountPropagation::HostToContainer if !has("shared:") && !has("master:") => {
            Err(format!("path {path:?} is mounted on {place:?} but it is not a shared or slave mount"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, propagation: MountPropagation, expected: &str) {
        const MOUNTS: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:30 / /mnt rw,relatime shared:7 - tmpfs tmpfs rw
31 30 0:31 / /mnt/slave rw,relatime master:7 - tmpfs tmpfs rw";
        let mount = Mount { host_path: path.into(), propagation, ..Default::default() };
        let found = check_against(MOUNTS, Path::new(path), &mount).err().unwrap_or_default();
        assert_eq!(found, expected);
    }

    #[test]
    fn knows_what_can_propagate() {
        check("/srv", MountPropagation::Private, "");
        check("/mnt/x", MountPropagation::Bidirectional, "");
        check("/mnt/slave/x", MountPropagation::HostToContainer, "");
        check("/srv", MountPropagation::Bidirectional, "path \"/srv\" is mounted on \"/\" but it is not a shared mount");
        check(
            "/mnt/slave",
            MountPropagation::Bidirectional,
            "path \"/mnt/slave\" is mounted on \"/mnt/slave\" but it is not a shared mount",
        );
        check(
            "/srv",
            MountPropagation::HostToContainer,
            "path \"/srv\" is mounted on \"/\" but it is not a shared or slave mount",
        );
    }

    #[test]
    fn counts_files_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), vec![1; 5000]).unwrap();
        fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        let (bytes, inodes) = directory_usage(directory.path());
        assert_eq!(inodes, 2);
        assert!((8192..=16384).contains(&bytes), "{bytes}");
    }
}
