//! What `coracle server`, `agent` and `up` are told: flags, and a YAML file with the same keys.
//!
//! Invariant: a flag wins over the file, the file over the default; an unknown key is an error that names it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::api_flags::ApiFlags;
use crate::datastore::Datastore;
use crate::stub_domains::StubDomains;
use controllers::AddressPool;
use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use ipnet::IpNet;
use scheduler::SchedulerConfig;

pub const DEFAULT_DATA_DIR: &str = "/var/lib/coracle";
const DEFAULT_CONFIG_FILE: &str = "/etc/coracle/config.yaml";

/// One setting: its flag and key, its default (empty: none), and its help.
struct Setting {
    name: &'static str,
    default: &'static str,
    help: &'static str,
    kind: SettingKind,
}

#[derive(Clone, Copy, PartialEq)]
enum SettingKind {
    Value,
    /// May be given several times, and as a list in the file.
    List,
    Switch,
}

const fn value(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default, help, kind: SettingKind::Value }
}

const SETTINGS: &[Setting] = &[
    value("data-dir", DEFAULT_DATA_DIR, "Where everything is kept"),
    value("bind-address", "0.0.0.0", "Address that the API server listens on"),
    value("https-listen-port", "6443", "Port that the API server listens on"),
    value("advertise-address", "", "Address that the API server gives to the cluster (default: the node's)"),
    Setting { name: "tls-san", default: "", help: "Further names or addresses in the API server's certificate", kind: SettingKind::List },
    value("node-name", "", "Name of this node (default: the host name)"),
    value("node-ip", "", "Address of this node (default: that of the default route's interface)"),
    value("cluster-cidr", "10.42.0.0/16", "Addresses for pods"),
    value("service-cidr", "10.43.0.0/16", "Addresses for Services"),
    value("cluster-dns", "10.43.0.10", "Address of the cluster DNS, within the service CIDR"),
    value("cluster-domain", "cluster.local", "Domain of the cluster"),
    value("service-node-port-range", "30000-32767", "Ports for NodePort Services"),
    Setting { name: "nodeport-addresses", default: "", help: "CIDRs of the node addresses that serve NodePorts (default: all)", kind: SettingKind::List },
    value("cni-conf-dir", "/etc/cni/net.d", "Where CNI configurations are; with one, its plugins make pods' networks"),
    Setting { name: "cni-bin-dir", default: "/opt/cni/bin,/usr/lib/cni", help: "Where CNI plugins are", kind: SettingKind::List },
    Setting { name: "dns-stub-domain", default: "", help: "DOMAIN=ADDRESS[:PORT]: a name server that the cluster's DNS asks about a domain; several, and several of a domain, are possible", kind: SettingKind::List },
    Setting { name: "load-balancer-pool", default: "", help: "Addresses for Services of type LoadBalancer, CIDRs or FIRST-LAST (default: the nodes' own)", kind: SettingKind::List },
    value("kubelet-port", "10250", "Port of the kubelet's API"),
    value("max-pods", "110", "Pods that this node takes at most"),
    value("network-backend", "vxlan", "How pods reach other nodes: vxlan, host-gw (plain routes, where all nodes share a wire) or none"),
    value("node-lease-duration", "40s", "The node's lease lasts so long, and is renewed after a quarter of it"),
    value("max-container-restart-period", "5m", "The longest wait before a container that keeps ending is started again"),
    value("node-monitor-grace-period", "50s", "A node that is silent for so long is taken for dead"),
    value("cluster-signing-duration", "8760h", "How long certificates last that are signed upon request"),
    value("token", "", "The token by which this machine joins; on a server, the secret of all servers of one datastore"),
    value("write-kubeconfig", "", "Also write the admin kubeconfig to this file"),
    value("datastore-endpoint", "", "etcd to use in place of the embedded store, http(s)://HOST:2379[,...]"),
    value("datastore-cafile", "", "CA certificate of the etcd servers"),
    value("datastore-certfile", "", "Client certificate for etcd"),
    value("datastore-keyfile", "", "Client key for etcd"),
    value("container-runtime-endpoint", "", "CRI endpoint to use in place of the embedded runtime, unix:///..."),
    value("private-registry", "/etc/coracle/registries.yaml", "Mirrors, credentials and TLS of registries"),
    Setting { name: "disable", default: "", help: "Built-in parts to leave out: dns, proxy, scheduler, controller-manager, local-storage, servicelb, network-policy", kind: SettingKind::List },
    value("scheduler-config", "", "Profiles of the scheduler: a KubeSchedulerConfiguration"),
    Setting { name: "disable-agent", default: "", help: "Control plane alone: no node on this machine", kind: SettingKind::Switch },
    value("audit-policy-file", "", "Which requests are recorded: an audit.k8s.io/v1 Policy"),
    value("audit-log-path", "", "Where requests are recorded, - for the standard output"),
    value("audit-log-maxage", "0", "Days after which old audit logs go, 0 for never"),
    value("audit-log-maxbackup", "0", "Old audit logs that are kept, 0 for all"),
    value("audit-log-maxsize", "0", "Megabytes after which a new audit log is begun, 0 for never"),
    value("encryption-provider-config", "", "Which resources are stored encrypted: an EncryptionConfiguration"),
    value("token-auth-file", "", "Static tokens: lines token,user,uid[,\"groups\"]"),
    value("anonymous-auth", "true", "Whether requests without credentials are system:anonymous, or refused"),
    value("enable-priority-and-fairness", "true", "Whether flow schemas and priority levels count"),
    value("max-requests-inflight", "400", "Reads at work at once"),
    value("max-mutating-requests-inflight", "200", "Writes at work at once"),
    value("v", "2", "Log verbosity, 0 to 10"),
];

/// Everything resolved and checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub bind_address: IpAddr,
    pub https_listen_port: u16,
    pub advertise_address: Option<IpAddr>,
    pub tls_san: Vec<String>,
    pub node_name: String,
    pub node_ip: Option<IpAddr>,
    pub cluster_cidr: IpNet,
    pub service_cidr: IpNet,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub dns_stub_domains: StubDomains,
    pub node_ports: (u16, u16),
    pub nodeport_addresses: Vec<IpNet>,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dirs: Vec<PathBuf>,
    pub load_balancer_pool: Option<AddressPool>,
    pub network_backend: NetworkBackend,
    /// The number of the cluster's VXLAN; follows from its CA.
    pub vxlan_id: u32,
    pub node_lease_duration: Duration,
    pub max_container_restart_period: Duration,
    pub node_monitor_grace_period: Duration,
    pub cluster_signing_duration: Duration,
    pub token: String,
    pub datastore: Datastore,
    pub kubelet_port: u16,
    pub max_pods: u32,
    pub write_kubeconfig: Option<PathBuf>,
    pub private_registry: PathBuf,
    pub disable: Vec<String>,
    pub scheduler: SchedulerConfig,
    pub api: ApiFlags,
    pub disable_agent: bool,
    pub verbosity: u8,
}

impl Config {
    /// Whether a built-in part is to run: `dns`, `proxy`, `scheduler` and so on.
    pub fn enables(&self, part: &str) -> bool {
        !self.disable.iter().any(|disabled| disabled == part)
    }
}

/// How pods reach those of other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkBackend {
    Vxlan,
    HostGateway,
    /// Somebody else sees to it.
    None,
}

impl FromStr for NetworkBackend {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "vxlan" => Ok(NetworkBackend::Vxlan),
            "host-gw" => Ok(NetworkBackend::HostGateway),
            "none" => Ok(NetworkBackend::None),
            _ => Err("expected vxlan, host-gw or none"),
        }
    }
}

impl fmt::Display for NetworkBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NetworkBackend::Vxlan => "vxlan",
            NetworkBackend::HostGateway => "host-gw",
            NetworkBackend::None => "none",
        })
    }
}

/// The flags, for a clap command.
pub fn arguments(command: Command) -> Command {
    let command = command.arg(
        Arg::new("config").long("config").value_name("FILE").default_value(DEFAULT_CONFIG_FILE).help("YAML file with these settings"),
    );
    SETTINGS.iter().fold(command, |command, setting| {
        let mut arg = Arg::new(setting.name).help(setting.help);
        arg = if setting.name == "v" { arg.short('v') } else { arg.long(setting.name) };
        command.arg(match setting.kind {
            SettingKind::Value if setting.default.is_empty() => arg.value_name("VALUE"),
            SettingKind::Value => arg.value_name("VALUE").default_value(setting.default),
            SettingKind::List => {
                let arg = arg.value_name("VALUE").action(ArgAction::Append).value_delimiter(',');
                if setting.default.is_empty() { arg } else { arg.default_value(setting.default) }
            }
            SettingKind::Switch => arg.action(ArgAction::SetTrue),
        })
    })
}

/// Reads flags and file. The error is a sentence for the user.
pub fn resolve(matches: &ArgMatches) -> Result<Config, String> {
    let file = matches.get_one::<String>("config").map_or(DEFAULT_CONFIG_FILE, String::as_str);
    let explicit = matches.value_source("config") == Some(ValueSource::CommandLine);
    let from_file = read_file(Path::new(file), explicit)?;
    let values = SETTINGS
        .iter()
        .map(|setting| (setting.name, setting_values(setting, matches, &from_file)))
        .collect::<BTreeMap<_, _>>();
    check(&values)
}

/// Reads a text without flags, for tests and tools.
#[cfg(test)]
fn from_yaml(text: &str) -> Result<Config, String> {
    let matches = arguments(Command::new("test")).try_get_matches_from(["test"]).map_err(|cause| cause.to_string())?;
    let from_file = parse_file(text)?;
    let values = SETTINGS.iter().map(|setting| (setting.name, setting_values(setting, &matches, &from_file))).collect();
    check(&values)
}

fn setting_values(
    setting: &Setting,
    matches: &ArgMatches,
    from_file: &BTreeMap<String, Vec<String>>,
) -> Vec<String> {
    let on_command_line = matches.value_source(setting.name) == Some(ValueSource::CommandLine);
    if !on_command_line && let Some(values) = from_file.get(setting.name) {
        return values.clone();
    }
    match setting.kind {
        SettingKind::Switch => vec![matches.get_flag(setting.name).to_string()],
        _ => matches.get_many::<String>(setting.name).into_iter().flatten().cloned().collect(),
    }
}

fn read_file(path: &Path, explicit: bool) -> Result<BTreeMap<String, Vec<String>>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_file(&text).map_err(|cause| format!("{}: {cause}", path.display())),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound && !explicit => Ok(BTreeMap::new()),
        Err(cause) => Err(format!("{}: {cause}", path.display())),
    }
}

fn parse_file(text: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let parsed: BTreeMap<String, serde_json::Value> =
        serde_saphyr::from_str(text).map_err(|cause| cause.to_string())?;
    parsed
        .into_iter()
        .map(|(key, value)| {
            if !SETTINGS.iter().any(|setting| setting.name == key) {
                return Err(format!("unknown setting {key:?}"));
            }
            let scalar = |value: &serde_json::Value| match value {
                serde_json::Value::String(text) => Ok(text.clone()),
                serde_json::Value::Number(number) => Ok(number.to_string()),
                serde_json::Value::Bool(flag) => Ok(flag.to_string()),
                other => Err(format!("setting {key:?}: unexpected {other}")),
            };
            let values = match &value {
                serde_json::Value::Array(items) => items.iter().map(scalar).collect::<Result<_, _>>()?,
                single => vec![scalar(single)?],
            };
            Ok((key, values))
        })
        .collect()
}

fn check(values: &BTreeMap<&str, Vec<String>>) -> Result<Config, String> {
    let one = |name: &str| values.get(name).and_then(|it| it.first()).map_or("", String::as_str);
    let many = |name: &str| values.get(name).cloned().unwrap_or_default();
    for unsupported in ["container-runtime-endpoint"] {
        if !one(unsupported).is_empty() {
            return Err(format!("--{unsupported} is not supported yet"));
        }
    }
    let config = Config {
        data_dir: absolute(one("data-dir"))?,
        bind_address: parse("bind-address", one("bind-address"))?,
        https_listen_port: parse("https-listen-port", one("https-listen-port"))?,
        advertise_address: optional("advertise-address", one("advertise-address"))?,
        tls_san: many("tls-san"),
        node_name: node_name(one("node-name"))?,
        node_ip: optional("node-ip", one("node-ip"))?,
        cluster_cidr: parse("cluster-cidr", one("cluster-cidr"))?,
        service_cidr: parse("service-cidr", one("service-cidr"))?,
        cluster_dns: parse("cluster-dns", one("cluster-dns"))?,
        cluster_domain: one("cluster-domain").trim_end_matches('.').to_string(),
        dns_stub_domains: many("dns-stub-domain").join(",").parse().map_err(|cause| format!("--dns-stub-domain {cause}"))?,
        node_ports: port_range(one("service-node-port-range"))?,
        nodeport_addresses: many("nodeport-addresses")
            .iter()
            .map(|text| parse("nodeport-addresses", text))
            .collect::<Result<_, _>>()?,
        cni_conf_dir: one("cni-conf-dir").into(),
        cni_bin_dirs: many("cni-bin-dir").iter().map(PathBuf::from).collect(),
        load_balancer_pool: address_pool(&many("load-balancer-pool"))?,
        network_backend: parse("network-backend", one("network-backend"))?,
        vxlan_id: 1,
        node_lease_duration: positive("node-lease-duration", one("node-lease-duration"))?,
        max_container_restart_period: restart_period(one("max-container-restart-period"))?,
        node_monitor_grace_period: positive("node-monitor-grace-period", one("node-monitor-grace-period"))?,
        cluster_signing_duration: positive("cluster-signing-duration", one("cluster-signing-duration"))?,
        token: one("token").to_string(),
        datastore: Datastore::of(&one)?,
        kubelet_port: parse("kubelet-port", one("kubelet-port"))?,
        max_pods: parse("max-pods", one("max-pods"))?,
        write_kubeconfig: Some(one("write-kubeconfig")).filter(|it| !it.is_empty()).map(PathBuf::from),
        private_registry: one("private-registry").into(),
        disable: many("disable"),
        scheduler: scheduler_config(one("scheduler-config"))?,
        api: ApiFlags::parse(&one)?,
        disable_agent: parse("disable-agent", one("disable-agent"))?,
        verbosity: parse("v", one("v"))?,
    };
    if !config.service_cidr.contains(&config.cluster_dns) {
        return Err(format!("--cluster-dns {} is not within --service-cidr {}", config.cluster_dns, config.service_cidr));
    }
    let (pods, services) = (config.cluster_cidr, config.service_cidr);
    if pods.contains(&services) || services.contains(&pods) {
        return Err(format!("--cluster-cidr {pods} and --service-cidr {services} overlap"));
    }
    const PARTS: &[&str] = &["dns", "proxy", "scheduler", "controller-manager", "local-storage", "servicelb", "network-policy"];
    match config.disable.iter().find(|part| !PARTS.contains(&part.as_str())) {
        Some(part) => Err(format!("--disable {part}: unknown; one of {}", PARTS.join(", "))),
        None => Ok(config),
    }
}

fn scheduler_config(path: &str) -> Result<SchedulerConfig, String> {
    if path.is_empty() {
        return Ok(SchedulerConfig::default());
    }
    let text = std::fs::read_to_string(path).map_err(|cause| format!("--scheduler-config {path}: {cause}"))?;
    SchedulerConfig::from_yaml(&text).map_err(|cause| format!("--scheduler-config {path}: {cause}"))
}

fn parse<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|cause| format!("--{name} {text:?}: {cause}"))
}

/// As Go writes them: `90s`, `1m30s`, `24h`; `0` needs no unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| "expected a duration such as 90s, 1m30s or 24h".to_string())?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_string())
}

fn positive(name: &str, text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(duration) if duration.is_zero() => Err(format!("--{name} {text:?}: must be more than 0")),
        parsed => parsed.map_err(|problem| format!("--{name} {text:?}: {problem}")),
    }
}

/// Within the bounds of the original's `crashLoopBackOff.maxContainerRestartPeriod`.
fn restart_period(text: &str) -> Result<Duration, String> {
    let period = positive("max-container-restart-period", text)?;
    if (Duration::from_secs(1)..=kubelet::LONGEST_RESTART_WAIT).contains(&period) {
        return Ok(period);
    }
    Err(format!("--max-container-restart-period {text:?}: must be between 1s and 300s"))
}

fn optional(name: &str, text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() { Ok(None) } else { parse(name, text).map(Some) }
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|cause| format!("--data-dir {path:?}: {cause}"))
}

fn node_name(given: &str) -> Result<String, String> {
    let name = match given {
        "" => nix::unistd::gethostname()
            .map_err(|cause| format!("host name: {cause}"))?
            .to_string_lossy()
            .to_ascii_lowercase(),
        given => given.to_string(),
    };
    match api::names::dns1123_subdomain(&name).first() {
        Some(problem) => Err(format!("--node-name {name:?}: {problem}")),
        None => Ok(name),
    }
}

fn address_pool(texts: &[String]) -> Result<Option<AddressPool>, String> {
    let texts: Vec<String> = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
    if texts.is_empty() {
        return Ok(None);
    }
    AddressPool::parse(&texts).map(Some).map_err(|cause| format!("--load-balancer-pool {cause}"))
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let problem = || format!("--service-node-port-range {text:?}: expected FIRST-LAST");
    let (first, last) = text.split_once('-').ok_or_else(problem)?;
    let (first, last) = (first.trim().parse().map_err(|_| problem())?, last.trim().parse().map_err(|_| problem())?);
    if first == 0 || first > last { Err(problem()) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        let problem = from_yaml(text).map(|_| ()).expect_err("must be refused");
        assert!(problem.contains(expected), "{problem}");
    }

    #[test]
    fn the_file_has_the_flags_keys() {
        let config = from_yaml("https-listen-port: 7443\ndisable: [dns]\nnode-name: a\ndisable-agent: true").expect("parses");
        assert_eq!((config.https_listen_port, config.disable_agent), (7443, true));
        assert_eq!(config.disable, ["dns"]);
        assert_eq!(config.node_ports, (30000, 32767));
    }

    #[test]
    fn what_is_wrong_is_named() {
        check_error("data_dir: /x", "unknown setting \"data_dir\"");
        check_error("https-listen-port: 70000", "--https-listen-port \"70000\"");
        check_error("cluster-dns: 10.1.0.1", "not within --service-cidr");
        check_error("cluster-cidr: 10.0.0.0/8", "overlap");
        check_error("service-node-port-range: 5-1", "expected FIRST-LAST");
        check_error("max-requests-inflight: many", "--max-requests-inflight \"many\": expected a number");
        check_error("anonymous-auth: perhaps", "expected true or false");
        check_error("disable: [traefik]", "--disable traefik: unknown");
        check_error("node-name: A_b", "--node-name");
        check_error("load-balancer-pool: [x]", "--load-balancer-pool \"x\": expected an IPv4 CIDR");
        check_error("datastore-endpoint: x", "expected the URL of an etcd");
        check_error("network-backend: ipip", "expected vxlan, host-gw or none");
        check_error("max-container-restart-period: 10m", "must be between 1s and 300s");
        check_error("node-lease-duration: soon", "expected a duration such as 90s");
        check_error("node-lease-duration: 0", "must be more than 0");
    }
}
