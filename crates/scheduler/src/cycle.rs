//! What is worked out once for a pod before its nodes are looked at one by one.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::filters::pod_affinity::{self, AffinityCounts};
use crate::filters::topology_spread::{self, SpreadCounts};
use crate::filters::{Filter, Rejection};
use crate::node_info::NodeInfo;
use crate::node_selector::named_nodes;
use crate::pod_info::PodInfo;
use crate::storage::PodVolumes;

pub struct Cycle<'a> {
    pub pod: &'a PodInfo,
    pub cluster: &'a Cluster,
    pub spread: Vec<SpreadCounts<'a>>,
    pub affinity: AffinityCounts<'a>,
    pub volumes: std::rc::Rc<PodVolumes>,
    /// Volumes that a CSI driver would have to attach, with the driver.
    pub attachable: std::rc::Rc<BTreeMap<String, String>>,
    /// Some other pod uses a claim that only one pod may use.
    pub exclusive_claim_elsewhere: bool,
    /// Pods have been taken away for the sake of argument.
    pub relieved: bool,
}

impl<'a> Cycle<'a> {
    /// `Err` is a reason for which no node will do: the sentence, and who says so.
    pub fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Result<Self, (String, Filter)> {
        if pod.spec().is_some_and(|spec| spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())) {
            return Err(("resource claims are not supported by this scheduler".to_owned(), Filter::Unsupported));
        }
        if pod.spec().and_then(named_nodes).is_some_and(|names| names.is_empty()) {
            return Err(("pod affinity terms conflict".to_owned(), Filter::NodeAffinity));
        }
        let volumes = cluster.storage.of_pod(pod).map_err(|reason| (reason, Filter::VolumeBinding))?;
        let in_use = |claim: &String| cluster.claim_in_use(&pod.key.namespace, claim, &pod.uid);
        Ok(Cycle {
            pod,
            cluster,
            spread: topology_spread::count(pod, cluster),
            affinity: pod_affinity::count(pod, cluster),
            exclusive_claim_elsewhere: volumes.exclusive.iter().any(in_use),
            volumes: std::rc::Rc::new(volumes),
            attachable: std::rc::Rc::new(cluster.storage.attachable(&pod.key.namespace, &pod.claims).collect()),
            relieved: false,
        })
    }

    /// The same, with `added` on the node and `removed` gone from it, and the node likewise.
    pub fn supposing(&self, node: &NodeInfo, added: &[&PodInfo], removed: &[&PodInfo]) -> Cycle<'a> {
        let mut cycle = Cycle {
            pod: self.pod,
            cluster: self.cluster,
            spread: self.spread.clone(),
            affinity: self.affinity.clone(),
            volumes: self.volumes.clone(),
            attachable: self.attachable.clone(),
            exclusive_claim_elsewhere: self.exclusive_claim_elsewhere,
            relieved: self.relieved || !removed.is_empty(),
        };
        for (others, delta) in [(added, 1), (removed, -1)] {
            for other in others {
                topology_spread::adjust(&mut cycle.spread, self.pod, other, node, delta);
                pod_affinity::adjust(&mut cycle.affinity, self.pod, other, node, self.cluster, delta);
            }
        }
        cycle
    }

    /// All filters, with regard to pods that wait for room on the node and go first.
    pub fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        self.check_relieved(node, node)
    }

    /// The same for a node from which pods have been taken away for the sake of argument.
    pub fn check_relieved(&self, node: &NodeInfo, relieved: &NodeInfo) -> Result<(), Rejection> {
        let waiting: Vec<_> = self.cluster.nominated_before(&node.name, self.pod).collect();
        if !waiting.is_empty() {
            let mut crowded = relieved.clone();
            let added: Vec<&PodInfo> = waiting.iter().map(|pod| &***pod).collect();
            for pod in &waiting {
                crowded.add((*pod).clone());
            }
            crate::filters::check(&self.supposing(node, &added, &[]), &crowded)?;
        }
        // It must fit without them as well: they may never come, and what they would attract with them.
        crate::filters::check(self, relieved)
    }
}
