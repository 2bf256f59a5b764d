//! `/dev`: the nodes every container has, those of the host for a privileged one, those that the pod was given.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknodat};

use super::mounts::ensure_target;
use crate::cgroup::DeviceRule;
use crate::spec::ContainerSpec;
use crate::sys::mount::{attach, copy_tree, open_inside};

/// name, major, minor
const NODES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// What of the host's `/dev` a privileged container is not given: it has its own, or they are the host's terminals.
const NOT_OF_THE_HOST: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", ".udev", ".lxc", ".lxd-mounts"];

/// The host's directories below `/dev` are followed this deep.
const DEPTH_MAX: usize = 6;

struct Node {
    target: String,
    source: PathBuf,
    kind: SFlag,
    mode: u32,
    owner: (u32, u32),
    number: u64,
}

/// Fills the container's own `/dev`.
pub fn populate(spec: &ContainerSpec, root: BorrowedFd<'_>) -> Result<(), String> {
    let text = |name: &str, cause: &dyn std::fmt::Display| format!("making device {name}: {cause}");
    let dev = open_inside(root, Path::new("/dev"), libc::O_DIRECTORY).map_err(|cause| text("/dev", &cause))?;
    for (name, major, minor) in NODES {
        let node = Node {
            target: format!("/dev/{name}"),
            source: PathBuf::from("/dev").join(name),
            kind: SFlag::S_IFCHR,
            mode: 0o666,
            owner: (0, 0),
            number: makedev(major, minor),
        };
        make(&node, root).map_err(|cause| text(name, &cause))?;
    }
    for (name, target) in LINKS {
        match nix::unistd::symlinkat(target, &dev, name) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(cause) => return Err(text(name, &cause)),
        }
    }
    let wanted = if spec.privileged { all_of_the_host() } else { chosen(spec)? };
    for node in wanted {
        make(&node, root).map_err(|cause| text(&node.target, &cause))?;
    }
    Ok(())
}

/// What the pod's devices may be used for, beside the default.
pub fn rules(spec: &ContainerSpec) -> Result<Vec<DeviceRule>, String> {
    let mut rules = DeviceRule::DEFAULT.to_vec();
    for device in &spec.devices {
        for node in nodes_at(&device.source, &device.target)? {
            rules.push(DeviceRule {
                kind: if node.kind == SFlag::S_IFBLK { 'b' } else { 'c' },
                major: Some(nix::sys::stat::major(node.number) as u32),
                minor: Some(nix::sys::stat::minor(node.number) as u32),
                read: device.permissions.contains('r'),
                write: device.permissions.contains('w'),
                make: device.permissions.contains('m'),
            });
        }
    }
    Ok(rules)
}

fn chosen(spec: &ContainerSpec) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    for device in &spec.devices {
        nodes.extend(nodes_at(&device.source, &device.target)?);
    }
    Ok(nodes)
}

/// A device, or all devices of a directory.
fn nodes_at(source: &Path, target: &str) -> Result<Vec<Node>, String> {
    let metadata = fs::metadata(source)
        .map_err(|_| format!("error gathering device information while adding custom device {:?}: no such file or directory", source.display()))?;
    let mut nodes = Vec::new();
    if metadata.is_dir() {
        walk(source, Path::new(target), 0, &mut nodes);
    } else {
        nodes.extend(node(source, target));
    }
    match nodes.is_empty() {
        true => Err(format!(
            "error gathering device information while adding custom device {:?}: not a device node",
            source.display()
        )),
        false => Ok(nodes),
    }
}

fn all_of_the_host() -> Vec<Node> {
    let mut nodes = Vec::new();
    walk(Path::new("/dev"), Path::new("/dev"), 0, &mut nodes);
    nodes.retain(|node| !NODES.iter().any(|(name, ..)| node.target == format!("/dev/{name}")));
    nodes
}

fn walk(directory: &Path, target: &Path, depth: usize, nodes: &mut Vec<Node>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let (path, inside) = (entry.path(), target.join(&name));
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < DEPTH_MAX && !NOT_OF_THE_HOST.iter().any(|it| name == *it) {
            walk(&path, &inside, depth + 1, nodes);
        } else if (kind.is_char_device() || kind.is_block_device()) && name != "console" && name != "ptmx" {
            nodes.extend(node(&path, &inside.to_string_lossy()));
        }
    }
}

fn node(source: &Path, target: &str) -> Option<Node> {
    let metadata = fs::metadata(source).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => SFlag::S_IFCHR,
        kind if kind.is_block_device() => SFlag::S_IFBLK,
        _ => return None,
    };
    Some(Node {
        target: target.to_string(),
        source: source.to_path_buf(),
        kind,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        number: metadata.rdev(),
    })
}

fn make(node: &Node, root: BorrowedFd<'_>) -> nix::Result<()> {
    let target = Path::new(&node.target);
    let errno = |cause: std::io::Error| nix::errno::Errno::from_raw(cause.raw_os_error().unwrap_or(libc::EIO));
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Err(nix::errno::Errno::EINVAL) };
    let parent: OwnedFd = ensure_target(root, parent, true).map_err(errno)?;
    // The mask would take bits away from the mode.
    let mask = nix::sys::stat::umask(Mode::empty());
    let made = mknodat(&parent, name, node.kind, Mode::from_bits_truncate(node.mode), node.number);
    nix::sys::stat::umask(mask);
    match made {
        Ok(()) => {
            let (uid, gid) = (nix::unistd::Uid::from_raw(node.owner.0), nix::unistd::Gid::from_raw(node.owner.1));
            nix::unistd::fchownat(&parent, name, Some(uid), Some(gid), nix::fcntl::AtFlags::empty())
        }
        Err(nix::errno::Errno::EEXIST) => Ok(()),
        // Where nodes cannot be made, the host's can be bound.
        Err(nix::errno::Errno::EPERM) => {
            let place = ensure_target(root, target, false).map_err(errno)?;
            attach(copy_tree(&node.source, false).map_err(errno)?.as_fd(), place).map_err(errno)
        }
        Err(cause) => Err(cause),
    }
}
