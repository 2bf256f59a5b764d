//! A container's stdio: read into the log and to whoever is attached, without ever waiting.
//!
//! Backpressure: while an attached reader is behind by `SINK_MAX`, the container's output is left in its pipe; a
//! reader that takes nothing for `STALL_MAX` is given up, so that it cannot hold the container.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::{Lines, LogFile, Stream};
use crate::sys::now_nanoseconds;

const SINK_MAX: usize = 256 << 10;
/// Streams that are attached to one container at a time.
const SINKS_MAX: usize = 64;
pub const STALL_MAX: Duration = Duration::from_secs(10);
const READ_MAX: usize = 64 << 10;
/// What is read at most after the end of the first process, should others go on writing.
const DRAIN_MAX: usize = 16 << 20;

pub struct Output {
    pub file: OwnedFd,
    pub stream: Stream,
    lines: Lines,
}

/// A pipe to somebody attached.
pub struct Sink {
    pub file: OwnedFd,
    stream: Stream,
    pending: Vec<u8>,
    progress: Instant,
}

#[derive(Default)]
pub struct Streams {
    pub outputs: Vec<Output>,
    pub sinks: Vec<Sink>,
    /// The container's stdin; with a terminal, the terminal.
    pub stdin: Option<OwnedFd>,
    pub log: Option<LogFile>,
}

impl Streams {
    pub fn add_output(&mut self, file: OwnedFd, stream: Stream) -> io::Result<()> {
        set_nonblocking(file.as_fd())?;
        self.outputs.push(Output { file, stream, lines: Lines::new(stream) });
        Ok(())
    }

    pub fn add_sink(&mut self, file: OwnedFd, stream: Stream) -> io::Result<()> {
        if self.sinks.len() >= SINKS_MAX {
            return Err(io::Error::other("too many are attached"));
        }
        set_nonblocking(file.as_fd())?;
        self.sinks.push(Sink { file, stream, pending: Vec::new(), progress: Instant::now() });
        Ok(())
    }

    /// Whether output of this stream may be taken now.
    pub fn wants(&self, stream: Stream) -> bool {
        !self.sinks.iter().any(|sink| sink.stream == stream && sink.pending.len() >= SINK_MAX)
    }

    /// When the slowest reader is given up.
    pub fn deadline(&self) -> Option<Instant> {
        let behind = self.sinks.iter().filter(|sink| !sink.pending.is_empty());
        behind.map(|sink| sink.progress + STALL_MAX).min()
    }

    /// Takes what is there of output `index`, once. False at its end, which also removes it.
    pub fn read(&mut self, index: usize) -> bool {
        match self.read_some(index) {
            Ok(0) => {
                self.end(index);
                false
            }
            Err(cause) if !matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                self.end(index); // EIO: the last process has left the terminal.
                false
            }
            _ => true,
        }
    }

    fn read_some(&mut self, index: usize) -> io::Result<usize> {
        let mut buffer = [0; READ_MAX];
        let output = &mut self.outputs[index];
        let count = nix::unistd::read(&output.file, &mut buffer)?;
        let bytes = &buffer[..count];
        if let Some(log) = &mut self.log {
            let mut entries = Vec::with_capacity(count + 256);
            output.lines.feed(bytes, now_nanoseconds(), &mut entries);
            log.write(&entries);
        }
        let stream = output.stream;
        self.sinks.iter_mut().filter(|sink| sink.stream == stream).for_each(|sink| sink.offer(bytes));
        self.sinks.retain(|sink| !sink.is_closed());
        Ok(count)
    }

    fn end(&mut self, index: usize) {
        let mut output = self.outputs.remove(index);
        if let Some(log) = &mut self.log {
            let mut entries = Vec::new();
            output.lines.finish(now_nanoseconds(), &mut entries);
            log.write(&entries);
        }
        self.drop_finished_sinks();
    }

    /// After the end of the container: everything that is still in its pipes goes into the log.
    pub fn drain(&mut self) {
        for index in (0..self.outputs.len()).rev() {
            let mut taken = 0;
            while taken < DRAIN_MAX {
                match self.read_some(index) {
                    Ok(count) if count > 0 => taken += count,
                    Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                    Err(cause) if cause.kind() == ErrorKind::WouldBlock => break,
                    _ => {
                        self.end(index);
                        break;
                    }
                }
            }
        }
    }

    pub fn flush(&mut self, index: usize) {
        self.sinks[index].flush();
        self.sinks.retain(|sink| !sink.is_closed());
        self.drop_finished_sinks();
    }

    pub fn give_up_stalled(&mut self, now: Instant) {
        self.sinks.retain(|sink| sink.pending.is_empty() || now < sink.progress + STALL_MAX);
    }

    /// Attached readers of a stream that has ended see its end, once they have all of it.
    pub fn drop_finished_sinks(&mut self) {
        let open: Vec<_> = self.outputs.iter().map(|output| output.stream).collect();
        self.sinks.retain(|sink| open.contains(&sink.stream) || !sink.pending.is_empty());
    }
}

impl Sink {
    pub fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    fn is_closed(&self) -> bool {
        // The reading end is gone: the kernel says so without a write.
        let mut poll = [nix::poll::PollFd::new(self.file.as_fd(), nix::poll::PollFlags::empty())];
        let polled = nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO);
        polled.is_ok() && poll[0].revents().is_some_and(|it| it.contains(nix::poll::PollFlags::POLLERR))
    }

    fn offer(&mut self, bytes: &[u8]) {
        if self.pending.is_empty() {
            self.progress = Instant::now();
        }
        self.pending.extend_from_slice(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.pending.is_empty() {
            match nix::unistd::write(&self.file, &self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                    self.progress = Instant::now();
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

pub fn set_nonblocking(file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
