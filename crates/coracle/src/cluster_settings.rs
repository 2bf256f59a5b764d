//! What every node of a cluster has to know alike: ranges, domain, how pods reach other nodes. The server publishes
//! it as ConfigMap `kube-public/coracle`; a node reads it when it joins and each time it starts, and keeps a copy for
//! a start without servers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::config::{Config, NetworkBackend};
use crate::stub_domains::StubDomains;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "coracle";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    pub cluster_cidr: IpNet,
    pub service_cidr: IpNet,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub dns_stub_domains: StubDomains,
    pub network_backend: NetworkBackend,
    /// Tells this cluster's packets from another's on the same wire.
    pub vxlan_id: u32,
}

impl ClusterSettings {
    /// Those of a server.
    pub fn of(config: &Config, authority_hash: &str) -> ClusterSettings {
        ClusterSettings {
            cluster_cidr: config.cluster_cidr,
            service_cidr: config.service_cidr,
            cluster_dns: config.cluster_dns,
            cluster_domain: config.cluster_domain.clone(),
            dns_stub_domains: config.dns_stub_domains.clone(),
            network_backend: config.network_backend,
            // 24 bits, and 0 means none.
            vxlan_id: u32::from_str_radix(authority_hash.get(..6).unwrap_or_default(), 16).unwrap_or(1).max(1),
        }
    }

    /// They win over what the node itself was told.
    pub fn apply_to(&self, config: &mut Config) {
        config.cluster_cidr = self.cluster_cidr;
        config.service_cidr = self.service_cidr;
        config.cluster_dns = self.cluster_dns;
        config.cluster_domain = self.cluster_domain.clone();
        config.dns_stub_domains = self.dns_stub_domains.clone();
        config.network_backend = self.network_backend;
        config.vxlan_id = self.vxlan_id;
    }

    pub async fn publish(&self, client: kube::Client) -> Result<(), kube::Error> {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": self.to_data(),
        });
        let maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
        maps.patch(NAME, &PatchParams::apply("coracle").force(), &Patch::Apply(&object)).await.map(drop)
    }

    pub async fn fetch(client: kube::Client) -> Result<ClusterSettings, FetchError> {
        let map = Api::<ConfigMap>::namespaced(client, NAMESPACE).get(NAME).await.map_err(FetchError::Api)?;
        ClusterSettings::from_data(&map.data.unwrap_or_default()).map_err(FetchError::Content)
    }

    pub fn keep(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(&self.to_data()).map_err(|cause| cause.to_string())?;
        apiserver::pki::write_private(path, &text).map_err(|cause| cause.to_string())
    }

    pub fn kept(path: &Path) -> Result<ClusterSettings, String> {
        let text = std::fs::read(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
        let data = serde_json::from_slice(&text).map_err(|cause| format!("{}: {cause}", path.display()))?;
        ClusterSettings::from_data(&data)
    }

    fn to_data(&self) -> BTreeMap<String, String> {
        [
            ("cluster-cidr", self.cluster_cidr.to_string()),
            ("service-cidr", self.service_cidr.to_string()),
            ("cluster-dns", self.cluster_dns.to_string()),
            ("cluster-domain", self.cluster_domain.clone()),
            ("dns-stub-domains", self.dns_stub_domains.to_string()),
            ("network-backend", self.network_backend.to_string()),
            ("vxlan-id", self.vxlan_id.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    fn from_data(data: &BTreeMap<String, String>) -> Result<ClusterSettings, String> {
        fn field<T: std::str::FromStr>(data: &BTreeMap<String, String>, key: &str) -> Result<T, String> {
            let text = data.get(key).ok_or_else(|| format!("ConfigMap {NAMESPACE}/{NAME} lacks {key}"))?;
            text.parse().map_err(|_| format!("ConfigMap {NAMESPACE}/{NAME}: {key} is {text:?}"))
        }
        Ok(ClusterSettings {
            cluster_cidr: field(data, "cluster-cidr")?,
            service_cidr: field(data, "service-cidr")?,
            cluster_dns: field(data, "cluster-dns")?,
            cluster_domain: field(data, "cluster-domain")?,
            // An older server does not tell.
            dns_stub_domains: if data.contains_key("dns-stub-domains") { field(data, "dns-stub-domains")? } else { StubDomains::default() },
            network_backend: field(data, "network-backend")?,
            vxlan_id: field(data, "vxlan-id")?,
        })
    }
}

#[derive(Debug)]
pub enum FetchError {
    Api(kube::Error),
    Content(String),
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FetchError::Api(cause) => cause.fmt(f),
            FetchError::Content(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for FetchError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_way_to_a_node() {
        let settings = ClusterSettings {
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            cluster_dns: "10.43.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            dns_stub_domains: "corp.example=10.0.0.1:53,corp.example=10.0.0.2:5353".parse().unwrap(),
            network_backend: NetworkBackend::HostGateway,
            vxlan_id: 77,
        };
        let mut data = settings.to_data();
        assert_eq!(ClusterSettings::from_data(&data), Ok(settings));
        data.remove("cluster-dns");
        assert_eq!(ClusterSettings::from_data(&data), Err("ConfigMap kube-public/coracle lacks cluster-dns".into()));
    }
}
