//! Spreads endpoints over slices of limited size, changing as few slices as possible.
//!
//! Invariant: afterwards every wanted endpoint is in exactly one slice, and a slice that need not change
//! is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// The original's `--max-endpoints-per-slice`.
pub(super) const PER_SLICE_MAX: usize = 100;

/// Endpoints that serve at the same ports by addresses of the same family.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Group {
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub create: Vec<Group>,
    /// The slice with what it is to hold instead.
    pub update: Vec<(Arc<EndpointSlice>, Group)>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// `existing` are the slices of one address family; `groups` have distinct ports. `refresh` says that a
/// slice has to be written even when its endpoints stand, say for its labels.
pub(super) fn spread(groups: Vec<Group>, existing: &[Arc<EndpointSlice>], per_slice_max: usize, refresh: impl Fn(&EndpointSlice) -> bool) -> Changes {
    let mut changes = Changes::default();
    let mut by_ports: BTreeMap<String, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        by_ports.entry(ports_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice.clone());
    }
    let groups = match groups.iter().any(|group| !group.endpoints.is_empty()) {
        true => groups.into_iter().filter(|group| !group.endpoints.is_empty()).collect(),
        false => vec![Group::default()], // One empty slice says that the Service has no endpoints.
    };
    for group in groups {
        let slices = by_ports.remove(&ports_key(&group.ports)).unwrap_or_default();
        spread_group(group, slices, per_slice_max, &refresh, &mut changes);
    }
    changes.delete.extend(by_ports.into_values().flatten());
    // A slice to be made and one to be dropped are one slice to be changed.
    let pairs = changes.create.len().min(changes.delete.len());
    let groups = changes.create.drain(..pairs);
    changes.update.extend(changes.delete.drain(..pairs).zip(groups));
    changes
}

struct Draft {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn spread_group(group: Group, slices: Vec<Arc<EndpointSlice>>, per_slice_max: usize, refresh: &impl Fn(&EndpointSlice) -> bool, changes: &mut Changes) {
    let mut wanted: BTreeMap<String, Endpoint> =
        group.endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut drafts: Vec<Draft> = slices
        .into_iter()
        .map(|slice| {
            let mut endpoints = Vec::new();
            let mut changed = refresh(&slice);
            for held in &slice.endpoints {
                match wanted.remove(&identity(held)) {
                    Some(endpoint) => {
                        changed |= endpoint != *held;
                        endpoints.push(endpoint);
                    }
                    None => changed = true,
                }
            }
            Draft { slice, endpoints, changed }
        })
        .collect();

    // The rest goes first to slices that change anyway.
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    drafts.sort_by_key(|draft| (!draft.changed, std::cmp::Reverse(draft.endpoints.len())));
    for draft in drafts.iter_mut().filter(|draft| draft.changed) {
        let room = per_slice_max.saturating_sub(draft.endpoints.len()).min(rest.len());
        draft.endpoints.extend(rest.drain(..room));
    }
    // Then to the fullest one that takes all that is left: few writes are worth more than full slices.
    while !rest.is_empty() {
        let fits = |draft: &&mut Draft| draft.endpoints.len() + rest.len() <= per_slice_max;
        if let Some(draft) = drafts.iter_mut().find(fits).filter(|_| rest.len() < per_slice_max) {
            draft.endpoints.append(&mut rest);
            draft.changed = true;
        } else {
            let endpoints = rest.drain(..rest.len().min(per_slice_max)).collect();
            changes.create.push(Group { ports: group.ports.clone(), endpoints });
        }
    }
    // Empty slices go, except that the last one stays when nothing else holds the group.
    let mut keeps_one = drafts.iter().any(|draft| !draft.endpoints.is_empty()) || !changes.create.is_empty();
    for draft in drafts {
        if draft.endpoints.is_empty() && keeps_one {
            changes.delete.push(draft.slice);
            continue;
        }
        keeps_one = true;
        if draft.changed {
            changes.update.push((draft.slice, Group { ports: group.ports.clone(), endpoints: draft.endpoints }));
        }
    }
    if !keeps_one {
        changes.create.push(Group { ports: group.ports, endpoints: Vec::new() });
    }
}

fn identity(endpoint: &Endpoint) -> String {
    let target = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
    format!("{target} {}", endpoint.addresses.join(","))
}

/// Equal for equal sets of ports.
pub(super) fn ports_key(ports: &[EndpointPort]) -> String {
    let texts: BTreeSet<String> = ports
        .iter()
        .map(|port| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            format!("{}/{}/{:?}/{}", text(&port.name), text(&port.protocol), port.port, text(&port.app_protocol))
        })
        .collect();
    texts.into_iter().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Vec<EndpointPort> {
        text.split(',')
            .filter(|port| !port.is_empty())
            .map(|port| EndpointPort { port: Some(port.parse().unwrap()), ..EndpointPort::default() })
            .collect()
    }

    /// `80:10` is ten endpoints at port 80, numbered from 0; `80:5-9` are those numbers.
    fn group(text: &str) -> Group {
        let (port, range) = text.split_once(':').unwrap();
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap() + 1),
            None => (0, range.parse().unwrap()),
        };
        let endpoints = (from..to).map(|n| Endpoint { addresses: vec![format!("10.0.0.{n}")], ..Endpoint::default() });
        Group { ports: ports(port), endpoints: endpoints.collect() }
    }

    fn slices(text: &str) -> Vec<Arc<EndpointSlice>> {
        text.split_whitespace()
            .enumerate()
            .map(|(at, word)| {
                let Group { ports, endpoints } = group(word);
                let mut slice = EndpointSlice { ports: (!ports.is_empty()).then_some(ports), endpoints, ..EndpointSlice::default() };
                slice.metadata.name = Some(format!("s{at}"));
                Arc::new(slice)
            })
            .collect()
    }

    #[track_caller]
    fn check(wanted: &str, existing: &str, expected: &str) {
        let groups = wanted.split_whitespace().map(group).collect();
        let changes = spread(groups, &slices(existing), PER_SLICE_MAX, |_| false);
        let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap();
        let mut steps: Vec<String> = changes.create.iter().map(|group| format!("create({})", group.endpoints.len())).collect();
        steps.extend(changes.update.iter().map(|(slice, group)| format!("{}={}", name(slice), group.endpoints.len())));
        steps.extend(changes.delete.iter().map(|slice| format!("delete({})", name(slice))));
        assert_eq!(steps.join(" "), expected);
    }

    #[test]
    fn changes_as_little_as_possible() {
        //    wanted       slices           changes
        check("80:3", "", "create(3)");
        check("80:3", "80:3", "");
        check("80:4", "80:3", "s0=4");
        check("80:2", "80:3", "s0=2");
        check("80:250", "", "create(100) create(100) create(50)");
        check("80:0-109", "80:0-99 80:100-104", "s1=10"); // The full slice is left alone.
        check("80:3", "80:0-1 80:5-9", "s1=1"); // One changes anyway and takes the newcomer.
        check("80:2", "80:0-1 80:5-9", "delete(s1)");
        check("8080:3", "80:3", "s0=3"); // Other ports: the slice is used again.
        check("80:3 81:2", "80:3", "create(2)");
        check("80:100", "80:0-98", "s0=100");
        check("80:101", "80:0-98", "create(2)"); // Two do not fit: the slice is left alone.
        check("80:0-109", "80:0-59 80:60-89", "s0=80"); // The fullest that takes them all.
        check("80:0-159", "80:0-59 80:60-89", "s1=100"); // It is full then.
        check("80:0-189", "80:0-59 80:60-89", "create(100)"); // A full one more.
        check("80:0-229", "80:0-59 80:60-89", "create(100) s0=100");
        check("80:50-149", "80:0-99", "s0=100");
        check("80:50-169", "80:0-99", "create(20) s0=100"); // What changes anyway is filled first.
        check("80:1-9 81:3", "80:0-9 82:2", "s0=9 s1=3");
        check("80:0-0", "80:0-2 80:5-9 80:20-29", "s0=1 delete(s1) delete(s2)");
    }

    #[test]
    fn what_is_not_as_it_should_be_is_written_again() {
        let slices = slices("80:2 80:5-6");
        let outdated = |slice: &EndpointSlice| slice.metadata.name.as_deref() == Some("s1");
        let changes = spread(vec![Group { endpoints: [group("80:2"), group("80:5-6")].into_iter().flat_map(|group| group.endpoints).collect(), ports: ports("80") }], &slices, PER_SLICE_MAX, outdated);
        let written: Vec<_> = changes.update.iter().map(|(slice, group)| (slice.metadata.name.clone().unwrap(), group.endpoints.len())).collect();
        assert_eq!(written, [("s1".to_owned(), 2)]);
    }

    #[test]
    fn no_endpoints_leave_one_empty_slice() {
        check("", "", "create(0)");
        check("", ":0", "");
        check("", "80:3", "s0=0");
        check("", "80:0-1 80:2-3", "s0=0 delete(s1)");
        check("80:1", ":0", "s0=1");
    }
}
