//! Cluster IPs and node ports of Services.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::ip_range::IpRange;
use super::pool::Pool;
use super::published::Published;
use super::{AllocateConfig, ports};
use crate::allocation::{Allocate, Reservation};
use crate::error::RequestError;
use crate::kinds::{Cursor, Kind, Problems};

pub struct ServiceAllocator {
    /// The families of the cluster: by them a Service's families are chosen.
    ipv4: Vec<bool>,
    published: Box<dyn Published>,
    node_ports: RangeInclusive<u16>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// What stored Services hold.
    stored: Taken,
    /// What writes under way have taken.
    reserved: Taken,
    random: StdRng,
}

#[derive(Default)]
struct Taken {
    ips: Pool<IpAddr>,
    /// By protocol and number: DNS may have the same number for UDP and TCP.
    ports: Pool<(String, u16)>,
}

/// What a Service holds.
#[derive(Default, Clone)]
pub struct Holdings {
    pub ips: Vec<IpAddr>,
    pub ports: Vec<(String, u16)>,
}

impl ServiceAllocator {
    pub fn new(config: AllocateConfig, published: Box<dyn Published>) -> Self {
        ServiceAllocator {
            ipv4: config.service_cidrs.iter().map(|range| range.addr().is_ipv4()).collect(),
            published,
            node_ports: config.node_ports,
            state: Arc::new(Mutex::new(State { stored: Taken::default(), reserved: Taken::default(), random: StdRng::seed_from_u64(rand::random()) })),
        }
    }

    /// Gives the new Service what it lacks. `held` is what its stored self has already.
    fn assign(&self, kind: &Kind, service: &mut Value, held: &Holdings) -> Result<Reservation, RequestError> {
        let name = service["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let mut state = self.state.lock();
        let mut draft = Draft {
            state: &mut state,
            published: &*self.published,
            held,
            taken: Holdings::default(),
            problems: Problems::default(),
            exhausted: None,
        };
        self.families(service, &mut draft.problems);
        if draft.problems.is_empty() {
            self.addresses(service, &mut draft);
        }
        if draft.is_well() {
            self.ports(service, &mut draft);
        }
        let Draft { taken, problems, exhausted, .. } = draft;
        if !problems.is_empty() || exhausted.is_some() {
            state.reserved.give_back(&taken);
            // The original calls it its own fault.
            return Err(exhausted.map_or_else(|| RequestError::invalid(kind, &name, problems), RequestError::internal));
        }
        let state = self.state.clone();
        Ok(Reservation::new(move || state.lock().reserved.give_back(&taken)))
    }

    /// `ipFamilies` and `ipFamilyPolicy`, from what is asked for and what the cluster has.
    fn families(&self, service: &mut Value, problems: &mut Problems) {
        if service["spec"]["type"] == "ExternalName" || self.ipv4.is_empty() {
            return;
        }
        let has = |family: &str| self.ipv4.iter().any(|ipv4| family_of(*ipv4) == family);
        let root = Cursor::root(service);
        let (given, policy) = (root.at("spec.ipFamilies"), root.at("spec.ipFamilyPolicy"));
        for family in given.items() {
            if matches!(family.str(), "IPv4" | "IPv6") && !has(family.str()) {
                problems.invalid(&family, "not configured on this cluster");
            }
        }
        let dual = self.ipv4.len() > 1;
        if policy.str() == "RequireDualStack" && !dual {
            problems.invalid(&policy, "this cluster is not configured for dual-stack services");
        }
        let mut families: Vec<String> = given.items().map(|family| family.str().to_owned()).collect();
        let policy_text = match policy.str() {
            "" if families.len() > 1 => "RequireDualStack".to_owned(),
            "" => "SingleStack".to_owned(),
            other => other.to_owned(),
        };
        for ip in root.at("spec.clusterIPs").items() {
            let family = ip.str().parse::<IpAddr>().map(|ip| family_of(ip.is_ipv4()).to_owned());
            if let Ok(family) = family
                && !families.contains(&family)
            {
                families.push(family);
            }
        }
        if !problems.is_empty() {
            return;
        }
        if families.is_empty() {
            families.push(family_of(self.ipv4[0]).to_owned());
        }
        if dual && policy_text != "SingleStack" && families.len() == 1 {
            families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
        }
        service["spec"]["ipFamilies"] = json!(families);
        service["spec"]["ipFamilyPolicy"] = policy_text.into();
    }

    fn addresses(&self, service: &mut Value, draft: &mut Draft<'_>) {
        let spec = &mut service["spec"];
        if spec["type"] == "ExternalName" {
            return;
        }
        // Clients may set either field; both tell the same.
        let first = spec["clusterIP"].as_str().unwrap_or("").to_owned();
        if !first.is_empty() && spec["clusterIPs"].as_array().is_none_or(|list| list.is_empty()) {
            spec["clusterIPs"] = json!([first]);
        }
        if first == "None" || spec["clusterIPs"].get(0).is_some_and(|ip| ip == "None") {
            if first.is_empty() {
                spec["clusterIP"] = "None".into();
            }
            return;
        }
        let families: Vec<String> = spec["ipFamilies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|family| family.as_str().map(str::to_owned))
            .collect();
        let mut ips: Vec<String> = spec["clusterIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| ip.as_str().map(str::to_owned))
            .collect();
        let ranges = self.published.ranges();
        for (index, family) in families.iter().enumerate() {
            let mut own = ranges.iter().filter(|range| family_of(range.is_ipv4()) == family);
            match ips.get(index).cloned() {
                Some(asked) => draft.claim_ip(own, family, &asked, &ips),
                None => match own.find_map(|range| draft.find_ip(range)) {
                    Some(ip) => ips.push(ip.to_string()),
                    None => {
                        draft.exhausted = Some("failed to allocate a serviceIP: range is full");
                        return;
                    }
                },
            }
        }
        if first.is_empty()
            && let Some(ip) = ips.first()
        {
            spec["clusterIP"] = ip.as_str().into();
        }
        if !ips.is_empty() {
            spec["clusterIPs"] = json!(ips);
        }
    }

    fn ports(&self, service: &mut Value, draft: &mut Draft<'_>) {
        let spec = &service["spec"];
        let wanted = match spec["type"].as_str() {
            Some("NodePort") => true,
            Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
            _ => false,
        };
        let any_given = spec["type"] == "LoadBalancer";
        if !wanted && !any_given {
            return;
        }
        let count = spec["ports"].as_array().map_or(0, Vec::len);
        // What is asked for by number is claimed first, so that nothing found at random takes it away.
        for index in 0..count {
            let port = &service["spec"]["ports"][index];
            let (protocol, number) =
                (port["protocol"].as_str().unwrap_or("TCP").to_owned(), port["nodePort"].as_i64().unwrap_or(0));
            if number != 0 {
                draft.claim_port(&self.node_ports, &protocol, number, &format!("spec.ports[{index}].nodePort"));
            }
        }
        for index in 0..count {
            let port = &service["spec"]["ports"][index];
            if !wanted || port["nodePort"].as_i64().unwrap_or(0) != 0 {
                continue;
            }
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            // One number for the same port over several protocols, as DNS likes it.
            let own = port["port"].clone();
            let shared = service["spec"]["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|other| other["port"] == own && other["protocol"] != protocol.as_str())
                .find_map(|other| other["nodePort"].as_i64().and_then(|number| u16::try_from(number).ok()))
                .filter(|number| *number != 0 && draft.is_free(&protocol, *number));
            match shared.or_else(|| draft.find_port(&self.node_ports, &protocol)) {
                Some(number) => {
                    draft.take_port(&protocol, number);
                    service["spec"]["ports"][index]["nodePort"] = number.into();
                }
                None => {
                    draft.exhausted = Some("failed to allocate a nodePort: range is full");
                    return;
                }
            }
        }
        self.health_port(service, draft);
    }

    fn health_port(&self, service: &mut Value, draft: &mut Draft<'_>) {
        let spec = &service["spec"];
        if spec["type"] != "LoadBalancer" || spec["externalTrafficPolicy"] != "Local" {
            return;
        }
        match spec["healthCheckNodePort"].as_i64().unwrap_or(0) {
            0 => match draft.find_port(&self.node_ports, "TCP") {
                Some(number) => {
                    draft.take_port("TCP", number);
                    service["spec"]["healthCheckNodePort"] = number.into();
                }
                None => draft.exhausted = Some("failed to allocate a HealthCheck NodePort <nil>: range is full"),
            },
            number => draft.claim_port(&self.node_ports, "TCP", number, "spec.healthCheckNodePort"),
        }
    }
}

/// One assignment in the making.
struct Draft<'a> {
    state: &'a mut State,
    published: &'a dyn Published,
    held: &'a Holdings,
    taken: Holdings,
    problems: Problems,
    /// Of what there is no more.
    exhausted: Option<&'static str>,
}

impl Draft<'_> {
    fn is_well(&self) -> bool {
        self.problems.is_empty() && self.exhausted.is_none()
    }

    fn claim_ip<'r>(&mut self, mut ranges: impl Iterator<Item = &'r IpRange>, family: &str, asked: &str, all: &[String]) {
        let Ok(ip) = asked.parse::<IpAddr>() else { return }; // The validation words that.
        if self.held.ips.contains(&ip) {
            return;
        }
        let why = if family_of(ip.is_ipv4()) != family {
            return; // Not of the family it stands for: the validation words that, too.
        } else if !ranges.any(|range| range.contains(ip)) {
            "the provided network does not match the current range"
        } else if self.has_ip(ip) {
            "provided IP is already allocated"
        } else {
            self.state.reserved.ips.take(ip);
            self.taken.ips.push(ip);
            return;
        };
        let value = json!(all);
        self.problems.invalid(
            &Cursor::root(&value).at("spec.clusterIPs").with(&value),
            &format!("failed to allocate IP {ip}: {why}"),
        );
    }

    fn find_ip(&mut self, range: &IpRange) -> Option<IpAddr> {
        let start = u128::from(self.state.random.next_u64());
        let ip = range.candidates(start).find(|ip| !self.has_ip(*ip))?;
        self.state.reserved.ips.take(ip);
        self.taken.ips.push(ip);
        Some(ip)
    }

    fn has_ip(&self, ip: IpAddr) -> bool {
        self.state.stored.ips.is_taken(&ip) || self.state.reserved.ips.is_taken(&ip) || self.published.holds(ip)
    }

    fn is_free(&self, protocol: &str, number: u16) -> bool {
        let port = (protocol.to_owned(), number);
        !self.state.stored.ports.is_taken(&port) && !self.state.reserved.ports.is_taken(&port)
    }

    fn claim_port(&mut self, range: &RangeInclusive<u16>, protocol: &str, number: i64, path: &str) {
        let port = u16::try_from(number).ok().filter(|port| range.contains(port));
        let why = match port {
            Some(port) if self.held.ports.contains(&(protocol.to_owned(), port)) => return,
            Some(port) if self.is_free(protocol, port) => return self.take_port(protocol, port),
            Some(_) => "provided port is already allocated".to_owned(),
            None => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            ),
        };
        let none = Value::Null;
        self.problems.invalid_plain(&Cursor::root(&none).at(path), number, &why);
    }

    fn find_port(&mut self, range: &RangeInclusive<u16>, protocol: &str) -> Option<u16> {
        let start = self.state.random.next_u32();
        ports::candidates(range, start).find(|number| self.is_free(protocol, *number))
    }

    fn take_port(&mut self, protocol: &str, number: u16) {
        let port = (protocol.to_owned(), number);
        self.state.reserved.ports.take(port.clone());
        self.taken.ports.push(port);
    }
}

impl Taken {
    fn take(&mut self, holdings: &Holdings) {
        for ip in &holdings.ips {
            self.ips.take(*ip);
        }
        for port in &holdings.ports {
            self.ports.take(port.clone());
        }
    }

    fn give_back(&mut self, holdings: &Holdings) {
        for ip in &holdings.ips {
            self.ips.give_back(ip);
        }
        for port in &holdings.ports {
            self.ports.give_back(port);
        }
    }
}

pub fn holdings(service: &Value) -> Holdings {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        return Holdings::default();
    }
    let ips = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    let number =
        |value: &Value| value.as_i64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
    let mut ports: Vec<(String, u16)> = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| Some((port["protocol"].as_str().unwrap_or("TCP").to_owned(), number(&port["nodePort"])?)))
        .collect();
    ports.extend(number(&spec["healthCheckNodePort"]).map(|number| ("TCP".to_owned(), number)));
    Holdings { ips, ports }
}

fn family_of(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

impl Allocate for ServiceAllocator {
    fn handles(&self, kind: &Kind) -> bool {
        kind.group.is_empty() && kind.plural == "services"
    }

    fn seed(&self, seed: u64) {
        self.state.lock().random = StdRng::seed_from_u64(seed);
    }

    fn load(&self, _kind: &Kind, existing: &[Value]) {
        let mut state = self.state.lock();
        state.stored = Taken::default();
        for service in existing {
            state.stored.take(&holdings(service));
        }
    }

    fn changed(&self, _kind: &Kind, old: Option<&Value>, new: Option<&Value>) {
        let mut state = self.state.lock();
        if let Some(new) = new {
            state.stored.take(&holdings(new));
        }
        if let Some(old) = old {
            state.stored.give_back(&holdings(old));
        }
    }

    fn create(&self, kind: &Kind, object: &mut Value) -> Result<Reservation, RequestError> {
        self.assign(kind, object, &Holdings::default())
    }

    fn update(&self, kind: &Kind, new: &mut Value, old: &Value) -> Result<Reservation, RequestError> {
        self.assign(kind, new, &holdings(old))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::registry;

    struct Fixed {
        ranges: Arc<[IpRange]>,
        held: Vec<IpAddr>,
    }

    impl Published for Fixed {
        fn holds(&self, ip: IpAddr) -> bool {
            self.held.contains(&ip)
        }

        fn ranges(&self) -> Arc<[IpRange]> {
            self.ranges.clone()
        }
    }

    fn allocator_over(ranges: &[&str], held: &[&str]) -> ServiceAllocator {
        let service_cidrs: Vec<ipnet::IpNet> = ranges.iter().map(|range| range.parse().expect("a range")).collect();
        let published = Fixed {
            ranges: service_cidrs.iter().copied().map(IpRange::new).collect(),
            held: held.iter().map(|ip| ip.parse().expect("an address")).collect(),
        };
        let config = AllocateConfig { service_cidrs: service_cidrs[..1].to_vec(), node_ports: 30000..=30001 };
        ServiceAllocator::new(config, Box::new(published))
    }

    fn allocator() -> ServiceAllocator {
        allocator_over(&["10.43.0.0/28"], &[])
    }

    fn kind() -> &'static Kind {
        registry::by_plural("", "v1", "services").expect("services")
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": spec})
    }

    /// Creates and keeps; `ip ports`, or the error's sentence after its field.
    fn create(allocator: &ServiceAllocator, spec: Value) -> Result<Value, String> {
        let mut object = service(spec);
        match allocator.create(kind(), &mut object) {
            Ok(reservation) => {
                allocator.changed(kind(), None, Some(&object));
                drop(reservation);
                Ok(object["spec"].clone())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn addresses_are_given_once() {
        let allocator = allocator();
        let made = create(&allocator, json!({"type": "ClusterIP", "clusterIP": "10.43.0.10"})).expect("a service");
        assert_eq!(
            made,
            json!({"type": "ClusterIP", "clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})
        );
        assert_eq!(
            create(&allocator, json!({"type": "ClusterIP", "clusterIP": "10.43.0.10"})).expect_err("taken"),
            "Service \"web\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.10\"]: failed to allocate IP 10.43.0.10: provided IP is already allocated"
        );
        assert_eq!(
            create(&allocator, json!({"type": "ClusterIP", "clusterIP": "10.44.0.1"})).expect_err("outside"),
            "Service \"web\" is invalid: spec.clusterIPs: Invalid value: [\"10.44.0.1\"]: failed to allocate IP 10.44.0.1: the provided network does not match the current range"
        );
        for _ in 0..13 {
            create(&allocator, json!({"type": "ClusterIP"})).expect("an address is left");
        }
        assert_eq!(
            create(&allocator, json!({"type": "ClusterIP"})).expect_err("full"),
            "Internal error occurred: failed to allocate a serviceIP: range is full"
        );
        allocator.changed(kind(), Some(&service(made)), None);
        assert_eq!(create(&allocator, json!({"type": "ClusterIP"})).expect("one is free")["clusterIP"], "10.43.0.10");
    }

    #[test]
    fn what_is_not_kept_is_taken_back() {
        let allocator = allocator();
        let mut object = service(json!({"type": "ClusterIP", "clusterIP": "10.43.0.3"}));
        drop(allocator.create(kind(), &mut object).expect("free"));
        create(&allocator, json!({"type": "ClusterIP", "clusterIP": "10.43.0.3"})).expect("free again");
    }

    #[test]
    fn headless_and_external_take_nothing() {
        let allocator = allocator();
        let headless = create(&allocator, json!({"type": "ClusterIP", "clusterIP": "None"})).expect("headless");
        assert_eq!(headless["clusterIPs"], json!(["None"]));
        let external = create(&allocator, json!({"type": "ExternalName"})).expect("external");
        assert_eq!(external, json!({"type": "ExternalName"}));
    }

    #[test]
    fn node_ports() {
        let allocator = allocator();
        let port =
            |number: i64| json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": number}]});
        create(&allocator, port(30001)).expect("free");
        assert_eq!(
            create(&allocator, port(30001)).expect_err("taken"),
            "Service \"web\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
        );
        assert_eq!(
            create(&allocator, port(40000)).expect_err("outside"),
            "Service \"web\" is invalid: spec.ports[0].nodePort: Invalid value: 40000: provided port is not in the valid range. The range of valid ports is 30000-30001"
        );
        let dns = create(&allocator, json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30000}, {"port": 53, "protocol": "TCP"}]})).expect("the other");
        assert_eq!(dns["ports"][1]["nodePort"], 30000);
        assert!(
            create(&allocator, port(0)).expect_err("full").ends_with("failed to allocate a nodePort: range is full")
        );

        // An update keeps what it had and gives back what it leaves.
        let old = service(dns);
        let mut new = old.clone();
        new["spec"]["ports"] = json!([{"port": 53, "protocol": "UDP", "nodePort": 30000}]);
        let reservation = allocator.update(kind(), &mut new, &old).expect("its own");
        allocator.changed(kind(), Some(&old), Some(&new));
        drop(reservation);
        create(&allocator, port(30000)).expect("TCP 30000 is free again");
    }

    #[test]
    fn what_others_wrote_is_seen() {
        let allocator = allocator();
        let theirs = service(json!({"type": "ClusterIP", "clusterIPs": ["10.43.0.4"], "ports": [{"nodePort": 30001}]}));
        allocator.changed(kind(), None, Some(&theirs));
        let asked = json!({"type": "ClusterIP", "clusterIP": "10.43.0.4"});
        assert!(create(&allocator, asked.clone()).expect_err("taken").ends_with("provided IP is already allocated"));
        allocator.load(kind(), &[]);
        create(&allocator, asked).expect("free again");
    }

    #[test]
    fn further_ranges_and_the_addresses_of_others() {
        let allocator = allocator_over(&["10.43.0.0/30", "10.44.0.0/30"], &["10.43.0.1", "10.44.0.2"]);
        let any = || create(&allocator, json!({"type": "ClusterIP"})).map(|spec| spec["clusterIP"].clone());
        assert_eq!(any(), Ok("10.43.0.2".into()));
        let asked = |ip: &str| create(&allocator, json!({"type": "ClusterIP", "clusterIP": ip}));
        assert!(asked("10.44.0.2").expect_err("another's").ends_with("provided IP is already allocated"));
        assert!(asked("10.44.0.3").expect_err("the broadcast").ends_with("does not match the current range"));
        assert_eq!(any(), Ok("10.44.0.1".into()));
        any().expect_err("nothing is left");
    }
}
