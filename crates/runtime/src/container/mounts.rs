//! The single mounts of a container: planned on the host's side, put in place inside the new root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};

use super::command::plain;
use crate::cgroup::Cgroups;
use crate::cri::MountPropagation;
use crate::spec::{ContainerSpec, MountSpec};
use crate::sys::mount::{
    self, Filesystem, NODEV, NOEXEC, NOSUID, Propagation, READONLY, copy_open_tree, copy_tree, open_inside,
};

pub struct Planned {
    pub target: String,
    what: What,
}

enum What {
    Proc,
    Dev,
    Terminals,
    Queues,
    Sys,
    Cgroup,
    /// Taken from the host.
    Bind { tree: OwnedFd, directory: bool, spec: MountSpec },
}

impl Planned {
    /// Parents before what lies within them; otherwise in the order given.
    pub fn depth(&self) -> usize {
        Path::new(&self.target).components().count()
    }

    pub fn kind(&self) -> &str {
        match &self.what {
            What::Proc => "proc",
            What::Dev => "tmpfs",
            What::Terminals => "devpts",
            What::Queues => "mqueue",
            What::Sys => "sysfs",
            What::Cgroup => "cgroup",
            What::Bind { spec, .. } => spec.source.to_str().unwrap_or("bind"),
        }
    }
}

/// What every container has unless the pod mounts something at the same place, and the pod's own mounts.
pub fn plan(spec: &ContainerSpec) -> Result<Vec<Planned>, String> {
    let taken = |target: &str| spec.mounts.iter().any(|it| Path::new(&it.target) == Path::new(target));
    let defaults = [
        ("/proc", What::Proc),
        ("/dev", What::Dev),
        ("/dev/pts", What::Terminals),
        ("/dev/mqueue", What::Queues),
        ("/sys", What::Sys),
        ("/sys/fs/cgroup", What::Cgroup),
    ];
    let mut plan: Vec<_> = defaults
        .into_iter()
        .filter(|(target, _)| !taken(target))
        .map(|(target, what)| Planned { target: target.to_string(), what })
        .collect();
    for spec in &spec.mounts {
        let source = spec.source.display();
        // Later mounts below the source are followed, as with `rbind`.
        let tree = copy_tree(&spec.source, true)
            .map_err(|cause| format!("error mounting {source:?} to rootfs at {:?}: stat {source}: {}", spec.target, plain(&cause)))?;
        let directory = is_directory(tree.as_fd()).map_err(|cause| format!("{source}: {cause}"))?;
        plan.push(Planned { target: spec.target.clone(), what: What::Bind { tree, directory, spec: spec.clone() } });
    }
    Ok(plan)
}

pub fn put(planned: &Planned, spec: &ContainerSpec, cgroups: &Cgroups, root: BorrowedFd<'_>) -> io::Result<()> {
    let target = Path::new(&planned.target);
    let readonly = if spec.privileged { 0 } else { READONLY };
    let made = match &planned.what {
        What::Proc => Filesystem::open(c"proc")?.mount(NOSUID | NODEV | NOEXEC)?,
        What::Dev => tmpfs("755", "65536k", NOSUID)?,
        What::Terminals => {
            let terminals = Filesystem::open(c"devpts")?;
            terminals.set(c"ptmxmode", Path::new("0666"))?;
            terminals.set(c"mode", Path::new("0620"))?;
            terminals.set(c"gid", Path::new("5"))?;
            terminals.mount(NOSUID | NOEXEC)?
        }
        What::Queues => Filesystem::open(c"mqueue")?.mount(NOSUID | NODEV | NOEXEC)?,
        What::Sys => Filesystem::open(c"sysfs")?.mount(NOSUID | NODEV | NOEXEC | readonly)?,
        What::Cgroup => return put_cgroup(spec, cgroups, root, target, readonly),
        What::Bind { tree, directory, spec } => {
            if spec.readonly {
                mount::restrict(tree, READONLY, spec.recursive_readonly)?;
            }
            match spec.propagation {
                MountPropagation::Private => mount::propagate(tree, Propagation::Private)?,
                MountPropagation::HostToContainer => mount::propagate(tree, Propagation::Slave)?,
                MountPropagation::Bidirectional => {} // It still is a peer of its source.
            }
            let place = ensure_target(root, target, *directory)?;
            return mount::attach(tree, place);
        }
    };
    let place = ensure_target(root, target, true)?;
    mount::attach(made, place)
}

/// Version 2: the container's own group as the root of a cgroup namespace. Version 1: its group of each hierarchy.
fn put_cgroup(
    spec: &ContainerSpec,
    cgroups: &Cgroups,
    root: BorrowedFd<'_>,
    target: &Path,
    readonly: u64,
) -> io::Result<()> {
    let place = ensure_target(root, target, true)?;
    if cgroups.is_v2() {
        let made = Filesystem::open(c"cgroup2")?.mount(NOSUID | NODEV | NOEXEC | readonly)?;
        return mount::attach(made, place);
    }
    let directory = tmpfs("755", "64k", NOSUID | NODEV | NOEXEC)?;
    mount::attach(&directory, place)?;
    for (name, path) in cgroups.group(&spec.cgroup).visible() {
        let tree = copy_tree(&path, false)?;
        mount::restrict(&tree, NOSUID | NODEV | NOEXEC | readonly, false)?;
        // `cpu,cpuacct` is also known by each of its names.
        for link in name.split(',').filter(|link| *link != name) {
            nix::unistd::symlinkat(name.as_str(), &directory, link)?;
        }
        mkdirat(&directory, name.as_str(), Mode::from_bits_truncate(0o755))?;
        mount::attach(tree, open_inside(&directory, Path::new(&name), libc::O_DIRECTORY)?)?;
    }
    mount::restrict(directory, readonly, false)
}

/// Hides what a container must not see, and protects what it must not change.
pub fn mask(spec: &ContainerSpec, root: BorrowedFd<'_>) -> Result<(), String> {
    let found = |path: &String| match open_inside(root, Path::new(path), 0) {
        Ok(place) => Ok(Some(place)),
        Err(cause) if matches!(cause.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(cause) => Err(cause),
    };
    let protect = |path: &String| -> io::Result<()> {
        let Some(place) = found(path)? else { return Ok(()) };
        let tree = copy_open_tree(place.as_fd())?;
        mount::restrict(&tree, READONLY, false)?;
        mount::attach(tree, place)
    };
    let hide = |path: &String| -> io::Result<()> {
        let Some(place) = found(path)? else { return Ok(()) };
        let cover = match is_directory(place.as_fd())? {
            true => tmpfs("755", "0", READONLY | NOSUID | NODEV | NOEXEC)?,
            false => copy_open_tree(open_inside(root, Path::new("/dev/null"), 0)?.as_fd())?,
        };
        mount::attach(cover, place)
    };
    for path in &spec.readonly_paths {
        protect(path).map_err(|cause| format!("can't make {path:?} read-only: {}", plain(&cause)))?;
    }
    for path in &spec.masked_paths {
        hide(path).map_err(|cause| format!("can't mask path {path:?}: {}", plain(&cause)))?;
    }
    Ok(())
}

/// `/dev/console` is the container's terminal. Called inside the container.
pub fn bind_console(terminal: &OwnedFd) -> io::Result<()> {
    let root = super::rootfs::open_path(Path::new("/"))?;
    let place = ensure_target(root.as_fd(), Path::new("/dev/console"), false)?;
    mount::attach(copy_open_tree(terminal.as_fd())?, place)
}

fn tmpfs(mode: &str, size: &str, attributes: u64) -> io::Result<OwnedFd> {
    let directory = Filesystem::open(c"tmpfs")?;
    directory.set(c"mode", Path::new(mode))?;
    if size != "0" {
        directory.set(c"size", Path::new(size))?;
    }
    directory.mount(attributes)
}

/// Opens `target` below `root`, making it and the directories on the way where they are missing.
pub fn ensure_target(root: BorrowedFd<'_>, target: &Path, directory: bool) -> io::Result<OwnedFd> {
    match open_inside(root, target, 0) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let parts: Vec<_> = target
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let mut reached = PathBuf::from("/");
    let mut parent = open_inside(root, &reached, libc::O_DIRECTORY)?;
    for (index, name) in parts.iter().enumerate() {
        let is_directory = directory || index + 1 < parts.len();
        reached.push(name);
        parent = match open_inside(root, &reached, 0) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                match is_directory {
                    true => mkdirat(&parent, *name, Mode::from_bits_truncate(0o755))?,
                    false => mknodat(&parent, *name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)?,
                }
                open_inside(root, &reached, 0)?
            }
            Err(cause) => return Err(cause),
        };
    }
    Ok(parent)
}

fn is_directory(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symbolic links in an image are followed within the image, never out of it.
    #[test]
    fn targets_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir(at("run")).unwrap();
        std::fs::create_dir(at("var")).unwrap();
        std::os::unix::fs::symlink("/run", at("var/run")).unwrap();
        std::os::unix::fs::symlink(outside.path(), at("trap")).unwrap();
        std::os::unix::fs::symlink("../../..", at("up")).unwrap();
        let open = super::super::rootfs::open_path(root.path()).unwrap();
        let ensure = |target: &str, directory| ensure_target(open.as_fd(), Path::new(target), directory);

        ensure("/var/run/a/b", true).unwrap();
        assert!(at("run/a/b").is_dir());
        ensure("/data/file", false).unwrap();
        assert!(at("data/file").is_file());
        ensure("/up/../x", true).unwrap();
        assert!(at("x").is_dir());
        assert!(ensure("/trap/c", true).is_err(), "a dangling link is not followed");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
