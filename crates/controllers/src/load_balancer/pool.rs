//! Addresses that load balancers are given: CIDRs, ranges and single addresses.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

/// Ranges of IPv4 addresses, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    ranges: Vec<(u32, u32)>,
}

impl AddressPool {
    /// Each text is `192.168.1.0/24`, `192.168.1.10-192.168.1.20` or `192.168.1.7`. The error names the bad one.
    pub fn parse(texts: &[String]) -> Result<AddressPool, String> {
        let ranges = texts.iter().map(|text| range(text.trim()).ok_or_else(|| problem(text))).collect::<Result<_, _>>()?;
        Ok(AddressPool { ranges })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.offset(address).is_some()
    }

    /// In order, without the first and last address of a CIDR, which networks keep for themselves.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ranges.iter().flat_map(|(first, last)| (*first..=*last).map(|bits| Ipv4Addr::from(bits).into()))
    }

    /// How many addresses of the pool stand before this one; 0 for one that is not in it.
    pub fn position(&self, address: IpAddr) -> usize {
        self.offset(address).unwrap_or_default() as usize
    }

    fn offset(&self, address: IpAddr) -> Option<u64> {
        let IpAddr::V4(address) = address else { return None };
        let bits = u32::from(address);
        let mut before = 0;
        for (first, last) in &self.ranges {
            if (*first..=*last).contains(&bits) {
                return Some(before + u64::from(bits - first));
            }
            before += u64::from(last - first) + 1;
        }
        None
    }
}

fn range(text: &str) -> Option<(u32, u32)> {
    if let Some((first, last)) = text.split_once('-') {
        let bits = |text: &str| text.trim().parse::<Ipv4Addr>().ok().map(u32::from);
        let (first, last) = (bits(first)?, bits(last)?);
        return (first <= last).then_some((first, last));
    }
    if let Ok(net) = text.parse::<Ipv4Net>() {
        let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
        return Some(if last - first > 2 { (first + 1, last - 1) } else { (first, last) });
    }
    text.parse::<Ipv4Addr>().ok().map(|address| (address.into(), address.into()))
}

fn problem(text: &str) -> String {
    format!("{text:?}: expected an IPv4 CIDR, a range FIRST-LAST or an address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let pool = AddressPool::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        let told = pool.map(|pool| pool.addresses().take(4).map(|it| it.to_string()).collect::<Vec<_>>());
        assert_eq!(told.unwrap_or_else(|problem| vec![problem]), expected, "{text}");
    }

    #[test]
    fn texts() {
        check("10.0.0.0/30", &["10.0.0.1", "10.0.0.2"]);
        check("10.0.0.4/31", &["10.0.0.4", "10.0.0.5"]);
        check("10.0.0.7", &["10.0.0.7"]);
        check("10.0.0.7/32,10.0.0.1 - 10.0.0.2", &["10.0.0.7", "10.0.0.1", "10.0.0.2"]);
        check("10.0.0.2-10.0.0.1", &["\"10.0.0.2-10.0.0.1\": expected an IPv4 CIDR, a range FIRST-LAST or an address"]);
        check("all", &["\"all\": expected an IPv4 CIDR, a range FIRST-LAST or an address"]);
    }

    #[test]
    fn positions_count_over_ranges() {
        let pool = AddressPool::parse(&["10.0.0.7".into(), "10.0.0.1-10.0.0.2".into()]).unwrap();
        assert_eq!(pool.position("10.0.0.2".parse().unwrap()), 2);
        assert!(!pool.contains("10.0.0.3".parse().unwrap()));
    }
}
