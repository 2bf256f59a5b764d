//! What every pod's worker shares: services, caches, settings of the node.

use std::path::PathBuf;
use std::sync::Arc;

use api::clock::Clock;
use client::{EventRecorder, Informer, Rest};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, Service};
use runtime::cri::{ImageService, RuntimeService};
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroups;
use crate::container::fields::Facts;
use crate::node::machine::Machine;
use crate::objects::Objects;
use crate::pod::spec;
use crate::sandbox::Resolver;
use crate::tokens::Tokens;
use crate::volume::Volumes;

pub struct Agent {
    pub node_name: String,
    pub node_ips: Vec<String>,
    pub longest_restart_wait: SignedDuration,
    /// `<data-dir>/agent/kubelet`: pods' directories are below.
    pub data_dir: PathBuf,
    /// As the original's /var/log/pods.
    pub log_dir: PathBuf,
    pub resolver: Resolver,
    pub machine: Machine,
    pub allocatable_cpu_millis: i64,
    pub allocatable_memory_bytes: i64,

    pub rest: Rest,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub clock: Clock,
    pub recorder: EventRecorder,
    pub objects: Arc<Objects>,
    pub tokens: Arc<Tokens>,
    pub volumes: Volumes,
    pub services: Arc<Informer<Service>>,
    pub cgroups: Cgroups,
    /// Woken when images came or went.
    pub images_changed: Arc<dyn Fn() + Send + Sync>,
    pub started: tokio::time::Instant,
    pub cancel: CancellationToken,
}

impl Agent {
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// `<namespace>_<name>_<uid>`, as log collectors expect it.
    pub fn pod_log_directory(&self, pod: &Pod) -> PathBuf {
        self.log_dir.join(format!("{}_{}_{}", spec::namespace(pod), spec::name(pod), spec::uid(pod)))
    }

    pub fn facts(&self, pod: &Pod, pod_ips: &[String]) -> Facts {
        let pod_ips = if spec::host_network(pod) { self.node_ips.clone() } else { pod_ips.to_vec() };
        Facts {
            pod_ips,
            host_ips: self.node_ips.clone(),
            allocatable_cpu_millis: self.allocatable_cpu_millis,
            allocatable_memory_bytes: self.allocatable_memory_bytes,
        }
    }
}
