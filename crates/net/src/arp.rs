//! Tells the neighbours that an address is at this host now, so that none waits for its cache to expire.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::NetError;
use crate::route::Link;

const ETHERNET: u16 = 1;
const IPV4: u16 = 0x0800;
const REQUEST: u16 = 1;
const BROADCAST: [u8; 6] = [0xff; 6];

/// Sends one gratuitous ARP request out of the device. Devices without an Ethernet address need none.
pub fn announce(address: Ipv4Addr, link: &Link) -> Result<(), NetError> {
    let Ok(hardware) = <[u8; 6]>::try_from(link.hardware_address.as_slice()) else { return Ok(()) };
    let failed = |errno| NetError::System { doing: format!("announcing {address} on {}", link.name), errno };
    let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let packet = gratuitous(address, hardware);
    send(socket.as_raw_fd(), link.index, &packet).map_err(failed)
}

/// Asks who has the address and says so itself: RFC 5227's announcement.
fn gratuitous(address: Ipv4Addr, hardware: [u8; 6]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(28);
    for number in [ETHERNET, IPV4] {
        packet.extend(number.to_be_bytes());
    }
    packet.extend([6, 4]);
    packet.extend(REQUEST.to_be_bytes());
    packet.extend(hardware);
    packet.extend(address.octets());
    packet.extend([0; 6]);
    packet.extend(address.octets());
    packet
}

#[allow(unsafe_code)]
fn send(socket: i32, link: u32, packet: &[u8]) -> nix::Result<()> {
    let mut to = [0_u8; 8];
    to[..6].copy_from_slice(&BROADCAST);
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ARP as u16).to_be(),
        sll_ifindex: link as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: to,
    };
    // SAFETY: `packet` and `to` are valid for the lengths given, and outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket,
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(sent).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_names_the_address_twice() {
        let packet = gratuitous(Ipv4Addr::new(192, 168, 1, 7), [2, 0, 0, 0, 0, 9]);
        assert_eq!(packet.len(), 28);
        assert_eq!(packet[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(packet[8..18], [2, 0, 0, 0, 0, 9, 192, 168, 1, 7]);
        assert_eq!(packet[18..], [0, 0, 0, 0, 0, 0, 192, 168, 1, 7]);
    }
}
