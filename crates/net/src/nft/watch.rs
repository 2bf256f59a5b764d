//! Notices when somebody else deletes what is ours: `nft flush ruleset` and a restarted firewall service do so.
//!
//! Nothing polls: the kernel tells every change of rules to those who listen. If it tells faster than we read, the
//! lost news are taken for bad ones.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::unix::AsyncFd;

use super::numbers::NFTA_TABLE_NAME;
use super::{NftSocket, Table};
use crate::error::NetError;
use crate::netlink::{Attributes, Protocol, Socket, messages, parse_attribute_str};

const NFNLGRP_NFTABLES: i32 = 7;
const HEADER_LENGTH: usize = 4;
const PIECE_BYTES: usize = 64 << 10;

/// Must be made within a tokio runtime. Belongs to the network namespace of the thread that made it.
pub struct TableWatch {
    socket: AsyncFd<Socket>,
    tables: Vec<Table>,
    /// Whose changes are our own.
    ours: u32,
}

impl TableWatch {
    /// Changes made through `ours` are not reported.
    pub fn open(tables: Vec<Table>, ours: &NftSocket) -> Result<TableWatch, NetError> {
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.join(NFNLGRP_NFTABLES)?;
        // SAFETY: a `Socket` owns its descriptor and never gives it away or another one out, so the number stays
        // that of the same open file until the socket, and with it the registration, is dropped.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register(socket) };
        let socket =
            registered.map_err(|source| NetError::io("listening to changes of", "firewall rules", source.into()))?;
        Ok(TableWatch { socket, tables, ours: ours.port() })
    }

    /// Returns when somebody else has deleted something of these tables, or may have.
    pub async fn tampered(&self) {
        let mut bytes = vec![0; PIECE_BYTES];
        loop {
            let Ok(mut ready) = self.socket.readable().await else { return std::future::pending().await };
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(length) if self.is_tampering(&bytes[..length]) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => ready.clear_ready(),
                // Too much at once: some of it is lost.
                Err(_) => return,
            }
        }
    }

    fn is_tampering(&self, bytes: &[u8]) -> bool {
        messages(bytes).any(|message| {
            let [subsystem, kind] = message.kind.to_be_bytes();
            let is_deletion = i32::from(subsystem) == libc::NFNL_SUBSYS_NFTABLES
                && matches!(
                    i32::from(kind),
                    libc::NFT_MSG_DELTABLE
                        | libc::NFT_MSG_DELCHAIN
                        | libc::NFT_MSG_DELRULE
                        | libc::NFT_MSG_DELSET
                        | libc::NFT_MSG_DELSETELEM
                );
            let family = message.body.first().copied();
            let name = Attributes::after(message.body, HEADER_LENGTH).value_of(NFTA_TABLE_NAME);
            let name = name.map(parse_attribute_str).unwrap_or_default();
            let is_of = |table: &Table| Some(table.family.number()) == family && table.name == name;
            is_deletion && message.port != self.ours && self.tables.iter().any(is_of)
        })
    }
}
