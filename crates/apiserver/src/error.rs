//! Why the API refused a request, and the `Status` that says so.
//!
//! Invariant: HTTP code, machine-readable reason and sentence are made in one place and word for word the original's.

use std::fmt;

use http::StatusCode;
use serde_json::{Value, json};

use crate::kinds::{Kind, Problem, Problems};

/// An object as errors name it: `deployments.apps "web"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    pub group: String,
    /// Plural resource name, for most errors; the kind, for `Invalid`.
    pub resource: String,
    pub name: String,
}

impl ObjectName {
    pub fn new(group: &str, resource: &str, name: &str) -> Self {
        ObjectName { group: group.into(), resource: resource.into(), name: name.into() }
    }

    pub fn of(kind: &Kind, name: &str) -> Self {
        ObjectName::new(kind.group, kind.plural, name)
    }

    /// `deployments.apps`, or `pods` in the core group.
    fn qualified(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }
}

#[derive(Debug)]
pub enum RequestError {
    NotFound { object: ObjectName },
    /// No such path.
    NoSuchPath,
    AlreadyExists { object: ObjectName },
    Conflict { object: ObjectName, why: String },
    /// Server-side apply: `causes` are (message, field).
    ApplyConflict { message: String, causes: Vec<(String, String)> },
    /// `object.resource` is the kind.
    Invalid { object: ObjectName, problems: Vec<Problem> },
    /// Understood, and refused. `why` follows `pods "x" is forbidden: `.
    Forbidden { object: ObjectName, why: String },
    /// The authorizer's refusal; the sentence is whole, `object.name` may be empty.
    NotAllowed { object: ObjectName, message: String },
    BadRequest(String),
    Unauthorized,
    MethodNotAllowed { object: ObjectName, verb: String },
    NotAcceptable(String),
    UnsupportedMediaType(String),
    /// The limit in bytes.
    TooLarge(usize),
    /// 410.
    Expired(String),
    /// 410 with a token to go on from.
    ExpiredContinue { message: String, token: String },
    /// 504, with seconds after which to try again.
    Timeout { message: String, retry_seconds: u32 },
    /// A resource version that this server has not reached.
    TooLargeResourceVersion { asked: i64, current: i64 },
    TooManyRequests { message: String, retry_seconds: u32, causes: Vec<Value> },
    ServiceUnavailable(String),
    Internal(String),
    /// A whole `Status` as another server gave it.
    Other { code: u16, status: Box<Value> },
}

impl RequestError {
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        RequestError::NotFound { object: ObjectName::of(kind, name) }
    }

    pub fn forbidden(kind: &Kind, name: &str, why: impl Into<String>) -> Self {
        RequestError::Forbidden { object: ObjectName::of(kind, name), why: why.into() }
    }

    pub fn invalid(kind: &Kind, name: &str, problems: Problems) -> Self {
        RequestError::Invalid { object: ObjectName::new(kind.group, kind.kind, name), problems: problems.list }
    }

    pub fn internal(cause: impl fmt::Display) -> Self {
        RequestError::Internal(cause.to_string())
    }

    /// The write lost against another one.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        RequestError::Conflict {
            object: ObjectName::of(kind, name),
            why: "the object has been modified; please apply your changes to the latest version and try again".into(),
        }
    }

    /// HTTP code and machine-readable reason side by side, so that they cannot drift apart.
    pub fn code_and_reason(&self) -> (StatusCode, &'static str) {
        match self {
            RequestError::NotFound { .. } | RequestError::NoSuchPath => (StatusCode::NOT_FOUND, "NotFound"),
            RequestError::AlreadyExists { .. } => (StatusCode::CONFLICT, "AlreadyExists"),
            RequestError::Conflict { .. } | RequestError::ApplyConflict { .. } => (StatusCode::CONFLICT, "Conflict"),
            RequestError::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            RequestError::Forbidden { .. } | RequestError::NotAllowed { .. } => (StatusCode::FORBIDDEN, "Forbidden"),
            RequestError::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
            RequestError::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            RequestError::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            RequestError::NotAcceptable(_) => (StatusCode::NOT_ACCEPTABLE, "NotAcceptable"),
            RequestError::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            RequestError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
            RequestError::Expired(_) | RequestError::ExpiredContinue { .. } => (StatusCode::GONE, "Expired"),
            RequestError::Timeout { .. } | RequestError::TooLargeResourceVersion { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "Timeout")
            }
            RequestError::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
            RequestError::ServiceUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            RequestError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            RequestError::Other { code, .. } => {
                (StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "")
            }
        }
    }

    pub fn retry_seconds(&self) -> Option<u32> {
        match self {
            RequestError::TooManyRequests { retry_seconds, .. } | RequestError::Timeout { retry_seconds, .. } => {
                Some(*retry_seconds).filter(|seconds| *seconds > 0)
            }
            RequestError::TooLargeResourceVersion { .. } => Some(1),
            _ => None,
        }
    }

    /// The `metav1.Status` that a client gets.
    pub fn status(&self) -> Value {
        if let RequestError::Other { status, .. } = self {
            return (**status).clone();
        }
        let (code, reason) = self.code_and_reason();
        let mut metadata = json!({});
        if let RequestError::ExpiredContinue { token, .. } = self {
            metadata["continue"] = token.as_str().into();
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.to_string(), "reason": reason, "code": code.as_u16(),
        });
        let details = self.details();
        if !details.is_null() {
            status["details"] = details;
        }
        status
    }

    fn details(&self) -> Value {
        let named = |object: &ObjectName| {
            let mut details = json!({});
            for (field, text) in [("name", &object.name), ("group", &object.group), ("kind", &object.resource)] {
                if !text.is_empty() {
                    details[field] = text.as_str().into();
                }
            }
            details
        };
        match self {
            RequestError::NotFound { object }
            | RequestError::AlreadyExists { object }
            | RequestError::Conflict { object, .. }
            | RequestError::Forbidden { object, .. }
            | RequestError::NotAllowed { object, .. }
            | RequestError::MethodNotAllowed { object, .. } => named(object),
            RequestError::NoSuchPath => json!({}),
            RequestError::Invalid { object, problems } => {
                let mut details = named(object);
                if !problems.is_empty() {
                    details["causes"] = problems
                        .iter()
                        .map(|problem| {
                            json!({
                                "reason": problem.reason.cause(), "message": problem.detail, "field": problem.field,
                            })
                        })
                        .collect();
                }
                details
            }
            RequestError::ApplyConflict { causes, .. } => json!({
                "causes": causes.iter().map(|(message, field)| {
                    json!({"reason": "FieldManagerConflict", "message": message, "field": field})
                }).collect::<Vec<_>>(),
            }),
            RequestError::TooLargeResourceVersion { .. } => json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1,
            }),
            RequestError::TooManyRequests { retry_seconds, causes, .. } => {
                let mut details = json!({});
                if *retry_seconds > 0 {
                    details["retryAfterSeconds"] = (*retry_seconds).into();
                }
                if !causes.is_empty() {
                    details["causes"] = causes.clone().into();
                }
                details
            }
            RequestError::Timeout { retry_seconds, .. } if *retry_seconds > 0 => {
                json!({"retryAfterSeconds": retry_seconds})
            }
            RequestError::Internal(message) => json!({"causes": [{"message": message}]}),
            _ => Value::Null,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::NotFound { object } => write!(f, "{} {:?} not found", object.qualified(), object.name),
            RequestError::NoSuchPath => f.write_str("the server could not find the requested resource"),
            RequestError::AlreadyExists { object } => {
                write!(f, "{} {:?} already exists", object.qualified(), object.name)
            }
            RequestError::Conflict { object, why } => {
                write!(f, "Operation cannot be fulfilled on {} {:?}: {why}", object.qualified(), object.name)
            }
            RequestError::Invalid { object, problems } => {
                write!(f, "{} {:?} is invalid", object.qualified(), object.name)?;
                write_problems(f, problems)
            }
            RequestError::Forbidden { object, why } => {
                if object.resource.is_empty() {
                    write!(f, "forbidden: {why}")
                } else if object.name.is_empty() {
                    write!(f, "{} is forbidden: {why}", object.qualified())
                } else {
                    write!(f, "{} {:?} is forbidden: {why}", object.qualified(), object.name)
                }
            }
            RequestError::Unauthorized => f.write_str("Unauthorized"),
            RequestError::MethodNotAllowed { object, verb } => {
                write!(f, "{verb} is not supported on resources of kind {:?}", object.qualified())
            }
            RequestError::TooLarge(limit) => write!(f, "Request entity too large: limit is {limit}"),
            RequestError::TooLargeResourceVersion { asked, current } => {
                write!(f, "Timeout: Too large resource version: {asked}, current: {current}")
            }
            RequestError::Timeout { message, .. } => write!(f, "Timeout: {message}"),
            RequestError::Internal(message) => write!(f, "Internal error occurred: {message}"),
            RequestError::ApplyConflict { message, .. }
            | RequestError::NotAllowed { message, .. }
            | RequestError::BadRequest(message)
            | RequestError::NotAcceptable(message)
            | RequestError::UnsupportedMediaType(message)
            | RequestError::Expired(message)
            | RequestError::ExpiredContinue { message, .. }
            | RequestError::TooManyRequests { message, .. }
            | RequestError::ServiceUnavailable(message) => f.write_str(message),
            RequestError::Other { status, .. } => f.write_str(status["message"].as_str().unwrap_or("")),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<store::StoreError> for RequestError {
    fn from(cause: store::StoreError) -> Self {
        match cause {
            store::StoreError::Compacted { .. } => RequestError::Expired(
                "The resourceVersion for the provided list is too old.".into(),
            ),
            store::StoreError::Closed => RequestError::ServiceUnavailable("apiserver is shutting down".into()),
            other => RequestError::Internal(other.to_string()),
        }
    }
}

/// `: one` or `: [one, two]`, each sentence once.
fn write_problems(f: &mut fmt::Formatter<'_>, problems: &[Problem]) -> fmt::Result {
    let mut sentences: Vec<String> = Vec::new();
    for problem in problems {
        let sentence = problem.to_string();
        if !sentences.contains(&sentence) {
            sentences.push(sentence);
        }
    }
    match sentences.as_slice() {
        [] => Ok(()),
        [one] => write!(f, ": {one}"),
        many => write!(f, ": [{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worded_as_the_original() {
        #[track_caller]
        fn check(error: RequestError, code: u16, reason: &str, message: &str) {
            let status = error.status();
            assert_eq!((&status["code"], &status["reason"], &status["message"]), (
                &json!(code),
                &json!(reason),
                &json!(message)
            ));
        }
        let web = || ObjectName::new("apps", "deployments", "web");
        check(RequestError::NotFound { object: web() }, 404, "NotFound", r#"deployments.apps "web" not found"#);
        check(
            RequestError::AlreadyExists { object: ObjectName::new("", "pods", "a") },
            409,
            "AlreadyExists",
            r#"pods "a" already exists"#,
        );
        check(
            RequestError::Conflict { object: web(), why: "the object has been modified; please apply your changes to the latest version and try again".into() },
            409,
            "Conflict",
            r#"Operation cannot be fulfilled on deployments.apps "web": the object has been modified; please apply your changes to the latest version and try again"#,
        );
        check(RequestError::TooLarge(3145728), 413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
    }
}
