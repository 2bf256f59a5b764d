//! How many pods match a selector on each node, counted once and then along with each change.
//!
//! Invariant: an entry equals a fresh count of the placed pods. Entries are bounded; the one unused for longest goes.

use std::collections::{BTreeMap, HashMap};

use crate::pod_info::{PodInfo, Selector};

/// Distinct (namespace, selector) pairs that are counted along.
const ENTRIES_MAX: usize = 256;

#[derive(Default)]
pub struct MatchCounts {
    /// By namespace, then by the selector's text.
    entries: HashMap<String, HashMap<String, Entry>>,
    length: usize,
    uses: u64,
}

struct Entry {
    selector: Selector,
    per_node: HashMap<String, Count>,
    /// By topology key, then by the label's value; only for keys that were asked for.
    places: HashMap<String, Places>,
    last_use: u64,
}

/// Matching pods by the value of a topology label; values without any are not there.
pub type Places = HashMap<String, Count>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub all: i64,
    /// Those that are not terminating.
    pub live: i64,
}

/// Counts by node, kept or made for this once.
pub enum Counted<'a> {
    Kept(&'a HashMap<String, Count>),
    Fresh(HashMap<&'a str, Count>),
}

impl Counted<'_> {
    pub fn at(&self, node: &str) -> Count {
        match self {
            Counted::Kept(counts) => counts.get(node).copied(),
            Counted::Fresh(counts) => counts.get(node).copied(),
        }
        .unwrap_or_default()
    }

    pub fn for_each(&self, mut each: impl FnMut(&str, Count)) {
        match self {
            Counted::Kept(counts) => counts.iter().for_each(|(node, count)| each(node, *count)),
            Counted::Fresh(counts) => counts.iter().for_each(|(node, count)| each(node, *count)),
        }
    }
}

impl MatchCounts {
    pub fn knows(&mut self, namespace: &str, selector: &Selector) -> bool {
        self.uses += 1;
        let entry = self.entries.get_mut(namespace).and_then(|entries| entries.get_mut(&selector.text));
        entry.is_some_and(|entry| {
            entry.last_use = self.uses;
            true
        })
    }

    pub fn get(&self, namespace: &str, selector: &Selector) -> Option<&HashMap<String, Count>> {
        self.entries.get(namespace)?.get(&selector.text).map(|entry| &entry.per_node)
    }

    pub fn places(&self, namespace: &str, selector: &Selector, topology_key: &str) -> Option<&Places> {
        self.entries.get(namespace)?.get(&selector.text)?.places.get(topology_key)
    }

    /// Sums up by a topology label what is counted by node.
    pub fn start_places<'a>(
        &mut self,
        namespace: &str,
        selector: &Selector,
        topology_key: &str,
        labels: impl Fn(&str) -> Option<&'a BTreeMap<String, String>>,
    ) {
        let entry = self.entries.get_mut(namespace).and_then(|entries| entries.get_mut(&selector.text));
        let Some(entry) = entry.filter(|entry| !entry.places.contains_key(topology_key)) else { return };
        let mut places = Places::new();
        for (node, count) in &entry.per_node {
            if let Some(value) = labels(node).and_then(|labels| labels.get(topology_key)) {
                let place = places.entry(value.clone()).or_default();
                place.all += count.all;
                place.live += count.live;
            }
        }
        entry.places.insert(topology_key.to_owned(), places);
    }

    /// Nodes have come, gone, or moved to other places.
    pub fn forget_places(&mut self) {
        self.entries.values_mut().flat_map(HashMap::values_mut).for_each(|entry| entry.places.clear());
    }

    pub fn start<'a>(&mut self, namespace: &str, selector: &Selector, placed: impl Iterator<Item = (&'a PodInfo, &'a str)>) {
        if self.length >= ENTRIES_MAX {
            self.drop_least_used();
        }
        let mut entry = Entry { selector: selector.clone(), per_node: HashMap::new(), places: HashMap::new(), last_use: self.uses };
        for (pod, node) in placed {
            entry.add(pod, node, None, 1);
        }
        self.entries.entry(namespace.to_owned()).or_default().insert(selector.text.clone(), entry);
        self.length += 1;
    }

    /// `delta` is 1 when a pod came to the node, which has these labels, and -1 when it left.
    pub fn add(&mut self, pod: &PodInfo, node: &str, labels: Option<&BTreeMap<String, String>>, delta: i64) {
        for entry in self.entries.get_mut(&pod.key.namespace).into_iter().flat_map(HashMap::values_mut) {
            entry.add(pod, node, labels, delta);
        }
    }

    fn drop_least_used(&mut self) {
        let all = self.entries.iter().flat_map(|(namespace, entries)| {
            entries.iter().map(move |(text, entry)| (entry.last_use, namespace.clone(), text.clone()))
        });
        let Some((_, namespace, text)) = all.min() else { return };
        if let Some(entries) = self.entries.get_mut(&namespace) {
            entries.remove(&text);
            self.length -= 1;
            if entries.is_empty() {
                self.entries.remove(&namespace);
            }
        }
    }
}

impl Entry {
    fn add(&mut self, pod: &PodInfo, node: &str, labels: Option<&BTreeMap<String, String>>, delta: i64) {
        if !self.selector.matcher.matches(&pod.labels) {
            return;
        }
        let delta = Count { all: delta, live: if pod.terminating { 0 } else { delta } };
        change(&mut self.per_node, node, delta);
        for (key, places) in &mut self.places {
            if let Some(value) = labels.and_then(|labels| labels.get(key)) {
                change(places, value, delta);
            }
        }
    }
}

fn change(counts: &mut HashMap<String, Count>, key: &str, delta: Count) {
    let count = match counts.get_mut(key) {
        Some(count) => count,
        None => counts.entry(key.to_owned()).or_default(),
    };
    count.all += delta.all;
    count.live += delta.live;
    if count.all == 0 {
        counts.remove(key);
    }
}
