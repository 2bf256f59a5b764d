//! Taints and tolerations.

use crate::kinds::checks;
use crate::kinds::{Cursor, Problems};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn validate_taints(taints: &Cursor, problems: &mut Problems) {
    let mut seen = Vec::new();
    for taint in taints.items() {
        let (key, value, effect) = (taint.at("key"), taint.at("value"), taint.at("effect"));
        problems.invalid_each(&key, api::names::qualified_name(key.str()));
        let sentences = api::names::label_value(value.str());
        if !sentences.is_empty() {
            problems.invalid_str(&value, value.str(), &sentences.join(";"));
        }
        validate_effect(&effect, false, problems);
        let pair = (key.str(), effect.str());
        if seen.contains(&pair) {
            problems.duplicate_taint(&taint);
        }
        seen.push(pair);
    }
}

pub fn validate_tolerations(tolerations: &Cursor, problems: &mut Problems) {
    for toleration in tolerations.items() {
        let (key, operator, value) = (toleration.at("key"), toleration.at("operator"), toleration.at("value"));
        if !key.is_empty() {
            problems.invalid_each(&key, api::names::qualified_name(key.str()));
        } else if operator.str() != "Exists" {
            problems.invalid_str(
                &operator,
                operator.str(),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        let (seconds, effect) = (toleration.at("tolerationSeconds"), toleration.at("effect"));
        if seconds.exists() && effect.str() != "NoExecute" {
            problems.invalid_str(&effect, effect.str(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "Equal" | "" => {
                let sentences = api::names::label_value(value.str());
                if !sentences.is_empty() {
                    problems.invalid_str(&operator, value.str(), &sentences.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    problems.invalid_str(&operator, value.str(), "value must be empty when `operator` is 'Exists'");
                }
            }
            _ => checks::one_of(&operator, &["Equal", "Exists"], problems),
        }
        validate_effect(&effect, true, problems);
    }
}

fn validate_effect(effect: &Cursor, may_be_empty: bool, problems: &mut Problems) {
    if effect.is_empty() {
        if !may_be_empty {
            problems.required(effect, "");
        }
    } else {
        checks::one_of(effect, EFFECTS, problems);
    }
}
