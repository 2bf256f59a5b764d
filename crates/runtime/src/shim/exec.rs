//! A further process in a container, on behalf of one connection.

use std::os::fd::OwnedFd;

use super::container::{Asker, Container, Launching, null, progress_pair};
use super::sandbox::Sandbox;
use crate::cgroup::Cgroups;
use crate::container::{self, Exec, Launch, Streams};
use crate::sys::process;

pub struct ExecProcess {
    pub pid: i32,
    /// Its end is told to this connection, whose end is its own.
    pub connection: u64,
    /// None once it runs.
    pub launching: Option<Launching>,
}

pub struct Wanted {
    pub args: Vec<String>,
    pub tty: bool,
    /// stdin, stdout, stderr unless `tty`.
    pub streams: Vec<OwnedFd>,
}

impl ExecProcess {
    pub fn start(
        container: &Container,
        wanted: Wanted,
        cgroups: &Cgroups,
        sandbox: &Sandbox,
        asker: Asker,
    ) -> Result<ExecProcess, String> {
        let text = |cause: std::io::Error| cause.to_string();
        let streams = match <[OwnedFd; 3]>::try_from(wanted.streams) {
            Ok([stdin, stdout, stderr]) => Streams { stdin, stdout, stderr },
            Err(_) if wanted.tty => {
                Streams { stdin: null().map_err(text)?, stdout: null().map_err(text)?, stderr: null().map_err(text)? }
            }
            Err(_) => return Err("three streams expected".to_string()),
        };
        let target = process::pidfd(container.pid).map_err(text)?;
        let (ours, theirs) = progress_pair().map_err(text)?;
        let launching = Launching::new(ours, asker).map_err(text)?;
        let launch = Launch { spec: &container.spec, cgroups, streams, progress: theirs };
        let inside = target.try_clone().map_err(text)?;
        let exec = Exec { args: wanted.args, tty: wanted.tty, target: inside };
        let pid = sandbox.fork_beside(&target, || container::exec(launch, exec)).map_err(text)?;
        Ok(ExecProcess { pid, connection: asker.0, launching: Some(launching) })
    }
}
