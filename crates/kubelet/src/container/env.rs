//! A container's environment: variables of services, `envFrom`, `env`, in the order in which later ones win.
//!
//! Invariant: pure; the ConfigMaps, Secrets and Services it reads were fetched before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use super::expand::expand;
use super::fields::{self, Facts};
use crate::pod::spec;

/// The objects that the environment refers to, as far as they exist.
pub struct Sources<'a> {
    pub config_maps: &'a BTreeMap<String, std::sync::Arc<ConfigMap>>,
    pub secrets: &'a BTreeMap<String, std::sync::Arc<Secret>>,
    /// Of the pod's namespace, and `kubernetes` of `default`.
    pub services: &'a [std::sync::Arc<Service>],
    pub facts: &'a Facts,
}

#[derive(Debug, Default, PartialEq)]
pub struct Environment {
    pub variables: Vec<(String, String)>,
    /// Keys of `envFrom` that cannot be names of variables: (kind and object, keys).
    pub skipped: Vec<(String, Vec<String>)>,
}

pub fn environment(pod: &Pod, container: &Container, sources: &Sources) -> Result<Environment, String> {
    let mut environment = Environment::default();
    let services = service_variables(pod, sources.services);

    let mut own: Vec<(String, String)> = Vec::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (label, data) = if let Some(reference) = &from.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            match sources.config_maps.get(&reference.name) {
                Some(map) => (format!("configMap {}/{}", spec::namespace(pod), reference.name), map.data.clone().unwrap_or_default()),
                None if optional => continue,
                None => return Err(format!("configmap \"{}\" not found", reference.name)),
            }
        } else if let Some(reference) = &from.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            match sources.secrets.get(&reference.name) {
                Some(secret) => (format!("secret {}/{}", spec::namespace(pod), reference.name), secret_text(secret)),
                None if optional => continue,
                None => return Err(format!("secret \"{}\" not found", reference.name)),
            }
        } else {
            continue;
        };
        let mut invalid = Vec::new();
        for (key, value) in data {
            let name = format!("{prefix}{key}");
            if !is_variable_name(&name) {
                invalid.push(key);
                continue;
            }
            known.insert(name.clone(), value.clone());
            put(&mut own, name, value);
        }
        if !invalid.is_empty() {
            environment.skipped.push((label, invalid));
        }
    }

    for variable in container.env.iter().flatten() {
        let Some(value) = value_of(pod, container, variable, sources, &known, &services)? else { continue };
        known.insert(variable.name.clone(), value.clone());
        put(&mut own, variable.name.clone(), value);
    }

    for (name, value) in services {
        if !known.contains_key(&name) {
            environment.variables.push((name, value));
        }
    }
    environment.variables.extend(own);
    Ok(environment)
}

fn put(list: &mut Vec<(String, String)>, name: String, value: String) {
    match list.iter_mut().find(|(existing, _)| *existing == name) {
        Some(existing) => existing.1 = value,
        None => list.push((name, value)),
    }
}

/// None when an optional source is absent: the variable is not set at all.
fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    sources: &Sources,
    known: &BTreeMap<String, String>,
    services: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    let Some(from) = &variable.value_from else {
        let mut scope = services.clone();
        scope.extend(known.iter().map(|(name, value)| (name.clone(), value.clone())));
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), &scope)));
    };
    if let Some(reference) = &from.field_ref {
        return fields::field(pod, &reference.field_path, sources.facts).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
        let other = named.and_then(|name| spec::container(pod, name)).map(|(_, container)| container);
        return fields::resource(other.as_ref().unwrap_or(container), selector, sources.facts).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(map) = sources.config_maps.get(&reference.name) else {
            return if optional { Ok(None) } else { Err(format!("configmap \"{}\" not found", reference.name)) };
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {}/{}", reference.key, spec::namespace(pod), reference.name)),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(secret) = sources.secrets.get(&reference.name) else {
            return if optional { Ok(None) } else { Err(format!("secret \"{}\" not found", reference.name)) };
        };
        return match secret_text(secret).remove(&reference.key) {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {}/{}", reference.key, spec::namespace(pod), reference.name)),
        };
    }
    Ok(Some(String::new()))
}

fn secret_text(secret: &Secret) -> BTreeMap<String, String> {
    let mut text: BTreeMap<String, String> = secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()))
        .collect();
    text.extend(secret.string_data.clone().unwrap_or_default());
    text
}

/// Printable ASCII without `=`, as since v1.34.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}

fn service_variables(pod: &Pod, services: &[std::sync::Arc<Service>]) -> BTreeMap<String, String> {
    let links = spec::spec(pod).enable_service_links.unwrap_or(true);
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref().unwrap_or_default());
        let master = namespace == Some("default") && name == "kubernetes";
        let own = namespace == Some(spec::namespace(pod));
        if own && links {
            chosen.insert(name, service); // The own namespace's wins over the cluster's of the same name.
        } else if master {
            chosen.entry(name).or_insert(service);
        }
    }
    let mut variables = BTreeMap::new();
    for (name, service) in chosen {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let prefix = name.to_uppercase().replace('-', "_");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let number = port.port;
            if index == 0 {
                variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
                variables.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            }
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let port_name = port_name.to_uppercase().replace('-', "_");
                variables.insert(format!("{prefix}_SERVICE_PORT_{port_name}"), number.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{number}");
            if index == 0 {
                variables.insert(format!("{prefix}_PORT"), url.clone());
            }
            let one = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
            variables.insert(format!("{one}_PROTO"), lower);
            variables.insert(format!("{one}_PORT"), number.to_string());
            variables.insert(format!("{one}_ADDR"), ip.to_owned());
            variables.insert(one, url);
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn run(container: Value) -> Result<Environment, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"containers": [container]},
        }))
        .expect("a pod");
        let map: ConfigMap = serde_json::from_value(json!({"data": {"color": "red", "bad=key": "x"}})).expect("a map");
        let secret: Secret = serde_json::from_value(json!({"data": {"password": "aHVudGVy"}})).expect("a secret");
        let service = |namespace: &str, name: &str, ip: &str| -> Arc<Service> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]},
                }))
                .expect("a service"),
            )
        };
        let sources = Sources {
            config_maps: &BTreeMap::from([("settings".to_owned(), Arc::new(map))]),
            secrets: &BTreeMap::from([("login".to_owned(), Arc::new(secret))]),
            services: &[service("default", "kubernetes", "10.43.0.1"), service("shop", "my-db", "10.43.0.9"), service("shop", "none", "None")],
            facts: &Facts::default(),
        };
        let pod_container = &spec::spec(&pod).containers[0].clone();
        environment(&pod, pod_container, &sources)
    }

    #[track_caller]
    fn check(container: Value, expected: &str) {
        let mut container = container;
        container["name"] = json!("c");
        let text = match run(container) {
            Ok(environment) => environment
                .variables
                .iter()
                .filter(|(name, _)| !name.contains("_PORT") && !name.ends_with("SERVICE_HOST"))
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error,
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn variables() {
        check(json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(NO)"}]}), "A=1 B=1$(NO)");
        check(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}), "A=2");
        check(json!({"env": [{"name": "A", "value": "$(MY_DB_SERVICE_HOST)"}]}), "A=10.43.0.9");
        check(json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}]}), "P_color=red");
        check(json!({"envFrom": [{"configMapRef": {"name": "no"}}]}), "configmap \"no\" not found");
        check(json!({"envFrom": [{"secretRef": {"name": "no", "optional": true}}]}), "");
        check(json!({"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}]}), "P=hunter");
        check(
            json!({"env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "login", "key": "no"}}}]}),
            "couldn't find key no in Secret shop/login",
        );
        check(
            json!({"env": [{"name": "P", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "no"}}}]}),
            "couldn't find key no in ConfigMap shop/settings",
        );
        check(json!({"env": [{"name": "P", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "x", "optional": true}}}]}), "");
        check(json!({"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}), "N=web");
    }

    #[test]
    fn services_of_the_namespace_and_the_cluster() {
        let environment = run(json!({"name": "c"})).expect("an environment");
        let map: BTreeMap<String, String> = environment.variables.into_iter().collect();
        assert_eq!(map["KUBERNETES_SERVICE_HOST"], "10.43.0.1");
        assert_eq!(map["MY_DB_SERVICE_PORT_HTTP"], "80");
        assert_eq!(map["MY_DB_PORT"], "tcp://10.43.0.9:80");
        assert_eq!(map["MY_DB_PORT_80_TCP_ADDR"], "10.43.0.9");
        assert!(!map.contains_key("NONE_SERVICE_HOST"));
    }
}
