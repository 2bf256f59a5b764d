//! What an update of a pod may change.

use serde_json::Value;

use crate::kinds::Problems;

pub fn validate_update(_new: &Value, _old: &Value, _problems: &mut Problems) {}

pub fn validate_status_update(_new: &Value, _old: &Value, _problems: &mut Problems) {}
