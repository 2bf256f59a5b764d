//! Rolls ReplicaSets one against the other.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_text, make, object as object_at, text as text_of};
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::printing::{self, AGE, CONTAINERS, IMAGES, NAME, text, wide};
use crate::kinds::subresources::{STATUS, scale};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, ScalePaths, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    definition: "io.k8s.api.apps.v1.Deployment",
    storage: "deployments",
    subresources: &[
        scale(ScalePaths {
            spec_replicas: "spec.replicas",
            status_replicas: "status.replicas",
            selector: "spec.selector",
        }),
        STATUS,
    ],
    defaults: default_deployment,
    prepare_create: lifecycle::first_generation,
    prepare_update,
    prepare_status_update: lifecycle::only_status_keep_labels,
    validate,
    validate_update: |new, old, problems| {
        problems.immutable(&Cursor::root(new).at("spec.selector"), walk(old, "spec.selector"));
    },
    validate_status_update,
    warnings: |new, old| pod_spec::controller_warnings(new, old, "spec.template"),
    columns: &[
        NAME,
        text("Ready", "Number of the pod with ready state"),
        text("Up-to-date", "io.k8s.api.apps.v1.DeploymentStatus#updatedReplicas"),
        text("Available", "io.k8s.api.apps.v1.DeploymentStatus#availableReplicas"),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "io.k8s.api.apps.v1.DeploymentSpec#selector"),
    ],
    cells,
    ..NAMESPACED
};

fn default_deployment(object: &mut Value) {
    defaults::default_template(object, "spec.template");
    let Some(spec) = object_at(object, "spec") else { return };
    default(spec, "replicas", 1);
    let strategy = make(spec, "strategy");
    default_text(strategy, "type", "RollingUpdate");
    if text_of(strategy, "type") == "RollingUpdate" {
        let rolling = make(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
}

/// Annotations count as a change too: `kubectl rollout` and its kin leave their marks there.
fn prepare_update(new: &mut Value, old: &Value) {
    lifecycle::keep_status(new, old);
    let changed =
        new.get("spec") != old.get("spec") || walk(new, "metadata.annotations") != walk(old, "metadata.annotations");
    let before = walk(old, "metadata.generation").as_i64().unwrap_or(0);
    lifecycle::set_generation(new, before + i64::from(changed));
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    checks::non_negative(&spec.at("replicas"), problems);
    validate_selector_and_template(&spec, "empty selector is invalid for deployment", problems);
    validate_strategy(&spec.at("strategy"), problems);
    checks::non_negative(&spec.at("minReadySeconds"), problems);
    checks::non_negative(&spec.at("revisionHistoryLimit"), problems);
    let deadline = spec.at("progressDeadlineSeconds");
    if deadline.exists() {
        checks::non_negative(&deadline, problems);
        if deadline.int() <= spec.at("minReadySeconds").int() {
            problems.invalid_plain(&deadline, deadline.int(), "must be greater than minReadySeconds");
        }
    }
}

/// Shared by deployments and replica sets.
pub fn validate_selector_and_template(spec: &Cursor, empty_selector: &str, problems: &mut Problems) {
    let (selector, template) = (spec.at("selector"), spec.at("template"));
    if !selector.exists() {
        problems.required(&selector, "");
    } else {
        checks::label_selector(&selector, problems);
        if checks::selects_everything(&selector) {
            problems.invalid(&selector, empty_selector);
        }
    }
    if !pod_spec::selector_matches(&selector, &template) {
        problems.invalid_object(&template.at("metadata.labels"), pod_spec::SELECTOR_MISMATCH);
    }
    pod_spec::validate_template(&template, problems);
    pod_spec::only_restart_always(&template, problems);
}

fn validate_strategy(strategy: &Cursor, problems: &mut Problems) {
    let rolling = strategy.at("rollingUpdate");
    match strategy.at("type").str() {
        "Recreate" => {
            if rolling.exists() {
                problems.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            if !rolling.exists() {
                problems.required(&rolling, "this should be defaulted and never be nil");
                return;
            }
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            checks::non_negative_number_or_percent(&unavailable, problems);
            checks::non_negative_number_or_percent(&surge, problems);
            if checks::number_or_percent(unavailable.value) == 0 && checks::number_or_percent(surge.value) == 0 {
                problems.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
            }
            checks::not_over_hundred_percent(&unavailable, problems);
        }
        _ => problems.not_supported_struct(strategy, &["type", "rollingUpdate"], &["Recreate", "RollingUpdate"]),
    }
}

fn validate_status_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let status = root.at("status");
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ] {
        checks::non_negative(&status.at(field), problems);
    }
    for (part, whole, sentence) in [
        ("updatedReplicas", "replicas", "cannot be greater than status.replicas"),
        ("readyReplicas", "replicas", "cannot be greater than status.replicas"),
        ("availableReplicas", "replicas", "cannot be greater than status.replicas"),
        ("availableReplicas", "readyReplicas", "cannot be greater than readyReplicas"),
    ] {
        let part = status.at(part);
        if part.int() > status.at(whole).int() {
            problems.invalid_plain(&part, part.int(), sentence);
        }
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
        number("status.updatedReplicas").into(),
        number("status.availableReplicas").into(),
        printing::age(object, now),
        names,
        images,
        api::selector::LabelSelector::from_json(walk(object, "spec.selector"))
            .map_or_else(|_| "<invalid>".to_owned(), |selector| selector.to_string())
            .into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_row, check_update};
    use serde_json::json;

    fn deployment() -> Value {
        json!({
            "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "nginx", "image": "nginx"}]}}},
        })
    }

    #[test]
    fn defaults_are_the_originals() {
        let mut object = deployment();
        default_deployment(&mut object);
        let spec = &object["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!((&spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]), (&json!(10), &json!(600)));
        assert_eq!(spec["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert!(spec["template"]["spec"].get("enableServiceLinks").is_none());
    }

    #[test]
    fn problems() {
        check_defaulted(&KIND, deployment(), "");
        let mut object = deployment();
        object["spec"]["template"]["metadata"]["labels"] = json!({"app": "x"});
        check_defaulted(
            &KIND,
            object,
            "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
        );
        let mut object = deployment();
        object["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
        check_defaulted(
            &KIND,
            object,
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        );
        let mut object = deployment();
        object["spec"]["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}});
        object["spec"]["replicas"] = json!(-1);
        check_defaulted(
            &KIND,
            object,
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0\n\
             spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        );
    }

    #[test]
    fn what_the_template_may_not_say() {
        let mut object = deployment();
        object["spec"]["template"]["spec"]["activeDeadlineSeconds"] = json!(5);
        object["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
        object["spec"]["progressDeadlineSeconds"] = json!(10);
        object["spec"]["minReadySeconds"] = json!(10);
        check_defaulted(
            &KIND,
            object,
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"\n\
             spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported\n\
             spec.progressDeadlineSeconds: Invalid value: 10: must be greater than minReadySeconds",
        );
        let mut object = deployment();
        object["spec"].as_object_mut().expect("a spec").remove("selector");
        object["spec"]["strategy"] = json!({"type": "Slow"});
        check_defaulted(
            &KIND,
            object,
            "spec.selector: Required value\n\
             spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`\n\
             spec.strategy: Unsupported value: {\"Type\":\"Slow\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
        );
        let mut object = deployment();
        object["spec"]["template"]["metadata"]["labels"]["a b"] = "x".into();
        check_defaulted(
            &KIND,
            object,
            "spec.template.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        );
    }

    #[test]
    fn the_selector_stays() {
        let mut new = deployment();
        new["spec"]["selector"]["matchLabels"]["app"] = "y".into();
        check_update(
            &KIND,
            new,
            deployment(),
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"y\"}}: field is immutable",
        );
    }

    #[test]
    fn rows() {
        let mut object = deployment();
        object["spec"]["replicas"] = json!(3);
        object["status"] = json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2});
        check_row(&KIND, object, "2026-01-01T00:00:00Z", "web | 2/3 | 3 | 2 | <unknown> | nginx | nginx | app=web");
    }
}
