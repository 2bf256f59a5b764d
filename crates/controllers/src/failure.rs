//! Why a round of a controller has to be repeated.

use std::fmt;

use client::{ErrorKind, error_kind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

#[derive(Debug)]
pub(crate) enum Failure {
    Api(kube::Error),
    /// Several requests of one round failed; the first of them.
    Several { first: kube::Error, count: usize },
    Other(String),
}

impl Failure {
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Failure::Api(error) | Failure::Several { first: error, .. } => Some(error_kind(error)),
            Failure::Other(_) => None,
        }
    }

    /// Sums up the outcomes of parallel requests.
    pub fn of_all<T>(outcomes: impl IntoIterator<Item = Result<T, kube::Error>>) -> Result<Vec<T>, Failure> {
        let mut done = Vec::new();
        let mut failed = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(value) => done.push(value),
                Err(error) => failed.push(error),
            }
        }
        let count = failed.len();
        match failed.into_iter().next() {
            None => Ok(done),
            Some(error) if count == 1 => Err(Failure::Api(error)),
            Some(first) => Err(Failure::Several { first, count }),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Failure::Api(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Api(error) => f.write_str(&error_text(error)),
            Failure::Several { first, count } => write!(f, "{} (and {} more)", error_text(first), count - 1),
            Failure::Other(text) => f.write_str(text),
        }
    }
}

/// The server's own sentence where there is one.
pub(crate) fn error_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// The namespace is on its way out: creating in it is neither possible nor wanted.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| details.causes.iter());
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// For writes that may find their object gone.
pub(crate) fn ignore_not_found<T>(outcome: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error_kind(&error) == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// As Go prints a selector.
pub(crate) fn go_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: String = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|it| format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},", it.key, it.operator, it.values.clone().unwrap_or_default().join(" ")))
        .collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}
