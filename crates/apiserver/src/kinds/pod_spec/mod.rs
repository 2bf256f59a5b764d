//! The pod spec: shared by pods and by everything that holds a pod template.

pub mod defaults;
pub mod tolerations;

use serde_json::Value;

use super::{Cursor, Problems};

pub const SELECTOR_MISMATCH: &str = "`selector` does not match template `labels`";

/// Whose spec it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Pod,
    Template,
}

pub fn validate(_spec: &Cursor, _of: Of, _problems: &mut Problems) {}

pub fn validate_annotations(_annotations: &Cursor, _problems: &mut Problems) {}

/// Metadata and spec of a template.
pub fn validate_template(template: &Cursor, problems: &mut Problems) {
    super::metadata::validate_labels(&template.at("metadata.labels"), problems);
    super::metadata::validate_annotations(&template.at("metadata.annotations"), problems);
    validate(&template.at("spec"), Of::Template, problems);
}

/// What controllers keep alive must restart.
pub fn only_restart_always(template: &Cursor, problems: &mut Problems) {
    let policy = template.at("spec.restartPolicy");
    if policy.str() != "Always" {
        problems.not_supported(&policy, &["Always"]);
    }
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.exists() {
        problems.forbidden(&deadline, "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

/// Sentences for `Warning` headers.
pub fn warnings(_spec: &Value, _path: &str) -> Vec<String> {
    Vec::new()
}
