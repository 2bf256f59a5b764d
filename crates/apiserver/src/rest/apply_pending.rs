//! Stands where `api::apply` will: no managedFields yet, and server-side apply answers that it is not served.

use api::schema::Definition;
use jiff::Timestamp;
use serde_json::Value;

pub struct Manager<'a> {
    pub name: &'a str,
    pub api_version: &'a str,
    pub subresource: &'a str,
    pub now: Timestamp,
}

#[derive(Debug, Clone)]
pub enum ApplyError {
    Conflicts(Vec<(String, String)>),
    Invalid(String),
}

impl std::fmt::Display for ApplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ApplyError::Conflicts(list) => write!(f, "Apply failed with {} conflicts", list.len()),
            ApplyError::Invalid(why) => f.write_str(why),
        }
    }
}

pub fn apply(_: Option<&Value>, _: &Value, _: &Manager<'_>, _: bool, _: &'static Definition) -> Result<Value, ApplyError> {
    Err(ApplyError::Invalid("server-side apply is not served yet".into()))
}

pub fn record_update(_: Option<&Value>, _: &mut Value, _: &Manager<'_>, _: &'static Definition) {}
