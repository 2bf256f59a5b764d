//! A connected agent, as the shim sees it: never waited for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::protocol::{Decoder, Message, Request, encode};
use crate::sys::socket;

/// An agent that reads nothing for this long is dropped; it asks for the state when it comes back.
const OUTGOING_MAX: usize = 4 << 20;

pub struct Connection {
    pub stream: UnixStream,
    decoder: Decoder,
    outgoing: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    outgoing_bytes: usize,
    broken: bool,
}

impl Connection {
    pub fn new(stream: UnixStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        Ok(Connection { stream, decoder: Decoder::default(), outgoing: VecDeque::new(), outgoing_bytes: 0, broken: false })
    }

    pub fn is_broken(&self) -> bool {
        self.broken
    }

    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn send(&mut self, message: &Message, descriptors: Vec<OwnedFd>) {
        match encode(message, descriptors.len()) {
            Ok(bytes) => {
                self.outgoing_bytes += bytes.len();
                self.outgoing.push_back((bytes, descriptors));
                self.broken |= self.outgoing_bytes > OUTGOING_MAX;
                self.flush();
            }
            Err(_) => self.broken = true,
        }
    }

    pub fn flush(&mut self) {
        while let Some((bytes, descriptors)) = self.outgoing.front_mut() {
            match socket::send(&self.stream, bytes, descriptors) {
                Ok(sent) => {
                    descriptors.clear();
                    bytes.drain(..sent);
                    self.outgoing_bytes -= sent;
                    if bytes.is_empty() {
                        self.outgoing.pop_front();
                    }
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// The requests that have arrived whole.
    pub fn receive(&mut self) -> Vec<(Request, Vec<OwnedFd>)> {
        let mut buffer = [0; 16 << 10];
        let mut descriptors = Vec::new();
        match socket::receive(&self.stream, &mut buffer, &mut descriptors) {
            Ok(0) => self.broken = true,
            Ok(count) => self.decoder.push(&buffer[..count], descriptors),
            Err(cause) if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.broken = true,
        }
        let mut requests = Vec::new();
        loop {
            match self.decoder.next() {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => return requests,
                Err(_) => {
                    self.broken = true;
                    return requests;
                }
            }
        }
    }
}
