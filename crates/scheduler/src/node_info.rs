//! A node with what the pods on it have taken.
//!
//! Invariant: `requested`, `assumed_requested` and the used ports are the sums over `pods`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod_info::{HostPort, PodInfo};
use crate::resources::{Resources, whole};

#[derive(Clone)]
pub struct NodeInfo {
    pub name: String,
    pub node: Arc<Node>,
    pub labels: BTreeMap<String, String>,
    pub allocatable: Resources,
    pub allocatable_pods: i64,
    pub requested: Resources,
    /// milli-CPU and bytes, see `PodInfo::assumed_requests`.
    pub assumed_requested: (i64, i64),
    /// By uid.
    pub pods: BTreeMap<String, Arc<PodInfo>>,
    /// Bytes of the images on it, by name.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        let mut info = NodeInfo {
            name: node.metadata.name.clone().unwrap_or_default(),
            node: node.clone(),
            labels: BTreeMap::new(),
            allocatable: Resources::default(),
            allocatable_pods: 0,
            requested: Resources::default(),
            assumed_requested: (0, 0),
            pods: BTreeMap::new(),
            images: HashMap::new(),
        };
        info.set_node(node);
        info
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::of(allocatable);
        self.allocatable_pods = allocatable.and_then(|amounts| amounts.get("pods")).map_or(0, whole);
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
        self.images = images
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.node = node;
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.uid);
        self.requested.add(&pod.requests);
        self.assumed_requested.0 += pod.assumed_requests.0;
        self.assumed_requested.1 += pod.assumed_requests.1;
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        self.assumed_requested.0 -= pod.assumed_requests.0;
        self.assumed_requested.1 -= pod.assumed_requests.1;
        Some(pod)
    }

    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    pub fn is_cordoned(&self) -> bool {
        self.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
    }

    pub fn has_port_free(&self, wanted: &HostPort) -> bool {
        let mut taken = self.pods.values().flat_map(|pod| &pod.host_ports);
        !taken.any(|taken| taken.conflicts(wanted))
    }
}
