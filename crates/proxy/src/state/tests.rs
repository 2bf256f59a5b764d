//! Plans as text.

use super::*;
use crate::entry::{Refusal, Source, TCP};

fn frontend(protocol: u8) -> Frontend {
    Frontend::Address { ip: [10, 43, 0, 7].into(), protocol, port: 80 }
}

/// Entries as they come of so many endpoints, numbered from the first.
fn entries(protocol: u8, endpoints: std::ops::Range<u8>) -> Entries {
    let frontend = frontend(protocol);
    if endpoints.is_empty() {
        return Entries::from([(EntryKey::Frontend(frontend), EntryValue::Refuse(Refusal::Reject))]);
    }
    let pick = Pick {
        ipv6: false,
        node_port: false,
        source: Source::Pods,
        slots: endpoints.len() as u32,
        internal_slots: 0,
        affinity_seconds: None,
    };
    let slots = (0..).zip(endpoints.clone());
    let mut entries: Entries = slots
        .map(|(slot, endpoint)| {
            let address = SocketAddr::from(([10, 42, 0, endpoint], 8080));
            (EntryKey::Slot(frontend, slot), EntryValue::Endpoint(address))
        })
        .collect();
    entries.insert(EntryKey::Frontend(frontend), EntryValue::Pick(pick));
    entries
}

fn service(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

#[track_caller]
fn check(state: &mut State, updates: Vec<(&str, Entries)>, expected: &str) -> Plan {
    let mut plan = Plan::default();
    for (name, entries) in updates {
        state.update(&service(name), entries, &mut plan);
    }
    state.remove_idle_picks(&mut plan);
    let text = plan.to_string();
    let lines: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), lines, "\n{text}");
    plan
}

#[test]
fn only_what_changed_is_changed() {
    let mut state = State::default();
    check(
        &mut state,
        vec![("web", entries(TCP, 1..3))],
        "+ chain cluster-2
         + tcp 10.43.0.7:80 -> cluster-2
         + tcp 10.43.0.7:80 #0 = 10.42.0.1:8080
         + tcp 10.43.0.7:80 #1 = 10.42.0.2:8080",
    );
    check(&mut state, vec![("web", entries(TCP, 1..3))], "");
    check(
        &mut state,
        vec![("web", entries(TCP, 1..4))],
        "+ chain cluster-3
         - tcp 10.43.0.7:80 -> cluster-2
         + tcp 10.43.0.7:80 -> cluster-3
         + tcp 10.43.0.7:80 #2 = 10.42.0.3:8080",
    );
    // The chain is still there.
    check(
        &mut state,
        vec![("web", entries(TCP, 1..3))],
        "- tcp 10.43.0.7:80 -> cluster-3
         + tcp 10.43.0.7:80 -> cluster-2
         - tcp 10.43.0.7:80 #2 = 10.42.0.3:8080",
    );
    check(
        &mut state,
        vec![("web", entries(TCP, 0..0))],
        "- tcp 10.43.0.7:80 -> cluster-2
         + tcp 10.43.0.7:80 -> reject
         - tcp 10.43.0.7:80 #0 = 10.42.0.1:8080
         - tcp 10.43.0.7:80 #1 = 10.42.0.2:8080",
    );
    check(&mut state, vec![("web", Entries::new())], "- tcp 10.43.0.7:80 -> reject");
    assert_eq!(state.services().count(), 0);
}

#[test]
fn the_first_of_two_claims_is_in_force() {
    let mut state = State::default();
    check(
        &mut state,
        vec![("b", entries(TCP, 7..8))],
        "+ chain cluster-1\n+ tcp 10.43.0.7:80 -> cluster-1\n+ tcp 10.43.0.7:80 #0 = 10.42.0.7:8080",
    );
    check(
        &mut state,
        vec![("a", entries(TCP, 1..2))],
        "- tcp 10.43.0.7:80 #0 = 10.42.0.7:8080\n+ tcp 10.43.0.7:80 #0 = 10.42.0.1:8080",
    );
    check(
        &mut state,
        vec![("a", Entries::new())],
        "- tcp 10.43.0.7:80 #0 = 10.42.0.1:8080\n+ tcp 10.43.0.7:80 #0 = 10.42.0.7:8080",
    );
    // An address that moves from one to the other within a plan does not change at all.
    check(&mut state, vec![("b", Entries::new()), ("a", entries(TCP, 7..8))], "");
}

#[test]
fn flows_are_looked_at_where_udp_endpoints_went() {
    let mut state = State::default();
    let mut udp = |entries: Entries| {
        let mut plan = Plan::default();
        state.update(&service("dns"), entries, &mut plan);
        plan.udp.into_iter().map(|frontend| frontend.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(udp(entries(UDP, 1..2)), ["udp 10.43.0.7:80"], "it may have been sent to before");
    assert_eq!(udp(entries(UDP, 2..3)), ["udp 10.43.0.7:80"]);
    assert_eq!(udp(entries(UDP, 2..3)), [""; 0]);
    assert_eq!(udp(entries(TCP, 2..3)), ["udp 10.43.0.7:80"]);
    assert_eq!(udp(entries(TCP, 4..5)), [""; 0]);
}

#[test]
fn idle_picks_are_removed_when_they_are_many() {
    let mut state = State::default();
    let mut removed = 0;
    for endpoints in 1..=100 {
        let mut plan = Plan::default();
        state.update(&service("web"), entries(TCP, 0..endpoints), &mut plan);
        state.remove_idle_picks(&mut plan);
        removed += plan.old_picks.len();
        let numbers: BTreeSet<u32> = state.picks.values().map(|known| known.number).collect();
        assert_eq!(numbers.len(), state.picks.len(), "each has its own number");
    }
    assert_eq!(removed, IDLE_PICKS_MAX + 1);
    assert!(state.picks.len() <= IDLE_PICKS_MAX + 1);
}

#[test]
fn clients_are_remembered_by_a_chain_for_each_length_of_memory() {
    let with_affinity = |endpoints: u8, seconds: u32| -> Entries {
        let mut entries = entries(TCP, 0..endpoints);
        for value in entries.values_mut() {
            if let EntryValue::Pick(pick) = value {
                pick.affinity_seconds = Some(seconds);
            }
        }
        entries
    };
    let mut state = State::default();
    let mut affinities = |endpoints: u8, seconds: u32| {
        let mut plan = Plan::default();
        state.update(&service("web"), with_affinity(endpoints, seconds), &mut plan);
        state.remove_idle_picks(&mut plan);
        let names = |affinities: &BTreeSet<Affinity>| affinities.iter().map(Affinity::to_string).collect::<Vec<_>>().join(" ");
        (names(&plan.new_affinities), names(&plan.old_affinities))
    };
    assert_eq!(affinities(1, 10800), ("affinity-10800s".into(), String::new()));
    for endpoints in 2..=IDLE_PICKS_MAX as u8 {
        assert_eq!(affinities(endpoints, 10800), Default::default(), "shared by {endpoints} picks");
    }
    assert_eq!(affinities(1, 60), ("affinity-60s".into(), String::new()), "the idle ones stay for a while");
    assert_eq!(affinities(2, 60), (String::new(), "affinity-10800s".into()), "and go together");
    assert_eq!(affinities(2, 10800), ("affinity-10800s".into(), String::new()));
}
