//! Ingresses, network policies, endpoints and addresses

use serde_json::Value;

use super::kinds::endpoints;
use super::{head, labels_and_annotations, pairs_block, rfc1123, selector_text};
use crate::rest::Url;
use crate::selection::Info;
use crate::session::Session;
use crate::value::{int, list, name, name_of, namespace, plain, text};

pub async fn ingress(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let address = |one: &Value| if text(one, "/ip").is_empty() { text(one, "/hostname") } else { text(one, "/ip") }.to_owned();
    let addresses: Vec<String> = list(object, "/status/loadBalancer/ingress").iter().map(address).collect();
    let class = text(object, "/spec/ingressClassName");
    let mut out = format!("Name:\t{}\n", name(object)) + &pairs_block("Labels", object, "/metadata/labels", "=");
    out += &format!("Namespace:\t{}\nAddress:\t{}\nIngress Class:\t{}\n", namespace(object), addresses.join(","), if class.is_empty() { "<none>" } else { class });
    let default = match object.pointer("/spec/defaultBackend") {
        Some(found) => backend(session, &info.namespace, found).await,
        None => "<default>".to_owned(),
    };
    out += &format!("Default backend:\t{default}\n");
    if !list(object, "/spec/tls").is_empty() {
        out += "TLS:\n";
        for tls in list(object, "/spec/tls") {
            let hosts: Vec<String> = list(tls, "/hosts").iter().map(plain).collect();
            match text(tls, "/secretName") {
                "" => out += &format!("  SNI routes {}\n", hosts.join(",")),
                secret => out += &format!("  {secret} terminates {}\n", hosts.join(",")),
            }
        }
    }
    out += "Rules:\n  Host\tPath\tBackends\n  ----\t----\t--------\n";
    let rules = || list(object, "/spec/rules").iter().filter(|rule| rule.get("http").is_some());
    for rule in rules() {
        out += &format!("  {}\t\n", if text(rule, "/host").is_empty() { "*" } else { text(rule, "/host") });
        for path in list(rule, "/http/paths") {
            out += &format!("    \t{} \t{}\n", text(path, "/path"), backend(session, &info.namespace, &path["backend"]).await);
        }
    }
    if rules().next().is_none() {
        out += &format!("  *\t*\t{default}\n");
    }
    out + &pairs_block("Annotations", object, "/metadata/annotations", ": ")
}

/// `web:80 (10.42.0.2:80)`
async fn backend(session: &Session, namespace: &str, backend: &Value) -> String {
    if let Some(found) = backend.get("resource") {
        let group = found.get("apiGroup").map_or_else(|| "<none>".to_owned(), plain);
        return format!("APIGroup: {group}, Kind: {}, Name: {}", text(found, "/kind"), name_of(found));
    }
    let Some(service) = backend.get("service") else { return String::new() };
    let wanted = service.pointer("/port/number").or(service.pointer("/port/name")).map(plain).unwrap_or_default();
    let shown = format!("{}:{wanted}", name_of(service));
    let base = format!("/api/v1/namespaces/{namespace}/services/{}", name_of(service));
    let found = match session.get(Url::new(base)).await {
        Ok(found) => found,
        Err(error) => return format!("{shown} (<error: {}>)", error.bare()),
    };
    let slices = Url::new(format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"))
        .with("labelSelector", &format!("kubernetes.io/service-name={}", name_of(service)));
    let slices = match session.get(slices).await {
        Ok(found) => found,
        Err(error) => return format!("{shown} (<error: {}>)", error.bare()),
    };
    let is_wanted = |port: &&Value| int(port, "/port").to_string() == wanted || (!wanted.is_empty() && name_of(port) == wanted);
    let port = list(&found, "/spec/ports").iter().find(is_wanted).map(name_of).unwrap_or_default();
    format!("{shown} ({})", endpoints(list(&slices, "/items"), port))
}

pub fn ingress_class(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", name(object)) + &labels_and_annotations(object);
    out += &format!("Controller:\t{}\n", text(object, "/spec/controller"));
    if let Some(parameters) = object.pointer("/spec/parameters") {
        out += "Parameters:\n";
        if parameters.get("apiGroup").is_some() {
            out += &format!("  APIGroup:\t{}\n", text(parameters, "/apiGroup"));
        }
        out += &format!("  Kind:\t{}\n  Name:\t{}\n", text(parameters, "/kind"), name_of(parameters));
    }
    out
}

pub fn network_policy(object: &Value) -> String {
    let created = crate::output::timestamp(text(object, "/metadata/creationTimestamp"));
    let created = created.map(|time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()).unwrap_or_default();
    let mut out = head(object) + &format!("Created on:\t{created}\n") + &labels_and_annotations(object);
    let spec = &object["spec"];
    let selector = selector_text(&spec["podSelector"]);
    let selector = if selector == "<none>" { "<none> (Allowing the specific traffic to all pods in this namespace)".to_owned() } else { selector };
    out += &format!("Spec:\n  PodSelector:     {selector}\n");
    let types: Vec<&str> = list(spec, "/policyTypes").iter().filter_map(Value::as_str).collect();
    for (kind, field, peers, from, side) in [("Ingress", "/ingress", "/from", "From", "source"), ("Egress", "/egress", "/to", "To", "destination")] {
        let lower = kind.to_lowercase();
        if !types.contains(&kind) {
            out += &format!("  Not affecting {lower} traffic\n");
            continue;
        }
        out += &format!("  Allowing {lower} traffic:\n");
        let rules = list(spec, field);
        if rules.is_empty() {
            out += &format!("    <none> (Selected pods are isolated for {lower} connectivity)\n");
        }
        for (index, rule) in rules.iter().enumerate() {
            out += &policy_rule(rule, peers, from, side);
            if index + 1 < rules.len() {
                out += "    ----------\n";
            }
        }
    }
    out + &format!("  Policy Types: {}\n", if types.is_empty() { "<none>".to_owned() } else { types.join(", ") })
}

fn policy_rule(rule: &Value, peers: &str, from: &str, side: &str) -> String {
    let mut out = String::new();
    if list(rule, "/ports").is_empty() {
        out += "    To Port: <any> (traffic allowed to all ports)\n";
    }
    for port in list(rule, "/ports") {
        let protocol = if text(port, "/protocol").is_empty() { "TCP" } else { text(port, "/protocol") };
        let number = port.get("port").map_or_else(|| "<nil>".to_owned(), plain);
        out += &match port.get("endPort") {
            Some(end) => format!("    To Port Range: {number}-{}/{protocol}\n", plain(end)),
            None => format!("    To Port: {number}/{protocol}\n"),
        };
    }
    if list(rule, peers).is_empty() {
        return out + &format!("    {from}: <any> (traffic not restricted by {side})\n");
    }
    for peer in list(rule, peers) {
        out += &format!("    {from}:\n");
        for (title, field) in [("NamespaceSelector", "namespaceSelector"), ("PodSelector", "podSelector")] {
            if let Some(selector) = peer.get(field) {
                out += &format!("      {title}: {}\n", selector_text(selector));
            }
        }
        if let Some(block) = peer.get("ipBlock") {
            let except: Vec<String> = list(block, "/except").iter().map(plain).collect();
            out += &format!("      IPBlock:\n        CIDR: {}\n        Except: {}\n", text(block, "/cidr"), except.join(", "));
        }
    }
    out
}

pub fn endpoints_object(object: &Value) -> String {
    let mut out = head(object) + &labels_and_annotations(object) + "Subsets:\n";
    for subset in list(object, "/subsets") {
        let addresses = |pointer: &str| {
            let all: Vec<&str> = list(subset, pointer).iter().map(|one| text(one, "/ip")).collect();
            if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
        };
        out += &format!("  Addresses:\t{}\n  NotReadyAddresses:\t{}\n", addresses("/addresses"), addresses("/notReadyAddresses"));
        if !list(subset, "/ports").is_empty() {
            out += "  Ports:\n    Name\tPort\tProtocol\n    ----\t----\t--------\n";
        }
        for port in list(subset, "/ports") {
            let port_name = if name_of(port).is_empty() { "<unset>" } else { name_of(port) };
            out += &format!("    {port_name}\t{}\t{}\n", int(port, "/port"), text(port, "/protocol"));
        }
        out += "\n";
    }
    out
}

pub fn endpoint_slice(object: &Value) -> String {
    let mut out = head(object) + &labels_and_annotations(object) + &format!("AddressType:\t{}\n", text(object, "/addressType"));
    let unset = |value: Option<&Value>| value.map(plain).filter(|shown| !shown.is_empty()).unwrap_or_else(|| "<unset>".to_owned());
    let ports = list(object, "/ports");
    out += if ports.is_empty() { "Ports: <unset>\n" } else { "Ports:\n  Name\tPort\tProtocol\n  ----\t----\t--------\n" };
    for port in ports {
        out += &format!("  {}\t{}\t{}\n", unset(port.get("name")), unset(port.get("port")), text(port, "/protocol"));
    }
    let found = list(object, "/endpoints");
    out += if found.is_empty() { "Endpoints: <none>\n" } else { "Endpoints:\n" };
    for endpoint in found {
        let addresses: Vec<String> = list(endpoint, "/addresses").iter().map(plain).collect();
        out += &format!("  - Addresses:\t{}\n", if addresses.is_empty() { "<none>".to_owned() } else { addresses.join(", ") });
        out += &format!("    Conditions:\n      Ready:\t{}\n", unset(endpoint.pointer("/conditions/ready")));
        out += &format!("    Hostname:\t{}\n", unset(endpoint.get("hostname")));
        if let Some(target) = endpoint.get("targetRef") {
            out += &format!("    TargetRef:\t{}/{}\n", text(target, "/kind"), name_of(target));
        }
        out += &format!("    NodeName:\t{}\n    Zone:\t{}\n", unset(endpoint.get("nodeName")), unset(endpoint.get("zone")));
    }
    out
}

pub fn service_range(object: &Value) -> String {
    let ranges: Vec<String> = list(object, "/spec/cidrs").iter().map(plain).collect();
    let mut out = format!("Name:\t{}\n", name(object)) + &labels_and_annotations(object) + &format!("CIDRs:\t{}\n", ranges.join(", "));
    let conditions = list(object, "/status/conditions");
    if !conditions.is_empty() {
        out += "Status:\nConditions:\n  Type\tStatus\tLastTransitionTime\tReason\tMessage\n  ----\t------\t------------------\t------\t-------\n";
    }
    for one in conditions {
        out += &format!("  {}\t{}\t{}\t{}\t{}\n", text(one, "/type"), text(one, "/status"), rfc1123(text(one, "/lastTransitionTime")), text(one, "/reason"), text(one, "/message"));
    }
    out
}

pub fn ip_address(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", name(object)) + &labels_and_annotations(object);
    if let Some(parent) = object.pointer("/spec/parentRef") {
        out += &format!(
            "Parent Reference:\n  Group:\t{}\n  Resource:\t{}\n  Namespace:\t{}\n  Name:\t{}\n",
            text(parent, "/group"),
            text(parent, "/resource"),
            text(parent, "/namespace"),
            name_of(parent)
        );
    }
    out
}
