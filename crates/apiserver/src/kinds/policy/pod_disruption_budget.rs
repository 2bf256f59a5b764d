//! How many pods may be evicted at once.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, integer, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    definition: "io.k8s.api.policy.v1.PodDisruptionBudget",
    storage: "poddisruptionbudgets",
    create_on_update: true,
    subresources: &[STATUS],
    prepare_create: |object| {
        lifecycle::first_generation(object);
        object["status"] =
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    },
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    validate_status_update: |new, _, problems| {
        let root = Cursor::root(new);
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            checks::non_negative(&root.at("status").at(field), problems);
        }
    },
    columns: &[
        NAME,
        text("Min Available", "The minimum number of pods that must be available."),
        text("Max Unavailable", "The maximum number of pods that may be unavailable."),
        integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
        AGE,
    ],
    cells,
    ..NAMESPACED
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let (min, max) = (spec.at("minAvailable"), spec.at("maxUnavailable"));
    if min.exists() && max.exists() {
        let fields = &["minAvailable", "selector", "maxUnavailable", "unhealthyPodEvictionPolicy"];
        problems.invalid_struct(&spec, fields, "minAvailable and maxUnavailable cannot be both set");
    }
    for at in [&min, &max] {
        if at.exists() {
            checks::non_negative_number_or_percent(at, problems);
            checks::not_over_hundred_percent(at, problems);
        }
    }
    checks::label_selector(&spec.at("selector"), problems);
    checks::optional_one_of(&spec.at("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"], problems);
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let shown = |path: &str| match walk(object, path) {
        Value::Null => Value::from("N/A"),
        Value::String(percent) => percent.as_str().into(),
        number => number.to_string().into(),
    };
    vec![
        printing::name(object),
        shown("spec.minAvailable"),
        shown("spec.maxUnavailable"),
        printing::int_at(object, "status.disruptionsAllowed"),
        printing::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_row};

    #[test]
    fn one_of_both() {
        check(&KIND, json!({"spec": {"minAvailable": "50%"}}), "");
        check(
            &KIND,
            json!({"spec": {"minAvailable": 1, "maxUnavailable": 1}}),
            "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":1,\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
        );
        let object =
            json!({"metadata": {"name": "p"}, "spec": {"minAvailable": 1}, "status": {"disruptionsAllowed": 2}});
        check_row(&KIND, object, "2026-01-01T00:00:00Z", "p | 1 | N/A | 2 | <unknown>");
    }
}
