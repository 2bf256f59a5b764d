//! Options of writes, from query parameters and DeleteOptions bodies.

use http::HeaderMap;
use http::header::USER_AGENT;

use crate::error::{ObjectName, RequestError};
use crate::http::query::Query;
use crate::kinds::{Problem, ProblemReason};

/// The longest name of a field manager.
const MANAGER_MAX: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Checks what the query says; `options` is the kind that errors name (`CreateOptions`).
pub fn check(query: &Query, options: &str) -> Result<FieldValidation, RequestError> {
    let mut problems = Vec::new();
    for value in query.all("dryRun") {
        if value != "All" {
            problems.push(unsupported("dryRun", value, "\"All\""));
        }
    }
    if let Some(manager) = query.get("fieldManager") {
        if manager.len() > MANAGER_MAX {
            problems.push(Problem {
                reason: ProblemReason::TooLong,
                field: "fieldManager".into(),
                detail: format!("Too long: may not be more than {MANAGER_MAX} bytes"),
            });
        }
        if let Some(position) = manager.chars().position(|c| c.is_control()) {
            problems.push(Problem {
                reason: ProblemReason::Invalid,
                field: "fieldManager".into(),
                detail: format!("Invalid value: {manager:?}: should only contain printable characters ({position})"),
            });
        }
    }
    let validation = match query.get("fieldValidation") {
        None | Some("Warn") => FieldValidation::Warn,
        Some("Ignore") => FieldValidation::Ignore,
        Some("Strict") => FieldValidation::Strict,
        Some(other) => {
            problems.push(unsupported("fieldValidation", other, "\"Ignore\", \"Strict\", \"Warn\""));
            FieldValidation::Strict
        }
    };
    refuse(options, problems)?;
    Ok(validation)
}

/// `CreateOptions.meta.k8s.io "" is invalid: ...` where there are problems.
pub fn refuse(options: &str, problems: Vec<Problem>) -> Result<(), RequestError> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(RequestError::Invalid { object: ObjectName::new("meta.k8s.io", options, ""), problems })
}

pub fn unsupported(field: &str, value: &str, supported: &str) -> Problem {
    Problem {
        reason: ProblemReason::NotSupported,
        field: field.into(),
        detail: format!("Unsupported value: {value:?}: supported values: {supported}"),
    }
}

pub fn is_dry_run(query: &Query) -> bool {
    query.contains("dryRun")
}

/// Who is noted in managedFields: what the client says, or the first word of its user agent.
pub fn field_manager<'a>(query: &'a Query, headers: &'a HeaderMap) -> &'a str {
    if let Some(manager) = query.get("fieldManager") {
        return manager;
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let first = agent.split('/').next().unwrap_or("");
    let end = first.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MANAGER_MAX).last();
    match end {
        Some(end) => &first[..end],
        None => "unknown",
    }
}
