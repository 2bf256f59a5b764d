//! Why a command failed.
//!
//! Invariant: `message` is what stands on standard error, word for word as the original prints it. Deliberately
//! absent: printing, which `lib` does once at the end.

use serde_json::Value;

use crate::value::{list, text};

#[derive(Debug)]
pub enum Error {
    /// Printed after `error: `.
    Message(String),
    /// The API server refused; the value is a `metav1.Status`.
    Status(Value),
    /// No answer from the server.
    Unreachable(String),
    Many(Vec<Error>),
    /// Nothing more to say than the exit code.
    Exit(u8),
    Io(std::io::Error),
    /// A command run elsewhere ended with this code.
    Remote(u8),
}

/// As a shell counts an end by SIGPIPE.
const SIGPIPE_CODE: u8 = 128 + 13;

pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// `Err(Error::Message(format!(...)))`
#[macro_export]
macro_rules! fail {
    ($($part:tt)*) => { return Err($crate::error::Error::Message(format!($($part)*))) };
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io(error)
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Error::Message(message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Error::Message(message.to_owned())
    }
}

impl Error {
    pub fn not_supported(what: &str) -> Self {
        Error::Message(format!("{what} is not supported yet"))
    }

    pub fn is_reason(&self, reason: &str) -> bool {
        matches!(self, Error::Status(status) if text(status, "/reason") == reason)
    }

    pub fn is_not_found(&self) -> bool {
        self.is_reason("NotFound")
    }

    /// `error when creating "web.yaml": ...`
    pub fn when(self, doing: &str, source: &str) -> Self {
        match self {
            Error::Status(mut status) => {
                let message = format!("error when {doing} {source:?}: {}", text(&status, "/message"));
                status["message"] = message.into();
                Error::Status(status)
            }
            Error::Message(message) => Error::Message(format!("error when {doing} {source:?}: {message}")),
            other => other,
        }
    }

    /// One error out of several; none is success.
    pub fn all(mut errors: Vec<Error>) -> Result {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Many(errors)),
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Exit(code) | Error::Remote(code) => *code,
            // Who writes into a pipe that nobody reads is ended by a signal.
            Error::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe => SIGPIPE_CODE,
            _ => 1,
        }
    }

    /// The sentence without any prefix, for use inside another.
    pub fn bare(&self) -> String {
        match self {
            Error::Message(message) | Error::Unreachable(message) => message.clone(),
            Error::Status(status) => text(status, "/message").to_owned(),
            Error::Many(errors) => {
                let all: Vec<String> = errors.iter().map(Error::bare).collect();
                if all.len() == 1 { all.concat() } else { format!("[{}]", all.join(", ")) }
            }
            Error::Exit(code) | Error::Remote(code) => format!("command terminated with exit code {code}"),
            Error::Io(error) => error.to_string(),
        }
    }

    /// What the user reads on standard error; empty for none.
    pub fn message(&self) -> String {
        match self {
            Error::Message(message) if message.starts_with("error: ") => message.clone(),
            Error::Message(message) => format!("error: {message}"),
            Error::Many(errors) => {
                let lines: Vec<String> = errors.iter().map(Error::within_many).collect();
                lines.join("\n")
            }
            Error::Status(status) if text(status, "/reason") == "Invalid" => invalid(status),
            Error::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe => String::new(),
            Error::Io(error) => format!("error: {error}"),
            Error::Exit(_) => String::new(),
            _ => self.within_many(),
        }
    }

    fn within_many(&self) -> String {
        match self {
            Error::Status(status) => {
                let (reason, message) = (text(status, "/reason"), text(status, "/message"));
                match reason {
                    "Unauthorized" => format!("error: You must be logged in to the server ({message})"),
                    "" => format!("Error from server: {message}"),
                    _ => format!("Error from server ({reason}): {message}"),
                }
            }
            other => other.bare(),
        }
    }
}

fn invalid(status: &Value) -> String {
    let message = text(status, "/message");
    let Some(details) = status.get("details") else {
        return if message.is_empty() { "The request is invalid".to_owned() } else { format!("The request is invalid: {message}") };
    };
    let (kind, name, causes) = (text(details, "/kind"), text(details, "/name"), list(details, "/causes"));
    let mut sentence = "The request is invalid".to_owned();
    if !kind.is_empty() || !name.is_empty() {
        sentence = format!("The {kind} {name:?} is invalid");
    } else if !message.is_empty() && causes.is_empty() {
        sentence = format!("{sentence}: {message}");
    }
    let mut problems: Vec<String> = Vec::new();
    for cause in causes {
        let problem = format!("{}: {}", text(cause, "/field"), text(cause, "/message"));
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    match problems.as_slice() {
        [] => sentence,
        [one] => format!("{sentence}: {one}\n"),
        many => format!("{sentence}: \n* {}\n", many.join("\n* ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn worded_as_the_original() {
        let not_found = || json!({"reason": "NotFound", "message": "pods \"web\" not found"});
        let check = |error: Error, expected: &str| assert_eq!(error.message(), expected);
        check(Error::Message("boom".into()), "error: boom");
        check(Error::Status(not_found()), "Error from server (NotFound): pods \"web\" not found");
        check(
            Error::Status(not_found()).when("creating", "web.yaml"),
            "Error from server (NotFound): error when creating \"web.yaml\": pods \"web\" not found",
        );
        check(
            Error::Status(json!({"reason": "Invalid", "message": "m", "details": {"kind": "Pod", "name": "web", "causes": [
                {"field": "spec.a", "message": "Required value"}, {"field": "spec.a", "message": "Required value"}]}})),
            "The Pod \"web\" is invalid: spec.a: Required value\n",
        );
        check(Error::Many(vec![Error::Status(not_found()), Error::Message("x".into())]), "Error from server (NotFound): pods \"web\" not found\nx");
    }
}
