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
    checks::optional_one_of(&port.at("protocol"), &["SCTP", "TCP", "UDP"], problems);
    let (own, end) = (port.at("port"), port.at("endPort"));
    if own.exists() {
        checks::port_number_or_name(&own, problems);
        if end.exists() {
            match own.opt_int() {
                Some(start) if end.int() < start => {
                    problems.invalid_plain(&end, start, "must be greater than or equal to `port`");
                }
                Some(_) => checks::port_number(&end, problems),
                None => problems.invalid(&end, "may not be specified when `port` is non-numeric"),
            }
        }
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
}
