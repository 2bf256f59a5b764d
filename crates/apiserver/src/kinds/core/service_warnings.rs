//! What a Service or Endpoints says that will be ignored, or is not written as it should be.

use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::problems::go_quoted;

pub fn of_service(service: &Value, _: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let annotations = walk(service, "metadata.annotations");
    if annotations.get("service.kubernetes.io/topology-aware-hints").is_some() {
        out.push("annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead".into());
    }
    let spec = walk(service, "spec");
    let text = |field: &str| walk(spec, field).as_str().unwrap_or("");
    let external = text("type") == "ExternalName";
    let headless = text("type") == "ClusterIP" && text("clusterIP") == "None";
    if !external && !matches!(text("clusterIP"), "" | "None") {
        all_ips(spec, "clusterIPs", &mut out);
    }
    let has_external_ips = walk(spec, "externalIPs").as_array().is_some_and(|ips| !ips.is_empty());
    if headless {
        for (said, what) in [
            (!text("loadBalancerIP").is_empty(), "loadBalancerIP"),
            (has_external_ips, "externalIPs"),
            (text("sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if said {
                out.push(format!("spec.{what} is ignored for headless services"));
            }
        }
    }
    all_ips(spec, "externalIPs", &mut out);
    out.extend(of_ip("spec.loadBalancerIP", text("loadBalancerIP")));
    if external && has_external_ips {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if !external && !text("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    out
}

/// None about what a controller wrote.
pub fn of_endpoints(endpoints: &Value, _: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if walk(endpoints, "metadata.labels").get("endpoints.kubernetes.io/managed-by").is_some() {
        return out;
    }
    for (index, subset) in walk(endpoints, "subsets").as_array().into_iter().flatten().enumerate() {
        for list in ["addresses", "notReadyAddresses"] {
            for (at, address) in walk(subset, list).as_array().into_iter().flatten().enumerate() {
                let ip = walk(address, "ip").as_str().unwrap_or("");
                out.extend(of_ip(&format!("subsets[{index}].{list}[{at}].ip"), ip));
            }
        }
    }
    out
}

fn all_ips(spec: &Value, list: &str, out: &mut Vec<String>) {
    for (index, ip) in walk(spec, list).as_array().into_iter().flatten().enumerate() {
        out.extend(of_ip(&format!("spec.{list}[{index}]"), ip.as_str().unwrap_or("")));
    }
}

fn of_ip(at: &str, text: &str) -> Option<String> {
    let ip: std::net::Ipv6Addr = text.parse().ok()?;
    let quoted = go_quoted(text);
    if let Some(plain) = ip.to_ipv4_mapped() {
        return Some(format!(
            "{at}: non-standard IP address {quoted} will be considered invalid in a future Kubernetes release: use \"{plain}\""
        ));
    }
    let canonical = ip.to_string();
    (canonical != text).then(|| {
        format!("{at}: IPv6 address {quoted} should be in RFC 5952 canonical format (\"{canonical}\")")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services() {
        for (service, expected) in [
            (json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}}), ""),
            (
                json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "externalIPs": ["::ffff:1.2.3.4"], "sessionAffinity": "ClientIP"}}),
                "spec.externalIPs is ignored for headless services\n\
                 spec.SessionAffinity is ignored for headless services\n\
                 spec.externalIPs[0]: non-standard IP address \"::ffff:1.2.3.4\" will be considered invalid in a future Kubernetes release: use \"1.2.3.4\"",
            ),
            (
                json!({"spec": {"type": "ExternalName", "externalIPs": ["1.2.3.4"]}}),
                "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
            ),
            (
                json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}},
                    "spec": {"type": "LoadBalancer", "loadBalancerIP": "2001:db8:0:0::2", "externalName": "x"}}),
                "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead\n\
                 spec.loadBalancerIP: IPv6 address \"2001:db8:0:0::2\" should be in RFC 5952 canonical format (\"2001:db8::2\")\n\
                 spec.externalName is ignored when spec.type is not \"ExternalName\"",
            ),
        ] {
            assert_eq!(of_service(&service, None).join("\n"), expected);
        }
    }

    #[test]
    fn endpoints() {
        let mut object = json!({"metadata": {}, "subsets": [{"notReadyAddresses": [{"ip": "::0:1"}]}]});
        assert_eq!(
            of_endpoints(&object, None),
            ["subsets[0].notReadyAddresses[0].ip: IPv6 address \"::0:1\" should be in RFC 5952 canonical format (\"::1\")"]
        );
        object["metadata"]["labels"] = json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"});
        assert!(of_endpoints(&object, None).is_empty());
    }
}
