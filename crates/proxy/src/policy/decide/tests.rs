use super::*;

/// Words `namespace/name:ip[:label=value,...]`; one with a capital first letter is on another node.
fn pods(words: &str) -> Vec<PodFacts> {
    let pods = words.split_whitespace().map(|word| {
        let parts: Vec<&str> = word.split(':').collect();
        let (namespace, name) = parts[0].split_once('/').unwrap();
        let labels = parts.get(2).into_iter().flat_map(|it| it.split(',')).filter_map(|it| it.split_once('='));
        PodFacts {
            namespace: namespace.into(),
            labels: labels.map(|(key, value)| (key.into(), value.into())).collect(),
            addresses: vec![parts[1].parse().unwrap()],
            local: !name.starts_with(char::is_uppercase),
            ports: vec![("web".into(), 6, 8080)],
        }
    });
    pods.collect()
}

const PODS: &str = "ns/web:10.0.0.1:app=web ns/db:10.0.0.2:app=db ns/Other:10.0.1.1:app=web other/x:10.0.0.3:app=web";

fn policy(spec: &str) -> NetworkPolicy {
    let spec: serde_json::Value = serde_json::from_str(spec).unwrap();
    serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
}

fn told(desired: &Desired) -> Vec<String> {
    let pods = |name: &str| desired.pods[name].iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut lines = Vec::new();
    for ((direction, address), chain) in &desired.judged {
        let allowed = desired.chains[&(*direction, *chain)].iter().map(|allow| {
            let peers = match &allow.peers {
                Peers::Anybody => "anybody".into(),
                Peers::Pods(set) => format!("[{}]", pods(set)),
                Peers::Block { cidr, except } if except.is_empty() => cidr.to_string(),
                Peers::Block { cidr, except } => format!("{cidr} but {except:?}"),
            };
            let ports = match &allow.ports {
                Ports::Any => String::new(),
                Ports::Protocol(protocol) => format!(" at {protocol}"),
                Ports::Range { protocol, first, last } => format!(" at {protocol}/{first}-{last}"),
                Ports::Named(set) => format!(" at {:?}", desired.ports[set]),
            };
            format!("{peers}{ports}")
        });
        let direction = format!("{direction:?}").to_lowercase();
        lines.push(format!("{address} {direction}: {}", allowed.collect::<Vec<_>>().join("; ")));
    }
    lines
}

#[track_caller]
fn check(specs: &[&str], expected: &[&str]) {
    let namespaces = ["ns", "other"].map(|name| (name.to_owned(), BTreeMap::from([("name".to_owned(), name.to_owned())])));
    let policies: Vec<NetworkPolicy> = specs.iter().map(|spec| policy(spec)).collect();
    let desired = decide(&policies, &pods(PODS), &namespaces.into());
    assert_eq!(told(&desired), expected);
}

#[test]
fn nobody_selected_is_judged() {
    check(&[], &[]);
    check(&[r#"{"podSelector": {"matchLabels": {"app": "none"}}}"#], &[]);
}

#[test]
fn selecting_is_denying() {
    check(&[r#"{"podSelector": {}}"#], &["10.0.0.1 ingress: ", "10.0.0.2 ingress: "]);
    check(
        &[r#"{"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"]}"#],
        &["10.0.0.2 ingress: ", "10.0.0.2 egress: "],
    );
    check(&[r#"{"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]}"#], &["10.0.0.2 egress: "]);
}

#[test]
fn peers() {
    let db = |from: &str| format!(r#"{{"podSelector": {{"matchLabels": {{"app": "db"}}}}, "ingress": [{{"from": {from}}}]}}"#);
    check(&[&db("[]")], &["10.0.0.2 ingress: anybody"]);
    check(&[&db(r#"[{"podSelector": {"matchLabels": {"app": "web"}}}]"#)], &["10.0.0.2 ingress: [10.0.0.1,10.0.1.1]"]);
    check(&[&db(r#"[{"namespaceSelector": {}}]"#)], &["10.0.0.2 ingress: [10.0.0.1,10.0.0.2,10.0.0.3,10.0.1.1]"]);
    let both = r#"[{"namespaceSelector": {"matchLabels": {"name": "other"}}, "podSelector": {"matchLabels": {"app": "web"}}}]"#;
    check(&[&db(both)], &["10.0.0.2 ingress: [10.0.0.3]"]);
    let block = r#"[{"ipBlock": {"cidr": "172.16.0.0/12", "except": ["172.16.1.0/24"]}}, {"podSelector": {}}]"#;
    let expected = "10.0.0.2 ingress: 172.16.0.0/12 but [172.16.1.0/24]; [10.0.0.1,10.0.0.2,10.0.1.1]";
    check(&[&db(block)], &[expected]);
}

#[test]
fn ports() {
    let web = |ports: &str| format!(r#"{{"podSelector": {{"matchLabels": {{"app": "web"}}}}, "ingress": [{{"ports": {ports}}}]}}"#);
    check(&[&web(r#"[{"port": 80}]"#)], &["10.0.0.1 ingress: anybody at 6/80-80"]);
    check(&[&web(r#"[{"port": 53, "protocol": "UDP"}, {"port": 1000, "endPort": 2000}]"#)], &[
        "10.0.0.1 ingress: anybody at 17/53-53; anybody at 6/1000-2000",
    ]);
    check(&[&web(r#"[{"port": "web"}]"#)], &["10.0.0.1 ingress: anybody at {(10.0.0.1, 6, 8080)}"]);
    check(&[&web(r#"[{"protocol": "SCTP"}]"#)], &["10.0.0.1 ingress: anybody at 132"]);
}

#[test]
fn policies_add_up() {
    let all = r#"{"podSelector": {"matchLabels": {"app": "db"}}}"#;
    let some = r#"{"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}"#;
    check(&[all, some], &["10.0.0.1 ingress: anybody at 6/80-80", "10.0.0.2 ingress: anybody at 6/80-80"]);
}

#[test]
fn a_pod_that_comes_changes_sets_and_not_rules() {
    let policies = [policy(r#"{"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}"#)];
    let before = decide(&policies, &pods("ns/a:10.0.0.1"), &BTreeMap::new());
    let after = decide(&policies, &pods("ns/a:10.0.0.1 ns/b:10.0.0.2"), &BTreeMap::new());
    assert!(before.same_rules(&after));
    assert_ne!(before, after);
}
