//! Notices that the host's addresses or routes changed.
//!
//! Nothing polls: the kernel tells every change to those who listen. What changed is not told; whoever waits here looks
//! for himself.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::unix::AsyncFd;

use crate::error::NetError;
use crate::netlink::{Protocol, Socket};

/// rtnetlink(7): addresses and routes of IPv4 and IPv6.
const GROUPS: [libc::c_uint; 4] = [
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// Must be made within a tokio runtime. Belongs to the network namespace of the thread that made it.
pub struct AddressWatch {
    socket: AsyncFd<Socket>,
}

impl AddressWatch {
    pub fn open() -> Result<AddressWatch, NetError> {
        let socket = Socket::open(Protocol::Route)?;
        for group in GROUPS {
            socket.join(group as i32)?;
        }
        // SAFETY: a `Socket` owns its descriptor and never gives it away or another one out, so the number stays
        // that of the same open file until the socket, and with it the registration, is dropped.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register(socket) };
        let socket = registered.map_err(|source| NetError::io("listening to changes of", "addresses", source.into()))?;
        Ok(AddressWatch { socket })
    }

    /// Returns after a change. Those that came together are one.
    pub async fn changed(&self) {
        let mut scratch = [0; 1];
        let mut take = || recv(self.socket.as_raw_fd(), &mut scratch, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC);
        loop {
            let Ok(mut ready) = self.socket.readable().await else { return std::future::pending().await };
            match take() {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                // An error is news that were lost.
                _ => {
                    while take().is_ok() {}
                    return;
                }
            }
        }
    }
}
