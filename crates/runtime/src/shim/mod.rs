//! The shim: one small process per pod that owns its containers, so that the agent may come and go.
//!
//! ```text
//! agent --spawn--> shim --fork--> container's first process
//!   ^                |  \--fork--> exec'd process
//!   '---- socket ----'
//! ```
//!
//! Invariant: one thread, no allocator or lock shared with anything; everything is awaited in one `poll`; no reader
//! of logs or streams and no agent can hold it up. It ends when told to, never by itself. Deliberately absent:
//! policy, images, cgroup removal, anything that Kubernetes has a word for.

mod connection;
mod container;
mod exec;
mod log;
pub(crate) mod protocol;
mod sandbox;
mod server;
mod streams;

use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cgroup::Cgroups;
use crate::spec::{PodFiles, SandboxSpec, read_json};
use crate::sys::process;
use protocol::Message;

/// The first argument that makes the binary a shim.
pub const COMMAND: &str = "internal-shim";

/// Becomes the shim of a pod. To be called before any thread exists, with what follows [`COMMAND`]: the pod's
/// directory. The agent's end of the first connection is the other side of stdin.
pub fn main(args: &[String]) -> ! {
    let Some(directory) = args.first() else { process::exit(2) };
    let _ = process::close_from(3);
    // SAFETY: stdin is a socket of ours by contract with the agent; if it is none, sending fails and we end.
    #[allow(unsafe_code)]
    let agent = unsafe { UnixStream::from_raw_fd(0) };
    let files = PodFiles { directory: PathBuf::from(directory) };
    match build(&files) {
        Ok(parts) => {
            let mut server = server::Server::new(files, parts);
            server.greet(agent);
            server.run();
            process::exit(0)
        }
        Err(problem) => {
            if let Ok(mut connection) = connection::Connection::new(agent) {
                connection.send(&Message::Sandbox(Err(problem)), Vec::new());
            }
            process::exit(1)
        }
    }
}

pub(crate) struct Parts {
    cgroups: Cgroups,
    sandbox: sandbox::Sandbox,
    listener: UnixListener,
    signals: SignalFd,
}

fn build(files: &PodFiles) -> Result<Parts, String> {
    // A session of our own: the agent's terminal and its signals are not ours.
    let _ = nix::unistd::setsid();
    let _ = process::set_name(c"coracle-shim");
    // Children are seen by containers before they do anything: from the first moment without a look inside.
    process::hide().map_err(|cause| format!("hiding from others: {cause}"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::unistd::chdir("/").map_err(|cause| format!("chdir: {cause}"))?;
    process::become_subreaper().map_err(|cause| format!("subreaper: {cause}"))?;
    // Containers inherit what we may have at most, as under containerd.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    // Refused without CAP_SYS_RESOURCE; then the shim is as likely a victim as others.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");

    // Belongs to us for as long as we hold the lock that came with stderr.
    std::fs::write(files.shim_pid(), std::process::id().to_string()).map_err(|cause| format!("shim.pid: {cause}"))?;

    let spec: SandboxSpec =
        read_json(&files.sandbox_spec()).map_err(|cause| format!("{}: {cause}", files.sandbox_spec().display()))?;
    let cgroups = Cgroups::detect().map_err(|cause| format!("cgroups: {cause}"))?;
    let sandbox = sandbox::build(&spec, files)?;

    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        mask.add(signal);
    }
    mask.thread_block().map_err(|cause| format!("signals: {cause}"))?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|cause| format!("signalfd: {cause}"))?;

    // A relative name, since the path of a socket may have 107 bytes only.
    nix::unistd::chdir(&files.directory).map_err(|cause| format!("chdir: {cause}"))?;
    let listener = UnixListener::bind("shim.sock").map_err(|cause| format!("shim.sock: {cause}"))?;
    nix::unistd::chdir("/").map_err(|cause| format!("chdir: {cause}"))?;
    listener.set_nonblocking(true).map_err(|cause| format!("shim.sock: {cause}"))?;
    Ok(Parts { cgroups, sandbox, listener, signals })
}
