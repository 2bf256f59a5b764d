//! What the kernel holds already, and what has to change in it.
//!
//! Invariant: an entry that several Services claim (an external IP, an endpoint's address) is there as long as one of
//! them does; the one whose key sorts first has its way.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use client::ObjectKey;

use crate::entry::{Affinity, Entries, EntryKey, EntryValue, Frontend, INTERNAL_SLOTS, Pick, UDP};
use crate::flows::UdpFrontends;

/// Ways to pick that nobody uses any more stay for a while: a rollout takes a Service through the same numbers of
/// endpoints again and again, and binding a new chain to a map makes the kernel look at every element of it.
const IDLE_PICKS_MAX: usize = 64;

#[derive(Default)]
pub(crate) struct State {
    services: HashMap<Arc<ObjectKey>, Entries>,
    claims: HashMap<EntryKey, Claims>,
    picks: BTreeMap<Pick, PickInUse>,
    /// Slots as they were found in the kernel by a proxy that just started.
    found: HashMap<Frontend, BTreeMap<u32, SocketAddr>>,
}

/// Who claims an entry: nearly always one Service. Of several, the one whose key sorts first has its way.
enum Claims {
    One(Arc<ObjectKey>, EntryValue),
    Several(BTreeMap<Arc<ObjectKey>, EntryValue>),
}

impl Claims {
    fn in_force(&self) -> Option<(&Arc<ObjectKey>, EntryValue)> {
        match self {
            Claims::One(service, value) => Some((service, *value)),
            Claims::Several(claims) => claims.first_key_value().map(|(service, value)| (service, *value)),
        }
    }

    fn set(&mut self, service: &Arc<ObjectKey>, value: EntryValue) {
        match self {
            Claims::One(holder, held) if holder == service => *held = value,
            Claims::One(holder, held) => {
                let claims = [(holder.clone(), *held), (service.clone(), value)];
                *self = Claims::Several(claims.into());
            }
            Claims::Several(claims) => drop(claims.insert(service.clone(), value)),
        }
    }

    /// Whether nobody is left.
    fn withdraw(&mut self, service: &Arc<ObjectKey>) -> bool {
        match self {
            Claims::One(holder, _) => holder == service,
            Claims::Several(claims) => {
                claims.remove(service);
                claims.is_empty()
            }
        }
    }
}

struct PickInUse {
    number: u32,
    frontends: usize,
}

/// How one entry changes: what was in force, and what is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Change {
    pub before: Option<EntryValue>,
    pub after: Option<EntryValue>,
}

/// What a transaction has to do. Affinities are made before picks refer to them and picks before entries do, and they are
/// removed after.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub new_affinities: BTreeSet<Affinity>,
    pub new_picks: Vec<(u32, Pick)>,
    pub changes: BTreeMap<EntryKey, Change>,
    pub old_picks: Vec<(u32, Pick)>,
    pub old_affinities: BTreeSet<Affinity>,
    /// UDP frontends whose flows have to be looked through.
    pub udp: BTreeSet<Frontend>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.new_picks.is_empty() && self.old_picks.is_empty()
    }
}

impl State {
    /// Slots of a table left by an earlier proxy: endpoints that are still there stay in them.
    pub fn with_found_slots(found: HashMap<Frontend, BTreeMap<u32, SocketAddr>>) -> State {
        State { found, ..State::default() }
    }

    /// The endpoints in a frontend's slots, from the slot given.
    pub fn slots(&self, service: &ObjectKey, frontend: &Frontend, first: u32) -> Vec<SocketAddr> {
        let end = if first < INTERNAL_SLOTS { INTERNAL_SLOTS } else { u32::MAX };
        let known = self.services.get(service);
        let current: Vec<SocketAddr> = known
            .into_iter()
            .flat_map(|entries| entries.range(EntryKey::Slot(*frontend, first)..EntryKey::Slot(*frontend, end)))
            .filter_map(|(_, value)| if let EntryValue::Endpoint(address) = value { Some(*address) } else { None })
            .collect();
        if known.is_some() {
            return current;
        }
        self.found.get(frontend).into_iter().flat_map(|slots| slots.range(first..end)).map(|(_, a)| *a).collect()
    }

    /// A Service's entries become these; none if it is gone. Adds what has to change to the plan.
    pub fn update(&mut self, service: &ObjectKey, entries: Entries, plan: &mut Plan) {
        let (service, old) = match self.services.remove_entry(service) {
            Some(known) => known,
            None => (Arc::new(service.clone()), Entries::new()),
        };
        for key in old.keys().filter(|key| !entries.contains_key(key)) {
            self.claim(&service, *key, None, plan);
        }
        for (key, value) in &entries {
            if old.get(key) != Some(value) {
                self.claim(&service, *key, Some(*value), plan);
            }
        }
        if !entries.is_empty() {
            self.services.insert(service, entries);
        }
    }

    /// Every Service that has entries.
    pub fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys().map(Arc::as_ref)
    }

    /// To be called once the first full round is planned.
    pub fn forget_found_slots(&mut self) {
        self.found = HashMap::new();
    }

    fn claim(&mut self, service: &Arc<ObjectKey>, key: EntryKey, value: Option<EntryValue>, plan: &mut Plan) {
        let (before, after) = match self.claims.entry(key) {
            Entry::Vacant(vacant) => {
                let Some(value) = value else { return };
                vacant.insert(Claims::One(service.clone(), value));
                (None, Some(value))
            }
            Entry::Occupied(mut claims) => {
                let in_force = |claims: &Claims| claims.in_force().map(|(_, value)| value);
                let before = in_force(claims.get());
                match value {
                    Some(value) => {
                        claims.get_mut().set(service, value);
                        (before, in_force(claims.get()))
                    }
                    None if claims.get_mut().withdraw(service) => {
                        claims.remove();
                        (before, None)
                    }
                    None => (before, in_force(claims.get())),
                }
            }
        };
        if before == after {
            return;
        }
        note_udp(&key, before, plan);
        // Several Services may change an entry in one plan; what counts is where it began and where it ends.
        let change = plan.changes.entry(key).or_insert(Change { before, after });
        change.after = after;
        if change.before == change.after {
            plan.changes.remove(&key);
        }
        if let Some(EntryValue::Pick(pick)) = after {
            self.use_pick(pick, plan);
        }
        if let Some(EntryValue::Pick(pick)) = before {
            self.release_pick(pick);
        }
    }

    fn use_pick(&mut self, pick: Pick, plan: &mut Plan) {
        if let Some(known) = self.picks.get_mut(&pick) {
            known.frontends += 1;
            return;
        }
        // One that this very plan removes would have to be removed before it is added; it gets another number.
        let removed = plan.old_picks.iter().map(|(number, _)| *number);
        let in_use: BTreeSet<u32> = self.picks.values().map(|known| known.number).chain(removed).collect();
        let number = (0..).find(|number| !in_use.contains(number)).expect("fewer picks than numbers");
        plan.new_affinities.extend(pick.affinity().filter(|affinity| !self.has(affinity)));
        self.picks.insert(pick, PickInUse { number, frontends: 1 });
        plan.new_picks.push((number, pick));
    }

    fn release_pick(&mut self, pick: Pick) {
        if let Some(known) = self.picks.get_mut(&pick) {
            known.frontends -= 1;
        }
    }

    /// To be called at the end of a plan. Only picks that are older than the plan go.
    pub fn remove_idle_picks(&mut self, plan: &mut Plan) {
        let is_new = |pick: &Pick| plan.new_picks.iter().any(|(_, new)| new == pick);
        let idle = self.picks.iter().filter(|(pick, known)| known.frontends == 0 && !is_new(pick));
        let idle: Vec<Pick> = idle.map(|(pick, _)| *pick).collect();
        if idle.len() <= IDLE_PICKS_MAX {
            return;
        }
        for pick in &idle {
            let known = self.picks.remove(pick).expect("listed just now");
            plan.old_picks.push((known.number, *pick));
        }
        plan.old_affinities.extend(idle.iter().filter_map(Pick::affinity).filter(|affinity| !self.has(affinity)));
    }

    fn has(&self, affinity: &Affinity) -> bool {
        self.picks.keys().any(|pick| pick.affinity().as_ref() == Some(affinity))
    }

    /// The number by which maps name a pick.
    pub fn pick_number(&self, pick: &Pick) -> Option<u32> {
        self.picks.get(pick).map(|known| known.number)
    }

    /// Where these UDP frontends lead now.
    pub fn udp_endpoints(&self, frontends: &BTreeSet<Frontend>) -> UdpFrontends {
        frontends
            .iter()
            .map(|frontend| {
                let owner = self.claims.get(&EntryKey::Frontend(*frontend)).and_then(Claims::in_force);
                let endpoints = owner.into_iter().flat_map(|(service, _)| {
                    [0, INTERNAL_SLOTS].into_iter().flat_map(move |first| self.slots(service, frontend, first))
                });
                (*frontend, endpoints.collect())
            })
            .collect()
    }
}

/// Flows matter where an endpoint goes, or where a frontend appears that packets were sent to before.
fn note_udp(key: &EntryKey, before: Option<EntryValue>, plan: &mut Plan) {
    let frontend = match key {
        EntryKey::Slot(frontend, _) if before.is_some() => frontend,
        EntryKey::Frontend(frontend) => frontend,
        _ => return,
    };
    if frontend.protocol() == UDP {
        plan.udp.insert(*frontend);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for affinity in &self.new_affinities {
            writeln!(f, "+ chain {affinity}")?;
        }
        for (_, pick) in &self.new_picks {
            writeln!(f, "+ chain {pick}")?;
        }
        for (key, change) in &self.changes {
            if let Some(value) = &change.before {
                writeln!(f, "- {key}{value}")?;
            }
            if let Some(value) = &change.after {
                writeln!(f, "+ {key}{value}")?;
            }
        }
        for (_, pick) in &self.old_picks {
            writeln!(f, "- chain {pick}")?;
        }
        for affinity in &self.old_affinities {
            writeln!(f, "- chain {affinity}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
