//! Where one installation keeps its things, so that several fit on one machine.
//!
//! The default data dir gets the plain names; any other gets names with a short hash of its path.

use std::path::{Path, PathBuf};

use crate::config::DEFAULT_DATA_DIR;

/// Paths and kernel names that follow from the data dir.
#[derive(Clone, Debug)]
pub struct Instance {
    pub data_dir: PathBuf,
    /// `coracle`, or `coracle-<hash>`: nftables table, run directory, cgroup.
    pub name: String,
    /// At most 15 bytes, as the kernel wants.
    pub bridge: String,
    /// The overlay's device, likewise.
    pub vxlan: String,
}

impl Instance {
    pub fn of(data_dir: &Path) -> Instance {
        if data_dir == Path::new(DEFAULT_DATA_DIR) {
            return Instance {
                data_dir: data_dir.into(),
                name: "coracle".into(),
                bridge: "coracle0".into(),
                vxlan: "coracle.vxlan".into(),
            };
        }
        let hash = api::hash::fnv32a(data_dir.to_string_lossy().as_bytes());
        Instance {
            data_dir: data_dir.into(),
            name: format!("coracle-{hash:08x}"),
            bridge: format!("cor{hash:08x}"),
            vxlan: format!("corv{hash:08x}"),
        }
    }

    /// Whether it is the installation that owns the machine.
    pub fn is_default(&self) -> bool {
        self.data_dir == Path::new(DEFAULT_DATA_DIR)
    }

    pub fn tls(&self) -> PathBuf {
        self.data_dir.join("server/tls")
    }

    /// The secret of the servers that share a datastore.
    pub fn server_token(&self) -> PathBuf {
        self.data_dir.join("server/token")
    }

    pub fn store(&self) -> PathBuf {
        self.data_dir.join("server/store")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.data_dir.join("server/snapshots")
    }

    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("server/admin.kubeconfig")
    }

    pub fn manifests(&self) -> PathBuf {
        self.data_dir.join("server/manifests")
    }

    pub fn log(&self) -> PathBuf {
        self.data_dir.join("server/coracle.log")
    }

    /// Locked while a server runs; holds its pid.
    pub fn lock(&self) -> PathBuf {
        self.data_dir.join("coracle.lock")
    }

    /// Likewise, for a component that runs alone.
    pub fn component_lock(&self, component: &str) -> PathBuf {
        self.data_dir.join(format!("{component}.lock"))
    }

    pub fn image_archives(&self) -> PathBuf {
        self.data_dir.join("agent/images")
    }

    pub fn image_store(&self) -> PathBuf {
        self.data_dir.join("agent/image-store")
    }

    pub fn runtime(&self) -> PathBuf {
        self.data_dir.join("agent/runtime")
    }

    pub fn kubelet(&self) -> PathBuf {
        self.data_dir.join("agent/kubelet")
    }

    /// Certificates of a node that has joined a cluster.
    pub fn pki(&self) -> PathBuf {
        self.data_dir.join("agent/pki")
    }

    /// Addresses of the cluster's servers, as last seen by a node.
    pub fn servers(&self) -> PathBuf {
        self.data_dir.join("agent/servers.json")
    }

    /// How the cluster is set up, as last seen by a node.
    pub fn cluster_settings(&self) -> PathBuf {
        self.data_dir.join("agent/cluster.json")
    }

    pub fn network(&self) -> PathBuf {
        self.data_dir.join("agent/network")
    }

    /// Sockets and namespaces: gone after a reboot.
    pub fn run(&self) -> PathBuf {
        Path::new("/run").join(&self.name)
    }

    /// Where the node is asked.
    pub fn socket(&self) -> PathBuf {
        self.run().join("coracle.sock")
    }

    /// Where the server is asked.
    pub fn server_socket(&self) -> PathBuf {
        self.run().join("server.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_by_default_and_distinct_otherwise() {
        assert_eq!(Instance::of(Path::new("/var/lib/coracle")).bridge, "coracle0");
        let (a, b) = (Instance::of(Path::new("/tmp/a")), Instance::of(Path::new("/tmp/b")));
        assert_ne!(a.name, b.name);
        assert!(a.bridge.len() <= 15 && a.vxlan.len() <= 15);
    }
}
