//! Kinds of flowcontrol.apiserver.k8s.io.

pub mod flow_schema;
pub mod priority_level_configuration;

use crate::kinds::{Cursor, Problems};

/// Both kinds have conditions of one shape.
fn validate_conditions(root: &Cursor, problems: &mut Problems) {
    let conditions = root.at("status.conditions");
    let mut seen: Vec<&str> = Vec::new();
    for condition in conditions.items() {
        let kind = condition.at("type");
        if seen.contains(&kind.str()) {
            problems.duplicate_str(&kind, kind.str());
        }
        seen.push(kind.str());
        if kind.is_empty() {
            problems.required(&kind, "must not be empty");
        }
    }
}
