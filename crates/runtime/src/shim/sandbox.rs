//! The pod's namespaces, made by the shim in its own process before it serves anybody.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::capabilities;
use crate::spec::{PodFiles, ProcessNamespace, SandboxSpec};
use crate::sys::process;

/// As containerd and Docker have it.
const SHM: &str = "mode=1777,size=65536k";
/// Whom the first process of a shared namespace runs as: nobody in particular.
const PAUSE_ID: u32 = 65_535;

pub struct Sandbox {
    own_processes: File,
    /// The first process of the namespace that the pod's containers share.
    pub pause: Option<(i32, OwnedFd)>,
}

/// Makes everything that `spec` asks for; the error is shown to the user.
pub fn build(spec: &SandboxSpec, files: &PodFiles) -> Result<Sandbox, String> {
    let mut namespaces = CloneFlags::empty();
    if !spec.host_network {
        // The host's name goes with the host's network.
        namespaces |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if !spec.host_ipc {
        namespaces |= CloneFlags::CLONE_NEWIPC;
    }
    unshare(namespaces).map_err(|cause| format!("unshare {namespaces:?}: {cause}"))?;
    if !spec.host_network {
        process::loopback_up().map_err(|cause| format!("bringing up lo: {cause}"))?;
        keep_network(&files.netns()).map_err(|cause| format!("{}: {cause}", files.netns().display()))?;
        if !spec.hostname.is_empty() {
            nix::unistd::sethostname(&spec.hostname).map_err(|cause| format!("sethostname: {cause}"))?;
        }
    }
    for (name, value) in &spec.sysctls {
        set_sysctl(name, value)?;
    }
    if !spec.host_ipc {
        make_shm(&files.shm()).map_err(|cause| format!("{}: {cause}", files.shm().display()))?;
    }
    let own_processes = File::open("/proc/self/ns/pid").map_err(|cause| format!("/proc/self/ns/pid: {cause}"))?;
    let mut sandbox = Sandbox { own_processes, pause: None };
    if spec.shared_processes {
        let empty = files.directory.join("empty");
        let child = || pause(&empty);
        let pid = sandbox.fork(ProcessNamespace::Own, child).map_err(|cause| format!("pause: {cause}"))?;
        let descriptor = process::pidfd(pid).map_err(|cause| format!("pause: {cause}"))?;
        sandbox.pause = Some((pid, descriptor));
    }
    Ok(sandbox)
}

impl Sandbox {
    /// Forks into a process namespace: a new one, the pod's, or this one.
    pub fn fork(&self, processes: ProcessNamespace, child: impl FnOnce() -> Infallible) -> io::Result<i32> {
        match (processes, &self.pause) {
            (ProcessNamespace::Own, _) => unshare(CloneFlags::CLONE_NEWPID)?,
            (ProcessNamespace::Pod, Some((_, pause))) => setns(pause, CloneFlags::CLONE_NEWPID)?,
            (ProcessNamespace::Pod, None) => return Err(io::Error::other("the pod shares no process namespace")),
            (ProcessNamespace::Host, _) => {}
        }
        self.fork_and_return(child)
    }

    /// Forks into the process namespace of a running process.
    pub fn fork_beside(&self, target: &OwnedFd, child: impl FnOnce() -> Infallible) -> io::Result<i32> {
        setns(target, CloneFlags::CLONE_NEWPID)?;
        self.fork_and_return(child)
    }

    fn fork_and_return(&self, child: impl FnOnce() -> Infallible) -> io::Result<i32> {
        let forked = process::fork(child);
        setns(self.own_processes.as_fd(), CloneFlags::CLONE_NEWPID)?;
        forked
    }
}

/// Bound to a file, the network namespace can be entered by path and outlives the shim until it is unmounted.
fn keep_network(place: &Path) -> io::Result<()> {
    File::create(place)?;
    Ok(mount(Some("/proc/self/ns/net"), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn make_shm(place: &Path) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("shm"), place, Some("tmpfs"), flags, Some(SHM))?)
}

fn set_sysctl(name: &str, value: &str) -> Result<(), String> {
    // Both spellings are in use: net.ipv4.ip_forward and net/ipv4/ip_forward.
    let path = if name.contains('/') { name.to_string() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(format!("sysctl {name:?} is not a name"));
    }
    fs::write(Path::new("/proc/sys").join(path), value).map_err(|cause| format!("open /proc/sys: sysctl {name:?}: {cause}"))
}

/// Sees to it that the namespace stays: sleeps, as nobody, with an empty root directory.
fn pause(empty: &Path) -> Infallible {
    process::reset_signals();
    let powerless = || -> io::Result<()> {
        process::hide()?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        fs::create_dir_all(empty)?;
        mount(Some("tmpfs"), empty, Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=4k"))?;
        std::env::set_current_dir(empty)?;
        nix::unistd::pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        std::env::set_current_dir("/")?;
        for number in 0..capabilities::COUNT {
            process::drop_bounding(number)?;
        }
        let (uid, gid) = (nix::unistd::Uid::from_raw(PAUSE_ID), nix::unistd::Gid::from_raw(PAUSE_ID));
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
        process::set_no_new_privileges()?;
        process::hide()?;
        process::die_with_parent()
    };
    if powerless().is_err() || process::close_from(0).is_err() {
        process::exit(1)
    }
    let _ = process::set_name(c"pause");
    process::ignore_children();
    loop {
        nix::unistd::pause();
    }
}
