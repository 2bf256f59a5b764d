//! Which endpoint stands in which slot of a frontend.
//!
//! The kernel picks a random slot. Endpoints stay in their slots as long as they are wanted, so that a change touches
//! few of them, and, with session affinity (which remembers slots), so that clients stay where they are.

use std::collections::BTreeSet;
use std::net::SocketAddr;

/// With affinity, slots without an owner are filled with further copies of the others instead of moving anybody;
/// beyond this many slots per endpoint the imbalance costs more than the affinity of some clients.
const SLOTS_PER_ENDPOINT_MAX: usize = 2;

pub(crate) fn assign(previous: &[SocketAddr], wanted: &BTreeSet<SocketAddr>, keep_clients: bool) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    let mut slots: Vec<Option<SocketAddr>> = previous
        .iter()
        .map(|address| (wanted.contains(address) && seen.insert(*address)).then_some(*address))
        .collect();
    let mut new = wanted.iter().filter(|address| !seen.contains(address)).copied();
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        *slot = new.next();
    }
    slots.extend(new.map(Some));

    let fits = slots.len() <= wanted.len() * SLOTS_PER_ENDPOINT_MAX;
    if keep_clients && fits { fill(slots, wanted) } else { close(slots) }
}

/// Copies into the holes; holes at the end simply go.
fn fill(mut slots: Vec<Option<SocketAddr>>, wanted: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
    while slots.last().is_some_and(Option::is_none) {
        slots.pop();
    }
    let mut copies = wanted.iter().cycle();
    slots.into_iter().filter_map(|slot| slot.or_else(|| copies.next().copied())).collect()
}

/// The last ones move into the holes.
fn close(mut slots: Vec<Option<SocketAddr>>) -> Vec<SocketAddr> {
    let mut position = 0;
    while position < slots.len() {
        if slots[position].is_none() {
            slots.swap_remove(position);
        } else {
            position += 1;
        }
    }
    slots.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keep_clients: bool, previous: &str, wanted: &str, expected: &str) {
        let parse = |text: &str| -> Vec<SocketAddr> {
            text.chars().map(|letter| SocketAddr::from(([10, 0, 0, letter as u8], 80))).collect()
        };
        let wanted: BTreeSet<SocketAddr> = parse(wanted).into_iter().collect();
        let slots = assign(&parse(previous), &wanted, keep_clients);
        let text: String = slots
            .iter()
            .map(|address| {
                let std::net::IpAddr::V4(ip) = address.ip() else { unreachable!() };
                ip.octets()[3] as char
            })
            .collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn a_change_touches_few_slots() {
        //           before  wanted  after
        check(false, "", "abc", "abc");
        check(false, "abc", "abcd", "abcd");
        check(false, "abcd", "bcd", "dbc");
        check(false, "abc", "abd", "abd");
        check(false, "cab", "abc", "cab");
        check(false, "abc", "", "");
        check(false, "aab", "ab", "ab");
    }

    #[test]
    fn with_affinity_nobody_moves() {
        check(true, "abcd", "bcd", "bbcd");
        check(true, "abcd", "abc", "abc");
        check(true, "abcd", "bcde", "ebcd");
        check(true, "bbcd", "bcde", "becd");
        check(true, "abcde", "e", "e");
    }
}
