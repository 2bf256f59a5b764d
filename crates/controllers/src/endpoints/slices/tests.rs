use super::*;
use crate::fixtures;
use k8s_openapi::api::core::v1::{Container, ContainerPort, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `[port=NUMBER|NAME] [headless] [publish] [dual] [spread=DISTRIBUTION] [auto]`.
fn service(text: &str) -> Service {
    let mut service = Service::default();
    service.metadata.name = Some("web".into());
    service.metadata.namespace = Some("ns".into());
    let mut spec = ServiceSpec::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "port" => {
                let target = value.parse().map_or_else(|_| IntOrString::String(value.into()), IntOrString::Int);
                let ports = spec.ports.get_or_insert_default();
                let name = format!("p{}", ports.len());
                ports.push(ServicePort { port: 80, target_port: Some(target), name: Some(name), ..ServicePort::default() });
            }
            "headless" => spec.cluster_ip = Some("None".into()),
            "publish" => spec.publish_not_ready_addresses = Some(true),
            "dual" => spec.ip_families = Some(vec!["IPv4".into(), "IPv6".into()]),
            "auto" => {
                let mode = ("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned());
                service.metadata.annotations = Some([mode].into());
            }
            "spread" => spec.traffic_distribution = Some(value.into()),
            other => panic!("{other}"),
        }
    }
    service.spec = Some(spec);
    service
}

/// All pods call 8080 `http`, but for those named `odd`, which call 9090 so. Node n1 is in zone z1, n2 in none.
fn decided(service: &Service, pods: &str) -> Vec<Decided> {
    let mut pods = fixtures::pods(pods);
    for pod in &mut pods {
        let number = if pod.metadata.name.as_deref() == Some("odd") { 9090 } else { 8080 };
        let port = ContainerPort { name: Some("http".into()), container_port: number, ..ContainerPort::default() };
        let container = Container { ports: Some(vec![port]), ..Container::default() };
        Arc::make_mut(pod).spec.as_mut().unwrap().containers = vec![container];
    }
    let zones = [("n1".to_owned(), Some("z1".to_owned())), ("n2".to_owned(), None)].into();
    decide(&Observed { service, pods, zones, capacity: None, slices: Vec::new() })
}

#[track_caller]
fn check(spec: &str, pods: &str, expected: &str) {
    let groups = decided(&service(spec), pods);
    let told: Vec<String> = groups.iter().flat_map(|decided| decided.changes.create.iter().map(describe)).collect();
    assert_eq!(told.join("; "), expected);
}

fn describe(group: &Group) -> String {
    let ports: Vec<String> = group.ports.iter().map(|port| port.port.unwrap().to_string()).collect();
    let endpoints = group.endpoints.iter().map(|endpoint| {
        let conditions = endpoint.conditions.as_ref().unwrap();
        let flag = |value: Option<bool>, letter: char| if value == Some(true) { letter } else { '-' };
        let hints = endpoint.hints.as_ref().map(|hints| {
            let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.clone());
            let nodes = hints.for_nodes.iter().flatten().map(|node| node.name.clone());
            format!(" for {}", zones.chain(nodes).collect::<Vec<_>>().join("+"))
        });
        format!(
            "{}{}{}{}{}{}",
            endpoint.addresses[0],
            flag(conditions.ready, 'r'),
            flag(conditions.serving, 's'),
            flag(conditions.terminating, 't'),
            endpoint.zone.as_deref().map(|zone| format!("@{zone}")).unwrap_or_default(),
            hints.unwrap_or_default(),
        )
    });
    format!("{}: {}", ports.join(","), endpoints.collect::<Vec<_>>().join(" "))
}

#[test]
fn tells_where_pods_serve() {
    //    service                pods                                   slices: ports: address, ready, serving, terminating, zone
    check("port=8080", "a:ip=1.1.1.1,node=n1", "8080: 1.1.1.1rs-@z1");
    check("port=8080", "a:ip=1.1.1.1,node=n2", "8080: 1.1.1.1rs-");
    check("port=8080", "a:ip=1.1.1.1,unready", "8080: 1.1.1.1---");
    check("port=8080", "a:ip=1.1.1.1,deleting", "8080: 1.1.1.1-st"); // It still serves.
    check("port=8080", "a:ip=1.1.1.1,deleting,unready", "8080: 1.1.1.1--t");
    check("port=8080", "a:ip=1.1.1.1,failed b c:ip=1.1.1.2,succeeded", ": ");
    check("port=8080", "a:ip=1.1.1.1,failed,deleting", ": ");
    check("port=8080", "a:ip=1.1.1.1,node=gone", ": "); // Its node is not there.
    check("port=8080 publish", "a:ip=1.1.1.1,node=gone", "8080: 1.1.1.1rs-");
    check("port=8080 publish", "a:ip=1.1.1.1,unready", "8080: 1.1.1.1r--");
    check("port=8080 publish", "a:ip=1.1.1.1,deleting", "8080: 1.1.1.1rst");
}

#[test]
fn ports_are_each_pods_own() {
    check("port=http", "a:ip=1.1.1.1 odd:ip=1.1.1.2", "8080: 1.1.1.1rs-; 9090: 1.1.1.2rs-");
    check("port=http port=443", "a:ip=1.1.1.1 odd:ip=1.1.1.2", "8080,443: 1.1.1.1rs-; 9090,443: 1.1.1.2rs-");
    check("port=nope", "a:ip=1.1.1.1", ": 1.1.1.1rs-"); // It is there, and serves nowhere.
    check("port=nope port=443", "a:ip=1.1.1.1", "443: 1.1.1.1rs-");
    check("headless", "a:ip=1.1.1.1", ": 1.1.1.1rs-");
    check("port=0", "a:ip=1.1.1.1", "80: 1.1.1.1rs-");
}

#[test]
fn families_have_slices_of_their_own() {
    check("port=8080 dual", "a:ip=1.1.1.1 b:ip=fd00::1", "8080: 1.1.1.1rs-; 8080: fd00::1rs-");
    check("port=8080 dual", "a:ip=1.1.1.1", "8080: 1.1.1.1rs-; : ");
    check("port=8080", "b:ip=fd00::1", ": ");
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let pods = "a:ip=1.1.1.1,node=n1 b:ip=1.1.1.2,node=n1,unready";
    check("port=8080", pods, "8080: 1.1.1.1rs-@z1 1.1.1.2---@z1");
    check("port=8080 spread=PreferClose", pods, "8080: 1.1.1.1rs-@z1 for z1 1.1.1.2---@z1");
    check("port=8080 spread=PreferSameZone", pods, "8080: 1.1.1.1rs-@z1 for z1 1.1.1.2---@z1");
    check("port=8080 spread=PreferSameNode", pods, "8080: 1.1.1.1rs-@z1 for z1+n1 1.1.1.2---@z1");
    check("port=8080 spread=PreferSameZone", "a:ip=1.1.1.1,node=n2", "8080: 1.1.1.1rs-"); // It is in no zone.
    check("port=8080 spread=PreferSameNode", "a:ip=1.1.1.1,node=n2", "8080: 1.1.1.1rs- for n2");
    check("port=8080 spread=PreferSameNode", "a:ip=1.1.1.1", "8080: 1.1.1.1rs-");
    check("port=8080 spread=PreferSameZone auto", pods, "8080: 1.1.1.1rs-@z1 1.1.1.2---@z1"); // The annotation counts, and too little is known.
    let told = decided(&service("port=8080 auto"), pods);
    assert!(told[0].hinted.as_ref().is_some_and(|hinted| hinted.as_ref().is_err_and(|why| why.starts_with("Insufficient Node information"))));
    assert!(decided(&service("port=8080"), pods)[0].hinted.is_none());
}

#[test]
fn headless_services_name_their_pods() {
    #[track_caller]
    fn check(hostname: Option<&str>, subdomain: Option<&str>, expected: Option<&str>) {
        let mut pod = fixtures::pod("a:ip=1.1.1.1");
        let spec = pod.spec.as_mut().unwrap();
        spec.hostname = hostname.map(Into::into);
        spec.subdomain = subdomain.map(Into::into);
        assert_eq!(crate::endpoints::hostname(&service("headless"), &pod).as_deref(), expected);
    }
    check(Some("db-0"), Some("web"), Some("db-0"));
    check(Some("db-0"), Some("other"), None);
    check(Some("db-0"), None, None);
    check(None, Some("web"), None);
}

#[test]
fn slices_are_labelled_as_the_service_is() {
    let mut service = service("headless");
    service.metadata.labels = Some([("app".to_owned(), "web".to_owned()), (MANAGED_BY_LABEL.to_owned(), "me".to_owned())].into());
    let told: Vec<String> = slice_labels(&service).iter().map(|(name, value)| format!("{name}={value}")).collect();
    let expected = [
        "app=web",
        "endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io",
        "kubernetes.io/service-name=web",
        "service.kubernetes.io/headless=",
    ];
    assert_eq!(told, expected);
    service.spec.as_mut().unwrap().cluster_ip = Some("10.0.0.1".into());
    assert!(!slice_labels(&service).contains_key("service.kubernetes.io/headless"));
}

#[test]
fn slices_of_a_family_that_is_gone_go() {
    let slice = EndpointSlice { address_type: "IPv6".into(), ..EndpointSlice::default() };
    let service = service("port=8080");
    let observed = Observed { service: &service, pods: Vec::new(), zones: BTreeMap::new(), capacity: None, slices: vec![Arc::new(slice)] };
    let decided = decide(&observed);
    let counts: Vec<_> = decided.iter().map(|it| (it.family.as_str(), it.changes.create.len(), it.changes.delete.len())).collect();
    assert_eq!(counts, [("IPv4", 1, 0), ("", 0, 1)]);
}
