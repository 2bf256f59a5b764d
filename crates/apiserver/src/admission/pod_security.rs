//! Pod Security Standards: a namespace's labels say which level its pods must keep to.
//!
//! `enforce` refuses pods; `warn` and, for templates, `warn` alone answer with a `Warning` header; `audit` leaves its
//! marks in the audit log, which is not written here.

mod baseline;
mod restricted;
mod view;

use async_trait::async_trait;
use serde_json::Value;

use self::view::PodView;
use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::{Cursor, Kind, Problems};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Pods of a namespace that a new level is tried on.
const EXISTING_MAX: usize = 3000;

pub struct PodSecurity;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Why a check forbids a pod: `hostPort` and `container "c" uses hostPort 80`.
struct Violation {
    reason: &'static str,
    detail: String,
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        if !matches!(operation, Operation::Create | Operation::Update) {
            return false;
        }
        match (kind.group, kind.plural) {
            ("", "pods") => matches!(subresource, "" | "ephemeralcontainers"),
            ("", "namespaces") => subresource.is_empty(),
            _ => subresource.is_empty() && template_path(kind).is_some(),
        }
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
        match (attributes.kind.group, attributes.kind.plural) {
            ("", "namespaces") => namespace(attributes, object),
            ("", "pods") => pod(attributes, object),
            _ => {
                template(attributes, object);
                Ok(())
            }
        }
    }
}

fn pod(attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
    if attributes.old.is_some_and(|old| attributes.subresource.is_empty() && !is_significant(object, old)) {
        return Ok(());
    }
    let Some(namespace) = attributes.cluster.get("", "namespaces", "", attributes.namespace) else { return Ok(()) };
    let view = PodView::new(&object["metadata"], &object["spec"]);
    let (enforce, enforce_text) = level(&namespace, "enforce");
    if let Some(found) = violations(&view, enforce) {
        let why = format!("violates PodSecurity \"{enforce_text}\": {found}");
        return Err(RequestError::forbidden(attributes.kind, attributes.name, why));
    }
    warn(attributes, &namespace, &view);
    Ok(())
}

/// Updates can only change images, among what the levels look at.
fn is_significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value| -> Vec<Value> {
        ["containers", "initContainers"]
            .iter()
            .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten())
            .map(|container| container["image"].clone())
            .collect()
    };
    images(new) != images(old)
}

fn template(attributes: &Attributes<'_>, object: &Value) {
    let Some(path) = template_path(attributes.kind) else { return };
    let Some(namespace) = attributes.cluster.get("", "namespaces", "", attributes.namespace) else { return };
    let template = path.split('.').fold(object, |at, field| &at[field]);
    warn(attributes, &namespace, &PodView::new(&template["metadata"], &template["spec"]));
}

fn warn(attributes: &Attributes<'_>, namespace: &Value, view: &PodView<'_>) {
    let (warn, text) = level(namespace, "warn");
    if let Some(found) = violations(view, warn) {
        attributes.warnings.add(format!("would violate PodSecurity \"{text}\": {found}"));
    }
}

fn template_path(kind: &Kind) -> Option<&'static str> {
    match (kind.group, kind.plural) {
        ("", "podtemplates") => Some("template"),
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("spec.template"),
        ("batch", "cronjobs") => Some("spec.jobTemplate.spec.template"),
        _ => None,
    }
}

/// Labels must name levels; existing pods that a stricter level would forbid are told of.
fn namespace(attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
    let root = Cursor::root(object);
    let labels = root.at("metadata.labels");
    let changed = |key: &str| {
        attributes.old.is_none_or(|old| old["metadata"]["labels"][key] != object["metadata"]["labels"][key])
    };
    let mut problems = Problems::default();
    for mode in ["enforce", "audit", "warn"] {
        let key = format!("{PREFIX}{mode}");
        let at = labels.key(&key);
        if at.exists() && changed(&key) && parse_level(at.str()).is_none() {
            problems.invalid(&at, "must be one of privileged, baseline, restricted");
        }
        let key = format!("{PREFIX}{mode}-version");
        let at = labels.key(&key);
        if at.exists() && changed(&key) && !is_version(at.str()) {
            problems.invalid(&at, "must be \"latest\" or \"v1.x\"");
        }
    }
    if !problems.is_empty() {
        return Err(RequestError::invalid(attributes.kind, attributes.name, problems));
    }
    let Some(old) = attributes.old else { return Ok(()) };
    let ((new_level, text), (old_level, _)) = (level(object, "enforce"), level(old, "enforce"));
    if new_level > old_level {
        warn_of_existing(attributes, new_level, &text);
    }
    Ok(())
}

fn warn_of_existing(attributes: &Attributes<'_>, level: Level, text: &str) {
    let pods = attributes.cluster.list("", "pods", attributes.name);
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for pod in pods.iter().take(EXISTING_MAX) {
        let view = PodView::new(&pod["metadata"], &pod["spec"]);
        let reasons: Vec<&str> = checks(&view, level).into_iter().map(|violation| violation.reason).collect();
        if reasons.is_empty() {
            continue;
        }
        let (reasons, name) = (reasons.join(", "), pod["metadata"]["name"].as_str().unwrap_or("").to_owned());
        match found.iter_mut().find(|(own, _)| *own == reasons) {
            Some((_, names)) => names.push(name),
            None => found.push((reasons, vec![name])),
        }
    }
    if found.is_empty() {
        return;
    }
    attributes.warnings.add(format!(
        "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{text}\"",
        attributes.name
    ));
    for (reasons, names) in found {
        let others = match names.len() - 1 {
            0 => String::new(),
            1 => " (and 1 other pod)".to_owned(),
            more => format!(" (and {more} other pods)"),
        };
        attributes.warnings.add(format!("{}{others}: {reasons}", names[0]));
    }
}

fn parse_level(text: &str) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

fn is_version(text: &str) -> bool {
    text == "latest"
        || text.strip_prefix("v1.").is_some_and(|minor| {
            !minor.is_empty() && (minor == "0" || !minor.starts_with('0')) && minor.bytes().all(|b| b.is_ascii_digit())
        })
}

/// What a namespace asks for, and as messages name it: `restricted:latest`. Nonsense counts as the strictest, as in
/// the original. All versions are judged by the newest rules.
fn level(namespace: &Value, mode: &str) -> (Level, String) {
    let labels = &namespace["metadata"]["labels"];
    let text = labels[format!("{PREFIX}{mode}")].as_str();
    let level = match text {
        None => Level::Privileged,
        Some(text) => parse_level(text).unwrap_or(Level::Restricted),
    };
    let version = labels[format!("{PREFIX}{mode}-version")].as_str().filter(|version| is_version(version));
    (
        level,
        format!(
            "{}:{}",
            text.filter(|text| parse_level(text).is_some()).unwrap_or("restricted"),
            version.unwrap_or("latest")
        ),
    )
}

/// `reason (detail), reason (detail)`
fn violations(view: &PodView<'_>, level: Level) -> Option<String> {
    let all: Vec<String> = checks(view, level)
        .into_iter()
        .map(|violation| match violation.detail.as_str() {
            "" => violation.reason.to_owned(),
            detail => format!("{} ({detail})", violation.reason),
        })
        .collect();
    if all.is_empty() { None } else { Some(all.join(", ")) }
}

fn checks(view: &PodView<'_>, level: Level) -> Vec<Violation> {
    let mut all = Vec::new();
    if level >= Level::Baseline {
        baseline::check(view, level == Level::Restricted, &mut all);
    }
    if level >= Level::Restricted {
        restricted::check(view, &mut all);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{World, pod};
    use serde_json::json;

    async fn check(level: &str, spec: Value, expected: &str) {
        let labels = json!({format!("{PREFIX}enforce"): level});
        let world = World::new(&[("", "namespaces", json!({"metadata": {"name": "a", "labels": labels}}))]);
        let found = world.validate(&PodSecurity, "", "pods", "a", &pod(spec), None).await;
        let expected = if expected.is_empty() {
            String::new()
        } else {
            format!("pods \"p\" is forbidden: violates PodSecurity \"{level}:latest\": {expected}")
        };
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn levels() {
        let plain = || json!({"containers": [{"name": "c"}]});
        check("privileged", json!({"hostNetwork": true}), "").await;
        check("baseline", plain(), "").await;
        check(
            "restricted",
            plain(),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        )
        .await;
        let good = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
        });
        check("restricted", good, "").await;
        check(
            "baseline",
            json!({"hostNetwork": true, "hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
                "containers": [{"name": "a", "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}},
                    "ports": [{"hostPort": 80}]}]}),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"v\"), hostPort (container \"a\" uses hostPort 80), privileged (container \"a\" must not set securityContext.privileged=true)",
        )
        .await;
    }

    #[tokio::test]
    async fn templates_are_warned_of() {
        let labels = json!({format!("{PREFIX}warn"): "baseline"});
        let world = World::new(&[("", "namespaces", json!({"metadata": {"name": "a", "labels": labels}}))]);
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"hostIPC": true}}}});
        assert_eq!(world.validate(&PodSecurity, "apps", "deployments", "a", &deployment, None).await, "");
        assert_eq!(
            world.warnings.take(),
            ["would violate PodSecurity \"baseline:latest\": host namespaces (hostIPC=true)"]
        );
    }

    #[tokio::test]
    async fn labels_must_name_levels() {
        let namespace = json!({"metadata": {"name": "a", "labels": {format!("{PREFIX}enforce"): "strict"}}});
        let found = World::new(&[]).validate(&PodSecurity, "", "namespaces", "", &namespace, None).await;
        assert_eq!(
            found,
            "Namespace \"a\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
        );
    }
}
