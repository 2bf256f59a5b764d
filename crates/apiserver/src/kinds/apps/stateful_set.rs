//! Pods with names and volumes of their own.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::core::persistent_volume_claim::default_claim;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_text, inside, make, object as object_at, text as text_of};
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::printing::{self, AGE, CONTAINERS, IMAGES, NAME, text};
use crate::kinds::subresources::{STATUS, scale};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, ScalePaths, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    definition: "io.k8s.api.apps.v1.StatefulSet",
    storage: "statefulsets",
    // Its pods' names begin with it.
    name_problems: api::names::dns1123_label,
    subresources: &[
        scale(ScalePaths {
            spec_replicas: "spec.replicas",
            status_replicas: "status.replicas",
            selector: "spec.selector",
        }),
        STATUS,
    ],
    defaults: default_stateful_set,
    prepare_create: |object| {
        lifecycle::first_generation(object);
        object["status"] = json!({"replicas": 0, "availableReplicas": 0});
    },
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    validate_update,
    validate_status_update,
    warnings,
    columns: &[NAME, text("Ready", "Number of the pod with ready state"), AGE, CONTAINERS, IMAGES],
    cells,
    ..NAMESPACED
};

fn default_stateful_set(object: &mut Value) {
    defaults::default_template(object, "spec.template");
    let Some(spec) = object_at(object, "spec") else { return };
    default_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = make(spec, "updateStrategy");
    if text_of(strategy, "type").is_empty() {
        strategy.insert("type".into(), "RollingUpdate".into());
        make(strategy, "rollingUpdate");
    }
    if text_of(strategy, "type") == "RollingUpdate" {
        inside(strategy, "rollingUpdate", |rolling| {
            default(rolling, "partition", 0);
            default(rolling, "maxUnavailable", 1);
        });
    }
    let retention = make(spec, "persistentVolumeClaimRetentionPolicy");
    default_text(retention, "whenDeleted", "Retain");
    default_text(retention, "whenScaled", "Retain");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    if let Some(Value::Array(claims)) = spec.get_mut("volumeClaimTemplates") {
        for claim in claims {
            default_claim(claim);
            if let Some(claim) = claim.as_object_mut() {
                default_text(claim, "apiVersion", "v1");
                default_text(claim, "kind", "PersistentVolumeClaim");
            }
        }
    }
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let management = spec.at("podManagementPolicy");
    match management.str() {
        "" => problems.required(&management, ""),
        "OrderedReady" | "Parallel" => {}
        other => problems.invalid_str(&management, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    validate_strategy(&spec.at("updateStrategy"), problems);
    validate_retention(&spec.at("persistentVolumeClaimRetentionPolicy"), problems);
    checks::non_negative(&spec.at("replicas"), problems);
    checks::non_negative(&spec.at("minReadySeconds"), problems);
    checks::non_negative(&spec.at("ordinals.start"), problems);
    let (selector, template) = (spec.at("selector"), spec.at("template"));
    if !selector.exists() {
        problems.required(&selector, "");
    } else {
        checks::label_selector(&selector, problems);
        if checks::selects_everything(&selector) {
            problems.invalid(&selector, "empty selector is invalid for statefulset");
        }
    }
    if !pod_spec::selector_matches(&selector, &template) {
        problems.invalid_object(&template.at("metadata.labels"), pod_spec::SELECTOR_MISMATCH);
    }
    let claims: Vec<&str> = spec
        .at("volumeClaimTemplates")
        .array()
        .iter()
        .filter_map(|claim| walk(claim, "metadata.name").as_str())
        .collect();
    pod_spec::validate_template_with_claims(&template, &claims, problems);
    let policy = template.at("spec.restartPolicy");
    if policy.str() != "Always" {
        problems.not_supported(&policy, &["Always"]);
    }
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.exists() {
        problems.forbidden(&deadline, "activeDeadlineSeconds in StatefulSet is not Supported");
    }
    let service = spec.at("serviceName");
    if !service.is_empty() {
        checks::subdomain(&service, problems);
    }
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| walk(old, "spec") == walk(new, "spec")) {
        return Vec::new();
    }
    let mut out = pod_spec::template_warnings(new, old, "spec.template");
    for (index, claim) in walk(new, "spec.volumeClaimTemplates").as_array().into_iter().flatten().enumerate() {
        // So the original spells it.
        pod_spec::claim_spec_warnings(
            walk(claim, "spec"),
            &format!("spec.volumeClaimTemplates[{index}].Spec"),
            &mut out,
        );
    }
    if walk(new, "spec.revisionHistoryLimit").as_i64().is_some_and(|limit| limit < 0) {
        out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".into());
    }
    out
}

fn validate_strategy(strategy: &Cursor, problems: &mut Problems) {
    let rolling = strategy.at("rollingUpdate");
    match strategy.at("type").str() {
        "" => problems.required(strategy, ""),
        "OnDelete" => {
            if rolling.exists() {
                problems.invalid_struct(
                    &rolling,
                    &["partition", "maxUnavailable"],
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
            }
        }
        "RollingUpdate" => {
            checks::non_negative(&rolling.at("partition"), problems);
            let unavailable = rolling.at("maxUnavailable");
            if unavailable.exists() {
                checks::non_negative_number_or_percent(&unavailable, problems);
                if checks::number_or_percent(unavailable.value) == 0 {
                    problems.invalid(&unavailable, "cannot be 0");
                }
                checks::not_over_hundred_percent(&unavailable, problems);
            }
        }
        _ => {
            problems.invalid_struct(strategy, &["type", "rollingUpdate"], "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn validate_retention(policy: &Cursor, problems: &mut Problems) {
    for field in ["whenDeleted", "whenScaled"] {
        let at = policy.at(field);
        if policy.exists() && !matches!(at.str(), "Retain" | "Delete") {
            problems.not_supported(&at, &["Retain", "Delete"]);
        }
    }
}

/// These may change; all else stays.
const CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let rest = |object: &Value| {
        let mut spec = walk(object, "spec").clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.retain(|field, _| !CHANGEABLE.contains(&field.as_str()));
        }
        spec
    };
    if rest(new) != rest(old) {
        problems.forbidden(
            &root.at("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

fn validate_status_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let status = root.at("status");
    for field in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        checks::non_negative(&status.at(field), problems);
    }
    let all = status.at("replicas").int();
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        let part = status.at(field);
        if part.int() > all {
            problems.invalid_plain(&part, part.int(), "cannot be greater than status.replicas");
        }
    }
    let (available, ready) = (status.at("availableReplicas"), status.at("readyReplicas"));
    if available.int() > ready.int() {
        problems.invalid_plain(&available, available.int(), "cannot be greater than status.readyReplicas");
    }
    let collisions = status.at("collisionCount");
    if collisions.int() < walk(old, "status.collisionCount").as_i64().unwrap_or(0) {
        problems.invalid_plain(&collisions, collisions.int(), "cannot be decremented");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let number = |path: &str| walk(object, path).as_i64().unwrap_or(0);
    let [names, images] = printing::containers(walk(object, "spec.template.spec"));
    vec![
        printing::name(object),
        format!("{}/{}", number("status.readyReplicas"), number("spec.replicas")).into(),
        printing::age(object, now),
        names,
        images,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_update};

    fn set() -> Value {
        json!({"spec": {
            "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [
                {"name": "c", "image": "redis", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}],
        }})
    }

    #[test]
    fn its_claims_count_as_volumes() {
        check_defaulted(&KIND, set(), "");
        let mut object = set();
        default_stateful_set(&mut object);
        assert_eq!(
            object["spec"]["volumeClaimTemplates"][0],
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
                    "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}})
        );
        assert_eq!(
            object["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}})
        );
    }

    #[test]
    fn little_may_change() {
        let mut new = set();
        new["spec"]["replicas"] = json!(3);
        check_update(&KIND, new.clone(), set(), "");
        new["spec"]["serviceName"] = "other".into();
        check_update(
            &KIND,
            new,
            set(),
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
    #[test]
    fn problems() {
        let with = |field: &str, value: Value| {
            let mut set = set();
            set["spec"][field] = value;
            set
        };
        check_defaulted(
            &KIND,
            with("podManagementPolicy", "Random".into()),
            "spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or 'Parallel'",
        );
        check_defaulted(
            &KIND,
            with("updateStrategy", json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}})),
            "spec.updateStrategy.rollingUpdate: Invalid value: {\"Partition\":1,\"MaxUnavailable\":null}: only allowed for updateStrategy 'RollingUpdate'",
        );
        check_defaulted(
            &KIND,
            with("updateStrategy", json!({"type": "Soon"})),
            "spec.updateStrategy: Invalid value: {\"Type\":\"Soon\",\"RollingUpdate\":null}: must be 'RollingUpdate' or 'OnDelete'",
        );
        check_defaulted(
            &KIND,
            with("updateStrategy", json!({"type": "RollingUpdate", "rollingUpdate": {"partition": -1, "maxUnavailable": "0%"}})),
            "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0\n\
             spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": cannot be 0",
        );
        check_defaulted(
            &KIND,
            with("persistentVolumeClaimRetentionPolicy", json!({"whenDeleted": "Keep"})),
            "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"Keep\": supported values: \"Retain\", \"Delete\"",
        );
        check_defaulted(
            &KIND,
            with("ordinals", json!({"start": -1})),
            "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
        );
        check_defaulted(
            &KIND,
            with("selector", json!({})),
            "spec.selector: Invalid value: {}: empty selector is invalid for statefulset",
        );
    }

    #[test]
    fn a_negative_history_is_worth_a_word() {
        let mut set = set();
        set["spec"]["revisionHistoryLimit"] = json!(-1);
        assert_eq!(warnings(&set, None), ["spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"]);
        assert!(warnings(&set, Some(&set)).is_empty());
    }
}
