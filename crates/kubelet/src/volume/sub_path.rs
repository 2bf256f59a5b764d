//! Sub-paths of volumes, bound to a place of their own so that nobody can swap them under a starting container.
//!
//! Invariant: the walk starts at the volume's root and the kernel refuses every step that leaves it
//! (`RESOLVE_BENEATH`), symbolic links made by the container included.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};

/// Binds `volume`/`sub_path` at `target` and returns `target`. A missing directory is made.
pub fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf, String> {
    let failed = |error: &dyn std::fmt::Display| format!("subPath {sub_path:?}: {error}");
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        return Err(failed(&"must be a relative path without '..'"));
    }
    let root = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|error| failed(&error))?;
    let file = walk(&root, sub_path).map_err(|error| failed(&error))?;

    let source = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let is_directory = fs::metadata(&source).map_err(|error| failed(&error))?.is_dir();
    if super::is_mount_point(target) {
        super::unmount_below(target)?;
    }
    if is_directory {
        fs::create_dir_all(target).map_err(|error| failed(&error))?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|error| failed(&error))?;
        }
        fs::File::create(target).map_err(|error| failed(&error))?;
    }
    mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).map_err(|error| failed(&error))?;
    Ok(target.to_owned())
}

fn beneath(root: &OwnedFd, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn walk(root: &OwnedFd, sub_path: &str) -> Result<OwnedFd, Errno> {
    let parts: Vec<&str> = sub_path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() {
        return beneath(root, ".", OFlag::empty());
    }
    match beneath(root, &parts.join("/"), OFlag::empty()) {
        Err(Errno::ENOENT) => {}
        answer => return answer,
    }
    for end in 1..=parts.len() {
        let so_far = parts[..end].join("/");
        match beneath(root, &so_far, OFlag::empty()) {
            Ok(_) => continue,
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let parent = if end == 1 { ".".to_owned() } else { parts[..end - 1].join("/") };
        let parent = beneath(root, &parent, OFlag::O_DIRECTORY)?;
        match mkdirat(&parent, parts[end - 1], Mode::from_bits_truncate(0o750)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
    }
    beneath(root, &parts.join("/"), OFlag::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_leaves_the_volume() {
        let volume = std::env::temp_dir().join(format!("coracle-subpath-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(volume.join("inside")).expect("made");
        std::os::unix::fs::symlink("/etc", volume.join("absolute")).expect("linked");
        std::os::unix::fs::symlink("../..", volume.join("upwards")).expect("linked");
        std::os::unix::fs::symlink("inside", volume.join("within")).expect("linked");
        let root = open(&volume, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).expect("opened");

        let table = [("inside", true), ("within", true), ("made/here", true), ("absolute/passwd", false), ("upwards/etc", false)];
        for (path, allowed) in table {
            assert_eq!(walk(&root, path).is_ok(), allowed, "{path}");
        }
        assert!(volume.join("made/here").is_dir());
        fs::remove_dir_all(volume).expect("removed");
    }
}
