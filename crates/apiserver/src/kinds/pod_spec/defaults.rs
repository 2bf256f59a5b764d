//! Defaults of a pod spec.
//!
//! Invariant: what holds for pods alone (requests from limits, service links) is not written into templates, so that
//! a template reads back as it was sent.

use serde_json::{Value, json};

use crate::kinds::edit::{Object, default, default_number, default_text, each, fill, inside, make, object, text};

/// `metadata` and `spec` of a template lie at `path`.
pub fn default_template(value: &mut Value, path: &str) {
    if let Some(template) = object(value, path) {
        inside(template, "spec", default_pod_spec);
    }
}

/// For pods themselves, after [`default_pod_spec`].
pub fn default_pod_only(spec: &mut Object) {
    for list in ["containers", "initContainers"] {
        each(spec, list, |container| inside(container, "resources", requests_from_limits));
    }
    default_pod_level_requests(spec);
    default(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        default_host_ports(spec);
    }
}

pub fn default_pod_spec(spec: &mut Object) {
    // An alpha field of the original, dropped while its feature is off.
    spec.remove("workloadRef");
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default(spec, "securityContext", json!({}));
    default(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    if let Some(account) = spec.get("serviceAccountName").filter(|name| name.as_str() != Some("")).cloned() {
        // The old name of the field is kept alike, for old clients.
        spec.insert("serviceAccount".into(), account);
    } else if let Some(account) = spec.get("serviceAccount").filter(|name| name.as_str() != Some("")).cloned() {
        spec.insert("serviceAccountName".into(), account);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list, default_container);
    }
    each(spec, "volumes", default_volume);
}

fn default_container(container: &mut Object) {
    if text(container, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(container, "image"));
        container.insert("imagePullPolicy".into(), policy.into());
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    each(container, "ports", |port| default_text(port, "protocol", "TCP"));
    each(container, "env", |env| {
        inside(env, "valueFrom", |from| {
            inside(from, "fieldRef", default_field_reference);
            inside(from, "fileKeyRef", |reference| default(reference, "optional", false));
        });
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        inside(container, probe, default_probe);
    }
    inside(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            inside(lifecycle, hook, |handler| inside(handler, "httpGet", default_http_get));
        }
    });
}

/// Always for `:latest`, spelled out or meant.
pub fn pull_policy(image: &str) -> &'static str {
    if image_tag(image) == Some("latest") { "Always" } else { "IfNotPresent" }
}

/// The tag of an image reference: `latest` when it has neither tag nor digest; None when it has only a digest or is
/// no reference at all.
fn image_tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match name[last..].rfind(':') {
        Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
        None => (name, None),
    };
    if repository.is_empty()
        || repository.rsplit('/').next().is_some_and(|part| part.bytes().any(|b| b.is_ascii_uppercase()))
    {
        return None;
    }
    match (tag, digest) {
        (Some(tag), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    }
}

fn default_probe(probe: &mut Object) {
    default_number(probe, "timeoutSeconds", 1);
    default_number(probe, "periodSeconds", 10);
    default_number(probe, "successThreshold", 1);
    default_number(probe, "failureThreshold", 3);
    inside(probe, "httpGet", default_http_get);
    inside(probe, "grpc", |grpc| default(grpc, "service", ""));
}

fn default_http_get(action: &mut Object) {
    default_text(action, "path", "/");
    default_text(action, "scheme", "HTTP");
}

fn default_field_reference(reference: &mut Object) {
    default_text(reference, "apiVersion", "v1");
}

fn default_volume(volume: &mut Object) {
    let has_source = volume.iter().any(|(field, value)| field != "name" && !value.is_null());
    if !has_source {
        volume.insert("emptyDir".into(), json!({}));
        return;
    }
    for source in ["secret", "configMap"] {
        inside(volume, source, |source| default(source, "defaultMode", 0o644));
    }
    inside(volume, "downwardAPI", |source| {
        default(source, "defaultMode", 0o644);
        each(source, "items", |item| inside(item, "fieldRef", default_field_reference));
    });
    inside(volume, "projected", |projected| {
        default(projected, "defaultMode", 0o644);
        each(projected, "sources", |source| {
            inside(source, "serviceAccountToken", |token| default(token, "expirationSeconds", 3600));
            inside(source, "downwardAPI", |source| {
                each(source, "items", |item| inside(item, "fieldRef", default_field_reference));
            });
        });
    });
    inside(volume, "hostPath", |source| default(source, "type", ""));
    inside(volume, "image", |source| {
        if text(source, "pullPolicy").is_empty() {
            let policy = pull_policy(text(source, "reference"));
            source.insert("pullPolicy".into(), policy.into());
        }
    });
    inside(volume, "ephemeral", |source| {
        inside(source, "volumeClaimTemplate", |template| {
            inside(template, "spec", |spec| default(spec, "volumeMode", "Filesystem"));
        });
    });
    default_network_volume(volume);
}

/// The network volumes that persistent volumes share with pods.
pub fn default_network_volume(source: &mut Object) {
    inside(source, "iscsi", |iscsi| default_text(iscsi, "iscsiInterface", "default"));
    inside(source, "rbd", |rbd| {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    });
    inside(source, "azureDisk", |disk| {
        default_text(disk, "cachingMode", "ReadWrite");
        default_text(disk, "kind", "Shared");
        default_text(disk, "fsType", "ext4");
        default(disk, "readOnly", false);
    });
    inside(source, "scaleIO", |scale_io| {
        default_text(scale_io, "storageMode", "ThinProvisioned");
        default_text(scale_io, "fsType", "xfs");
    });
}

fn requests_from_limits(resources: &mut Object) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    fill(make(resources, "requests"), &limits);
}

/// With limits for the pod as a whole, its requests are those of its containers where they ask for something, and
/// else the limits.
fn default_pod_level_requests(spec: &mut Object) {
    let Some(limits) = spec.get("resources").and_then(|resources| resources.get("limits")).and_then(Value::as_object)
    else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let mut wanted = Object::new();
    for name in ["cpu", "memory"] {
        if let Some(sum) = crate::kinds::resources::pod_request(spec, name) {
            wanted.insert(name.to_owned(), sum.to_string().into());
        }
    }
    fill(&mut wanted, limits);
    inside(spec, "resources", |resources| fill(make(resources, "requests"), &wanted));
}

fn default_host_ports(spec: &mut Object) {
    for list in ["containers", "initContainers"] {
        each(spec, list, |container| {
            each(container, "ports", |port| {
                let own = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
                default_number(port, "hostPort", own);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        #[track_caller]
        fn check(image: &str, expected: &str) {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
        check("nginx", "Always");
        check("nginx:latest", "Always");
        check("nginx:1.7.9", "IfNotPresent");
        check("localhost:5000/nginx", "Always");
        check("localhost:5000/nginx:1", "IfNotPresent");
        check("nginx@sha256:00", "IfNotPresent");
        check("nginx:latest@sha256:00", "Always");
        check("", "IfNotPresent");
    }

    #[test]
    fn a_minimal_pod_is_filled_in() {
        let mut pod = json!({"spec": {"hostNetwork": true, "containers": [{
            "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 80}},
        }], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]}});
        let spec = object(&mut pod, "spec").expect("a spec");
        default_pod_spec(spec);
        default_pod_only(spec);
        assert_eq!(
            pod["spec"],
            json!({
                "hostNetwork": true, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true,
                "containers": [{
                    "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                }],
                "volumes": [{"name": "v", "emptyDir": {}},
                    {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
            })
        );
    }
}
