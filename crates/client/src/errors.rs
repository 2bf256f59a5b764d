//! What an API error means to a caller who has to decide what to do next.

use kube::Error;

/// The few distinctions that callers act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    AlreadyExists,
    /// Somebody else wrote first, or a precondition failed.
    Conflict,
    Invalid,
    Forbidden,
    /// The resourceVersion or the continue token is too old.
    Expired,
    TooManyRequests,
    MethodNotAllowed,
    /// The server answered something else.
    Other,
    /// No answer: the request may or may not have been carried out.
    Unreachable,
}

pub fn error_kind(error: &Error) -> ErrorKind {
    let Error::Api(status) = error else { return ErrorKind::Unreachable };
    match (status.reason.as_str(), status.code) {
        ("AlreadyExists", _) => ErrorKind::AlreadyExists,
        ("NotFound", _) | ("", 404) => ErrorKind::NotFound,
        ("Conflict", _) | ("", 409) => ErrorKind::Conflict,
        ("Invalid", _) | ("", 422) => ErrorKind::Invalid,
        ("Forbidden", _) | ("", 403) => ErrorKind::Forbidden,
        ("Expired" | "Gone", _) | (_, 410) => ErrorKind::Expired,
        ("TooManyRequests", _) | (_, 429) => ErrorKind::TooManyRequests,
        ("MethodNotAllowed", _) | (_, 405) => ErrorKind::MethodNotAllowed,
        ("Timeout" | "ServerTimeout", _) | (_, 504) => ErrorKind::Unreachable,
        _ => ErrorKind::Other,
    }
}
