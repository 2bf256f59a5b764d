//! What is allowed in a pod spec and still not wise, in the original's order.

use serde_json::{Map, Value};

use super::annotations::{APP_ARMOR, CONTAINERS, SECCOMP_CONTAINER, SECCOMP_POD};
use crate::kinds::checks;
use crate::kinds::cursor::walk;
use crate::kinds::problems::go_quoted;

/// What holds for everything whose pods bear its name.
const NAMES_PODS: &str = "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
const NAMES_POD: &str =
    "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";

/// Warnings about the template of something whose spec is new or changed.
pub fn template_warnings(new: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    if old.is_some_and(|old| walk(old, "spec") == walk(new, "spec")) {
        return Vec::new();
    }
    let mut out = Vec::new();
    let template = walk(new, path);
    collect(walk(template, "metadata"), walk(template, "spec"), &format!("{path}."), &mut out);
    out
}

/// The same for kinds that name their pods, where a new one's name is judged too.
pub fn controller_warnings(new: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let mut out = if old.is_none() { name_warning(new, NAMES_PODS) } else { Vec::new() };
    out.extend(template_warnings(new, old, path));
    out
}

/// Of a new pod.
pub fn pod_warnings(pod: &Value) -> Vec<String> {
    let mut out = name_warning(pod, NAMES_POD);
    collect(walk(pod, "metadata"), walk(pod, "spec"), "", &mut out);
    out
}

fn name_warning(object: &Value, sentence: &str) -> Vec<String> {
    let problems = api::names::dns1123_label(walk(object, "metadata.name").as_str().unwrap_or(""));
    if problems.is_empty() { Vec::new() } else { vec![format!("{sentence}: [{}]", problems.join(" "))] }
}

const DEPRECATED_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

/// The sentence about a label of nodes that has a newer name.
pub fn deprecated_label(label: &str) -> Option<&'static str> {
    DEPRECATED_LABELS.iter().find(|(own, _)| *own == label).map(|(_, sentence)| *sentence)
}

const DEPRECATED_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Volumes that work no more; of pods and of persistent volumes.
pub const DEPRECATED_VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// `at` is what stands before `spec` and `metadata`.
fn collect(metadata: &Value, spec: &Value, at: &str, out: &mut Vec<String>) {
    node_label_warnings(spec, at, out);
    let annotations = walk(metadata, "annotations");
    for (key, sentence) in DEPRECATED_ANNOTATIONS {
        if annotations.get(key).is_some() {
            out.push(format!("{at}metadata.annotations[{key}]: {sentence}"));
        }
    }
    volume_warnings(spec, at, out);
    repeated(spec, "hostAliases", "ip", at, out);
    repeated(spec, "imagePullSecrets", "name", at, out);
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            out.push(format!("{at}spec.imagePullSecrets[{index}].name: invalid empty name \"\""));
        }
    }
    fractions(walk(spec, "overhead"), &format!("{at}spec.overhead"), out);
    profile_warning(annotations, SECCOMP_POD, walk(spec, "securityContext.seccompProfile"), at, out);
    for field in CONTAINERS {
        for (index, container) in list(spec, field).iter().enumerate() {
            let key = format!("{SECCOMP_CONTAINER}{}", text(container, "name"));
            profile_warning(annotations, &key, walk(container, "securityContext.seccompProfile"), at, out);
            app_armor_warning(annotations, spec, container, at, out);
            container_warnings(container, &format!("{at}spec.{field}[{index}]"), out);
        }
    }
    port_warnings(spec, at, out);
    if walk(spec, "terminationGracePeriodSeconds").as_i64().is_some_and(|seconds| seconds < 0) {
        out.push(format!(
            "{at}spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let affinity = walk(walk(spec, "affinity"), field);
        let path = format!("{at}spec.affinity.{field}");
        for (kind, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", "labelSelector"),
            ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm.labelSelector"),
        ] {
            for (index, term) in list(affinity, kind).iter().enumerate() {
                if walk(term, inner).is_null() {
                    out.push(format!(
                        "{path}.{kind}[{index}].{inner}: a null labelSelector results in matching no pod"
                    ));
                }
            }
        }
    }
}

fn node_label_warnings(spec: &Value, at: &str, out: &mut Vec<String>) {
    for label in walk(spec, "nodeSelector").as_object().into_iter().flat_map(Map::keys) {
        if let Some(sentence) = deprecated_label(label) {
            out.push(format!("{at}spec.nodeSelector[{label}]: {sentence}"));
        }
    }
    let affinity = walk(spec, "affinity.nodeAffinity");
    let path = format!("{at}spec.affinity.nodeAffinity");
    let required = walk(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in list(required, "nodeSelectorTerms").iter().enumerate() {
        let path = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{index}]");
        node_term_warnings(term, &path, out);
    }
    for (index, term) in list(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}].preference");
        node_term_warnings(walk(term, "preference"), &path, out);
    }
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let (path, key) = (format!("{at}spec.topologySpreadConstraints[{index}]"), text(constraint, "topologyKey"));
        if let Some(sentence) = deprecated_label(key) {
            out.push(format!("{path}.topologyKey: {key} is {sentence}"));
        }
        if walk(constraint, "labelSelector").is_null() {
            out.push(format!("{path}.labelSelector: a null labelSelector results in matching no pod"));
        }
    }
}

/// Of a `NodeSelectorTerm`.
pub fn node_term_warnings(term: &Value, path: &str, out: &mut Vec<String>) {
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        let (path, key) = (format!("{path}.matchExpressions[{index}]"), text(expression, "key"));
        if let Some(sentence) = deprecated_label(key) {
            out.push(format!("{path}.key: {key} is {sentence}"));
        }
        if matches!(text(expression, "operator"), "In" | "NotIn") {
            for (at, value) in list(expression, "values").iter().enumerate() {
                for sentence in api::names::label_value(value.as_str().unwrap_or("")) {
                    out.push(format!(
                        "{path}.values[{at}]: {} is invalid, {sentence}",
                        value.as_str().unwrap_or("")
                    ));
                }
            }
        }
    }
}

fn volume_warnings(spec: &Value, at: &str, out: &mut Vec<String>) {
    let volumes = list(spec, "volumes");
    for (index, volume) in volumes.iter().enumerate() {
        for (field, named, sentence) in DEPRECATED_VOLUMES {
            if !walk(volume, field).is_null() {
                out.push(format!("{at}spec.volumes[{index}].{named}: {sentence}"));
            }
        }
        let claim = walk(volume, "ephemeral.volumeClaimTemplate.spec");
        let path = format!("{at}spec.volumes[{index}].ephemeral.volumeClaimTemplate.spec");
        claim_spec_warnings(claim, &path, out);
    }
    let tokens: Vec<&str> = volumes
        .iter()
        .flat_map(|volume| list(walk(volume, "projected"), "sources"))
        .filter_map(|source| walk(source, "serviceAccountToken.path").as_str())
        .collect();
    for (index, volume) in volumes.iter().enumerate() {
        for source in list(walk(volume, "projected"), "sources") {
            for (field, named) in [("configMap", "configMap"), ("secret", "secrets"), ("downwardAPI", "downwardAPI")] {
                for (item, entry) in list(walk(source, field), "items").iter().enumerate() {
                    let path = text(entry, "path");
                    if tokens.contains(&path) {
                        out.push(format!(
                            "{at}spec.volumes[{index}].projected.sources.{named}[{item}]: has duplicated path with ServiceAccountToken {}",
                            go_quoted(path)
                        ));
                    }
                }
            }
        }
    }
}

/// Of a claim, wherever it stands.
pub fn claim_spec_warnings(spec: &Value, path: &str, out: &mut Vec<String>) {
    let storage = walk(spec, "resources.requests.storage");
    fraction(storage, &format!("{path}.resources.requests[storage]"), out);
}

fn repeated(spec: &Value, field: &str, key: &str, at: &str, out: &mut Vec<String>) {
    let all = list(spec, field);
    for (index, item) in all.iter().enumerate() {
        if all[..index].iter().any(|before| walk(before, key) == walk(item, key)) {
            out.push(format!("{at}spec.{field}[{index}].{key}: duplicate {key} {}", go_quoted(text(item, key))));
        }
    }
}

fn profile_warning(annotations: &Value, key: &str, profile: &Value, at: &str, out: &mut Vec<String>) {
    if profile.is_null() && annotations.get(key).is_some() {
        out.push(format!(
            "{at}metadata.annotations[{key}]: non-functional in v1.27+; use the \"seccompProfile\" field instead"
        ));
    }
}

/// Pods are told otherwise: their annotation has become the field by now.
fn app_armor_warning(annotations: &Value, spec: &Value, container: &Value, at: &str, out: &mut Vec<String>) {
    let key = format!("{APP_ARMOR}{}", text(container, "name"));
    let field = [spec, container].iter().any(|of| !walk(of, "securityContext.appArmorProfile").is_null());
    let Some(annotation) = annotations.get(&key).and_then(Value::as_str) else { return };
    let told = if at.is_empty() { super::annotations::app_armor_field(annotation).is_some() } else { !field };
    if told {
        out.push(format!(
            "{at}metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
        ));
    }
}

/// A thousandth of a byte is most often a thousandth of a core in the wrong line.
fn fractions(amounts: &Value, path: &str, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        if let Some(amount) = amounts.get(name) {
            fraction(amount, &format!("{path}[{name}]"), out);
        }
    }
}

fn fraction(amount: &Value, path: &str, out: &mut Vec<String>) {
    if checks::quantity(amount).is_some_and(|amount| amount.milli_value() % 1000 != 0) {
        let shown = amount.as_str().unwrap_or("");
        out.push(format!("{path}: fractional byte value \"{shown}\" is invalid, must be an integer"));
    }
}

fn container_warnings(container: &Value, path: &str, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        for field in ["limits", "requests"] {
            if let Some(amount) = walk(walk(container, "resources"), field).get(name) {
                fraction(amount, &format!("{path}.resources.{field}[{name}]"), out);
            }
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for (index, var) in list(container, "env").iter().enumerate() {
        let (name, value) = (text(var, "name"), text(var, "value"));
        // A value that builds on the one before hides nothing.
        let before = format!("$({name})");
        let builds_on = walk(var, "valueFrom").is_null() && value != before && value.contains(&before);
        if names.contains(&name) && !builds_on {
            out.push(format!(
                "{path}.env[{index}]: hides previous definition of {}, which may be dropped when using apply",
                go_quoted(name)
            ));
        }
        names.push(name);
    }
}

/// A port of one container as its others, and other containers, may have it too.
fn port_warnings(spec: &Value, at: &str, out: &mut Vec<String>) {
    let mut seen: Vec<(&Value, String)> = Vec::new();
    for field in CONTAINERS {
        for (index, container) in list(spec, field).iter().enumerate() {
            for (number, port) in list(container, "ports").iter().enumerate() {
                let path = format!("{at}spec.{field}[{index}].ports[{number}]");
                let (host_ip, host_port) = (text(port, "hostIP"), int(port, "hostPort"));
                if !host_ip.is_empty() && host_port == 0 {
                    let name = text(port, "name");
                    out.push(format!(
                        "{path}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{host_ip}}}",
                        int(port, "containerPort"),
                        text(port, "protocol")
                    ));
                }
                let same = |other: &Value| {
                    int(other, "containerPort") == int(port, "containerPort")
                        && text(other, "protocol") == text(port, "protocol")
                };
                for (other, other_path) in seen.iter().filter(|(other, _)| same(other)) {
                    let (other_ip, other_port) = (text(other, "hostIP"), int(other, "hostPort"));
                    let what = if host_ip == other_ip && host_port == other_port {
                        "duplicate"
                    } else if host_port == 0 || other_port == 0 {
                        "overlapping"
                    } else if host_port == other_port && host_ip.is_empty() != other_ip.is_empty() {
                        "dangerously ambiguous"
                    } else {
                        continue;
                    };
                    out.push(format!("{path}: {what} port definition with {other_path}"));
                }
                seen.push((port, path));
            }
        }
    }
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    walk(value, field).as_array().map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    walk(value, field).as_str().unwrap_or("")
}

fn int(value: &Value, field: &str) -> i64 {
    walk(value, field).as_i64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(pod: Value, expected: &[&str]) {
        assert_eq!(pod_warnings(&pod), expected);
    }

    fn pod(fields: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        for (field, value) in fields.as_object().expect("an object") {
            pod["spec"][field] = value.clone();
        }
        pod
    }

    #[test]
    fn worth_a_word() {
        check(
            pod(json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "A", "value": "$(A)3"}, {"name": "A", "value": "$(A)"}],
                "resources": {"requests": {"memory": "100m"}},
                "ports": [{"containerPort": 80}, {"containerPort": 80}, {"containerPort": 80, "hostPort": 80}],
            }]})),
            &[
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].env[3]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]",
            ],
        );
    }

    #[test]
    fn of_places_and_neighbours() {
        check(
            pod(json!({
                "topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone"}],
                "affinity": {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "Exists"}]}]}},
                    "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {}}]},
                },
                "terminationGracePeriodSeconds": -1,
            })),
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
                "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
            ],
        );
    }

    #[test]
    fn of_what_works_no_more() {
        let mut old = pod(json!({
            "volumes": [{"name": "g", "gitRepo": {}}, {"name": "r", "rbd": {}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"secret": {"items": [{"path": "t"}]}}]}}],
            "hostAliases": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}],
            "imagePullSecrets": [{"name": ""}],
        }));
        old["metadata"] = json!({"name": "a.b", "annotations": {
            "scheduler.alpha.kubernetes.io/critical-pod": "", "container.seccomp.security.alpha.kubernetes.io/c": "unconfined"}});
        check(
            old,
            &[
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
                "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                "spec.volumes[1].rbd: deprecated in v1.28, non-functional in v1.31+",
                "spec.volumes[2].projected.sources.secrets[0]: has duplicated path with ServiceAccountToken \"t\"",
                "spec.hostAliases[1].ip: duplicate ip \"1.2.3.4\"",
                "spec.imagePullSecrets[0].name: invalid empty name \"\"",
                "metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
            ],
        );
    }

    #[test]
    fn templates_are_told_of_changes_only() {
        let set = |image: &str| json!({"metadata": {"name": "s"}, "spec": {"template": {"spec": {"nodeSelector": {"beta.kubernetes.io/os": "x"}, "containers": [{"image": image}]}}}});
        const TOLD: &str = "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead";
        assert_eq!(template_warnings(&set("a"), Some(&set("b")), "spec.template"), [TOLD]);
        assert!(template_warnings(&set("a"), Some(&set("a")), "spec.template").is_empty());
        let mut dotted = set("a");
        dotted["metadata"]["name"] = "a.b".into();
        assert_eq!(
            controller_warnings(&dotted, None, "spec.template"),
            [
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                TOLD
            ]
        );
    }
}
