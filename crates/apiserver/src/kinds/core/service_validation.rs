//! What a Service may say, and what may change.

use serde_json::Value;

use super::endpoints::non_special_ip;
use crate::kinds::metadata::validate_labels;
use crate::kinds::{Cursor, Problems, checks};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const AFFINITY_SECONDS_MAX: i64 = 86400;

pub fn validate(service: &Value, problems: &mut Problems) {
    let root = Cursor::root(service);
    let spec = root.at("spec");
    let kind = spec.at("type").str();
    let headless = spec.at("clusterIP").str() == "None";
    validate_topology(&root, problems);
    validate_ports_present(&spec, kind, headless, problems);
    match kind {
        "LoadBalancer" => {
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
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let at = spec.at(field);
                // The first address and the list are the same to the original.
                if !at.is_empty() || (field == "clusterIPs" && !spec.at("clusterIP").is_empty()) {
                    problems.forbidden(&at, "may not be set for ExternalName services");
                }
            }
            let name = spec.at("externalName");
            // A trailing dot is allowed here.
            let name_text = name.str().strip_suffix('.').unwrap_or(name.str());
            if name_text.is_empty() {
                problems.required(&name, "");
            } else {
                problems.invalid_each_str(&name, name_text, api::names::dns1123_subdomain(name_text));
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
    validate_load_balancer(&root, kind, problems);
    validate_traffic_policies(&spec, kind, problems);
}

/// An old annotation and its newer name must not say different things.
fn validate_topology(root: &Cursor, problems: &mut Problems) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let annotations = root.at("metadata.annotations");
    let (hints, mode) = (annotations.key(HINTS), annotations.key("service.kubernetes.io/topology-mode"));
    if hints.exists() && mode.exists() && hints.str() != mode.str() {
        problems.invalid(&mode, &format!("must match annotations[{HINTS}] when both are specified"));
    }
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
}

fn validate_duplicates(ports: &Cursor, problems: &mut Problems) {
    let (mut nodes, mut own) = (Vec::new(), Vec::new());
    for port in ports.items() {
        let number = port.at("nodePort");
        let pair = (port.at("protocol").str(), number.int());
        if number.int() != 0 && nodes.contains(&pair) {
            problems.duplicate(&number);
        }
        nodes.push(pair);
    }
    for port in ports.items() {
        let pair = (port.at("protocol").str(), port.at("port").int());
        if own.contains(&pair) {
            // The original shows its internal struct.
            let (protocol, number) = pair;
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":\"{protocol}\",\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            problems.duplicate_plain(&port, &shown);
        }
        own.push(pair);
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
            const WHEN: &str = "when session affinity type is ClientIP";
            let (client, seconds) = (config.at("clientIP"), config.at("clientIP.timeoutSeconds"));
            if let Some(missing) = [&config, &client, &seconds].into_iter().find(|at| !at.exists()) {
                problems.required(missing, WHEN);
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
    if ip.is_empty() {
        if !ips.is_empty() {
            problems.invalid(&ips, "must be empty when `clusterIP` is not specified");
        }
    } else if ips.is_empty() {
        problems.required(&ips, "");
    } else if ips.array()[0].as_str() != Some(ip.str()) {
        problems.invalid(&ips, "first value must match `clusterIP`");
    }
    let mut seen: Vec<&str> = Vec::new();
    for family in families.items() {
        checks::one_of(&family, &["IPv4", "IPv6"], problems);
        if seen.contains(&family.str()) {
            problems.duplicate(&family);
        }
        seen.push(family.str());
    }
    checks::optional_one_of(&policy, &["PreferDualStack", "RequireDualStack", "SingleStack"], problems);
    let before = problems.list.len();
    for (index, own) in ips.items().enumerate() {
        if index == 0 && own.str() == "None" {
            if ips.len() > 1 {
                problems.invalid(&ips, "'None' must be the first and only value");
            }
        } else {
            checks::ip(&own, problems);
        }
    }
    let well = problems.list.len() == before;
    if ips.len() > 2 {
        problems.invalid(&ips, "may only hold up to 2 values");
    }
    if !well {
        return; // What follows would only confuse.
    }
    let family = |ip: &Cursor| checks::parse_ip(ip.str()).map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" });
    let own_families: Vec<&str> = ips.items().filter_map(|ip| family(&ip)).collect();
    if ips.len() > 2 || (own_families.len() == 2 && own_families[0] == own_families[1]) {
        problems.invalid(&ips, "may specify no more than one IP for each IP family");
    }
    for (index, (own, expected)) in ips.items().zip(families.array()).enumerate() {
        let expected = expected.as_str().unwrap_or("");
        if family(&own).is_some_and(|actual| actual != expected) && matches!(expected, "IPv4" | "IPv6") {
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
    validate_duplicates(&ports, problems);
}

fn validate_load_balancer(root: &Cursor, kind: &str, problems: &mut Problems) {
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    const FOR_LOAD_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";
    let spec = root.at("spec");
    let annotations = root.at("metadata.annotations");
    let (ranges, annotation) = (spec.at("loadBalancerSourceRanges"), annotations.key(RANGES));
    let named = spec.at("LoadBalancerSourceRanges"); // So the original calls it.
    if !ranges.is_empty() {
        if kind != "LoadBalancer" {
            problems.forbidden(&named, FOR_LOAD_BALANCERS);
        }
        for (index, range) in ranges.items().enumerate() {
            // Padding was allowed in the annotation that came before.
            let text = Value::from(range.str().trim());
            checks::cidr(&named.index(index).with(&text), problems);
        }
    } else if annotation.exists() {
        if kind != "LoadBalancer" {
            problems.forbidden(&annotation, FOR_LOAD_BALANCERS);
        }
        for range in annotation.str().split(',').map(str::trim).filter(|_| !annotation.str().trim().is_empty()) {
            checks::cidr(&annotation.with(&range.into()), problems);
        }
    }
    let allocate = spec.at("allocateLoadBalancerNodePorts");
    if kind == "LoadBalancer" {
        if !allocate.exists() {
            problems.required(&root.at("allocateLoadBalancerNodePorts"), "");
        }
    } else if allocate.exists() {
        problems.forbidden(&allocate, FOR_LOAD_BALANCERS);
    }
    let class = spec.at("loadBalancerClass");
    if class.exists() {
        if kind != "LoadBalancer" {
            problems.forbidden(&class, FOR_LOAD_BALANCERS);
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
    if !(kind == "LoadBalancer" && external.str() == "Local") {
        if health.int() != 0 {
            problems.invalid(
                &health,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            );
        }
    } else if health.int() == 0 {
        problems.required(&health, "");
    } else {
        checks::port_number(&health, problems);
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
    let (root, old_root) = (Cursor::root(new), Cursor::root(old));
    let (spec, before) = (root.at("spec"), old_root.at("spec"));
    let external = |spec: &Cursor| spec.at("type").str() == "ExternalName";
    if !external(&spec) && !external(&before) {
        let headless = |spec: &Cursor| spec.at("clusterIPs").array().first().is_some_and(|ip| ip == "None");
        match (headless(&before), headless(&spec)) {
            (true, true) => {}
            (false, false) => {
                validate_stack(&spec, &before, ("clusterIPs", "clusterIP"), problems);
                validate_stack(&spec, &before, ("ipFamilies", "ipFamily"), problems);
            }
            _ => validate_stack(&spec, &before, ("clusterIPs", "clusterIP"), problems),
        }
    }
    let balanced = |spec: &Cursor| spec.at("type").str() == "LoadBalancer";
    let class = spec.at("loadBalancerClass");
    if balanced(&spec) && balanced(&before) && class.value != before.at("loadBalancerClass").value {
        problems.invalid_object(&class, "may not change once set");
    }
    let checked = |spec: &Cursor| balanced(spec) && spec.at("externalTrafficPolicy").str() == "Local";
    let health = spec.at("healthCheckNodePort");
    if checked(&spec) && checked(&before) && health.int() != before.at("healthCheckNodePort").int() {
        problems.forbidden(&health, "field is immutable");
    }
}

/// A second family may come and go; the first stays.
fn validate_stack(spec: &Cursor, before: &Cursor, (list, one): (&str, &str), problems: &mut Problems) {
    const MAY_NOT_CHANGE: &str = "may not change once set";
    let (new, old) = (spec.at(list), before.at(list));
    let empty = Value::Array(Vec::new());
    let shown = new.with(if new.exists() { new.value } else { &empty });
    // The original names an item and shows the whole list.
    let complain = |index: usize, why: &str, problems: &mut Problems| problems.invalid(&shown.index(index).with(shown.value), why);
    if new.len() == old.len() {
        for index in (0..old.len()).filter(|index| new.array()[*index] != old.array()[*index]) {
            complain(if list == "ipFamilies" { 0 } else { index }, MAY_NOT_CHANGE, problems);
        }
        return;
    }
    if new.is_empty() {
        complain(0, &format!("primary {one} can not be unset"), problems);
    } else if !old.is_empty() && new.array()[0] != old.array()[0] {
        complain(0, MAY_NOT_CHANGE, problems);
    }
    let policy = spec.at("ipFamilyPolicy");
    if new.len() < old.len() && new.len() == 1 && policy.str() != "SingleStack" {
        problems.invalid(&policy, &format!("must be set to 'SingleStack' when releasing the secondary {one}"));
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

    #[test]
    fn types_and_their_fields() {
        let with = |spec: Value| {
            let mut all = json!({"ports": [{"port": 80}]});
            all.as_object_mut().expect("a map").extend(spec.as_object().cloned().unwrap_or_default());
            service(all)
        };
        check_defaulted(
            &KIND,
            with(json!({"type": "ExternalName", "externalName": "a_b.", "clusterIP": "10.0.0.1"})),
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services\n\
             spec.externalName: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        );
        check_defaulted(
            &KIND,
            with(json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 80, "nodePort": 30000}]})),
            "spec.ports[1].nodePort: Duplicate value: 30000\n\
             spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
        );
        check_defaulted(
            &KIND,
            with(json!({"clusterIPs": ["10.0.0.1"]})),
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified",
        );
        check_defaulted(
            &KIND,
            with(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "None"]})),
            "spec.clusterIPs[1]: Invalid value: \"None\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
        check_defaulted(
            &KIND,
            with(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]})),
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
        );
        check_defaulted(
            &KIND,
            with(json!({"loadBalancerSourceRanges": ["10.0.0.0"]})),
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'\n\
             spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
        let mut annotated = with(json!({}));
        annotated["metadata"]["annotations"] = json!({
            "service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8, x",
            "service.kubernetes.io/topology-mode": "Auto", "service.kubernetes.io/topology-aware-hints": "Disabled",
        });
        check_defaulted(
            &KIND,
            annotated,
            "metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"Auto\": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified\n\
             metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only be used when `type` is 'LoadBalancer'\n\
             metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
        check_defaulted(
            &KIND,
            with(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})),
            "spec.healthCheckNodePort: Required value",
        );
    }

    #[test]
    fn families_come_and_go() {
        let with = |ips: Value, families: Value, policy: &str| {
            let first = ips.get(0).cloned().unwrap_or("".into());
            service(json!({"type": "ClusterIP", "clusterIP": first, "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy}))
        };
        let single = || with(json!(["10.0.0.1"]), json!(["IPv4"]), "SingleStack");
        let dual = || with(json!(["10.0.0.1", "fd00::1"]), json!(["IPv4", "IPv6"]), "RequireDualStack");
        check_update(&KIND, dual(), single(), "");
        check_update(&KIND, single(), dual(), "");
        check_update(
            &KIND,
            with(json!(["10.0.0.1"]), json!(["IPv4"]), "PreferDualStack"),
            dual(),
            "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the secondary clusterIP\n\
             spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the secondary ipFamily",
        );
        check_update(
            &KIND,
            with(json!(["10.0.0.1", "fd00::2"]), json!(["IPv4", "IPv6"]), "RequireDualStack"),
            dual(),
            "spec.clusterIPs[1]: Invalid value: [\"10.0.0.1\",\"fd00::2\"]: may not change once set",
        );
        let balanced = |port: i64| service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port}));
        check_update(&KIND, balanced(30001), balanced(30000), "spec.healthCheckNodePort: Forbidden: field is immutable");
    }
}
