//! The pod's sandbox: host name, resolver, hosts file, ports, sysctls, as the runtime wants them.
//!
//! Invariant: pure; files are written by the worker from the texts made here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use runtime::cri::{DnsConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol};

use crate::container::security;
use crate::pod::spec;

/// The kernel's limit of a host name.
const HOSTNAME_LENGTH_MAX: usize = 63;
const FQDN_LENGTH_MAX: usize = 64;
/// As the C library and Kubernetes agree.
const SEARCHES_MAX: usize = 32;
const NAMESERVERS_MAX: usize = 3;

/// What the node knows about names.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The host's /etc/resolv.conf.
    pub host: DnsConfig,
}

pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut parsed = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => parsed.servers.extend(words.next().map(str::to_owned)),
            // The last one counts.
            Some("search" | "domain") => parsed.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect(),
            Some("options") => parsed.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    parsed.searches.retain(|search| !search.is_empty());
    parsed
}

pub fn write_resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

pub fn dns_config(pod: &Pod, resolver: &Resolver) -> DnsConfig {
    let spec = spec::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !spec::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut dns = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !resolver.cluster_dns.is_empty() {
        let domain = &resolver.cluster_domain;
        let mut searches = Vec::new();
        if !domain.is_empty() {
            searches.extend([format!("{}.svc.{domain}", spec::namespace(pod)), format!("svc.{domain}"), domain.clone()]);
        }
        searches.extend(resolver.host.searches.clone());
        DnsConfig { servers: resolver.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
    } else {
        resolver.host.clone()
    };
    if let Some(own) = &spec.dns_config {
        dns.servers.extend(own.nameservers.clone().unwrap_or_default());
        dns.searches.extend(own.searches.clone().unwrap_or_default());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let text = match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            };
            // One option is given once; the pod's own wins.
            dns.options.retain(|existing| existing.split(':').next() != Some(name.as_str()));
            dns.options.push(text);
        }
    }
    dedup(&mut dns.servers);
    dedup(&mut dns.searches);
    dns.servers.truncate(NAMESERVERS_MAX);
    dns.searches.truncate(SEARCHES_MAX);
    dns
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Host name and domain of the pod; the domain is empty without a subdomain.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<(String, String), String> {
    let spec = spec::spec(pod);
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return Ok((name.to_owned(), String::new()));
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(spec::name(pod));
    let mut name: String = name.chars().take(HOSTNAME_LENGTH_MAX).collect();
    // A cut may not end in a dash or dot.
    name.truncate(name.trim_end_matches(['-', '.']).len());
    let domain = match spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    Ok((name, domain))
}

/// What `hostname` answers inside the pod.
pub fn node_name_inside(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (name, domain) = hostname(pod, cluster_domain)?;
    if !spec::spec(pod).set_hostname_as_fqdn.unwrap_or(false) || domain.is_empty() {
        return Ok(name);
    }
    let whole = format!("{name}.{domain}");
    if whole.len() > FQDN_LENGTH_MAX {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too long ({FQDN_LENGTH_MAX} characters is the max, {} characters requested)",
            whole.len()
        ));
    }
    Ok(whole)
}

/// `host_file` is the node's own /etc/hosts, for pods in its network.
pub fn hosts_file(pod: &Pod, cluster_domain: &str, ips: &[String], host_file: &str) -> String {
    let mut text = if spec::host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (name, domain) = hostname(pod, cluster_domain).unwrap_or_default();
        for ip in ips {
            if domain.is_empty() {
                text.push_str(&format!("{ip}\t{name}\n"));
            } else {
                text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
            }
        }
        text
    };
    let aliases = spec::spec(pod).host_aliases.iter().flatten().collect::<Vec<_>>();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.clone().unwrap_or_default();
            text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
        }
    }
    text
}

/// Labels by which containers and sandboxes are found again after a restart.
pub fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert("io.kubernetes.pod.name".to_owned(), spec::name(pod).to_owned());
    labels.insert("io.kubernetes.pod.namespace".to_owned(), spec::namespace(pod).to_owned());
    labels.insert("io.kubernetes.pod.uid".to_owned(), spec::uid(pod).to_owned());
    labels
}

pub struct SandboxPlaces {
    pub log_directory: String,
    pub cgroup_parent: String,
    pub seccomp_root: std::path::PathBuf,
}

pub fn sandbox_config(pod: &Pod, attempt: u32, resolver: &Resolver, places: SandboxPlaces) -> Result<PodSandboxConfig, String> {
    let spec = spec::spec(pod);
    let mut port_mappings = Vec::new();
    for (_, container) in spec::containers(pod) {
        for port in container.ports.into_iter().flatten() {
            let (Some(host_port), Ok(container_port)) = (port.host_port, u16::try_from(port.container_port)) else { continue };
            port_mappings.push(PortMapping {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                container_port,
                host_port: u16::try_from(host_port).unwrap_or(0),
                host_ip: port.host_ip.unwrap_or_default(),
            });
        }
    }
    if spec::host_network(pod) {
        port_mappings.clear();
    }
    let security = spec.security_context.as_ref();
    let sysctls = security.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    Ok(PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            attempt,
        },
        hostname: if spec::host_network(pod) { String::new() } else { node_name_inside(pod, &resolver.cluster_domain)? },
        log_directory: places.log_directory,
        dns_config: dns_config(pod, resolver),
        port_mappings,
        labels: pod_labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        cgroup_parent: places.cgroup_parent,
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        namespaces: security::namespaces(pod),
        seccomp: security::seccomp(security.and_then(|context| context.seccomp_profile.as_ref()), &places.seccomp_root),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec})).expect("a pod")
    }

    #[track_caller]
    fn check_dns(mut spec: Value, expected: &str) {
        spec["containers"] = json!([]);
        let resolver = Resolver {
            cluster_dns: vec!["10.43.0.10".into()],
            cluster_domain: "cluster.local".into(),
            host: parse_resolv_conf("# note\nsearch corp.example.\nnameserver 1.1.1.1\noptions timeout:2\n"),
        };
        assert_eq!(write_resolv_conf(&dns_config(&pod(spec), &resolver)).replace('\n', "|"), expected);
    }

    #[test]
    fn resolver() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example|nameserver 10.43.0.10|options ndots:5|";
        check_dns(json!({}), cluster);
        check_dns(json!({"hostNetwork": true}), "search corp.example|nameserver 1.1.1.1|options timeout:2|");
        check_dns(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster);
        check_dns(json!({"dnsPolicy": "Default"}), "search corp.example|nameserver 1.1.1.1|options timeout:2|");
        check_dns(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "search a|nameserver 9.9.9.9|options ndots:2 edns0|",
        );
        check_dns(
            json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example|nameserver 10.43.0.10|options ndots:1|",
        );
    }

    #[track_caller]
    fn check_name(mut spec: Value, expected: Result<&str, &str>) {
        spec["containers"] = json!([]);
        let answer = node_name_inside(&pod(spec), "cluster.local");
        assert_eq!(answer.as_deref().map_err(|error| error.split(',').next().unwrap_or_default()), expected);
    }

    #[test]
    fn names() {
        check_name(json!({}), Ok("web"));
        check_name(json!({"hostname": "a", "subdomain": "b"}), Ok("a"));
        check_name(json!({"hostname": "a", "subdomain": "b", "setHostnameAsFQDN": true}), Ok("a.b.shop.svc.cluster.local"));
        check_name(
            json!({"hostname": "a".repeat(60), "subdomain": "b", "setHostnameAsFQDN": true}),
            Err("failed to construct FQDN from pod hostname and cluster domain"),
        );
        check_name(json!({"hostname": "a".repeat(70)}), Ok(&"a".repeat(63)));
    }

    #[test]
    fn hosts() {
        let own = hosts_file(
            &pod(json!({"containers": [], "hostname": "a", "subdomain": "b", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x", "y"]}]})),
            "cluster.local",
            &["10.0.0.1".into()],
            "",
        );
        assert!(own.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(own.ends_with("10.0.0.1\ta.b.shop.svc.cluster.local\ta\n\n# Entries added by HostAliases.\n1.2.3.4\tx\ty\n"));
        let host = hosts_file(&pod(json!({"containers": [], "hostNetwork": true})), "", &[], "127.0.0.1 me\n");
        assert_eq!(host, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n");
    }
}
