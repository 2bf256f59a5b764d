//! How many pods match a selector on each node, counted once and then along with each change.
//!
//! Invariant: an entry equals a fresh count of the placed pods. Entries are bounded; the one unused for longest goes.

use std::collections::HashMap;

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
    last_use: u64,
}

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

    pub fn start<'a>(&mut self, namespace: &str, selector: &Selector, placed: impl Iterator<Item = (&'a PodInfo, &'a str)>) {
        if self.length >= ENTRIES_MAX {
            self.drop_least_used();
        }
        let mut entry = Entry { selector: selector.clone(), per_node: HashMap::new(), last_use: self.uses };
        for (pod, node) in placed {
            entry.add(pod, node, 1);
        }
        self.entries.entry(namespace.to_owned()).or_default().insert(selector.text.clone(), entry);
        self.length += 1;
    }

    /// `delta` is 1 when a pod came to the node and -1 when it left.
    pub fn add(&mut self, pod: &PodInfo, node: &str, delta: i64) {
        for entry in self.entries.get_mut(&pod.key.namespace).into_iter().flat_map(HashMap::values_mut) {
            entry.add(pod, node, delta);
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
    fn add(&mut self, pod: &PodInfo, node: &str, delta: i64) {
        if !self.selector.matcher.matches(&pod.labels) {
            return;
        }
        let count = match self.per_node.get_mut(node) {
            Some(count) => count,
            None => self.per_node.entry(node.to_owned()).or_default(),
        };
        count.all += delta;
        count.live += if pod.terminating { 0 } else { delta };
        if count.all == 0 {
            self.per_node.remove(node);
        }
    }
}
