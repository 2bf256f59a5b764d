//! Which pods may talk.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default_text, each, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    definition: "io.k8s.api.networking.v1.NetworkPolicy",
    storage: "networkpolicies",
    defaults,
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| lifecycle::count_generation(new, old, &["spec"]),
    validate,
    columns: &[NAME, text("Pod-Selector", "io.k8s.api.networking.v1.NetworkPolicySpec#podSelector"), AGE],
    cells,
    ..NAMESPACED
};

fn defaults(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    for direction in ["ingress", "egress"] {
        each(spec, direction, |rule| each(rule, "ports", |port| default_text(port, "protocol", "TCP")));
    }
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(|list| list.is_empty()) {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        spec.insert("policyTypes".into(), if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    checks::label_selector(&spec.at("podSelector"), problems);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.at(direction).items() {
            for port in rule.at("ports").items() {
                validate_port(&port, problems);
            }
            for peer in rule.at(peers).items() {
                validate_peer(&peer, problems);
            }
        }
    }
    let types = spec.at("policyTypes");
    if types.len() > 2 {
        return problems.invalid(&types, "may not specify more than two policyTypes");
    }
    for kind in types.items() {
        checks::one_of(&kind, &["Ingress", "Egress"], problems);
    }
}

fn validate_port(port: &Cursor, problems: &mut Problems) {
    checks::optional_one_of(&port.at("protocol"), &["TCP", "UDP", "SCTP"], problems);
    let (own, end) = (port.at("port"), port.at("endPort"));
    if let Some(start) = own.opt_int() {
        checks::port_number(&own, problems);
        if end.exists() {
            if end.int() < start {
                problems.invalid_plain(&end, start, "must be greater than or equal to `port`");
            }
            checks::port_number(&end, problems);
        }
    } else if own.exists() {
        if end.exists() {
            problems.invalid(&end, "may not be specified when `port` is non-numeric");
        }
        checks::port_number_or_name(&own, problems);
    } else if end.exists() {
        problems.invalid(&end, "may not be specified when `port` is not specified");
    }
}

fn validate_peer(peer: &Cursor, problems: &mut Problems) {
    let (pods, namespaces, block) = (peer.at("podSelector"), peer.at("namespaceSelector"), peer.at("ipBlock"));
    checks::label_selector(&pods, problems);
    checks::label_selector(&namespaces, problems);
    if block.exists() {
        validate_block(&block, problems);
    }
    let selectors = pods.exists() || namespaces.exists();
    match (selectors, block.exists()) {
        (false, false) => problems.required(peer, "must specify a peer"),
        (true, true) => problems.forbidden(peer, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn validate_block(block: &Cursor, problems: &mut Problems) {
    let cidr = block.at("cidr");
    if !checks::required(&cidr, problems) {
        return;
    }
    checks::cidr(&cidr, problems);
    let Some((address, length)) = checks::parse_cidr(cidr.str()) else { return };
    let Ok(outer) = ipnet::IpNet::new(address, length) else { return };
    for except in block.at("except").items() {
        let Some((address, length)) = checks::parse_cidr(except.str()) else {
            problems.invalid_str(&except, except.str(), checks::CIDR);
            continue;
        };
        let inside = outer.contains(&address) && length > outer.prefix_len();
        if !inside {
            problems.invalid(&except, "must be a strict subset of `cidr`");
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        printing::name(object),
        printing::selector(walk(object, "spec.podSelector")).into(),
        printing::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::check_defaulted;

    #[test]
    fn problems() {
        let with = |peer: Value| json!({"spec": {"podSelector": {}, "ingress": [{"from": [peer]}]}});
        check_defaulted(&KIND, with(json!({"podSelector": {}})), "");
        check_defaulted(&KIND, with(json!({})), "spec.ingress[0].from[0]: Required value: must specify a peer");
        check_defaulted(
            &KIND,
            with(json!({"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.1.0/25"]}})),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.1.0/25\": must be a strict subset of `cidr`",
        );
    }

    #[test]
    fn ports_and_types() {
        let with = |port: Value| json!({"spec": {"podSelector": {}, "egress": [{"ports": [port]}]}});
        check_defaulted(&KIND, with(json!({"port": 80, "endPort": 90})), "");
        check_defaulted(
            &KIND,
            with(json!({"port": 80, "endPort": 70, "protocol": "ICMP"})),
            "spec.egress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"\n\
             spec.egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
        );
        check_defaulted(
            &KIND,
            with(json!({"port": "http", "endPort": 70})),
            "spec.egress[0].ports[0].endPort: Invalid value: 70: may not be specified when `port` is non-numeric",
        );
        check_defaulted(
            &KIND,
            json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Sideways"]}}),
            "spec.policyTypes[1]: Unsupported value: \"Sideways\": supported values: \"Ingress\", \"Egress\"",
        );
        check_defaulted(
            &KIND,
            json!({"spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": ""}}, {"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]}}),
            "spec.ingress[0].from[0].ipBlock.cidr: Required value\n\
             spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
        );
    }
}
