//! What a Service may say, and what may change.

use serde_json::Value;

use super::endpoints::non_special_ip;
use crate::kinds::cursor::walk;
use crate::kinds::metadata::validate_labels;
use crate::kinds::{Cursor, Problems, checks};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const AFFINITY_SECONDS_MAX: i64 = 86400;

pub fn validate(service: &Value, problems: &mut Problems) {
    let root = Cursor::root(service);
    let spec = root.at("spec");
    let kind = spec.at("type").str();
    let headless = spec.at("clusterIP").str() == "None";
    validate_ports_present(&spec, kind, headless, problems);
    match kind {
        "LoadBalancer" => {
            for port in spec.at("ports").items() {
                if port.at("port").int() == 10250 {
                    problems.invalid_plain(
                        &port,
                        10250,
                        "may not expose port 10250 externally since it is used by kubelet",
                    );
                }
            }
            if headless {
                problems.invalid_str(
                    &spec.at("clusterIPs[0]"),
                    "None",
                    "may not be set to 'None' for LoadBalancer services",
                );
            }
        }
        "NodePort" => {
            if headless {
                problems.invalid_str(
                    &spec.at("clusterIPs[0]"),
                    "None",
                    "may not be set to 'None' for NodePort services",
                );
            }
        }
        "ExternalName" => {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let at = spec.at(field);
                if !at.is_empty() {
                    problems.forbidden(&at, "may not be set for ExternalName services");
                }
            }
            let name = spec.at("externalName");
            // A trailing dot is allowed here.
            let name_text = name.str().strip_suffix('.').unwrap_or(name.str());
            if name_text.is_empty() {
                problems.required(&name, "");
            } else {
                problems.invalid_each(&name, api::names::dns1123_subdomain(name_text));
            }
        }
        _ => {}
    }
    validate_ports(&spec, problems);
    if spec.at("selector").exists() {
        validate_labels(&spec.at("selector"), problems);
    }
    validate_affinity(&spec, problems);
    if kind != "ExternalName" {
        validate_cluster_ips(&spec, problems);
    }
    for ip in spec.at("externalIPs").items() {
        let before = problems.list.len();
        checks::ip(&ip, problems);
        if problems.list.len() == before {
            non_special_ip(&ip, problems);
        }
    }
    match kind {
        "" => problems.required(&spec.at("type"), ""),
        _ => checks::one_of(&spec.at("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], problems),
    }
    validate_node_ports(&spec, kind, problems);
    validate_load_balancer(&spec, kind, problems);
    validate_traffic_policies(&spec, kind, problems);
}

fn validate_ports_present(spec: &Cursor, kind: &str, headless: bool, problems: &mut Problems) {
    if spec.at("ports").is_empty() && !headless && kind != "ExternalName" {
        problems.required(&spec.at("ports"), "");
    }
}

fn validate_ports(spec: &Cursor, problems: &mut Problems) {
    let ports = spec.at("ports");
    let names_needed = ports.len() > 1;
    let mut names: Vec<&str> = Vec::new();
    for port in ports.items() {
        let name = port.at("name");
        if names_needed && name.is_empty() {
            problems.required(&name, "");
        } else if !name.is_empty() {
            checks::label(&name, problems);
            if names.contains(&name.str()) {
                problems.duplicate(&name);
            }
            names.push(name.str());
        }
        checks::port_number(&port.at("port"), problems);
        let protocol = port.at("protocol");
        if checks::required(&protocol, problems) {
            checks::one_of(&protocol, PROTOCOLS, problems);
        }
        let target = port.at("targetPort");
        checks::port_number_or_name(&target, problems);
        let app_protocol = port.at("appProtocol");
        if app_protocol.exists() {
            problems.invalid_each(&app_protocol, api::names::qualified_name(app_protocol.str()));
        }
    }
    let mut seen = Vec::new();
    for port in ports.items() {
        let pair = (port.at("protocol").str(), port.at("port").int());
        if seen.contains(&pair) {
            let value = serde_json::json!({"name": "", "protocol": pair.0, "port": pair.1, "targetPort": 0});
            problems.duplicate(&port.with(&value));
        }
        seen.push(pair);
    }
}

fn validate_affinity(spec: &Cursor, problems: &mut Problems) {
    let affinity = spec.at("sessionAffinity");
    match affinity.str() {
        "" => problems.required(&affinity, ""),
        _ => checks::one_of(&affinity, &["ClientIP", "None"], problems),
    }
    let config = spec.at("sessionAffinityConfig");
    match affinity.str() {
        "ClientIP" => {
            let seconds = config.at("clientIP.timeoutSeconds");
            if !config.exists() {
                problems.required(&config, "when session affinity type is ClientIP");
            } else if !seconds.exists() {
                problems.required(&seconds, "");
            } else if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds.int()) {
                problems.invalid_plain(
                    &seconds,
                    seconds.int(),
                    &format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
                );
            }
        }
        "None" => {
            if config.exists() {
                problems.forbidden(&config, "must not be set when session affinity is None");
            }
        }
        _ => {}
    }
}

fn validate_cluster_ips(spec: &Cursor, problems: &mut Problems) {
    let (ip, ips) = (spec.at("clusterIP"), spec.at("clusterIPs"));
    let (families, policy) = (spec.at("ipFamilies"), spec.at("ipFamilyPolicy"));
    if ip.is_empty() && !ips.is_empty() {
        problems.required(&ip, "");
    } else if !ip.is_empty() && ips.is_empty() {
        problems.required(&ips, "");
    } else if !ips.is_empty() && ips.array()[0].as_str() != Some(ip.str()) {
        problems.invalid(&ips, "first value must match `clusterIP`");
    }
    if ips.len() > 2 {
        problems.invalid(&ips, "may only hold up to 2 values");
    }
    checks::optional_one_of(&policy, &["PreferDualStack", "RequireDualStack", "SingleStack"], problems);
    let mut seen: Vec<&str> = Vec::new();
    for family in families.items() {
        checks::one_of(&family, &["IPv4", "IPv6"], problems);
        if seen.contains(&family.str()) {
            problems.duplicate(&family);
        }
        seen.push(family.str());
    }
    for (index, own) in ips.items().enumerate() {
        if own.str() == "None" {
            if ips.len() > 1 {
                problems.invalid_str(&own, own.str(), "'None' must be the first and only value");
            }
            continue;
        }
        let before = problems.list.len();
        checks::ip(&own, problems);
        if problems.list.len() != before {
            continue;
        }
        let Some(parsed) = checks::parse_ip(own.str()) else { continue };
        let expected = families.array().get(index).and_then(Value::as_str);
        let actual = if parsed.is_ipv4() { "IPv4" } else { "IPv6" };
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            problems.invalid(&own, &format!("expected an {expected} value as indicated by `ipFamilies[{index}]`"));
        }
    }
}

fn validate_node_ports(spec: &Cursor, kind: &str, problems: &mut Problems) {
    let ports = spec.at("ports");
    if kind == "ClusterIP" {
        for port in ports.items() {
            if port.at("nodePort").int() != 0 {
                problems.forbidden(&port.at("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
        }
    }
    let mut seen = Vec::new();
    for port in ports.items() {
        let number = port.at("nodePort").int();
        if number == 0 {
            continue;
        }
        let pair = (port.at("protocol").str(), number);
        if seen.contains(&pair) {
            problems.invalid_plain(&port.at("nodePort"), number, &format!("duplicate nodePort {}/{number}", pair.0));
        }
        seen.push(pair);
    }
}

fn validate_load_balancer(spec: &Cursor, kind: &str, problems: &mut Problems) {
    let ranges = spec.at("loadBalancerSourceRanges");
    if !ranges.is_empty() {
        if kind != "LoadBalancer" {
            problems.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
        }
        for range in ranges.items() {
            if checks::parse_cidr(range.str().trim()).is_none() {
                problems.invalid(&range, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
            }
        }
    }
    let allocate = spec.at("allocateLoadBalancerNodePorts");
    if kind == "LoadBalancer" {
        if !allocate.exists() {
            problems.required(&allocate, "");
        }
    } else if allocate.exists() {
        problems.forbidden(&allocate, "may only be used when `type` is 'LoadBalancer'");
    }
    let class = spec.at("loadBalancerClass");
    if class.exists() {
        if kind != "LoadBalancer" {
            problems.forbidden(&class, "may only be used when `type` is 'LoadBalancer'");
        } else {
            problems.invalid_each(&class, api::names::qualified_name(class.str()));
        }
    }
}

fn validate_traffic_policies(spec: &Cursor, kind: &str, problems: &mut Problems) {
    let external = spec.at("externalTrafficPolicy");
    let accessible =
        matches!(kind, "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && !spec.at("externalIPs").is_empty());
    if !accessible {
        if !external.is_empty() {
            problems.invalid(&external, "may only be set for externally-accessible services");
        }
    } else {
        match external.str() {
            "" => problems.required(&external, ""),
            _ => checks::one_of(&external, &["Cluster", "Local"], problems),
        }
    }
    let health = spec.at("healthCheckNodePort");
    if !(kind == "LoadBalancer" && external.str() == "Local") && health.int() != 0 {
        problems
            .invalid(&health, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
    }
    let internal = spec.at("internalTrafficPolicy");
    if matches!(kind, "LoadBalancer" | "NodePort" | "ClusterIP") && !internal.exists() {
        problems.required(&internal, "");
    }
    if internal.exists() {
        checks::one_of(&internal, &["Cluster", "Local"], problems);
    }
    checks::optional_one_of(
        &spec.at("trafficDistribution"),
        &["PreferClose", "PreferSameNode", "PreferSameZone"],
        problems,
    );
}

pub fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let (ips, before) = (root.at("spec.clusterIPs"), walk(old, "spec.clusterIPs"));
    let kind = |object: &Value| walk(object, "spec.type").as_str().unwrap_or("").to_owned();
    let (new_kind, old_kind) = (kind(new), kind(old));
    let external = |kind: &str| kind == "ExternalName";
    if !external(&old_kind) && !external(&new_kind) {
        let had = before.get(0).and_then(Value::as_str).unwrap_or("");
        if !had.is_empty() && ips.index(0).str() != had {
            // The original names the first item and shows the whole list.
            problems.invalid(&ips.index(0).with(ips.value), "may not change once set");
        }
    }
    let class = root.at("spec.loadBalancerClass");
    if new_kind == "LoadBalancer" && old_kind == "LoadBalancer" && class.value != walk(old, "spec.loadBalancerClass") {
        problems.invalid_object(&class, "may not change once set");
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::KIND;
    use crate::kinds::testing::{check_defaulted, check_update};
    use serde_json::{Value, json};

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": spec})
    }

    #[test]
    fn problems() {
        check_defaulted(&KIND, service(json!({"ports": [{"port": 80}]})), "");
        check_defaulted(&KIND, service(json!({"clusterIP": "None", "clusterIPs": ["None"]})), "");
        check_defaulted(&KIND, service(json!({})), "spec.ports: Required value");
        check_defaulted(
            &KIND,
            service(json!({"ports": [{"port": 0}]})),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive\n\
             spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        );
        check_defaulted(
            &KIND,
            service(json!({"ports": [{"port": 80}, {"port": 81}]})),
            "spec.ports[0].name: Required value\nspec.ports[1].name: Required value",
        );
        check_defaulted(
            &KIND,
            service(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        );
        check_defaulted(&KIND, service(json!({"type": "ExternalName"})), "spec.externalName: Required value");
        check_defaulted(
            &KIND,
            service(json!({"type": "X", "ports": [{"port": 80}]})),
            "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        );
    }

    #[test]
    fn the_address_stays() {
        let with = |ip: &str| service(json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}));
        check_update(&KIND, with("10.0.0.1"), with("10.0.0.1"), "");
        check_update(
            &KIND,
            with("10.0.0.2"),
            with("10.0.0.1"),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set",
        );
    }
}
