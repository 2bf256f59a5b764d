//! The shim's loop: what can happen is a `Source`, what is done about it a method.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use super::Parts;
use super::connection::Connection;
use super::container::{Asker, Container, Launched, Phase, Surroundings};
use super::exec::{ExecProcess, Wanted};
use super::log::Stream;
use super::protocol::{ContainerReport, Failure, Message, Operation, Reply, Request};
use super::sandbox::Sandbox;
use crate::cgroup::Cgroups;
use crate::spec::{ExitRecord, PodFiles, start_error, write_json};
use crate::sys::{now_nanoseconds, process};

/// The agent has one connection; more are for those who look on.
const CONNECTIONS_MAX: usize = 16;
/// Processes exec'd at a time.
const EXECS_MAX: usize = 1024;
/// At shutdown: how long killed containers may take to be gone.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum Source {
    Listener,
    Signals,
    Connection(u64),
    ContainerProgress(String),
    ExecProgress(String),
    Output(String, usize),
    Sink(String, usize),
}

pub(crate) struct Server {
    files: PodFiles,
    cgroups: Cgroups,
    sandbox: Sandbox,
    listener: UnixListener,
    signals: SignalFd,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<String, ExecProcess>,
    /// No agent may know of an unadopted shim once the one that spawned it is gone.
    adopted: bool,
    /// Who asked for the end, and when it comes at the latest.
    ending: Option<(Asker, Instant)>,
}

impl Server {
    pub fn new(files: PodFiles, parts: Parts) -> Server {
        let Parts { cgroups, sandbox, listener, signals } = parts;
        Server {
            files,
            cgroups,
            sandbox,
            listener,
            signals,
            connections: BTreeMap::new(),
            next_connection: 1,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            adopted: false,
            ending: None,
        }
    }

    /// Tells the agent that spawned us that the sandbox stands.
    pub fn greet(&mut self, agent: UnixStream) {
        if let Some(id) = self.connect(agent) {
            self.send(id, Message::Sandbox(Ok(())), Vec::new());
        }
    }

    pub fn run(&mut self) {
        while !self.has_ended() {
            for (source, events) in self.wait() {
                self.handle(source, events);
            }
            self.give_up_stalled();
            self.drop_broken_connections();
        }
    }

    fn has_ended(&mut self) -> bool {
        if !self.adopted && self.connections.is_empty() {
            return true;
        }
        let Some((asker, deadline)) = self.ending else { return false };
        let alive = self.containers.values().any(|it| !matches!(it.phase, Phase::Exited(_)));
        if alive && Instant::now() < deadline {
            return false;
        }
        self.reply(asker, Ok(Reply::Done), Vec::new());
        true
    }

    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![(Source::Listener, self.listener.as_fd(), PollFlags::POLLIN)];
        sources.push((Source::Signals, self.signals.as_fd(), PollFlags::POLLIN));
        for (id, connection) in &self.connections {
            let writing = if connection.has_outgoing() { PollFlags::POLLOUT } else { PollFlags::empty() };
            sources.push((Source::Connection(*id), connection.stream.as_fd(), PollFlags::POLLIN | writing));
        }
        for (id, exec) in &self.execs {
            if let Some(launching) = &exec.launching {
                sources.push((Source::ExecProgress(id.clone()), launching.progress.as_fd(), PollFlags::POLLIN));
            }
        }
        let mut deadline = self.ending.map(|(_, deadline)| deadline);
        for (id, container) in &self.containers {
            if let Phase::Starting(launching) = &container.phase {
                sources.push((Source::ContainerProgress(id.clone()), launching.progress.as_fd(), PollFlags::POLLIN));
            }
            for (index, output) in container.streams.outputs.iter().enumerate() {
                if container.streams.wants(output.stream) {
                    sources.push((Source::Output(id.clone(), index), output.file.as_fd(), PollFlags::POLLIN));
                }
            }
            for (index, sink) in container.streams.sinks.iter().enumerate() {
                // Without events asked for, the kernel still tells that the reader is gone.
                let events = if sink.is_behind() { PollFlags::POLLOUT } else { PollFlags::empty() };
                sources.push((Source::Sink(id.clone(), index), sink.file.as_fd(), events));
            }
            deadline = deadline.into_iter().chain(container.streams.deadline()).min();
        }
        let mut fds: Vec<_> = sources.iter().map(|(_, file, events)| PollFd::new(*file, *events)).collect();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        if poll(&mut fds, timeout).is_err() {
            return Vec::new(); // Interrupted.
        }
        let ready: Vec<_> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        // Streams from the back, since handling one may remove it from its list.
        let mut found: Vec<_> = sources
            .into_iter()
            .zip(ready)
            .filter(|(_, events)| !events.is_empty())
            .map(|((source, ..), events)| (source, events))
            .collect();
        found.reverse();
        found
    }

    fn handle(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Listener => {
                if let Ok((stream, _)) = self.listener.accept() {
                    self.connect(stream);
                }
            }
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Source::Connection(id) => self.serve(id, events),
            Source::ContainerProgress(id) => self.advance_container(&id),
            Source::ExecProgress(id) => self.advance_exec(&id),
            Source::Output(id, index) => {
                if let Some(container) = self.containers.get_mut(&id)
                    && index < container.streams.outputs.len()
                {
                    container.streams.read(index);
                }
            }
            Source::Sink(id, index) => {
                if let Some(container) = self.containers.get_mut(&id)
                    && index < container.streams.sinks.len()
                {
                    container.streams.flush(index);
                }
            }
        }
    }

    fn connect(&mut self, stream: UnixStream) -> Option<u64> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        let id = self.next_connection;
        self.next_connection += 1;
        self.connections.insert(id, Connection::new(stream).ok()?);
        Some(id)
    }

    fn serve(&mut self, id: u64, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if events.contains(PollFlags::POLLOUT) {
            connection.flush();
        }
        if !events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        for (Request { id: request, operation }, descriptors) in connection.receive() {
            self.perform((id, request), operation, descriptors);
        }
    }

    fn perform(&mut self, asker: Asker, operation: Operation, descriptors: Vec<OwnedFd>) {
        let mut answer_descriptors = Vec::new();
        let result = match operation {
            Operation::State => Ok(Some(self.state())),
            Operation::Adopt => {
                self.adopted = true;
                Ok(Some(Reply::Done))
            }
            Operation::Start { container } => self.start(asker, &container),
            Operation::Signal { container, signal, all } => self.signal(&container, signal, all),
            Operation::Exec { container, exec, args, tty } => {
                self.exec(asker, &container, exec, Wanted { args, tty, streams: descriptors })
            }
            Operation::KillExec { exec } => {
                if let Some(exec) = self.execs.get(&exec) {
                    let _ = process::kill(exec.pid, libc::SIGKILL);
                }
                Ok(Some(Reply::Done))
            }
            Operation::Attach { container, stdin, stdout, stderr } => {
                let wanted = [(stdout, Stream::Stdout), (stderr, Stream::Stderr)];
                self.attach(asker, &container, stdin, wanted, descriptors, &mut answer_descriptors)
            }
            Operation::CloseStdin { container } => self.with_running(&container, |it| {
                it.streams.stdin = None;
                Ok(())
            }),
            Operation::ReopenLog { container } => match self.containers.get_mut(&container) {
                Some(it) => {
                    let reopened = it.streams.log.as_mut().map_or(Ok(()), |log| log.reopen());
                    reopened.map(|()| Some(Reply::Done)).map_err(|cause| Failure::Failed(cause.to_string()))
                }
                None => Err(not_found(&container)),
            },
            Operation::Forget { container } => {
                self.containers.remove(&container);
                Ok(Some(Reply::Done))
            }
            Operation::Shutdown => {
                self.shut_down(asker);
                Ok(None)
            }
        };
        match result {
            Ok(Some(reply)) => self.reply(asker, Ok(reply), answer_descriptors),
            Ok(None) => {} // Answered when it is done.
            Err(failure) => self.reply(asker, Err(failure), Vec::new()),
        }
    }

    fn state(&self) -> Reply {
        let report = |it: &Container| ContainerReport {
            id: it.id.clone(),
            pid: it.pid,
            started_at: it.started_at,
            exit: match &it.phase {
                Phase::Exited(exit) => Some(exit.clone()),
                _ => None,
            },
        };
        Reply::State { containers: self.containers.values().map(report).collect() }
    }

    fn start(&mut self, asker: Asker, id: &str) -> Result<Option<Reply>, Failure> {
        if self.containers.contains_key(id) || self.ending.is_some() {
            return Err(Failure::Failed(format!("container {id:?} cannot be started again")));
        }
        let files = self.files.container(id);
        let running = |id: &str| self.containers.get(id).filter(|it| it.is_running()).map(|it| it.pid);
        let around = Surroundings { cgroups: &self.cgroups, sandbox: &self.sandbox, running: &running };
        let container = Container::start(files, &around, asker)
            .map_err(|problem| Failure::Failed(start_error(&problem)))?;
        self.containers.insert(id.to_string(), container);
        Ok(None)
    }

    fn signal(&mut self, id: &str, number: i32, all: bool) -> Result<Option<Reply>, Failure> {
        let container = self.containers.get(id).ok_or_else(|| not_found(id))?;
        if matches!(container.phase, Phase::Exited(_)) {
            return Ok(Some(Reply::Done));
        }
        if all {
            self.cgroups.group(&container.spec.cgroup).kill();
        }
        match process::kill(container.pid, number) {
            Ok(()) => Ok(Some(Reply::Done)),
            Err(cause) => Err(Failure::Failed(format!("signal {number}: {cause}"))),
        }
    }

    fn exec(&mut self, asker: Asker, id: &str, exec: String, wanted: Wanted) -> Result<Option<Reply>, Failure> {
        let container = self.containers.get(id).ok_or_else(|| not_found(id))?;
        if !container.is_running() {
            return Err(Failure::Failed("cannot exec in a stopped container".to_string()));
        }
        if self.execs.len() >= EXECS_MAX || self.execs.contains_key(&exec) {
            return Err(Failure::Failed(format!("no further exec: {} are running", self.execs.len())));
        }
        let started = ExecProcess::start(container, wanted, &self.cgroups, &self.sandbox, asker);
        self.execs.insert(exec, started.map_err(Failure::Failed)?);
        Ok(None)
    }

    fn attach(
        &mut self,
        asker: Asker,
        id: &str,
        stdin: bool,
        wanted: [(bool, Stream); 2],
        descriptors: Vec<OwnedFd>,
        answer: &mut Vec<OwnedFd>,
    ) -> Result<Option<Reply>, Failure> {
        self.with_running(id, |container| {
            let mut descriptors = descriptors.into_iter();
            for (_, stream) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
                let sink = descriptors.next().ok_or_else(|| std::io::Error::other("a stream is missing"))?;
                container.streams.add_sink(sink, stream)?;
            }
            // With a terminal it is also what is resized.
            if (stdin || container.spec.tty)
                && let Some(file) = &container.streams.stdin
            {
                answer.push(file.try_clone()?);
            }
            if stdin && container.spec.stdin_once {
                container.stdin_owner = Some(asker.0);
            }
            Ok(())
        })
    }

    fn with_running(
        &mut self,
        id: &str,
        work: impl FnOnce(&mut Container) -> std::io::Result<()>,
    ) -> Result<Option<Reply>, Failure> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        if !container.is_running() {
            return Err(Failure::Failed(format!("container {id:?} is not running")));
        }
        work(container).map(|()| Some(Reply::Done)).map_err(|cause| Failure::Failed(cause.to_string()))
    }

    fn shut_down(&mut self, asker: Asker) {
        for container in self.containers.values() {
            if !matches!(container.phase, Phase::Exited(_)) {
                self.cgroups.group(&container.spec.cgroup).kill();
                let _ = process::kill(container.pid, libc::SIGKILL);
            }
        }
        self.ending = Some((asker, Instant::now() + SHUTDOWN_MAX));
    }

    fn advance_container(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Starting(launching) = &mut container.phase else { return };
        let asker = launching.asker;
        match launching.advance() {
            Launched::NotYet => {}
            Launched::Running => {
                let terminal = launching.terminal.take();
                // Without its file it runs as well; only a successor of this shim's agent would miss it.
                let _ = container.started(terminal);
                let (pid, started_at) = (container.pid, container.started_at);
                self.reply(asker, Ok(Reply::Started { pid, started_at }), Vec::new());
                self.broadcast(|| Message::Started { container: id.to_string(), pid, started_at });
            }
            Launched::Failed(problem) => {
                let text = start_error(&problem);
                let exit = ExitRecord {
                    exit_code: 128,
                    finished_at: now_nanoseconds(),
                    reason: "StartError".to_string(),
                    message: text.clone(),
                    ..ExitRecord::default()
                };
                let _ = write_json(&container.files.exit(), &exit);
                container.phase = Phase::Exited(exit.clone());
                container.streams.drain();
                container.streams = Default::default();
                self.reply(asker, Err(Failure::Failed(text)), Vec::new());
                self.broadcast(|| Message::Exited { container: id.to_string(), exit: exit.clone() });
            }
        }
    }

    fn advance_exec(&mut self, id: &str) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        let Some(launching) = &mut exec.launching else { return };
        let asker = launching.asker;
        match launching.advance() {
            Launched::NotYet => {}
            Launched::Running => {
                let descriptors = launching.terminal.take().into_iter().collect();
                let started = Reply::Started { pid: exec.pid, started_at: now_nanoseconds() };
                exec.launching = None;
                self.reply(asker, Ok(started), descriptors);
            }
            Launched::Failed(text) => {
                self.execs.remove(id);
                self.reply(asker, Err(Failure::Failed(text)), Vec::new());
            }
        }
    }

    /// Collects every child that has ended, ours and the orphans that came to us.
    fn reap(&mut self) {
        loop {
            match process::reap() {
                Ok(Some((pid, exit_code))) => self.ended(pid, exit_code),
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    fn ended(&mut self, pid: i32, exit_code: i32) {
        let alive = |it: &Container| it.pid == pid && !matches!(it.phase, Phase::Exited(_));
        if let Some(id) = self.containers.values().find(|it| alive(it)).map(|it| it.id.clone()) {
            self.advance_container(&id); // What it said before its end comes first.
            let Some(container) = self.containers.get_mut(&id) else { return };
            if container.is_running() {
                let exit = container.ended(exit_code, &self.cgroups);
                self.broadcast(|| Message::Exited { container: id.clone(), exit: exit.clone() });
            }
            return;
        }
        if let Some(id) = self.execs.iter().find(|(_, it)| it.pid == pid).map(|(id, _)| id.clone()) {
            self.advance_exec(&id);
            if let Some(exec) = self.execs.remove(&id) {
                self.send(exec.connection, Message::ExecExited { exec: id, exit_code }, Vec::new());
            }
        }
    }

    fn give_up_stalled(&mut self) {
        let now = Instant::now();
        for container in self.containers.values_mut() {
            container.streams.give_up_stalled(now);
        }
    }

    fn drop_broken_connections(&mut self) {
        let broken: Vec<u64> =
            self.connections.iter().filter(|(_, it)| it.is_broken()).map(|(id, _)| *id).collect();
        for id in broken {
            self.connections.remove(&id);
            // Its streams have no other end any more.
            for exec in self.execs.values().filter(|exec| exec.connection == id) {
                let _ = process::kill(exec.pid, libc::SIGKILL);
            }
            for container in self.containers.values_mut().filter(|it| it.stdin_owner == Some(id)) {
                container.stdin_owner = None;
                container.streams.stdin = None;
            }
        }
    }

    fn reply(&mut self, asker: Asker, result: Result<Reply, Failure>, descriptors: Vec<OwnedFd>) {
        self.send(asker.0, Message::Reply { id: asker.1, result }, descriptors);
    }

    fn send(&mut self, connection: u64, message: Message, descriptors: Vec<OwnedFd>) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.send(&message, descriptors);
        }
    }

    fn broadcast(&mut self, message: impl Fn() -> Message) {
        for connection in self.connections.values_mut() {
            connection.send(&message(), Vec::new());
        }
    }
}

fn not_found(id: &str) -> Failure {
    Failure::NotFound(format!("container {id:?}: not found"))
}
