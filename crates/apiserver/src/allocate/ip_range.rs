//! A range of service addresses, and which of it may be given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The lower part of the range is left to those who ask for an address by name: at least 16, at most 256 of it.
const BAND_MIN: u128 = 16;
const BAND_MAX: u128 = 256;
const BAND_STEP: u128 = 16;

pub struct IpRange {
    net: IpNet,
    first: u128,
    /// Addresses that can be given: neither the network's own nor, for IPv4, the broadcast.
    count: u128,
}

impl IpRange {
    pub fn new(net: IpNet) -> Self {
        let net = net.trunc();
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        // 2^16 addresses are enough of an IPv6 range for anybody, and keep numbers small.
        let size = 1u128 << bits.min(64);
        let reserved = if net.addr().is_ipv4() && size > 2 { 2 } else { 1 };
        IpRange { net, first: number(net.network()) + 1, count: size.saturating_sub(reserved).max(1) }
    }

    pub fn is_ipv4(&self) -> bool {
        self.net.addr().is_ipv4()
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        self.net.contains(&ip) && (self.first..self.first + self.count).contains(&number(ip))
    }

    /// Candidates from a start: all of the upper band, going round, then all of the lower.
    pub fn candidates(&self, start: u128) -> impl Iterator<Item = IpAddr> {
        let band = self.band();
        let upper = self.count - band;
        let ip = move |offset: u128| self.at(offset);
        let start = if upper == 0 { 0 } else { start % upper };
        (0..upper)
            .map(move |step| band + (start + step) % upper)
            .chain((0..band).map(move |step| (start + step) % band))
            .map(ip)
    }

    fn band(&self) -> u128 {
        let band = (self.count / BAND_STEP).clamp(BAND_MIN, BAND_MAX);
        if band >= self.count { 0 } else { band }
    }

    fn at(&self, offset: u128) -> IpAddr {
        let number = self.first + offset;
        match self.net {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).expect("inside an IPv4 range"))),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(net: &str) -> IpRange {
        IpRange::new(net.parse().expect("a range"))
    }

    #[test]
    fn the_lower_band_comes_last() {
        let small = range("10.0.0.0/28");
        assert_eq!(small.count, 14);
        let all: Vec<String> = small.candidates(3).map(|ip| ip.to_string()).collect();
        assert_eq!((all.len(), all[0].as_str()), (14, "10.0.0.4"));

        let large = range("10.43.0.0/16");
        let first = large.candidates(0).next().expect("one");
        assert_eq!(first.to_string(), "10.43.1.1"); // 256 below it are left free.
        assert_eq!(large.candidates(7).count(), 65534);
    }

    #[test]
    fn edges_are_not_given() {
        #[track_caller]
        fn check(ip: &str, expected: bool) {
            assert_eq!(range("10.0.0.0/24").contains(ip.parse().expect("an address")), expected, "{ip}");
        }
        check("10.0.0.0", false);
        check("10.0.0.1", true);
        check("10.0.0.254", true);
        check("10.0.0.255", false);
        check("10.0.1.1", false);
    }
}
