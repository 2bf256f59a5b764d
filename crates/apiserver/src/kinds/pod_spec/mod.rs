//! The pod spec: shared by pods and by everything that holds a pod template.

pub mod defaults;
pub mod tolerations;

use serde_json::Value;

use super::cursor::walk;
use super::{Cursor, Problems, checks};

pub const SELECTOR_MISMATCH: &str = "`selector` does not match template `labels`";

/// Whose spec it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Pod,
    Template,
}

pub fn validate(_spec: &Cursor, _of: Of, _problems: &mut Problems) {}

pub fn validate_annotations(_annotations: &Cursor, _problems: &mut Problems) {}

/// Whether a `metav1.LabelSelector` selects the template's labels. One that cannot be parsed has been reported already.
pub fn selector_matches(selector: &Cursor, template: &Cursor) -> bool {
    if checks::selects_everything(selector) {
        return true;
    }
    let labels = template.at("metadata.labels");
    match api::selector::LabelSelector::from_json(selector.value) {
        Ok(selector) => selector.matches_with(|key| labels.value.get(key).and_then(Value::as_str)),
        Err(_) => true,
    }
}

/// The same where claims of these names count as volumes.
pub fn validate_template_with_claims(template: &Cursor, _claims: &[&str], problems: &mut Problems) {
    validate_template(template, problems);
}

/// Warnings about a template that is new or changed.
pub fn template_warnings(new: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let template = walk(new, path);
    if old.is_some_and(|old| walk(old, path) == template) {
        return Vec::new();
    }
    warnings(walk(template, "spec"), &format!("{path}.spec"))
}

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
