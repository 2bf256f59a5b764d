//! The addresses behind a Service, for clients older than endpoint slices.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default_text, each};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks};

const SHOWN: usize = 3;

pub static KIND: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    definition: "io.k8s.api.core.v1.Endpoints",
    storage: "services/endpoints",
    create_on_update: true,
    defaults,
    validate,
    warnings: super::service_warnings::of_endpoints,
    deprecation: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    columns: &[NAME, text("Endpoints", "io.k8s.api.core.v1.Endpoints#subsets"), AGE],
    cells,
    ..NAMESPACED
};

fn defaults(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        each(map, "subsets", |subset| each(subset, "ports", |port| default_text(port, "protocol", "TCP")));
    }
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    for subset in root.at("subsets").items() {
        let (ready, not_ready, ports) = (subset.at("addresses"), subset.at("notReadyAddresses"), subset.at("ports"));
        if ready.is_empty() && not_ready.is_empty() {
            problems.required(&subset, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(not_ready.items()) {
            validate_address(&address, problems);
        }
        let name_needed = ports.len() > 1;
        for port in ports.items() {
            let name = port.at("name");
            if name_needed && name.is_empty() {
                problems.required(&name, "");
            } else if !name.is_empty() {
                checks::label(&name, problems);
            }
            checks::port_number(&port.at("port"), problems);
            if checks::required(&port.at("protocol"), problems) {
                checks::one_of(&port.at("protocol"), &["SCTP", "TCP", "UDP"], problems);
            }
            let protocol = port.at("appProtocol");
            if protocol.exists() {
                problems.invalid_each(&protocol, api::names::qualified_name(protocol.str()));
            }
        }
    }
}

fn validate_address(address: &Cursor, problems: &mut Problems) {
    let ip = address.at("ip");
    let before = problems.list.len();
    checks::ip(&ip, problems);
    let (hostname, node) = (address.at("hostname"), address.at("nodeName"));
    if !hostname.is_empty() {
        checks::label(&hostname, problems);
    }
    if node.exists() {
        checks::subdomain(&node, problems);
    }
    if problems.list.len() == before {
        non_special_ip(&ip, problems);
    }
}

/// Endpoints may not lead to the machine itself or to groups.
pub fn non_special_ip(at: &Cursor, problems: &mut Problems) {
    let Some(ip) = checks::parse_ip(at.str()) else {
        problems.invalid_str(at, at.str(), "must be a valid IP address");
        return;
    };
    if ip.is_unspecified() {
        problems.invalid_str(at, at.str(), &format!("may not be unspecified ({})", at.str()));
    }
    if ip.is_loopback() {
        problems.invalid_str(at, at.str(), "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match ip {
        std::net::IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        problems.invalid_str(at, at.str(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        problems.invalid_str(at, at.str(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printing::name(object), shown(walk(object, "subsets")).into(), printing::age(object, now)]
}

fn shown(subsets: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let subsets = list(subsets);
    if subsets.is_empty() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for subset in &subsets {
        let addresses = list(walk(subset, "addresses"));
        let addresses = || addresses.iter().filter_map(|address| walk(address, "ip").as_str());
        let ports = list(walk(subset, "ports"));
        if ports.is_empty() {
            // Headless services may have none.
            all.extend(addresses().map(str::to_owned));
        }
        for port in &ports {
            let number = walk(port, "port").as_i64().unwrap_or(0);
            all.extend(addresses().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{number}"),
                false => format!("{ip}:{number}"),
            }));
        }
    }
    printing::at_most(&all, SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_row};
    use serde_json::json;

    #[test]
    fn rows() {
        let row = |subsets: Value, expected: &str| {
            let object =
                json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"}, "subsets": subsets});
            check_row(&KIND, object, "2026-01-01T00:05:00Z", expected);
        };
        row(json!([]), "web | <none> | 5m");
        row(
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]),
            "web | 10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more... | 5m",
        );
        row(json!([{"addresses": [{"ip": "10.0.0.1"}]}]), "web | 10.0.0.1 | 5m");
    }

    #[test]
    fn problems() {
        check(
            &KIND,
            json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0, "protocol": "TCP"}]}]}),
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)\n\
             subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        );
    }
}
