//! Netlink: batches of messages out, acknowledgements and dumps back.
//!
//! Invariant: the kernel handles a batch while it is being sent, so every answer lies in the socket when `send`
//! returns; a receive that would block for seconds is a broken kernel and reported, never waited for.
//!
//! Deliberately absent: asynchrony. A command takes microseconds; callers with big batches use a blocking thread.

mod message;

pub use message::{Attribute, Attributes, Batch, Writer, parse_attribute_str, parse_attribute_u32};

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::error::NetError;
use message::HEADER_LENGTH;

/// Room for the largest batch: 50,000 services of 10 endpoints are about 60 MiB.
const SEND_BUFFER_BYTES: usize = 64 << 20;
/// Room for acknowledgements of a batch whose every message fails.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// The kernel never sends larger pieces of a dump.
const PIECE_BYTES: usize = 64 << 10;
const ANSWER_TIMEOUT_SECONDS: i64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
}

/// The outcome of one message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which message, counted from zero.
    pub index: usize,
    pub errno: Errno,
    pub detail: Option<String>,
}

/// Belongs to the network namespace in which it was opened, whichever thread uses it later.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    port: u32,
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Socket {
    /// Opens in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Socket, NetError> {
        let number = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let failed = |errno| NetError::system("opening a netlink socket", errno);
        let descriptor =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, number).map_err(failed)?;
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        // Without CAP_NET_ADMIN the buffers stay small; the command itself will then say what is missing.
        let _ = setsockopt(&descriptor, sockopt::SndBufForce, &SEND_BUFFER_BYTES);
        let _ = setsockopt(&descriptor, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES);
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_TIMEOUT_SECONDS, 0)).map_err(failed)?;
        set_option(&descriptor, libc::NETLINK_CAP_ACK, 1).map_err(failed)?;
        set_option(&descriptor, libc::NETLINK_EXT_ACK, 1).map_err(failed)?;
        let port = getsockname::<NetlinkAddr>(descriptor.as_raw_fd()).map_err(failed)?.pid();
        Ok(Socket { descriptor, port })
    }

    /// The kernel's number for this socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Listens to a multicast group of the protocol.
    pub fn join(&self, group: i32) -> Result<(), NetError> {
        set_option(&self.descriptor, libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(|errno| NetError::system("joining a netlink group", errno))
    }

    /// Sends every message with a request for acknowledgement. Messages are independent: one refusal stops no other.
    pub fn send_each(&self, batch: &Batch) -> Result<Vec<Refusal>, NetError> {
        let mut refusals = Vec::new();
        let mut acknowledged = 0;
        if batch.is_empty() {
            return Ok(refusals);
        }
        self.transmit(batch)?;
        while acknowledged < batch.len() {
            let mut answers = self.receive(batch.describe(0))?;
            while let Some(answer) = answers.next_message() {
                if let Some((index, errno, detail)) = answer.acknowledgement() {
                    acknowledged += 1;
                    if let Some(errno) = errno {
                        refusals.push(Refusal { index, errno, detail });
                    }
                }
            }
        }
        Ok(refusals)
    }

    /// Like [`Socket::send_each`]; the first refusal is the error.
    pub fn send_all(&self, batch: &Batch) -> Result<(), NetError> {
        self.send_tolerating(batch, &[])
    }

    /// Like [`Socket::send_all`], but the given errors count as success.
    pub fn send_tolerating(&self, batch: &Batch, tolerated: &[Errno]) -> Result<(), NetError> {
        match self.send_each(batch)?.into_iter().find(|refusal| !tolerated.contains(&refusal.errno)) {
            None => Ok(()),
            Some(refusal) => Err(batch.error(&refusal)),
        }
    }

    /// Sends a batch that succeeds or fails as a whole, whose last message alone asks for an acknowledgement.
    /// nf_tables answers failing messages one by one, and a failing commit under the first message's number.
    pub fn send_transaction(&self, batch: &Batch) -> Result<Vec<Refusal>, NetError> {
        let mut refusals = Vec::new();
        let last = batch.acknowledged_index();
        self.transmit(batch)?;
        loop {
            let mut answers = self.receive(batch.describe(last))?;
            while let Some(answer) = answers.next_message() {
                let Some((index, errno, detail)) = answer.acknowledgement() else { continue };
                if let Some(errno) = errno {
                    refusals.push(Refusal { index, errno, detail });
                }
                if index == last || index == 0 {
                    return Ok(refusals);
                }
            }
        }
    }

    /// Sends one request with NLM_F_DUMP (or a plain get) and collects the bodies of the answers, each with its type.
    pub fn dump(&self, request: &Batch) -> Result<Vec<(u16, Vec<u8>)>, NetError> {
        // A dump that was interrupted by a change is inconsistent and repeated; the bound keeps a busy host from
        // holding us for ever, and the last answer is then better than none.
        const ATTEMPTS: usize = 8;
        for attempt in 1.. {
            let (found, consistent) = self.dump_once(request)?;
            if consistent || attempt == ATTEMPTS {
                return Ok(found);
            }
        }
        unreachable!("the loop above returns at its last attempt")
    }

    #[allow(clippy::type_complexity)]
    fn dump_once(&self, request: &Batch) -> Result<(Vec<(u16, Vec<u8>)>, bool), NetError> {
        let mut found = Vec::new();
        let mut consistent = true;
        self.transmit(request)?;
        loop {
            let mut answers = self.receive(request.describe(0))?;
            while let Some(answer) = answers.next_message() {
                if answer.flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
                    consistent = false;
                }
                if i32::from(answer.kind) == libc::NLMSG_DONE {
                    return Ok((found, consistent));
                }
                match answer.acknowledgement() {
                    Some((_, None, _)) => return Ok((found, consistent)),
                    Some((index, Some(errno), detail)) => {
                        return Err(request.error(&Refusal { index, errno, detail }));
                    }
                    None => found.push((answer.kind, answer.body.to_vec())),
                }
            }
        }
    }

    fn transmit(&self, batch: &Batch) -> Result<(), NetError> {
        self.discard_leftovers();
        sendto(self.descriptor.as_raw_fd(), batch.bytes(), &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .map(|_| ())
            .map_err(|errno| NetError::system(batch.describe(0), errno))
    }

    /// Answers to an earlier batch that failed half-way must not be taken for answers to the next one.
    fn discard_leftovers(&self) {
        let mut scratch = [0; 1];
        while recv(self.descriptor.as_raw_fd(), &mut scratch, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC).is_ok() {}
    }

    fn receive(&self, doing: String) -> Result<Answers, NetError> {
        let mut bytes = vec![0; PIECE_BYTES];
        loop {
            match recv(self.descriptor.as_raw_fd(), &mut bytes, MsgFlags::MSG_TRUNC) {
                Ok(length) if length <= bytes.len() => {
                    bytes.truncate(length);
                    return Ok(Answers { bytes, position: 0 });
                }
                Ok(_) => return Err(NetError::Garbled { doing }),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(NetError::system(doing, errno)),
            }
        }
    }
}

#[allow(unsafe_code)]
fn set_option(descriptor: &OwnedFd, option: i32, value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the pointer is to a live c_int and the length given is its size.
    let outcome = unsafe {
        libc::setsockopt(
            descriptor.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(outcome).map(|_| ())
}

/// One datagram from the kernel: several messages.
struct Answers {
    bytes: Vec<u8>,
    position: usize,
}

/// One message from the kernel.
pub struct Answer<'a> {
    pub kind: u16,
    flags: u16,
    sequence: u32,
    /// The socket that caused it.
    pub port: u32,
    pub body: &'a [u8],
}

/// The messages of a datagram, up to the first that is malformed.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let (answer, length) = parse_message(bytes)?;
        bytes = bytes.get(length..).unwrap_or_default();
        Some(answer)
    })
}

/// The first message, and where the next one begins.
fn parse_message(bytes: &[u8]) -> Option<(Answer<'_>, usize)> {
    let header = bytes.get(..HEADER_LENGTH)?;
    let number = |from: usize| u32::from_ne_bytes(header[from..from + 4].try_into().expect("four bytes"));
    let length = number(0) as usize;
    let answer = Answer {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        flags: u16::from_ne_bytes([header[6], header[7]]),
        sequence: number(8),
        port: number(12),
        body: bytes.get(HEADER_LENGTH..length)?,
    };
    Some((answer, length.next_multiple_of(4)))
}

impl Answers {
    fn next_message(&mut self) -> Option<Answer<'_>> {
        let (answer, length) = parse_message(self.bytes.get(self.position..)?)?;
        self.position += length;
        Some(answer)
    }
}

impl Answer<'_> {
    /// Index of the message, the error if it is one, and the kernel's explanation.
    fn acknowledgement(&self) -> Option<(usize, Option<Errno>, Option<String>)> {
        if i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().expect("four bytes"));
        let errno = (code != 0).then(|| Errno::from_raw(-code));
        // After the code stands the header of our message, then (because of NETLINK_CAP_ACK) attributes at once.
        let detail = (self.flags & libc::NLM_F_ACK_TLVS as u16 != 0)
            .then(|| self.body.get(4 + HEADER_LENGTH..))
            .flatten()
            .and_then(|rest| Attributes::new(rest).find(|attribute| attribute.kind == NLMSGERR_ATTR_MSG))
            .map(|attribute| parse_attribute_str(attribute.value));
        Some((self.sequence as usize, errno, detail))
    }
}

const NLMSGERR_ATTR_MSG: u16 = 1;
