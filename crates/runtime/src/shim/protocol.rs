//! What agent and shim say to one another: JSON behind a length, over a Unix socket, with descriptors beside it.
//!
//! Invariant: the agent asks, the shim answers each request once and reports events in between. Names are only ever
//! added, since an agent may meet shims that an older one started.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::spec::ExitRecord;
use crate::sys::socket::DESCRIPTORS_MAX;

/// Bounds a message; the largest is an exec with a full argument list.
pub const MESSAGE_MAX: usize = 4 << 20;
const HEADER: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub operation: Operation,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Operation {
    State,
    /// The sandbox is recorded: from now on the shim lives without the agent. Before, it ends with its connection.
    Adopt,
    /// The spec lies in the container's directory.
    Start { container: String },
    /// To the first process, or to every process when `all`.
    Signal { container: String, signal: i32, all: bool },
    /// Comes with stdin, stdout and stderr unless `tty`; then the terminal is answered.
    Exec { container: String, exec: String, args: Vec<String>, tty: bool },
    KillExec { exec: String },
    /// Comes with the pipes to copy stdout and stderr into; answered with stdin or the terminal if asked for.
    Attach { container: String, stdin: bool, stdout: bool, stderr: bool },
    CloseStdin { container: String },
    ReopenLog { container: String },
    /// The container has ended and is removed.
    Forget { container: String },
    /// Kills everything, answers, ends.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The sandbox stands, or why not. The first message of a new shim.
    Sandbox(Result<(), String>),
    Reply { id: u64, result: Result<Reply, Failure> },
    Started { container: String, pid: i32, started_at: i64 },
    Exited { container: String, exit: ExitRecord },
    ExecExited { exec: String, exit_code: i32 },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    State { containers: Vec<ContainerReport> },
    Started { pid: i32, started_at: i64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ContainerReport {
    pub id: String,
    pub pid: i32,
    pub started_at: i64,
    pub exit: Option<ExitRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Failure {
    NotFound(String),
    Failed(String),
}

/// One message as it is sent.
pub fn encode<T: Serialize>(message: &T, descriptors: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - HEADER;
    if length > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "argument list too long"));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(descriptors as u32).to_le_bytes());
    Ok(bytes)
}

/// Puts messages together from what arrives.
#[derive(Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        self.bytes.extend_from_slice(bytes);
        self.descriptors.extend(descriptors);
    }

    /// `Err` when the other side does not speak this protocol: the connection is of no more use.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (length, count) = (number(0), number(4));
        if length > MESSAGE_MAX || count > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message too large"));
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        if self.descriptors.len() < count {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors missing"));
        }
        let message = serde_json::from_slice(&self.bytes[HEADER..HEADER + length])?;
        self.bytes.drain(..HEADER + length);
        Ok(Some((message, self.descriptors.drain(..count).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrives_in_pieces() {
        let mut bytes = Vec::new();
        for id in 0..3 {
            bytes.extend(encode(&Request { id, operation: Operation::State }, 0).unwrap());
        }
        let mut decoder = Decoder::default();
        let mut ids = Vec::new();
        for piece in bytes.chunks(5) {
            decoder.push(piece, Vec::new());
            while let Some((request, _)) = decoder.next::<Request>().unwrap() {
                ids.push(request.id);
            }
        }
        assert_eq!(ids, [0, 1, 2]);
    }

    #[test]
    fn refuses_nonsense() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff; 16], Vec::new());
        assert!(decoder.next::<Request>().is_err());
    }
}
