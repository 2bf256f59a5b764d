//! The cluster's zone: what a name under the cluster domain means, after the Kubernetes DNS specification 1.1.0.
//!
//! Invariant: an answer is a function of what has been recorded and of the question. A name that does not exist and a
//! name without records of the asked-for type are told apart. Deliberately absent: sockets, caches, other zones.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Seconds that an answer from the zone may be kept.
pub const TTL_SECONDS: u32 = 5;
const SPECIFICATION: &str = "1.1.0";

#[derive(Debug, Default)]
pub struct Zone {
    /// `cluster.local`, lower case, without the last dot.
    domain: String,
    /// Where this server listens: the addresses of `ns.dns.<domain>`.
    own_addresses: Vec<IpAddr>,
    namespaces: BTreeSet<String>,
    services: HashMap<ServiceKey, Service>,
    /// Endpoint slices by Service, then by slice name.
    slices: HashMap<ServiceKey, BTreeMap<String, Slice>>,
}

/// Namespace and name.
pub type ServiceKey = (String, String);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// None for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    pub external_name: Option<String>,
    pub ports: Vec<Port>,
    pub publish_not_ready: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// Lower case.
    pub protocol: String,
    pub number: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<Port>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    pub hostname: Option<String>,
    pub ready: bool,
}

#[derive(Debug, Default, PartialEq)]
pub struct Records {
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
}

#[derive(Debug, PartialEq)]
pub enum Answer {
    Found(Records),
    /// The name stands for another, which may lie anywhere.
    Alias { record: Box<Record>, target: Name },
    /// The name exists, records of this type do not.
    NoData,
    NoName,
    /// Not a name of this zone.
    Elsewhere,
}

/// What a name stands for, whatever the type asked for.
enum Meaning<'a> {
    Apex,
    /// An inner node of the tree without records of its own.
    Inner,
    Version,
    NameServer,
    Service(&'a ServiceKey, &'a Service),
    Port(&'a ServiceKey, &'a Service, &'a str, &'a str),
    Addresses(Vec<IpAddr>),
}

impl Zone {
    pub fn new(domain: &str, own_addresses: Vec<IpAddr>) -> Self {
        Zone { domain: domain.trim_matches('.').to_ascii_lowercase(), own_addresses, ..Zone::default() }
    }

    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        if exists {
            self.namespaces.insert(name.to_owned());
        } else {
            self.namespaces.remove(name);
        }
    }

    pub fn set_service(&mut self, key: ServiceKey, service: Option<Service>) {
        match service {
            Some(service) => drop(self.services.insert(key, service)),
            None => drop(self.services.remove(&key)),
        }
    }

    pub fn set_slice(&mut self, key: ServiceKey, name: &str, slice: Option<Slice>) {
        match slice {
            Some(slice) => drop(self.slices.entry(key).or_default().insert(name.to_owned(), slice)),
            None => {
                if let Some(slices) = self.slices.get_mut(&key) {
                    slices.remove(name);
                    if slices.is_empty() {
                        self.slices.remove(&key);
                    }
                }
            }
        }
    }

    /// `turn` shifts the order of addresses, so that clients that take the first are spread.
    pub fn answer(&self, name: &Name, record_type: RecordType, turn: usize) -> Answer {
        let Some(labels) = labels_of(name) else { return Answer::Elsewhere };
        let domain: Vec<&str> = self.domain.split('.').collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let Some(inner) = labels.strip_suffix(&domain[..]) else {
            return self.reverse(name, &labels, record_type);
        };
        match self.meaning(inner) {
            None => Answer::NoName,
            Some(meaning) => self.records(name, &meaning, record_type, turn),
        }
    }

    /// The name that a client is after when it asks the first name of its search path, `<what it is after>.<namespace>.svc.<domain>`,
    /// which does not exist; with its last dot. None for all other names, and for what could be a name below a Service.
    pub fn searched(&self, name: &Name) -> Option<Name> {
        let labels = labels_of(name)?;
        let domain: Vec<&str> = self.domain.split('.').collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let [wanted @ .., last, namespace, "svc"] = labels.strip_suffix(&domain[..])? else { return None };
        let is_below_service = self.services.contains_key(&((*namespace).to_owned(), (*last).to_owned()));
        let is_service_record = wanted.iter().chain([last]).any(|label| label.starts_with('_'));
        if wanted.is_empty() || is_below_service || is_service_record || !self.namespaces.contains(*namespace) {
            return None;
        }
        let mut found = Name::from_labels(name.iter().take(wanted.len() + 1)).ok()?;
        found.set_fqdn(true);
        Some(found)
    }

    /// The rest of the search path within the cluster domain: `<name>.svc.<domain>` and `<name>.<domain>`.
    pub fn search_path(&self, wanted: &Name) -> Vec<Name> {
        let domains = [absolute(&format!("svc.{}", self.domain)), absolute(&self.domain)];
        domains.iter().filter_map(|domain| wanted.clone().append_domain(domain).ok()).collect()
    }

    pub fn has_addresses(&self, name: &Name) -> bool {
        let answers = |record_type| matches!(self.answer(name, record_type, 0), Answer::Found(_) | Answer::Alias { .. });
        answers(RecordType::A) || answers(RecordType::AAAA)
    }

    /// For the authority section of answers without records.
    pub fn start_of_authority(&self) -> Record {
        let zone = absolute(&self.domain);
        let server = absolute(&format!("ns.dns.{}", self.domain));
        let mailbox = absolute(&format!("hostmaster.{}", self.domain));
        Record::from_rdata(zone, TTL_SECONDS, RData::SOA(SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL_SECONDS)))
    }

    fn meaning<'a>(&'a self, inner: &[&'a str]) -> Option<Meaning<'a>> {
        match inner {
            [] => Some(Meaning::Apex),
            ["dns-version"] => Some(Meaning::Version),
            ["dns"] | ["svc"] | ["pod"] => Some(Meaning::Inner),
            ["ns", "dns"] => Some(Meaning::NameServer),
            [namespace, "svc" | "pod"] => self.namespaces.contains(*namespace).then_some(Meaning::Inner),
            [address, namespace, "pod"] => {
                let address = dashed_address(address)?;
                self.namespaces.contains(*namespace).then(|| Meaning::Addresses(vec![address]))
            }
            [inside @ .., service, namespace, "svc"] => self.inside_service(inside, service, namespace),
            _ => None,
        }
    }

    fn inside_service<'a>(&'a self, inside: &[&'a str], service: &str, namespace: &str) -> Option<Meaning<'a>> {
        let (key, service) = self.services.get_key_value(&(namespace.to_owned(), service.to_owned()))?;
        match inside {
            [] => Some(Meaning::Service(key, service)),
            [protocol] if protocol.starts_with('_') => {
                let known = self.ports(key, service).iter().any(|port| format!("_{}", port.protocol) == *protocol);
                known.then_some(Meaning::Inner)
            }
            [port, protocol] => {
                let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
                let known = self.ports(key, service).iter().any(|known| known.name == port && known.protocol == protocol);
                known.then_some(Meaning::Port(key, service, port, protocol))
            }
            [host] if service.is_headless() => {
                let named = self.endpoints(key, service).filter(|(_, endpoint)| endpoint.names().any(|name| name == *host));
                let addresses: Vec<IpAddr> = named.flat_map(|(_, endpoint)| endpoint.addresses_named(host)).collect();
                (!addresses.is_empty()).then_some(Meaning::Addresses(addresses))
            }
            _ => None,
        }
    }

    fn records(&self, name: &Name, meaning: &Meaning<'_>, record_type: RecordType, turn: usize) -> Answer {
        let record = |data: RData| Record::from_rdata(name.clone(), TTL_SECONDS, data);
        let found = |answers: Vec<Record>| match answers.is_empty() {
            true => Answer::NoData,
            false => Answer::Found(Records { answers, additionals: Vec::new() }),
        };
        let addresses = |addresses: Vec<IpAddr>| {
            let mut answers: Vec<Record> = addresses.into_iter().filter_map(|address| address_record(name, address, record_type)).collect();
            if !answers.is_empty() {
                let middle = turn % answers.len();
                answers.rotate_left(middle);
            }
            found(answers)
        };
        match (meaning, record_type) {
            (Meaning::Service(_, service), _) if service.external_name.is_some() => {
                let external = service.external_name.as_deref().unwrap_or_default();
                let Ok(mut target) = Name::from_ascii(external) else { return Answer::NoData };
                target.set_fqdn(true);
                match record_type {
                    RecordType::A | RecordType::AAAA | RecordType::CNAME => {
                        Answer::Alias { record: Box::new(record(RData::CNAME(CNAME(target.clone())))), target }
                    }
                    _ => Answer::NoData,
                }
            }
            (Meaning::Apex, RecordType::SOA) => found(vec![self.start_of_authority()]),
            (Meaning::Apex, RecordType::NS) => found(vec![record(RData::NS(NS(absolute(&format!("ns.dns.{}", self.domain)))))]),
            (Meaning::Version, RecordType::TXT) => found(vec![record(RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()])))]),
            (Meaning::NameServer, RecordType::A | RecordType::AAAA) => addresses(self.own_addresses.clone()),
            (Meaning::Addresses(them), RecordType::A | RecordType::AAAA) => addresses(them.clone()),
            (Meaning::Service(key, service), RecordType::A | RecordType::AAAA) => addresses(self.addresses(key, service)),
            (Meaning::Service(key, service), RecordType::SRV) => self.services_at(name, key, service, |_| true),
            (Meaning::Port(key, service, port, protocol), RecordType::SRV) => {
                self.services_at(name, key, service, |known| known.name == *port && known.protocol == *protocol)
            }
            _ => Answer::NoData,
        }
    }

    /// SRV records with the addresses of their targets.
    fn services_at(&self, name: &Name, key: &ServiceKey, service: &Service, wanted: impl Fn(&Port) -> bool) -> Answer {
        let service_name = format!("{}.{}.svc.{}", key.1, key.0, self.domain);
        let mut records = Records::default();
        let mut add = |port: u16, target: &Name, addresses: &[IpAddr]| {
            let data = SRV::new(0, 100, port, target.clone());
            let record = Record::from_rdata(name.clone(), TTL_SECONDS, RData::SRV(data));
            if records.answers.contains(&record) {
                return;
            }
            records.answers.push(record);
            for address in addresses {
                let both = [RecordType::A, RecordType::AAAA];
                let record = both.into_iter().find_map(|record_type| address_record(target, *address, record_type));
                records.additionals.extend(record.filter(|record| !records.additionals.contains(record)));
            }
        };
        if service.is_headless() {
            for (slice, endpoint) in self.endpoints(key, service) {
                for port in slice.ports.iter().filter(|port| wanted(port)) {
                    for address in &endpoint.addresses {
                        let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                        if let Ok(target) = Name::from_ascii(format!("{host}.{service_name}.")) {
                            add(port.number, &target, &[*address]);
                        }
                    }
                }
            }
        } else {
            let target = absolute(&service_name);
            for port in service.ports.iter().filter(|port| wanted(port)) {
                add(port.number, &target, &service.cluster_ips);
            }
        }
        if records.answers.is_empty() { Answer::NoData } else { Answer::Found(records) }
    }

    fn addresses(&self, key: &ServiceKey, service: &Service) -> Vec<IpAddr> {
        if !service.is_headless() {
            return service.cluster_ips.clone();
        }
        // An endpoint may stand in two slices while it moves from one to the other.
        let addresses: BTreeSet<IpAddr> = self.endpoints(key, service).flat_map(|(_, endpoint)| endpoint.addresses.clone()).collect();
        addresses.into_iter().collect()
    }

    fn endpoints<'a>(&'a self, key: &ServiceKey, service: &Service) -> impl Iterator<Item = (&'a Slice, &'a Endpoint)> {
        let all = service.publish_not_ready;
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        let pairs = slices.flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)));
        pairs.filter(move |(_, endpoint)| all || endpoint.ready)
    }

    fn ports(&self, key: &ServiceKey, service: &Service) -> Vec<Port> {
        let mut ports = service.ports.clone();
        if service.is_headless() {
            ports = self.endpoints(key, service).flat_map(|(slice, _)| slice.ports.clone()).collect();
        }
        ports.retain(|port| !port.name.is_empty());
        ports
    }

    /// Names of addresses: cluster IPs, and endpoints of headless Services. Others may be known elsewhere.
    fn reverse(&self, name: &Name, labels: &[&str], record_type: RecordType) -> Answer {
        let Some(address) = address_of_arpa(labels) else { return Answer::Elsewhere };
        let mut names = Vec::new();
        for (key, service) in &self.services {
            let service_name = format!("{}.{}.svc.{}", key.1, key.0, self.domain);
            if service.cluster_ips.contains(&address) {
                names.push(service_name);
            } else if service.is_headless() {
                let here = self.endpoints(key, service).filter(|(_, endpoint)| endpoint.addresses.contains(&address));
                let host = |endpoint: &Endpoint| endpoint.hostname.clone().unwrap_or_else(|| dashed(&address));
                names.extend(here.map(|(_, endpoint)| format!("{}.{service_name}", host(endpoint))));
            }
        }
        names.sort();
        names.dedup();
        let pointer = |target: &String| {
            let target = Name::from_ascii(format!("{target}.")).ok()?;
            Some(Record::from_rdata(name.clone(), TTL_SECONDS, RData::PTR(PTR(target))))
        };
        match names.is_empty() {
            true => Answer::Elsewhere,
            false if record_type != RecordType::PTR => Answer::NoData,
            false => Answer::Found(Records { answers: names.iter().filter_map(pointer).collect(), additionals: Vec::new() }),
        }
    }
}

impl Service {
    fn is_headless(&self) -> bool {
        self.cluster_ips.is_empty() && self.external_name.is_none()
    }
}

impl Endpoint {
    fn names(&self) -> impl Iterator<Item = String> {
        let dashed = self.addresses.iter().map(dashed);
        self.hostname.clone().into_iter().chain(dashed)
    }

    fn addresses_named(&self, host: &str) -> Vec<IpAddr> {
        let by_hostname = self.hostname.as_deref() == Some(host);
        self.addresses.iter().filter(|address| by_hostname || dashed(address) == host).copied().collect()
    }
}

fn address_record(name: &Name, address: IpAddr, record_type: RecordType) -> Option<Record> {
    let data = match (address, record_type) {
        (IpAddr::V4(address), RecordType::A) => RData::A(A(address)),
        (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(AAAA(address)),
        _ => return None,
    };
    Some(Record::from_rdata(name.clone(), TTL_SECONDS, data))
}

/// Lower case; `None` if a label is no text, which no name of ours is.
fn labels_of(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase())).collect()
}

/// The name of something that exists in the cluster; such names are valid.
fn absolute(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).unwrap_or_else(|_| Name::root())
}

fn dashed(address: &IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn dashed_address(label: &str) -> Option<IpAddr> {
    if label.split('-').count() == 4 && let Ok(address) = label.replace('-', ".").parse() {
        return Some(IpAddr::V4(address));
    }
    label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn address_of_arpa(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [octets @ .., "in-addr", "arpa"] if octets.len() == 4 => {
            let text: Vec<&str> = octets.iter().rev().copied().collect();
            text.join(".").parse().ok().map(IpAddr::V4)
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 && nibbles.iter().all(|nibble| nibble.len() == 1) => {
            let text: String = nibbles.iter().rev().copied().collect();
            u128::from_str_radix(&text, 16).ok().map(|bits| IpAddr::V6(bits.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone::new("cluster.local", vec!["10.43.0.10".parse().unwrap()]);
        zone.set_namespace("default", true);
        zone.set_namespace("team", true);
        let port = |name: &str, protocol: &str, number| Port { name: name.into(), protocol: protocol.into(), number };
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        let ips = |text: &str| text.split_whitespace().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let web = Service { cluster_ips: ips("10.43.0.5 fd00::5"), ports: vec![port("http", "tcp", 80), port("", "tcp", 81)], ..Default::default() };
        zone.set_service(key("web"), Some(web));
        zone.set_service(key("db"), Some(Service { ports: vec![port("sql", "tcp", 5432)], ..Default::default() }));
        let endpoint = |ip: &str, hostname: Option<&str>, ready| Endpoint { addresses: ips(ip), hostname: hostname.map(Into::into), ready };
        let endpoints = vec![endpoint("10.42.0.7", Some("db-0"), true), endpoint("10.42.0.8", None, true), endpoint("10.42.0.9", Some("db-2"), false)];
        zone.set_slice(key("db"), "db-x", Some(Slice { endpoints, ports: vec![port("sql", "tcp", 5432)] }));
        zone.set_service(key("all"), Some(Service { publish_not_ready: true, ..Default::default() }));
        zone.set_slice(key("all"), "all-x", Some(Slice { endpoints: vec![endpoint("10.42.0.9", None, false)], ports: vec![] }));
        zone.set_service(key("out"), Some(Service { external_name: Some("example.com".into()), ..Default::default() }));
        zone
    }

    /// Records as `data`, additional ones in brackets, the ways of having none as words.
    #[track_caller]
    fn check(name: &str, record_type: RecordType, expected: &str) {
        let name = Name::from_ascii(name).unwrap();
        let show = |record: &Record| record.data.to_string();
        let answer = match zone().answer(&name, record_type, 0) {
            Answer::Found(records) => {
                let answers = records.answers.iter().inspect(|record| assert_eq!(record.ttl, 5)).map(show);
                let additionals = records.additionals.iter().map(|record| format!("[{} {}]", record.name, record.data));
                answers.chain(additionals).collect::<Vec<_>>().join(", ")
            }
            Answer::Alias { target, .. } => format!("alias {target}"),
            Answer::NoData => "no data".to_owned(),
            Answer::NoName => "no name".to_owned(),
            Answer::Elsewhere => "elsewhere".to_owned(),
        };
        assert_eq!(answer, expected, "{name} {record_type}");
    }

    #[test]
    fn knows_services() {
        use RecordType::*;
        check("web.default.svc.cluster.local.", A, "10.43.0.5");
        check("WEB.Default.svc.CLUSTER.local.", A, "10.43.0.5");
        check("web.default.svc.cluster.local.", AAAA, "fd00::5");
        check("web.default.svc.cluster.local.", MX, "no data");
        check("db.default.svc.cluster.local.", A, "10.42.0.7, 10.42.0.8");
        check("db.default.svc.cluster.local.", AAAA, "no data");
        check("all.default.svc.cluster.local.", A, "10.42.0.9");
        check("out.default.svc.cluster.local.", A, "alias example.com.");
        check("out.default.svc.cluster.local.", SRV, "no data");
        check("web.team.svc.cluster.local.", A, "no name");
    }

    #[test]
    fn knows_ports() {
        use RecordType::SRV;
        let web = "web.default.svc.cluster.local.";
        check("_http._tcp.web.default.svc.cluster.local.", SRV, &format!("0 100 80 {web}, [{web} 10.43.0.5], [{web} fd00::5]"));
        check("_http._tcp.web.default.svc.cluster.local.", RecordType::A, "no data");
        check("_https._tcp.web.default.svc.cluster.local.", SRV, "no name");
        check("_http._udp.web.default.svc.cluster.local.", SRV, "no name");
        check("_tcp.web.default.svc.cluster.local.", SRV, "no data");
        let first = "db-0.db.default.svc.cluster.local.";
        let second = "10-42-0-8.db.default.svc.cluster.local.";
        let expected = format!("0 100 5432 {first}, 0 100 5432 {second}, [{first} 10.42.0.7], [{second} 10.42.0.8]");
        check("_sql._tcp.db.default.svc.cluster.local.", SRV, &expected);
    }

    #[test]
    fn knows_pods() {
        use RecordType::*;
        check("db-0.db.default.svc.cluster.local.", A, "10.42.0.7");
        check("10-42-0-7.db.default.svc.cluster.local.", A, "10.42.0.7");
        check("db-2.db.default.svc.cluster.local.", A, "no name"); // Not ready.
        check("db-0.web.default.svc.cluster.local.", A, "no name");
        check("10-1-2-3.default.pod.cluster.local.", A, "10.1.2.3");
        check("10-1-2-3.default.pod.cluster.local.", AAAA, "no data");
        check("fd00--5.default.pod.cluster.local.", AAAA, "fd00::5");
        check("10-1-2-3.nobody.pod.cluster.local.", A, "no name");
        check("10-1-2.default.pod.cluster.local.", A, "no name");
    }

    #[test]
    fn knows_its_tree() {
        use RecordType::*;
        check("cluster.local.", A, "no data");
        check("cluster.local.", SOA, "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5");
        check("cluster.local.", NS, "ns.dns.cluster.local.");
        check("ns.dns.cluster.local.", A, "10.43.0.10");
        check("dns-version.cluster.local.", TXT, "1.1.0");
        check("svc.cluster.local.", A, "no data");
        check("default.svc.cluster.local.", A, "no data");
        check("nobody.svc.cluster.local.", A, "no name");
    }

    #[test]
    fn knows_what_a_search_is_for() {
        let check = |name: &str, expected: Option<&str>| {
            let found = zone().searched(&Name::from_ascii(name).unwrap());
            assert_eq!(found.map(|found| found.to_string()).as_deref(), expected, "{name}");
        };
        check("example.com.default.svc.cluster.local.", Some("example.com."));
        check("Web.Default.team.svc.cluster.local.", Some("Web.Default."));
        check("web.default.svc.cluster.local.team.svc.cluster.local.", Some("web.default.svc.cluster.local."));
        check("example.default.svc.cluster.local.", None);
        check("example.com.nobody.svc.cluster.local.", None);
        check("db-9.db.default.svc.cluster.local.", None);
        check("_sql._tcp.db.team.svc.cluster.local.", None);
        check("example.com.svc.cluster.local.", None);
        check("example.com.", None);
        let path = zone().search_path(&Name::from_ascii("example.com.").unwrap());
        let path: Vec<String> = path.iter().map(ToString::to_string).collect();
        assert_eq!(path, ["example.com.svc.cluster.local.", "example.com.cluster.local."]);
    }

    #[test]
    fn names_of_the_search_path_do_not_exist() {
        use RecordType::A;
        check("example.com.default.svc.cluster.local.", A, "no name");
        check("example.com.svc.cluster.local.", A, "no name");
        check("example.com.cluster.local.", A, "no name");
        check("example.com.", A, "elsewhere");
        check("local.", A, "elsewhere");
        check(".", A, "elsewhere");
    }

    #[test]
    fn knows_names_of_addresses() {
        use RecordType::PTR;
        check("5.0.43.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local.");
        check("7.0.42.10.in-addr.arpa.", PTR, "db-0.db.default.svc.cluster.local.");
        check("8.0.42.10.in-addr.arpa.", PTR, "10-42-0-8.db.default.svc.cluster.local.");
        check("5.0.43.10.in-addr.arpa.", RecordType::A, "no data");
        check("8.8.8.8.in-addr.arpa.", PTR, "elsewhere");
        let v6 = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
        check(v6, PTR, "web.default.svc.cluster.local.");
    }

    #[test]
    fn takes_turns() {
        let name = Name::from_ascii("db.default.svc.cluster.local.").unwrap();
        let first = |turn| match zone().answer(&name, RecordType::A, turn) {
            Answer::Found(records) => records.answers[0].data.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!([first(0), first(1), first(2)], ["10.42.0.7", "10.42.0.8", "10.42.0.7"]);
    }

    #[test]
    fn forgets_what_is_gone() {
        let mut zone = zone();
        let key = ("default".to_owned(), "db".to_owned());
        let name = Name::from_ascii("db.default.svc.cluster.local.").unwrap();
        zone.set_slice(key.clone(), "db-x", None);
        assert_eq!(zone.answer(&name, RecordType::A, 0), Answer::NoData);
        zone.set_service(key, None);
        assert_eq!(zone.answer(&name, RecordType::A, 0), Answer::NoName);
    }
}
