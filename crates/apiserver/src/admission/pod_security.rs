//! Pod Security Standards: a namespace's labels say which level its pods must keep to.
//!
//! `enforce` refuses pods; `warn` answers with a `Warning` header, for templates too; `audit` leaves its marks in the
//! audit log. Deliberately absent: exemptions by user, namespace or runtime class, which the original reads from a file;
//! and the annotations by which seccomp was asked for before 1.19.

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
    let enforce = Asked::of(&namespace, "enforce");
    attributes.warnings.note(format!("{PREFIX}enforce-policy"), enforce.text.clone());
    let refused = enforce.violations(&object["metadata"], &object["spec"]).map(|found| {
        let why = format!("violates PodSecurity \"{}\": {found}", enforce.text);
        RequestError::forbidden(attributes.kind, attributes.name, why)
    });
    tell(attributes, &namespace, object, refused.is_none());
    refused.map_or(Ok(()), Err)
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
    tell(attributes, &namespace, template, true);
}

/// Marks for the audit log, and warnings unless the pod is refused anyway.
fn tell(attributes: &Attributes<'_>, namespace: &Value, pod: &Value, warn: bool) {
    let sentence = |mode: &str| {
        let asked = Asked::of(namespace, mode);
        let found = asked.violations(&pod["metadata"], &pod["spec"])?;
        Some(format!("would violate PodSecurity \"{}\": {found}", asked.text))
    };
    if let Some(text) = sentence("audit") {
        attributes.warnings.note(format!("{PREFIX}audit-violations"), text);
    }
    if let Some(text) = sentence("warn").filter(|_| warn) {
        attributes.warnings.add(text);
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
    let (new, old) = (Asked::of(object, "enforce"), Asked::of(old, "enforce"));
    // A newer version may forbid more, too.
    if new.level > old.level || (new.level == old.level && new.minor != old.minor && new.level > Level::Privileged) {
        warn_of_existing(attributes, &new);
    }
    Ok(())
}

fn warn_of_existing(attributes: &Attributes<'_>, asked: &Asked) {
    let pods = attributes.cluster.list("", "pods", attributes.name);
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for pod in pods.iter().take(EXISTING_MAX) {
        let found_here = asked.checks(&pod["metadata"], &pod["spec"]);
        let reasons: Vec<&str> = found_here.into_iter().map(|violation| violation.reason).collect();
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
        "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{}\"",
        attributes.name, asked.text
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

/// What a namespace asks for in one mode. Nonsense counts as the strictest, as in the original.
struct Asked {
    level: Level,
    /// The minor version whose rules hold.
    minor: u32,
    /// As messages name it: `restricted:latest`.
    text: String,
}

impl Asked {
    fn of(namespace: &Value, mode: &str) -> Asked {
        let labels = &namespace["metadata"]["labels"];
        let named = labels[format!("{PREFIX}{mode}")].as_str();
        let level = match named {
            None => Level::Privileged,
            Some(text) => parse_level(text).unwrap_or(Level::Restricted),
        };
        let version = labels[format!("{PREFIX}{mode}-version")].as_str().filter(|version| is_version(version));
        let version = version.unwrap_or("latest");
        let minor = version.strip_prefix("v1.").and_then(|minor| minor.parse().ok()).unwrap_or(u32::MAX);
        let name = match level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        Asked { level, minor, text: format!("{name}:{version}") }
    }

    /// `reason (detail), reason (detail)`
    fn violations(&self, metadata: &Value, spec: &Value) -> Option<String> {
        let sentence = |violation: Violation| match violation.detail.as_str() {
            "" => violation.reason.to_owned(),
            detail => format!("{} ({detail})", violation.reason),
        };
        let all: Vec<String> = self.checks(metadata, spec).into_iter().map(sentence).collect();
        if all.is_empty() { None } else { Some(all.join(", ")) }
    }

    fn checks(&self, metadata: &Value, spec: &Value) -> Vec<Violation> {
        let view = PodView::new(metadata, spec, self.minor);
        let mut all = Vec::new();
        if self.level >= Level::Baseline {
            baseline::check(&view, self.level == Level::Restricted, &mut all);
        }
        if self.level >= Level::Restricted {
            restricted::check(&view, &mut all);
        }
        all
    }
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

    /// `level` may name a version: `baseline:v1.33`.
    #[track_caller]
    fn judge(level: &str, pod: Value, expected: &str) {
        let (level, version) = level.split_once(':').unwrap_or((level, "latest"));
        let labels = json!({format!("{PREFIX}enforce"): level, format!("{PREFIX}enforce-version"): version});
        let asked = Asked::of(&json!({"metadata": {"labels": labels}}), "enforce");
        assert_eq!(asked.violations(&pod["metadata"], &pod["spec"]).unwrap_or_default(), expected);
    }

    #[test]
    fn app_armor() {
        let unconfined = || json!({"appArmorProfile": {"type": "Unconfined"}});
        let bar = json!([{"name": "foo"}, {"name": "bar", "securityContext": unconfined()}]);
        judge(
            "baseline",
            json!({"spec": {"containers": bar}}),
            r#"forbidden AppArmor profile (container "bar" must not set AppArmor profile type to "Unconfined")"#,
        );
        judge(
            "baseline",
            json!({"spec": {"securityContext": unconfined(), "containers": bar}}),
            r#"forbidden AppArmor profile (pod and container "bar" must not set AppArmor profile type to "Unconfined")"#,
        );
        let key = |name: &str| format!("container.apparmor.security.beta.kubernetes.io/{name}");
        let annotations = json!({key("a"): "", key("b"): "runtime/default", key("c"): "localhost/x", key("e"): "unconfined", key("f"): "unknown"});
        judge(
            "baseline",
            json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "foo"}]}}),
            r#"forbidden AppArmor profiles (annotations must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/e="unconfined"", "container.apparmor.security.beta.kubernetes.io/f="unknown"")"#,
        );
    }

    #[test]
    fn versions() {
        let probe = json!({"spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "127.0.0.1"}},
            "readinessProbe": {"tcpSocket": {"host": "::1"}}, "lifecycle": {"preStop": {"httpGet": {"host": "localhost"}}}}]}});
        judge("baseline:v1.33", probe.clone(), "");
        judge(
            "baseline:v1.34",
            probe,
            r#"probe or lifecycle host (container "a" uses probe or lifecycle hosts "127.0.0.1", "::1", "localhost")"#,
        );
        let sysctl = |name: &str| json!({"spec": {"securityContext": {"sysctls": [{"name": name}]}, "containers": [{"name": "a"}]}});
        judge("baseline:v1.26", sysctl("net.ipv4.ip_local_reserved_ports"), "forbidden sysctls (net.ipv4.ip_local_reserved_ports)");
        judge("baseline:v1.27", sysctl("net.ipv4.ip_local_reserved_ports"), "");
        judge("baseline:v1.31", sysctl("net.ipv4.tcp_rmem"), "forbidden sysctls (net.ipv4.tcp_rmem)");
        judge("baseline", sysctl("net.ipv4.tcp_rmem"), "");
        judge("baseline", sysctl("kernel.msgmax"), "forbidden sysctls (kernel.msgmax)");
        let engine = json!({"spec": {"containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}]}});
        judge("baseline:v1.31", engine.clone(), "");
        judge(
            "baseline:v1.30",
            engine,
            r#"seLinuxOptions (container "a" set forbidden securityContext.seLinuxOptions: type "container_engine_t")"#,
        );
        let plain = || json!({"spec": {"containers": [{"name": "a", "securityContext": {"runAsNonRoot": true, "runAsUser": 0}}]}});
        judge("restricted:v1.7", plain(), "");
        judge(
            "restricted:v1.22",
            plain(),
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        );
        let windows = json!({"spec": {"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]}});
        judge("restricted:v1.25", windows.clone(), "");
        judge("restricted:v1.8", windows, "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false)");
    }

    #[test]
    fn single_checks() {
        let with = |context: Value| json!({"spec": {"securityContext": {}, "containers": [{"name": "a", "securityContext": context}, {"name": "b"}]}});
        judge("baseline", with(json!({"procMount": "Unmasked"})), r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#);
        judge("baseline", with(json!({"seccompProfile": {"type": "Unconfined"}})), r#"seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#);
        judge("baseline", with(json!({"windowsOptions": {"hostProcess": true}})), r#"hostProcess (container "a" must not set securityContext.windowsOptions.hostProcess=true)"#);
        judge(
            "baseline",
            with(json!({"seLinuxOptions": {"type": "foo", "user": "bar", "role": "baz"}})),
            r#"seLinuxOptions (container "a" set forbidden securityContext.seLinuxOptions: type "foo"; user may not be set; role may not be set)"#,
        );
        judge(
            "baseline",
            json!({"spec": {"containers": [{"name": "a", "ports": [{"hostPort": 12346}, {"hostPort": 12345}]}, {"name": "b", "ports": [{"hostPort": 12347}]}]}}),
            r#"hostPort (containers "a", "b" use hostPorts 12345, 12346, 12347)"#,
        );
        let volumes = json!([{"name": "v1", "hostPath": {}}, {"name": "v2", "nfs": {}}, {"name": "v3", "emptyDir": {}}]);
        let good = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        judge(
            "restricted",
            json!({"spec": {"volumes": volumes, "securityContext": good, "containers": [{"name": "a", "securityContext": own}]}}),
            r#"restricted volume types (volumes "v1", "v2" use restricted volume types "hostPath", "nfs")"#,
        );
        judge(
            "restricted",
            json!({"spec": {"securityContext": {"runAsNonRoot": false, "runAsUser": 0, "seccompProfile": {"type": "Unconfined"}}, "containers": [{"name": "a", "securityContext": own}]}}),
            r#"runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0), seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
        );
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
