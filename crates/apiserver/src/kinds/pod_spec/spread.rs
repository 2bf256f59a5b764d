//! Topology spread constraints.

use super::affinity::{validate_label_keys, validate_merged_keys};
use crate::kinds::cursor::walk;
use crate::kinds::{Cursor, Problems, checks};

pub fn validate(constraints: &Cursor, problems: &mut Problems) {
    for (index, constraint) in constraints.items().enumerate() {
        let skew = constraint.at("maxSkew");
        if skew.int() <= 0 {
            problems.invalid_plain(&skew, skew.int(), checks::NOT_ABOVE_ZERO);
        }
        let (key, unsatisfiable) = (constraint.at("topologyKey"), constraint.at("whenUnsatisfiable"));
        if key.is_empty() {
            problems.required(&key, "can not be empty");
        }
        checks::one_of(&unsatisfiable, &["DoNotSchedule", "ScheduleAnyway"], problems);
        let repeated = constraints.array()[index + 1..].iter().any(|later| {
            walk(later, "topologyKey") == key.value && walk(later, "whenUnsatisfiable") == unsatisfiable.value
        });
        if repeated {
            let at = constraint.at("{topologyKey, whenUnsatisfiable}");
            problems.duplicate_str(&at, &format!("{{{}, {}}}", key.str(), unsatisfiable.str()));
        }
        let domains = constraint.at("minDomains");
        if domains.exists() {
            if domains.int() <= 0 {
                problems.invalid(&domains, checks::NOT_ABOVE_ZERO);
            }
            if unsatisfiable.str() != "DoNotSchedule" {
                let sentence =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", unsatisfiable.str());
                problems.invalid(&domains, &sentence);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            checks::optional_one_of(&constraint.at(field), &["Honor", "Ignore"], problems);
        }
        let (keys, selector) = (constraint.at("matchLabelKeys"), constraint.at("labelSelector"));
        validate_label_keys(&keys, &selector, problems);
        validate_merged_keys(&keys, &selector, &keys, problems);
        checks::label_selector(&selector, problems);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::json;

    #[test]
    fn constraints() {
        let one = |skew: i64| json!({"maxSkew": skew, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        let with = |list: Vec<serde_json::Value>| json!({"containers": [{"name": "c", "image": "nginx"}], "topologySpreadConstraints": list});
        check(with(vec![one(1)]), "");
        check(
            with(vec![one(0)]),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        );
        check(
            with(vec![one(1), one(1)]),
            "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\"",
        );
        check(
            with(vec![
                json!({"maxSkew": 1, "topologyKey": "", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 0, "nodeTaintsPolicy": "x"}),
            ]),
            "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty\n\
             spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero\n\
             spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway\n\
             spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: \"x\": supported values: \"Honor\", \"Ignore\"",
        );
        let keys = |selector: serde_json::Value| {
            let mut one = one(1);
            one["matchLabelKeys"] = json!(["app"]);
            one["labelSelector"] = selector;
            with(vec![one])
        };
        check(keys(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]})), "");
        check(
            keys(serde_json::Value::Null),
            "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
        );
        check(
            keys(json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]})),
            "spec.topologySpreadConstraints[0].matchLabelKeys[0]: Invalid value: \"app\": exists in both matchLabelKeys and labelSelector",
        );
    }
}
