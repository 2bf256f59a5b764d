//! A name for a priority.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::default;
use crate::kinds::printing::{self, AGE, NAME, boolean, integer, text};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

/// Above it are the system's own.
const USER_MAX: i64 = 1_000_000_000;
const SYSTEM: &[(&str, i64)] = &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    definition: "io.k8s.api.scheduling.v1.PriorityClass",
    storage: "priorityclasses",
    defaults: |object| {
        if let Some(map) = object.as_object_mut() {
            default(map, "preemptionPolicy", "PreemptLowerPriority");
        }
    },
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| {
        lifecycle::count_generation(new, old, &["value", "globalDefault", "description", "preemptionPolicy"]);
    },
    validate,
    validate_update: |new, old, problems| {
        let root = Cursor::root(new);
        let value = |object: &Value| walk(object, "value").as_i64().unwrap_or(0);
        if value(new) != value(old) {
            problems.forbidden(&root.at("value"), "may not be changed in an update.");
        }
        problems.immutable(&root.at("preemptionPolicy"), walk(old, "preemptionPolicy"));
    },
    columns: &[
        NAME,
        integer("Value", "io.k8s.api.scheduling.v1.PriorityClass#value"),
        boolean("Global-Default", "io.k8s.api.scheduling.v1.PriorityClass#globalDefault"),
        AGE,
        text("PreemptionPolicy", "io.k8s.api.scheduling.v1.PriorityClass#preemptionPolicy"),
    ],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let (name, value) = (root.at("metadata.name"), root.at("value"));
    if name.str().starts_with("system-") {
        let known = SYSTEM.iter().find(|(system, _)| *system == name.str());
        let why = match known {
            None => Some(format!("{} is not a known system priority class", name.str())),
            Some((system, priority)) if *priority != value.int() => {
                Some(format!("value of {system} PriorityClass must be {priority}"))
            }
            Some((system, _)) if root.at("globalDefault").bool() => {
                Some(format!("globalDefault of {system} PriorityClass must be false"))
            }
            _ => None,
        };
        if let Some(why) = why {
            problems.forbidden(
                &name,
                &format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}"),
            );
        }
    } else if value.int() > USER_MAX {
        problems.forbidden(&value, &format!("maximum allowed value of a user defined priority is {USER_MAX}"));
    }
    checks::optional_one_of(&root.at("preemptionPolicy"), &["PreemptLowerPriority", "Never"], problems);
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        printing::name(object),
        printing::int_at(object, "value"),
        walk(object, "globalDefault").as_bool().unwrap_or(false).into(),
        printing::age(object, now),
        printing::string_at(object, "preemptionPolicy"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::check_defaulted;
    use serde_json::json;

    #[test]
    fn high_values_are_the_systems() {
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        check_defaulted(&KIND, class("a", 5), "");
        check_defaulted(&KIND, class("system-node-critical", 2_000_001_000), "");
        check_defaulted(
            &KIND,
            class("a", 2_000_000_000),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        );
        check_defaulted(
            &KIND,
            class("system-x", 1),
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class",
        );
    }
}
