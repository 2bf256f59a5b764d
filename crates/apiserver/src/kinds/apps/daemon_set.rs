//! A pod on every node.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_text, make, object as object_at, text as text_of};
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::printing::{self, AGE, CONTAINERS, IMAGES, NAME, integer, text, wide};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    definition: "io.k8s.api.apps.v1.DaemonSet",
    storage: "daemonsets",
    subresources: &[STATUS],
    defaults: default_daemon_set,
    prepare_create: |object| {
        lifecycle::first_generation(object);
        object["status"] = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
        // Old clients' template generation, still counted.
        annotate_template_generation(object, 1);
    },
    prepare_update,
    validate,
    validate_update: |new, old, problems| {
        problems.immutable(&Cursor::root(new).at("spec.selector"), walk(old, "spec.selector"));
    },
    validate_status_update,
    warnings: |new, old| {
        // The original looks at the template's generation here.
        if old.is_some_and(|old| walk(old, "spec.template") == walk(new, "spec.template")) {
            return Vec::new();
        }
        pod_spec::template_warnings(new, None, "spec.template")
    },
    columns: &[
        NAME,
        integer("Desired", "io.k8s.api.apps.v1.DaemonSetStatus#desiredNumberScheduled"),
        integer("Current", "io.k8s.api.apps.v1.DaemonSetStatus#currentNumberScheduled"),
        integer("Ready", "io.k8s.api.apps.v1.DaemonSetStatus#numberReady"),
        integer("Up-to-date", "io.k8s.api.apps.v1.DaemonSetStatus#updatedNumberScheduled"),
        integer("Available", "io.k8s.api.apps.v1.DaemonSetStatus#numberAvailable"),
        text("Node Selector", "io.k8s.api.core.v1.PodSpec#nodeSelector"),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "io.k8s.api.apps.v1.DaemonSetSpec#selector"),
    ],
    cells,
    ..NAMESPACED
};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn annotate_template_generation(object: &mut Value, generation: i64) {
    let Some(map) = object.as_object_mut() else { return };
    make(make(map, "metadata"), "annotations").insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
}

fn prepare_update(new: &mut Value, old: &Value) {
    lifecycle::keep_status_and_count(new, old);
    let before = walk(old, "metadata.annotations").get(TEMPLATE_GENERATION).and_then(Value::as_str).unwrap_or("0");
    let changed = walk(new, "spec.template") != walk(old, "spec.template");
    annotate_template_generation(new, before.parse::<i64>().unwrap_or(0) + i64::from(changed));
}

fn default_daemon_set(object: &mut Value) {
    defaults::default_template(object, "spec.template");
    let Some(spec) = object_at(object, "spec") else { return };
    let strategy = make(spec, "updateStrategy");
    default_text(strategy, "type", "RollingUpdate");
    if text_of(strategy, "type") == "RollingUpdate" {
        let rolling = make(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", 1);
        default(rolling, "maxSurge", 0);
    }
    default(spec, "revisionHistoryLimit", 10);
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let (selector, template) = (spec.at("selector"), spec.at("template"));
    checks::label_selector(&selector, problems);
    if !pod_spec::selector_matches(&selector, &template) {
        problems.invalid_object(&template.at("metadata.labels"), pod_spec::SELECTOR_MISMATCH);
    }
    if selector.exists() && checks::selects_everything(&selector) {
        problems.invalid_object(&selector, "empty selector is invalid for daemonset");
    }
    pod_spec::validate_template(&template, problems);
    let policy = template.at("spec.restartPolicy");
    if policy.str() != "Always" {
        problems.not_supported(&policy, &["Always"]);
    }
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.exists() {
        problems.forbidden(&deadline, "activeDeadlineSeconds in DaemonSet is not Supported");
    }
    checks::non_negative(&spec.at("minReadySeconds"), problems);
    validate_strategy(&spec.at("updateStrategy"), problems);
    checks::non_negative(&spec.at("revisionHistoryLimit"), problems);
}

fn validate_strategy(strategy: &Cursor, problems: &mut Problems) {
    match strategy.at("type").str() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.at("rollingUpdate");
            if !rolling.exists() {
                problems.required(&rolling, "");
                return;
            }
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            checks::non_negative_number_or_percent(&unavailable, problems);
            checks::non_negative_number_or_percent(&surge, problems);
            checks::not_over_hundred_percent(&unavailable, problems);
            checks::not_over_hundred_percent(&surge, problems);
            let has = |at: &Cursor| checks::number_or_percent(at.value) != 0;
            match (has(&unavailable), has(&surge)) {
                (true, true) => problems.invalid(&surge, "may not be set when maxUnavailable is non-zero"),
                (false, false) => problems.required(&unavailable, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => problems.not_supported_struct(strategy, &["type", "rollingUpdate"], &["RollingUpdate", "OnDelete"]),
    }
}

fn validate_status_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let status = root.at("status");
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        checks::non_negative(&status.at(field), problems);
    }
    let collisions = status.at("collisionCount");
    if collisions.int() < walk(old, "status.collisionCount").as_i64().unwrap_or(0) {
        problems.invalid_plain(&collisions, collisions.int(), "cannot be decremented");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = printing::containers(walk(object, "spec.template.spec"));
    vec![
        printing::name(object),
        printing::int_at(object, "status.desiredNumberScheduled"),
        printing::int_at(object, "status.currentNumberScheduled"),
        printing::int_at(object, "status.numberReady"),
        printing::int_at(object, "status.updatedNumberScheduled"),
        printing::int_at(object, "status.numberAvailable"),
        printing::labels(walk(object, "spec.template.spec.nodeSelector")).into(),
        printing::age(object, now),
        names,
        images,
        printing::selector(walk(object, "spec.selector")).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::check_defaulted;

    fn set(fields: Value) -> Value {
        let mut set = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
        for (field, value) in fields.as_object().expect("an object") {
            set["spec"][field] = value.clone();
        }
        set
    }

    #[test]
    fn problems() {
        check_defaulted(&KIND, set(json!({})), "");
        check_defaulted(
            &KIND,
            set(json!({"selector": {}})),
            "spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
        );
        check_defaulted(
            &KIND,
            set(json!({"selector": null})),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`",
        );
        check_defaulted(
            &KIND,
            set(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "101%", "maxSurge": 1}}})),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%\n\
             spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        );
        check_defaulted(
            &KIND,
            set(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}})),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
        );
        check_defaulted(
            &KIND,
            set(json!({"updateStrategy": {"type": "Now"}, "revisionHistoryLimit": -1})),
            "spec.updateStrategy: Unsupported value: {\"Type\":\"Now\",\"RollingUpdate\":null}: supported values: \"RollingUpdate\", \"OnDelete\"\n\
             spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
        );
    }
}
