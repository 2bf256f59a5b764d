//! HTTP routes to Services.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::core::service::load_balancer_addresses;
use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    definition: "io.k8s.api.networking.v1.Ingress",
    storage: "ingress",
    subresources: &[STATUS],
    prepare_create: |object| {
        lifecycle::first_generation(object);
        object["status"] = json!({"loadBalancer": {}});
    },
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    validate_status_update,
    warnings: |new, _| match walk(new, "metadata.annotations").get(CLASS_ANNOTATION) {
        Some(_) => {
            vec![format!("annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead")]
        }
        None => Vec::new(),
    },
    columns: &[
        NAME,
        text("Class", "The name of the IngressClass resource that should be used for additional configuration"),
        text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
        text("Address", "Address is a list containing ingress points for the load-balancer"),
        text("Ports", "Ports of TLS configurations that open"),
        AGE,
    ],
    cells,
    ..NAMESPACED
};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    if spec.at("rules").is_empty() && !spec.at("defaultBackend").exists() {
        let rules = json!([]);
        problems.invalid(&spec.with(&rules), "either `defaultBackend` or `rules` must be specified");
    }
    if spec.at("defaultBackend").exists() {
        validate_backend(&spec.at("defaultBackend"), problems);
    }
    for rule in spec.at("rules").items() {
        validate_rule(&rule, problems);
    }
    for entry in spec.at("tls").items() {
        for host in entry.at("hosts").items() {
            validate_host(&host, problems);
        }
        let secret = entry.at("secretName");
        if !secret.is_empty() {
            checks::subdomain(&secret, problems);
        }
    }
    let class = spec.at("ingressClassName");
    if class.exists() {
        checks::subdomain(&class, problems);
        // The original leaves `metadata` out.
        let annotations = root.at("annotations");
        let annotation = walk(object, "metadata.annotations").get(CLASS_ANNOTATION).and_then(Value::as_str);
        let annotation = annotation.filter(|annotation| *annotation != class.str());
        if let (Some(annotation), true) = (annotation, root.at("metadata.resourceVersion").is_empty()) {
            let why = "must match `ingressClassName` when both are specified";
            problems.invalid_str(&annotations.at(CLASS_ANNOTATION), annotation, why);
        }
    }
}

fn validate_host(host: &Cursor, problems: &mut Problems) {
    if host.str().contains('*') {
        problems.invalid_each(host, api::names::wildcard_dns1123_subdomain(host.str()));
    } else {
        checks::subdomain(host, problems);
    }
}

fn validate_rule(rule: &Cursor, problems: &mut Problems) {
    let host = rule.at("host");
    if !host.is_empty() {
        if checks::parse_ip(host.str()).is_some() {
            problems.invalid(&host, "must be a DNS name, not an IP address");
        }
        validate_host(&host, problems);
    }
    let http = rule.at("http");
    if !http.exists() {
        return;
    }
    let paths = http.at("paths");
    if paths.is_empty() {
        problems.required(&paths, "");
    }
    for path in paths.items() {
        validate_path(&path, problems);
        validate_backend(&path.at("backend"), problems);
    }
}

fn validate_path(path: &Cursor, problems: &mut Problems) {
    let (kind, text) = (path.at("pathType"), path.at("path"));
    match kind.str() {
        "" => problems.required(&kind, "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.str().starts_with('/') {
                problems.invalid_str(&text, text.str(), "must be an absolute path");
            }
            if text.is_empty() {
                return;
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.str().contains(sequence) {
                    problems.invalid(&text, &format!("must not contain '{sequence}'"));
                }
            }
            for suffix in ["/..", "/."] {
                if text.str().ends_with(suffix) {
                    problems.invalid(&text, &format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.str().starts_with('/') {
                problems.invalid(&text, "must be an absolute path");
            }
        }
        _ => problems.not_supported(&kind, PATH_TYPES),
    }
}

fn validate_backend(backend: &Cursor, problems: &mut Problems) {
    let (service, resource) = (backend.at("service"), backend.at("resource"));
    match (service.exists(), resource.exists()) {
        (true, true) => return problems.invalid_str(backend, "", "cannot set both resource and service backends"),
        (false, false) => return problems.required(backend, "resource or service backend is required"),
        (false, true) => {
            for field in ["kind", "name"] {
                checks::required(&resource.at(field), problems);
            }
            return;
        }
        (true, false) => {}
    }
    let (name, port) = (service.at("name"), service.at("port"));
    if checks::required(&name, problems) {
        problems.invalid_each(&name, api::names::dns1035_label(name.str()));
    }
    let (port_name, number) = (port.at("name"), port.at("number"));
    match (!port_name.is_empty(), number.int() != 0) {
        (true, true) => problems.invalid_str(backend, "", "cannot set both port name & port number"),
        (true, false) => problems.invalid_each(&port_name, api::names::port_name(port_name.str())),
        (false, true) => checks::port_number(&number, problems),
        (false, false) => problems.required(backend, "port name or number is required"),
    }
}

fn validate_status_update(new: &Value, _old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    for ingress in root.at("status.loadBalancer.ingress").items() {
        let (ip, hostname) = (ingress.at("ip"), ingress.at("hostname"));
        if !ip.is_empty() {
            checks::ip(&ip, problems);
        }
        if !hostname.is_empty() {
            checks::subdomain(&hostname, problems);
            if checks::parse_ip(hostname.str()).is_some() {
                problems.invalid(&hostname, "must be a DNS name, not an IP address");
            }
        }
    }
}

const HOSTS_SHOWN: usize = 3;

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let rules = walk(object, "spec.rules").as_array().map_or(&[][..], Vec::as_slice);
    let hosts: Vec<&str> = rules
        .iter()
        .take(HOSTS_SHOWN)
        .filter_map(|rule| walk(rule, "host").as_str())
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = match (hosts.is_empty(), rules.len() > HOSTS_SHOWN) {
        (true, _) => "*".to_owned(),
        (false, false) => hosts.join(","),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - HOSTS_SHOWN),
    };
    let tls = walk(object, "spec.tls").as_array().is_some_and(|list| !list.is_empty());
    vec![
        printing::name(object),
        printing::text_or(object, "spec.ingressClassName", "<none>"),
        hosts.into(),
        load_balancer_addresses(object).join(",").into(),
        if tls { "80, 443" } else { "80" }.into(),
        printing::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_row};

    fn ingress(path: &str) -> Value {
        json!({"metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.example", "http": {"paths": [
            {"path": path, "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}})
    }

    #[test]
    fn problems() {
        check(&KIND, ingress("/"), "");
        check(&KIND, ingress("x"), "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path");
        check(
            &KIND,
            json!({"spec": {}}),
            "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified",
        );
    }

    #[test]
    fn classes() {
        let mut classed = ingress("/");
        classed["spec"]["ingressClassName"] = "a".into();
        classed["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "a"});
        check(&KIND, classed.clone(), "");
        classed["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "b"});
        check(
            &KIND,
            classed,
            "annotations.kubernetes.io/ingress.class: Invalid value: \"b\": must match `ingressClassName` when both are specified",
        );
    }

    #[test]
    fn rows() {
        check_row(&KIND, ingress("/"), "2026-01-01T00:00:00Z", "i | <none> | a.example |  | 80 | <unknown>");
    }
}
