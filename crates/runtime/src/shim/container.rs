//! One container as its shim knows it, from the fork to the exit record.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;

use super::log::{LogFile, Stream};
use super::sandbox::Sandbox;
use super::streams::{Streams, set_nonblocking};
use crate::cgroup::{Cgroups, DeviceRule};
use crate::container::{self, Launch, Progress, devices};
use crate::spec::{ContainerFiles, ContainerSpec, ExitRecord, StartRecord, read_json, write_json};
use crate::sys::{now_nanoseconds, process, socket};

/// Whom to answer: connection and request.
pub type Asker = (u64, u64);

/// A forked child on its way to its program.
pub struct Launching {
    pub progress: OwnedFd,
    pub asker: Asker,
    executing: bool,
    failure: Option<String>,
    pub terminal: Option<OwnedFd>,
}

/// How far a launching child has come.
pub enum Launched {
    NotYet,
    Running,
    Failed(String),
}

impl Launching {
    pub fn new(progress: OwnedFd, asker: Asker) -> io::Result<Launching> {
        set_nonblocking(progress.as_fd())?;
        Ok(Launching { progress, asker, executing: false, failure: None, terminal: None })
    }

    /// Reads what the child has said so far.
    pub fn advance(&mut self) -> Launched {
        let mut buffer = [0; 16 << 10];
        loop {
            let mut descriptors = Vec::new();
            match socket::receive(&self.progress, &mut buffer, &mut descriptors) {
                Ok(0) => break,
                Ok(count) => match serde_json::from_slice(&buffer[..count]) {
                    Ok(Progress::Terminal) => self.terminal = descriptors.pop(),
                    Ok(Progress::Executing) => self.executing = true,
                    Ok(Progress::Failed(text)) => self.failure = Some(text),
                    Err(cause) => self.failure = Some(format!("unknown report: {cause}")),
                },
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Launched::NotYet,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    self.failure.get_or_insert_with(|| cause.to_string());
                    break;
                }
            }
        }
        match (self.failure.take(), self.executing) {
            (Some(text), _) => Launched::Failed(text),
            (None, true) => Launched::Running,
            (None, false) => Launched::Failed("the process ended while the container was being set up".to_string()),
        }
    }
}

pub enum Phase {
    Starting(Launching),
    Running,
    Exited(ExitRecord),
}

/// What a container is started among.
pub struct Surroundings<'a> {
    pub cgroups: &'a Cgroups,
    pub sandbox: &'a Sandbox,
    /// The first process of a container that runs.
    pub running: &'a dyn Fn(&str) -> Option<i32>,
}

pub struct Container {
    pub id: String,
    pub spec: ContainerSpec,
    pub files: ContainerFiles,
    pub pid: i32,
    pub started_at: i64,
    pub phase: Phase,
    pub streams: Streams,
    /// Somebody whose leaving closes stdin, as `stdinOnce` wants it.
    pub stdin_owner: Option<u64>,
}

impl Container {
    /// Forks; the answer comes when the child has executed its program or failed.
    pub fn start(files: ContainerFiles, around: &Surroundings<'_>, asker: Asker) -> Result<Container, String> {
        let Surroundings { cgroups, sandbox, running } = around;
        let spec: ContainerSpec =
            read_json(&files.spec()).map_err(|cause| format!("{}: {cause}", files.spec().display()))?;
        let group = cgroups.group(&spec.cgroup);
        let text = |cause: io::Error| format!("unable to apply cgroup configuration: {cause}");
        group.create().map_err(text)?;
        group.limit(&spec.resources).map_err(text)?;
        if !spec.privileged {
            let rules: Vec<DeviceRule> = devices::rules(&spec)?;
            group.allow_devices(&rules).map_err(text)?;
        }
        let log = LogFile::open(spec.log_path.clone()).map_err(|cause| format!("failed to create container loggers: {cause}"))?;

        let text = |cause: io::Error| format!("creating container stdio: {cause}");
        let mut streams = Streams { log: Some(log), ..Streams::default() };
        let child_streams = child_streams(&spec, &mut streams).map_err(text)?;
        let (ours, theirs) = progress_pair().map_err(text)?;
        let launching = Launching::new(ours, asker).map_err(text)?;
        let launch = Launch { spec: &spec, cgroups, streams: child_streams, progress: theirs };
        let child = || container::run(launch, &files);
        let forked = if spec.beside.is_empty() {
            sandbox.fork(spec.processes, child)
        } else {
            let target = running(&spec.beside).ok_or_else(|| format!("target container {:?} is not running", spec.beside))?;
            process::pidfd(target).and_then(|target| sandbox.fork_beside(&target, child))
        };
        let pid = forked.map_err(|cause| format!("fork: {cause}"))?;
        Ok(Container {
            id: spec.id.clone(),
            spec,
            files,
            pid,
            started_at: 0,
            phase: Phase::Starting(launching),
            streams,
            stdin_owner: None,
        })
    }

    /// The program runs.
    pub fn started(&mut self, terminal: Option<OwnedFd>) -> io::Result<()> {
        self.started_at = now_nanoseconds();
        self.phase = Phase::Running;
        if let Some(terminal) = terminal {
            self.streams.stdin = Some(terminal.try_clone()?);
            self.streams.add_output(terminal, Stream::Stdout)?;
        }
        write_json(&self.files.started(), &StartRecord { pid: self.pid, started_at: self.started_at })
    }

    /// The first process has ended with `exit_code`: the log is completed, then the end is recorded.
    pub fn ended(&mut self, exit_code: i32, cgroups: &Cgroups) -> ExitRecord {
        let group = cgroups.group(&self.spec.cgroup);
        if self.spec.processes != crate::spec::ProcessNamespace::Own {
            group.kill(); // With a process namespace of its own the kernel has done it.
        }
        self.streams.stdin = None;
        self.streams.drain();
        self.streams.drop_finished_sinks();
        let exit = ExitRecord {
            exit_code,
            started_at: self.started_at,
            finished_at: now_nanoseconds(),
            oom_killed: group.oom_kills() > 0,
            ..ExitRecord::default()
        };
        // A full disk loses the file; the record is also kept here.
        let _ = write_json(&self.files.exit(), &exit);
        self.phase = Phase::Exited(exit.clone());
        exit
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }
}

/// The child's standard streams; ours go into `streams`. With a terminal the child makes its own.
fn child_streams(spec: &ContainerSpec, streams: &mut Streams) -> io::Result<container::Streams> {
    if spec.tty {
        return Ok(container::Streams { stdin: null()?, stdout: null()?, stderr: null()? });
    }
    let (stdout_ours, stdout) = pipe()?;
    let (stderr_ours, stderr) = pipe()?;
    streams.add_output(stdout_ours, Stream::Stdout)?;
    streams.add_output(stderr_ours, Stream::Stderr)?;
    let stdin = match spec.stdin {
        true => {
            let (theirs, ours) = pipe()?;
            streams.stdin = Some(ours);
            theirs
        }
        false => null()?,
    };
    Ok(container::Streams { stdin, stdout, stderr })
}

pub fn progress_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    // Packets: one message is one report.
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

pub fn null() -> io::Result<OwnedFd> {
    let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open("/dev/null", flags, Mode::empty())?)
}

/// Reading end, writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}
