//! From a forked child of the shim to the container's program: one function per stage, each done by this very
//! process, so that the kernel forgets everything when it fails.
//!
//! Invariant: nothing here outlives the process. Mounts are made in its own mount namespace, and only descriptors
//! that it opened itself are used after it left the host's root. Deliberately absent: cgroup creation and removal,
//! stdio, logs, waiting (the shim's).

mod command;
pub mod devices;
mod mounts;
mod rootfs;
mod user;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use base64::Engine;
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use crate::capabilities;
use crate::cgroup::Cgroups;
use crate::spec::{ContainerFiles, ContainerSpec};
use crate::sys::{process, socket, terminal};

/// What a child tells the shim on the way. The end of the stream after `Executing` means that the program runs.
#[derive(Debug, Serialize, Deserialize)]
pub enum Progress {
    /// Carries the shim's side of the terminal.
    Terminal,
    Executing,
    Failed(String),
}

/// Standard streams of the new process, already its own ends. With a terminal they are made inside.
pub struct Streams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

pub struct Launch<'a> {
    pub spec: &'a ContainerSpec,
    pub cgroups: &'a Cgroups,
    pub streams: Streams,
    pub progress: OwnedFd,
}

/// A further process of a running container.
pub struct Exec {
    pub args: Vec<String>,
    pub tty: bool,
    /// The container's mount and cgroup namespaces are this process's.
    pub target: OwnedFd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Terminal {
    /// It is also `/dev/console`.
    Console,
    Further,
}

/// Becomes the container's first process.
pub fn run(launch: Launch<'_>, files: &ContainerFiles) -> Infallible {
    let Launch { spec, cgroups, streams, progress } = launch;
    let result = prepare(spec, cgroups, files)
        .and_then(|()| enter_program(spec, &spec.args, spec.tty.then_some(Terminal::Console), streams, &progress));
    fail(&progress, result)
}

/// Becomes a further process of the container.
pub fn exec(launch: Launch<'_>, exec: Exec) -> Infallible {
    let Launch { spec, cgroups, streams, progress } = launch;
    let join = || -> Result<(), String> {
        begin()?;
        cgroups.group(&spec.cgroup).join().map_err(|cause| format!("joining the container's cgroup: {cause}"))?;
        if cgroups.is_v2() {
            setns(&exec.target, CloneFlags::CLONE_NEWCGROUP).map_err(|cause| format!("cgroup namespace: {cause}"))?;
        }
        setns(&exec.target, CloneFlags::CLONE_NEWNS).map_err(|cause| format!("mount namespace: {cause}"))?;
        adjust_oom_score(spec);
        Ok(())
    };
    let terminal = exec.tty.then_some(Terminal::Further);
    let result = join().and_then(|()| enter_program(spec, &exec.args, terminal, streams, &progress));
    fail(&progress, result)
}

fn fail(progress: &OwnedFd, result: Result<Infallible, String>) -> ! {
    let Err(text) = result;
    let _ = report(progress, &Progress::Failed(text), &[]);
    process::exit(255)
}

fn report(progress: &OwnedFd, message: &Progress, descriptors: &[OwnedFd]) -> io::Result<()> {
    socket::send(progress, &serde_json::to_vec(message)?, descriptors).map(drop)
}

fn begin() -> Result<(), String> {
    process::reset_signals();
    // The host's program must not be looked into through /proc by what shares the process namespace.
    process::hide().map_err(|cause| format!("hiding from others: {cause}"))
}

/// Everything up to a finished root directory.
fn prepare(spec: &ContainerSpec, cgroups: &Cgroups, files: &ContainerFiles) -> Result<(), String> {
    begin()?;
    cgroups.group(&spec.cgroup).join().map_err(|cause| format!("joining the container's cgroup: {cause}"))?;
    adjust_oom_score(spec);
    let mut namespaces = CloneFlags::CLONE_NEWNS;
    if cgroups.is_v2() {
        namespaces |= CloneFlags::CLONE_NEWCGROUP;
    }
    unshare(namespaces).map_err(|cause| format!("unshare: {cause}"))?;
    rootfs::build(spec, cgroups, files)
}

/// From the container's root on: terminal, identity, limits of power, program.
fn enter_program(
    spec: &ContainerSpec,
    args: &[String],
    terminal: Option<Terminal>,
    streams: Streams,
    progress: &OwnedFd,
) -> Result<Infallible, String> {
    let text = |what: &'static str| move |cause: io::Error| format!("{what}: {cause}");
    nix::unistd::setsid().map_err(|cause| format!("setsid: {cause}"))?;
    let identity = user::resolve(&spec.user, Path::new("/"))?;
    match terminal {
        Some(terminal) => attach_terminal(&identity, terminal, progress)?,
        None => {
            let Streams { stdin, stdout, stderr } = streams;
            for (number, stream) in [&stdin, &stdout, &stderr].into_iter().enumerate() {
                process::become_descriptor(stream.as_fd(), number as i32).map_err(text("standard streams"))?;
            }
        }
    }

    let mut env = spec.env.clone();
    if !env.iter().any(|it| it.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    // As root first: the directory may be one that only root reaches.
    let reached = std::env::set_current_dir(cwd).is_ok();

    let keep_admin = !spec.no_new_privileges && !spec.seccomp.is_empty();
    drop_privileges(spec, &identity, keep_admin)?;
    if !reached {
        std::env::set_current_dir(cwd).map_err(|cause| format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", command::plain(&cause)))?;
    }
    let program = command::find(args, &env)?;
    let c_string = |text: &String| CString::new(text.as_bytes()).map_err(|_| format!("{text:?} contains a NUL byte"));
    let args = args.iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
    let env = env.iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
    process::close_on_exec_from(3).map_err(text("close_range"))?;

    let filters = spec.seccomp.iter().map(|it| decode_filter(it)).collect::<Result<Vec<_>, _>>()?;
    if spec.no_new_privileges {
        process::set_no_new_privileges().map_err(text("no_new_privs"))?;
    }
    // Changing credentials has undone it; and the shim may be gone since.
    process::die_with_parent().map_err(text("parent death signal"))?;
    report(progress, &Progress::Executing, &[]).map_err(text("reporting"))?;
    for filter in &filters {
        process::load_seccomp(filter).map_err(text("error loading seccomp filter into kernel"))?;
    }
    // The capabilities that are still held end here: for root the bounding set is the limit, for others nothing is.
    let cause = match nix::unistd::execve(&program.path, &args, &env) {
        Err(cause) => cause,
        Ok(never) => match never {},
    };
    let shown = program.path.to_string_lossy();
    match cause {
        nix::errno::Errno::EACCES | nix::errno::Errno::ENOENT | nix::errno::Errno::ENOEXEC => {
            // The file is there and may be executed, so the runtime's part is done; the container says what is wrong.
            let line = format!("exec {shown}: {}\n", cause.desc().to_lowercase());
            let _ = nix::unistd::write(io::stderr(), line.as_bytes());
            process::exit(255)
        }
        cause => Err(format!("exec: {shown:?}: {}", cause.desc().to_lowercase())),
    }
}

fn attach_terminal(identity: &user::Identity, wanted: Terminal, progress: &OwnedFd) -> Result<(), String> {
    let text = |cause: io::Error| format!("opening a terminal: {cause}");
    let (master, slave) = terminal::open_pair().map_err(text)?;
    let slave = terminal::give_to(slave, identity.uid, None).map_err(text)?;
    terminal::control(&slave).map_err(text)?;
    for number in 0..3 {
        process::become_descriptor(slave.as_fd(), number).map_err(text)?;
    }
    if wanted == Terminal::Console {
        mounts::bind_console(&slave).map_err(text)?;
    }
    report(progress, &Progress::Terminal, &[master]).map_err(text)
}

/// Identity and capabilities. With `keep_admin` CAP_SYS_ADMIN stays until the program is executed, since loading
/// a seccomp filter without no_new_privs needs it.
fn drop_privileges(spec: &ContainerSpec, identity: &user::Identity, keep_admin: bool) -> Result<(), String> {
    let held = process::permitted_capabilities().map_err(|cause| format!("capget: {cause}"))?;
    let apply = || -> io::Result<()> {
        for number in (0..64).filter(|number| spec.capabilities & (1 << number) == 0) {
            process::drop_bounding(number)?;
        }
        process::keep_capabilities(true)?;
        let groups: Vec<_> = identity.groups.iter().map(|gid| nix::unistd::Gid::from_raw(*gid)).collect();
        nix::unistd::setgroups(&groups)?;
        let (uid, gid) = (nix::unistd::Uid::from_raw(identity.uid), nix::unistd::Gid::from_raw(identity.gid));
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
        process::keep_capabilities(false)?;
        process::clear_ambient()?;
        let admin = if keep_admin { capabilities::SYS_ADMIN } else { 0 };
        process::set_capabilities((spec.capabilities | admin) & held)
    };
    apply().map_err(|cause| format!("unable to apply user and capabilities: {cause}"))
}

fn decode_filter(text: &str) -> Result<Vec<libc::sock_filter>, String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|cause| format!("seccomp program: {cause}"))?;
    Ok(bytes.chunks_exact(8).map(crate::seccomp::instruction).collect())
}

/// A negative score needs CAP_SYS_RESOURCE; without it the container is merely as likely a victim as others.
fn adjust_oom_score(spec: &ContainerSpec) {
    let score = spec.resources.oom_score_adj.clamp(-1000, 1000);
    if fs::write("/proc/self/oom_score_adj", score.to_string()).is_err() && score < 0 {
        let _ = fs::write("/proc/self/oom_score_adj", "0");
    }
}
