//! Some of the addresses behind a Service.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::core::endpoints::non_special_ip;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_text, each};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    storage: "endpointslices",
    defaults: |object| {
        if let Some(map) = object.as_object_mut() {
            each(map, "ports", |port| {
                default(port, "name", "");
                default_text(port, "protocol", "TCP");
            });
        }
    },
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update,
    validate,
    validate_update: |new, old, problems| {
        problems.immutable(&Cursor::root(new).at("addressType"), walk(old, "addressType"));
    },
    columns: &[
        NAME,
        text("AddressType", "io.k8s.api.discovery.v1.EndpointSlice#addressType"),
        text("Ports", "io.k8s.api.discovery.v1.EndpointSlice#ports"),
        text("Endpoints", "io.k8s.api.discovery.v1.EndpointSlice#endpoints"),
        AGE,
    ],
    cells,
    ..NAMESPACED
};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;
const SHOWN: usize = 3;

/// Labels count as well: they say whose slice it is.
fn prepare_update(new: &mut Value, old: &Value) {
    let labels = walk(new, "metadata.labels") != walk(old, "metadata.labels");
    let fields = ["endpoints", "ports", "addressType"].iter().any(|field| new.get(field) != old.get(field));
    let before = walk(old, "metadata.generation").as_i64().unwrap_or(0);
    lifecycle::set_generation(new, before + i64::from(labels || fields));
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let kind = root.at("addressType");
    if kind.is_empty() {
        problems.required(&kind, "");
    } else {
        checks::one_of(&kind, &["FQDN", "IPv4", "IPv6"], problems);
    }
    validate_endpoints(&root.at("endpoints"), kind.str(), problems);
    validate_ports(&root.at("ports"), problems);
}

fn validate_endpoints(endpoints: &Cursor, kind: &str, problems: &mut Problems) {
    if endpoints.len() > ENDPOINTS_MAX {
        return problems.too_many(endpoints, endpoints.len(), ENDPOINTS_MAX);
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.at("addresses");
        if addresses.is_empty() {
            problems.required(&addresses, "must contain at least 1 address");
        } else if addresses.len() > ADDRESSES_MAX {
            problems.too_many(&addresses, addresses.len(), ADDRESSES_MAX);
        }
        for address in addresses.items() {
            validate_address(&address, kind, problems);
        }
        let node = endpoint.at("nodeName");
        if node.exists() {
            checks::subdomain(&node, problems);
        }
        let hostname = endpoint.at("hostname");
        if hostname.exists() {
            checks::label(&hostname, problems);
        }
        for zone in endpoint.at("hints.forZones").items() {
            for sentence in api::names::label_value(zone.at("name").str()) {
                problems.invalid(&zone.at("name"), &sentence);
            }
        }
    }
}

fn validate_address(address: &Cursor, kind: &str, problems: &mut Problems) {
    let before = problems.list.len();
    match kind {
        "IPv4" => {
            checks::ip(address, problems);
            if checks::parse_ip(address.str()).is_some_and(|ip| !ip.is_ipv4()) {
                problems.invalid(address, "must be an IPv4 address");
            }
        }
        "IPv6" => {
            checks::ip(address, problems);
            if checks::parse_ip(address.str()).is_some_and(|ip| ip.is_ipv4()) {
                problems.invalid(address, "must be an IPv6 address");
            }
        }
        "FQDN" => return checks::subdomain(address, problems),
        _ => return,
    }
    if problems.list.len() == before {
        non_special_ip(address, problems);
    }
}

fn validate_ports(ports: &Cursor, problems: &mut Problems) {
    if ports.len() > PORTS_MAX {
        return problems.too_many(ports, ports.len(), PORTS_MAX);
    }
    let mut names: Vec<&str> = Vec::new();
    for port in ports.items() {
        let (name, number, protocol) = (port.at("name"), port.at("port"), port.at("protocol"));
        if !name.is_empty() {
            checks::label(&name, problems);
        }
        if names.contains(&name.str()) {
            problems.duplicate_str(&name, name.str());
        }
        names.push(name.str());
        if number.exists() {
            checks::port_number(&number, problems);
        }
        if protocol.is_empty() {
            problems.required(&protocol, "");
        } else {
            checks::one_of(&protocol, &["SCTP", "TCP", "UDP"], problems);
        }
        let app = port.at("appProtocol");
        if app.exists() {
            problems.invalid_each(&app, api::names::qualified_name(app.str()));
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let list = |field: &str| walk(object, field).as_array().map_or(&[][..], Vec::as_slice);
    let ports: Vec<String> = list("ports")
        .iter()
        .map(|port| match (walk(port, "port").as_i64(), walk(port, "name").as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = list("endpoints")
        .iter()
        .flat_map(|endpoint| walk(endpoint, "addresses").as_array().into_iter().flatten())
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let shown = |list: &[String]| match printing::at_most(list, SHOWN) {
        text if text.is_empty() => "<unset>".to_owned(),
        text => text,
    };
    vec![
        printing::name(object),
        printing::string_at(object, "addressType"),
        shown(&ports).into(),
        shown(&addresses).into(),
        printing::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_row};
    use serde_json::json;

    #[test]
    fn rules() {
        let slice = |address: &str| json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]});
        check_defaulted(&KIND, slice("10.0.0.1"), "");
        check_defaulted(
            &KIND,
            slice("::1"),
            "endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
        );
        check_row(&KIND, slice("10.0.0.1"), "2026-01-01T00:00:00Z", "s | IPv4 | 80 | 10.0.0.1 | <unknown>");
    }
}
