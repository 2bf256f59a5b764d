//! The cluster as the scheduler sees it: nodes with their pods, kept up to date one change at a time.
//!
//! Invariant: a pod that was given a node counts there from that moment (assumed) until the pod is seen gone or the
//! binding is known to have failed. Deliberately absent: the API; whoever watches tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::counts::{Count, Counted, MatchCounts, Places};
use crate::node_info::NodeInfo;
use crate::pod_info::{PodInfo, Selector};
use crate::repelling::Repelling;
use crate::storage::Storage;

#[derive(Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// Every pod that has a node, by uid.
    placed: HashMap<String, Placed>,
    by_namespace: HashMap<String, BTreeSet<String>>,
    /// Pods whose node is not known (yet, or any more), by its name.
    homeless: HashMap<String, BTreeSet<String>>,
    /// What pods keep away.
    pub repelling: Repelling,
    /// Uids of pods that draw or push others.
    pub weighing: BTreeSet<String>,
    /// Labels by namespace.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Pods that wait for victims to leave a node, by node.
    nominated: HashMap<String, Vec<Arc<PodInfo>>>,
    /// How many nodes have an image, by its name.
    image_nodes: HashMap<String, usize>,
    counts: MatchCounts,
    /// By topology key: how many nodes have each value of the label. Only for keys that were asked for.
    domains: HashMap<String, HashMap<String, usize>>,
    pub storage: Storage,
    /// Selectors of Services and of the owners of pods, for spreading by default.
    pub default_selectors: crate::default_spread::DefaultSelectors,
}

struct Placed {
    info: Arc<PodInfo>,
    node: String,
    assumed: bool,
}

impl Cluster {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|index| &self.nodes[*index])
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match self.by_name.get(&name) {
            Some(index) => {
                let index = *index;
                let moved = self.nodes[index].labels != node.metadata.labels.clone().unwrap_or_default();
                if moved {
                    self.count_repelling(index, -1);
                    self.forget_places();
                }
                self.count_images(index, false);
                self.nodes[index].set_node(node);
                self.count_images(index, true);
                if moved {
                    self.count_repelling(index, 1);
                }
            }
            None => {
                let mut info = NodeInfo::new(node);
                for uid in self.homeless.remove(&name).unwrap_or_default() {
                    if let Some(placed) = self.placed.get(&uid) {
                        info.add(placed.info.clone());
                    }
                }
                self.nodes.push(info);
                let index = self.nodes.len() - 1;
                self.by_name.insert(name, index);
                self.count_images(index, true);
                self.count_repelling(index, 1);
                self.forget_places();
            }
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.by_name.remove(name) else { return };
        self.count_images(index, false);
        self.count_repelling(index, -1);
        self.forget_places();
        let gone = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.by_name.insert(moved.name.clone(), index);
        }
        if !gone.pods.is_empty() {
            self.homeless.insert(name.to_owned(), gone.pods.into_keys().collect());
        }
    }

    /// The pod is on the node: as seen, or as just decided (`assumed`).
    pub fn place(&mut self, info: Arc<PodInfo>, node: &str, assumed: bool) {
        self.remove(&info.uid);
        self.unnominate(&info.uid);
        match self.by_name.get(node) {
            Some(index) => {
                self.nodes[*index].add(info.clone());
                self.repelling.add(&info, &self.nodes[*index].labels, 1);
            }
            None => {
                self.homeless.entry(node.to_owned()).or_default().insert(info.uid.clone());
            }
        }
        if info.weighs_on_others() {
            self.weighing.insert(info.uid.clone());
        }
        self.by_namespace.entry(info.key.namespace.clone()).or_default().insert(info.uid.clone());
        let labels = self.by_name.get(node).map(|index| &self.nodes[*index].labels);
        self.counts.add(&info, node, labels, 1);
        self.placed.insert(info.uid.clone(), Placed { info, node: node.to_owned(), assumed });
    }

    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let Placed { info, node, .. } = self.placed.remove(uid)?;
        match self.by_name.get(&node) {
            Some(index) => {
                self.nodes[*index].remove(uid);
                self.repelling.add(&info, &self.nodes[*index].labels, -1);
            }
            None => {
                if let Some(waiting) = self.homeless.get_mut(&node) {
                    waiting.remove(uid);
                    if waiting.is_empty() {
                        self.homeless.remove(&node);
                    }
                }
            }
        }
        self.weighing.remove(uid);
        if let Some(uids) = self.by_namespace.get_mut(&info.key.namespace) {
            uids.remove(uid);
            if uids.is_empty() {
                self.by_namespace.remove(&info.key.namespace);
            }
        }
        let labels = self.by_name.get(&node).map(|index| &self.nodes[*index].labels);
        self.counts.add(&info, &node, labels, -1);
        Some(info)
    }

    /// Takes back an assumption whose binding failed; what has been seen since stays.
    pub fn forget_assumed(&mut self, uid: &str) {
        if self.placed.get(uid).is_some_and(|placed| placed.assumed) {
            self.remove(uid);
        }
    }

    /// Whether the pod has been seen on its node, not only assumed there.
    pub fn is_confirmed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| !placed.assumed)
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// The pod and the node that it is on, if that is known.
    pub fn placed(&self, uid: &str) -> Option<(&Arc<PodInfo>, Option<&NodeInfo>)> {
        self.placed.get(uid).map(|placed| (&placed.info, self.node(&placed.node)))
    }

    pub fn placed_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        let uids = self.by_namespace.get(namespace).into_iter().flatten();
        uids.filter_map(|uid| self.placed.get(uid).map(|placed| &placed.info))
    }

    /// Whether a running pod other than `uid` uses the claim.
    pub fn claim_in_use(&self, namespace: &str, claim: &str, uid: &str) -> bool {
        self.placed_in(namespace).filter(|pod| pod.uid != uid).any(|pod| pod.claims.iter().any(|name| name == claim))
    }

    pub fn nominate(&mut self, info: Arc<PodInfo>, node: &str) {
        self.unnominate(&info.uid);
        self.nominated.entry(node.to_owned()).or_default().push(info);
    }

    /// Those of lower priority that waited for the node: whoever goes before them takes the room.
    pub fn unnominate_below(&mut self, node: &str, priority: i32) -> Vec<Arc<PodInfo>> {
        let Some(waiting) = self.nominated.remove(node) else { return Vec::new() };
        let (below, kept): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|info| info.priority < priority);
        if !kept.is_empty() {
            self.nominated.insert(node.to_owned(), kept);
        }
        below
    }

    pub fn unnominate(&mut self, uid: &str) {
        self.nominated.retain(|_, waiting| {
            waiting.retain(|info| info.uid != uid);
            !waiting.is_empty()
        });
    }

    /// The node that the pod waits for room on.
    pub fn nominated_node(&self, uid: &str) -> Option<&str> {
        let mut nominated = self.nominated.iter();
        nominated.find(|(_, waiting)| waiting.iter().any(|info| info.uid == uid)).map(|(node, _)| node.as_str())
    }

    /// Pods that wait for room on the node and have the right of way before `pod`.
    pub fn nominated_before<'a>(&'a self, node: &str, pod: &'a PodInfo) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let waiting = self.nominated.get(node).into_iter().flatten();
        waiting.filter(|other| other.uid != pod.uid && other.priority >= pod.priority)
    }

    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// Counts what the pod's terms select, so that `count` finds it; afterwards each change is counted along.
    pub fn prepare<'a>(&mut self, namespace: &str, selectors: impl IntoIterator<Item = &'a Selector>) {
        for selector in selectors {
            if self.counts.knows(namespace, selector) {
                continue;
            }
            let pods = self.by_namespace.get(namespace).into_iter().flatten();
            let placed = pods.filter_map(|uid| self.placed.get(uid)).map(|placed| (&*placed.info, placed.node.as_str()));
            self.counts.start(namespace, selector, placed);
        }
    }

    /// Counts ahead by a topology label what a selector selects, so that `places` and `domains` find it.
    pub fn prepare_places(&mut self, namespace: &str, selector: &Selector, topology_key: &str) {
        self.prepare(namespace, [selector]);
        let (by_name, nodes) = (&self.by_name, &self.nodes);
        self.counts.start_places(namespace, selector, topology_key, |node| by_name.get(node).map(|index| &nodes[*index].labels));
        if !self.domains.contains_key(topology_key) {
            let mut values: HashMap<String, usize> = HashMap::new();
            for value in self.nodes.iter().filter_map(|node| node.labels.get(topology_key)) {
                match values.get_mut(value) {
                    Some(count) => *count += 1,
                    None => drop(values.insert(value.clone(), 1)),
                }
            }
            self.domains.insert(topology_key.to_owned(), values);
        }
    }

    /// Matching pods by place, if that was prepared.
    pub fn places(&self, namespace: &str, selector: &Selector, topology_key: &str) -> Option<&Places> {
        self.counts.places(namespace, selector, topology_key)
    }

    /// How many nodes each place has, if that was prepared.
    pub fn domains(&self, topology_key: &str) -> Option<&HashMap<String, usize>> {
        self.domains.get(topology_key)
    }

    fn forget_places(&mut self) {
        self.counts.forget_places();
        self.domains.clear();
    }

    fn count_repelling(&mut self, index: usize, delta: i64) {
        let node = &self.nodes[index];
        for pod in node.pods.values() {
            self.repelling.add(pod, &node.labels, delta);
        }
    }

    /// Per node, how many placed pods of the namespace match.
    pub fn count(&self, namespace: &str, selector: &Selector) -> Counted<'_> {
        if let Some(kept) = self.counts.get(namespace, selector) {
            return Counted::Kept(kept);
        }
        let mut counts: HashMap<&str, Count> = HashMap::new();
        for uid in self.by_namespace.get(namespace).into_iter().flatten() {
            let Some(placed) = self.placed.get(uid) else { continue };
            if selector.matcher.matches(&placed.info.labels) {
                let count = counts.entry(placed.node.as_str()).or_default();
                count.all += 1;
                count.live += i64::from(!placed.info.terminating);
            }
        }
        Counted::Fresh(counts)
    }

    fn count_images(&mut self, index: usize, present: bool) {
        for image in self.nodes[index].images.keys() {
            let count = self.image_nodes.entry(image.clone()).or_insert(0);
            if present {
                *count += 1;
            } else {
                *count -= 1;
                if *count == 0 {
                    self.image_nodes.remove(image);
                }
            }
        }
    }
}
