//! Annotations that mean something for pods: who they stand for, what their deletion costs, and the profiles that were
//! annotations before they were fields.

use serde_json::{Value, json};

use super::tolerations::validate_tolerations;
use super::volumes::relative_path;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{each, make, object, text};
use crate::kinds::{Cursor, Problems};

pub const MIRROR: &str = "kubernetes.io/config.mirror";
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
pub const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

pub const CONTAINERS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

pub fn validate(annotations: &Cursor, spec: &Cursor, problems: &mut Problems) {
    let mirror = annotations.key(MIRROR);
    if mirror.exists() && spec.at("nodeName").is_empty() {
        problems.invalid(&mirror, "must set spec.nodeName if mirror pod annotation is set");
    }
    let tolerations = annotations.key(TOLERATIONS);
    if !tolerations.is_empty() {
        match serde_json::from_str::<Value>(tolerations.str()) {
            Ok(list) => validate_tolerations(&annotations.at(TOLERATIONS).with(&list), problems),
            Err(why) => problems.invalid_str(annotations, TOLERATIONS, &why.to_string()),
        }
    }
    let cost = annotations.key(DELETION_COST);
    if cost.exists() && !is_cost(cost.str()) {
        problems.invalid(&cost, "must be a 32bit integer");
    }
    let of_pod = annotations.key(SECCOMP_POD);
    if of_pod.exists() {
        validate_seccomp(&annotations.at(SECCOMP_POD).with(of_pod.value), problems);
    }
    for (key, profile) in annotations.entries().filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        validate_seccomp(&annotations.at(key).with(profile.value), problems);
    }
    for (key, profile) in annotations.entries() {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let known = containers(spec.value).any(|own| walk(own, "name").as_str() == Some(container));
        if !known {
            problems.invalid_str(&profile, container, "container not found");
        }
        let text = profile.str();
        if !matches!(text, "" | "runtime/default" | "unconfined") && !text.starts_with("localhost/") {
            problems.invalid(&profile, &format!("invalid AppArmor profile name: \"{text}\""));
        }
    }
}

/// Containers of every sort.
pub fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINERS.iter().flat_map(move |list| walk(spec, list).as_array().into_iter().flatten())
}

/// The field that says what the annotation says; None: it says nothing that can be.
pub fn app_armor_field(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        _ => {
            let path = annotation.strip_prefix("localhost/").filter(|path| !path.is_empty() && path.trim() == *path)?;
            Some(json!({"type": "Localhost", "localhostProfile": path}))
        }
    }
}

/// Writes into the containers' fields what only annotations say.
pub fn adopt_app_armor(pod: &mut Value) {
    let annotations = walk(pod, "metadata.annotations").clone();
    let prefixed = annotations.as_object().is_some_and(|map| map.keys().any(|key| key.starts_with(APP_ARMOR)));
    if !prefixed || walk(pod, "spec.os.name").as_str() == Some("windows") {
        return;
    }
    let of_pod = walk(pod, "spec.securityContext.appArmorProfile").clone();
    let Some(spec) = object(pod, "spec") else { return };
    for list in CONTAINERS {
        each(spec, list, |container| {
            let annotation = annotations.get(format!("{APP_ARMOR}{}", text(container, "name"))).and_then(Value::as_str);
            let has_own = container.get("securityContext").is_some_and(|own| !walk(own, "appArmorProfile").is_null());
            let Some(field) = annotation.filter(|_| !has_own).and_then(app_armor_field) else { return };
            if field != of_pod {
                make(container, "securityContext").insert("appArmorProfile".into(), field);
            }
        });
    }
}

fn is_cost(text: &str) -> bool {
    let first = text.bytes().next();
    let plain = first == Some(b'-') || text == "0" || first.is_some_and(|first| (b'1'..=b'9').contains(&first));
    plain && text.parse::<i32>().is_ok()
}

fn validate_seccomp(profile: &Cursor, problems: &mut Problems) {
    match profile.str() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        text => match text.strip_prefix("localhost/") {
            Some(path) => relative_path(&profile.with(&path.into()), problems),
            None => problems.invalid(profile, "must be a valid seccomp profile"),
        },
    }
}

/// Where a profile is annotation and field, both say the same.
pub fn validate_match(annotations: &Cursor, spec: &Cursor, problems: &mut Problems) {
    let (seccomp, annotation) = (spec.at("securityContext.seccompProfile"), annotations.key(SECCOMP_POD));
    if seccomp.exists() && annotation.exists() {
        match_profile(&seccomp, annotation.str(), "seccomp", problems);
    }
    each_container(spec, |container| {
        let profile = container.at("securityContext.seccompProfile");
        let key = format!("{SECCOMP_CONTAINER}{}", container.at("name").str());
        let annotation = annotations.key(&key);
        if profile.exists() && annotation.exists() {
            match_profile(&profile, annotation.str(), "seccomp", problems);
        }
    });
    if spec.at("os.name").str() == "windows" {
        return;
    }
    each_container(spec, |container| {
        let (own, of_pod) = (container.at("securityContext.appArmorProfile"), spec.at("securityContext.appArmorProfile"));
        let profile = if own.exists() { own } else { own.with(of_pod.value) };
        let key = format!("{APP_ARMOR}{}", container.at("name").str());
        let annotation = annotations.key(&key);
        if profile.exists() && annotation.exists() {
            match_profile(&profile, annotation.str(), "apparmor", problems);
        }
    });
}

fn each_container(spec: &Cursor, mut visit: impl FnMut(&Cursor)) {
    for list in CONTAINERS {
        for container in spec.at(list).items() {
            visit(&container);
        }
    }
}

fn match_profile(profile: &Cursor, annotation: &str, what: &str, problems: &mut Problems) {
    let (kind, local) = (profile.at("type"), profile.at("localhostProfile"));
    let same_kind = match kind.str() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default" || what == "seccomp" && annotation == "docker/default",
        "Localhost" => annotation.starts_with("localhost/"),
        _ => true,
    };
    if !same_kind {
        problems.forbidden(&kind, &format!("{what} type in annotation and field must match"));
    } else if kind.str() == "Localhost" && annotation.strip_prefix("localhost/") != local.value.as_str() {
        problems.forbidden(&local, &format!("{what} profile in annotation and field must match"));
    }
}

/// What may not come, change or go.
pub fn validate_update(new: &Cursor, old: &Cursor, problems: &mut Problems) {
    for (key, before) in old.entries() {
        let now = new.key(key);
        if now.value != before.value {
            forbid(&now, key, "may not remove or update", problems);
        }
    }
    for (key, now) in new.entries() {
        if !old.key(key).exists() {
            forbid(&now, key, "may not add", problems);
        }
    }
}

fn forbid(at: &Cursor, key: &str, verb: &str, problems: &mut Problems) {
    if key.starts_with(APP_ARMOR) {
        problems.forbidden(at, &format!("{verb} AppArmor annotations"));
    }
    if key == MIRROR {
        problems.forbidden(at, &format!("{verb} mirror pod annotation"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{Problem, registry};

    #[track_caller]
    fn check(annotations: Value, spec: Value, expected: &str) {
        let mut pod = json!({"metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
        for (field, value) in spec.as_object().expect("an object") {
            pod["spec"][field] = value.clone();
        }
        let kind = registry::by_plural("", "v1", "pods").expect("pods");
        crate::kinds::testing::check_defaulted(kind, pod, expected);
    }

    #[test]
    fn annotations_with_a_meaning() {
        check(json!({DELETION_COST: "-5", SECCOMP_POD: "runtime/default"}), json!({}), "");
        check(
            json!({DELETION_COST: "05"}),
            json!({}),
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"05\": must be a 32bit integer",
        );
        check(
            json!({MIRROR: "x"}),
            json!({}),
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
        );
        check(
            json!({SECCOMP_POD: "localhost//x", "container.seccomp.security.alpha.kubernetes.io/c": "y"}),
            json!({}),
            "metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"/x\": must be a relative path\n\
             metadata.annotations.container.seccomp.security.alpha.kubernetes.io/c: Invalid value: \"y\": must be a valid seccomp profile",
        );
        check(
            json!({"container.apparmor.security.beta.kubernetes.io/d": "bad"}),
            json!({}),
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: \"d\": container not found\n\
             metadata.annotations[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: \"bad\": invalid AppArmor profile name: \"bad\"",
        );
    }

    #[test]
    fn profiles_are_said_alike() {
        let profile = |kind: &str| json!({"securityContext": {"seccompProfile": {"type": kind}, "appArmorProfile": {"type": kind}}});
        let both = |value: &str| json!({SECCOMP_POD: value, "container.apparmor.security.beta.kubernetes.io/c": value});
        check(both("unconfined"), profile("Unconfined"), "");
        check(
            both("unconfined"),
            profile("RuntimeDefault"),
            "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match\n\
             spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match",
        );
    }

    #[test]
    fn some_stay() {
        let check = |new: Value, old: Value, expected: &str| {
            let mut problems = Problems::default();
            let (new, old) = (json!({"annotations": new}), json!({"annotations": old}));
            let (new, old) = (Cursor::root(&new), Cursor::root(&old));
            validate_update(&new.at("annotations"), &old.at("annotations"), &mut problems);
            assert_eq!(problems.list.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"), expected);
        };
        check(json!({"a": "b"}), json!({}), "");
        check(
            json!({MIRROR: "b"}),
            json!({MIRROR: "a"}),
            "annotations[kubernetes.io/config.mirror]: Forbidden: may not remove or update mirror pod annotation",
        );
        check(
            json!({}),
            json!({"container.apparmor.security.beta.kubernetes.io/c": "a"}),
            "annotations[container.apparmor.security.beta.kubernetes.io/c]: Forbidden: may not remove or update AppArmor annotations",
        );
        check(
            json!({MIRROR: "a"}),
            json!({}),
            "annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
        );
    }
}
