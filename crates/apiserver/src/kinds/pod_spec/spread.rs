//! Topology spread constraints.

use crate::kinds::{Cursor, Problems, checks};

pub fn validate(constraints: &Cursor, problems: &mut Problems) {
    let mut seen = Vec::new();
    for constraint in constraints.items() {
        let skew = constraint.at("maxSkew");
        if skew.int() <= 0 {
            problems.invalid_plain(&skew, skew.int(), checks::NOT_POSITIVE);
        }
        let (key, unsatisfiable) = (constraint.at("topologyKey"), constraint.at("whenUnsatisfiable"));
        if key.is_empty() {
            problems.required(&key, "can not be empty");
        } else {
            problems.invalid_each(&key, api::names::qualified_name(key.str()));
        }
        checks::one_of(&unsatisfiable, &["DoNotSchedule", "ScheduleAnyway"], problems);
        let pair = format!("{{{}, {}}}", key.str(), unsatisfiable.str());
        if seen.contains(&pair) {
            problems.duplicate_str(&constraint, &pair);
        }
        seen.push(pair);
        let domains = constraint.at("minDomains");
        if domains.exists() {
            if domains.int() <= 0 {
                problems.invalid(&domains, checks::NOT_POSITIVE);
            }
            if unsatisfiable.str() != "DoNotSchedule" {
                problems.invalid(
                    &domains,
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
                );
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            checks::optional_one_of(&constraint.at(field), &["Honor", "Ignore"], problems);
        }
        let keys = constraint.at("matchLabelKeys");
        if !keys.is_empty() && !constraint.at("labelSelector").exists() {
            problems.forbidden(&keys, "must not be specified when labelSelector is not set");
        }
        for key in keys.items() {
            problems.invalid_each(&key, api::names::qualified_name(key.str()));
        }
        checks::label_selector(&constraint.at("labelSelector"), problems);
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
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than 0",
        );
        check(
            with(vec![one(1), one(1)]),
            "spec.topologySpreadConstraints[1]: Duplicate value: \"{zone, DoNotSchedule}\"",
        );
    }
}
