//! The container's root directory: overlay, the kernel's file systems, the pod's volumes; then it becomes `/`.
//!
//! Targets are always looked up inside the new root, so that a symbolic link in an image cannot lead a mount out
//! of it. Sources are taken before the namespace is cut off from the host's, so that they keep their peers.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::Mode;

use super::command::plain;
use super::devices;
use super::mounts::{self, Planned};
use crate::cgroup::Cgroups;
use crate::spec::{ContainerFiles, ContainerSpec, RootfsSpec};
use crate::sys::mount::{self, Filesystem, Propagation};

pub fn build(spec: &ContainerSpec, cgroups: &Cgroups, files: &ContainerFiles) -> Result<(), String> {
    let host = open_path(Path::new("/")).map_err(|cause| format!("opening /: {cause}"))?;
    let mut plan = mounts::plan(spec)?;
    mount::propagate(&host, Propagation::Private).map_err(|cause| format!("making / private: {cause}"))?;

    let place = files.rootfs();
    fs::create_dir_all(&place).map_err(|cause| format!("{}: {cause}", place.display()))?;
    let root = overlay(&spec.rootfs, &place).map_err(|cause| format!("error mounting overlay to rootfs: {}", plain(&cause)))?;

    plan.sort_by_key(Planned::depth);
    for planned in &plan {
        let kind = planned.kind();
        mounts::put(planned, spec, cgroups, root.as_fd()).map_err(|cause| {
            format!("error mounting {kind:?} to rootfs at {:?}: {}", planned.target, plain(&cause))
        })?;
    }
    let own_dev = !spec.mounts.iter().any(|it| it.target.trim_end_matches('/') == "/dev");
    if own_dev {
        devices::populate(spec, root.as_fd())?;
    }
    mounts::mask(spec, root.as_fd())?;
    if !spec.cwd.is_empty() {
        // Whether it can be entered is found out later, and said then.
        let _ = mounts::ensure_target(root.as_fd(), Path::new(&spec.cwd), true);
    }
    if spec.readonly_rootfs {
        mount::restrict(&root, mount::READONLY, false).map_err(|cause| format!("read-only rootfs: {cause}"))?;
    }
    become_root(&root).map_err(|cause| format!("pivot_root: {cause}"))
}

fn become_root(root: &OwnedFd) -> nix::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    // The old root lies on top of the new one now.
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

/// Mounts it at `place` and returns its root.
fn overlay(rootfs: &RootfsSpec, place: &Path) -> io::Result<OwnedFd> {
    let target = open_path(place)?;
    let mounted = match rootfs.lower_dirs.is_empty() {
        true => mount::copy_tree(&rootfs.upper, false),
        false => detached_overlay(rootfs),
    };
    match mounted {
        Ok(root) => {
            mount::attach(&root, &target)?;
            Ok(root)
        }
        // Kernels before 6.8 take all lower directories as one string.
        Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => {
            classic_overlay(rootfs, place)?;
            open_path(place)
        }
        Err(cause) => Err(cause),
    }
}

fn detached_overlay(rootfs: &RootfsSpec) -> io::Result<OwnedFd> {
    let overlay = Filesystem::open(c"overlay")?;
    for lower in &rootfs.lower_dirs {
        overlay.set(c"lowerdir+", lower)?;
    }
    overlay.set(c"upperdir", &rootfs.upper)?;
    overlay.set(c"workdir", &rootfs.work)?;
    // Nothing in it outlives the container, so its end need not wait for the disk.
    let _ = overlay.flag(c"volatile");
    overlay.mount(0)
}

/// Names relative to the directory that all layers share keep the options within one page.
fn classic_overlay(rootfs: &RootfsSpec, place: &Path) -> io::Result<()> {
    let shared = rootfs.lower_dirs[0].parent().unwrap_or(Path::new("/"));
    let short = rootfs.lower_dirs.iter().all(|lower| lower.parent() == Some(shared));
    let name = |lower: &Path| match lower.file_name() {
        Some(name) if short => name.to_string_lossy().into_owned(),
        _ => lower.display().to_string(),
    };
    let lowers: Vec<_> = rootfs.lower_dirs.iter().map(|lower| name(lower)).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        rootfs.upper.display(),
        rootfs.work.display()
    );
    if short {
        std::env::set_current_dir(shared)?;
    }
    let mounted = nix::mount::mount(Some("overlay"), place, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    std::env::set_current_dir("/")?;
    Ok(mounted?)
}

pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}
