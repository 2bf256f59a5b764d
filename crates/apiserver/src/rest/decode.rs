//! Bodies to objects.
//!
//! Invariant: what comes out has the expected kind, only fields that its schema knows, and the defaults filled in.

use api::schema::Definition;
use serde_json::{Value, json};

use super::Call;
use super::options::FieldValidation;
use crate::cache::api_version;
use crate::error::RequestError;
use crate::http::negotiate::{Media, body_media};
use crate::kinds::{Kind, registry};

/// What a body must be.
#[derive(Clone, Copy)]
pub struct Expected {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub definition: &'static Definition,
}

impl Expected {
    pub fn of(kind: &Kind) -> Expected {
        Expected {
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
            definition: api::schema::definition(kind.definition).expect("every kind has a schema"),
        }
    }

    /// What a subresource speaks.
    pub fn speaks(
        (group, version, kind): (&'static str, &'static str, &'static str),
    ) -> Result<Expected, RequestError> {
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        match api::schema::definition_of_kind(&api_version, kind) {
            Some(definition) => Ok(Expected { group, version, kind, definition }),
            None => Err(RequestError::internal(format!("no schema for {api_version}, Kind={kind}"))),
        }
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// The body of a create or update.
pub fn body(call: &Call, expected: Expected, validation: FieldValidation) -> Result<Value, RequestError> {
    let (mut value, problems) = match body_media(&call.headers)? {
        Media::Json => match api::json::decode(&call.body, expected.definition) {
            Ok(decoded) => (decoded.value, decoded.strict_problems),
            Err(cause) => return Err(undecodable(&call.body, expected, &cause.to_string())),
        },
        Media::Yaml => {
            let (mut value, mut problems) =
                api::yaml::to_json(&call.body).map_err(|cause| undecodable(&call.body, expected, &cause.to_string()))?;
            let unknown = api::json::normalise(&mut value, expected.definition)
                .map_err(|cause| cannot_be_handled(&value_type(&call.body), expected, &cause.to_string()))?;
            problems.extend(unknown);
            (value, problems)
        }
        Media::Protobuf => {
            let value = api::protobuf::decode(&call.body)
                .map_err(|cause| undecodable(&call.body, expected, &cause.to_string()))?;
            (value, Vec::new())
        }
    };
    check_type(&mut value, expected)?;
    report(call, problems, expected, validation)?;
    Ok(value)
}

/// Unknown and duplicate fields: refused, warned about or ignored.
pub fn report(
    call: &Call,
    problems: Vec<String>,
    expected: Expected,
    validation: FieldValidation,
) -> Result<(), RequestError> {
    if problems.is_empty() {
        return Ok(());
    }
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => problems.into_iter().for_each(|problem| call.warnings.add(problem)),
        FieldValidation::Strict => {
            let sentence = format!("strict decoding error: {}", problems.join(", "));
            let (api_version, kind) = (expected.api_version(), expected.kind.to_owned());
            return Err(cannot_be_handled(&(api_version, kind), expected, &sentence));
        }
    }
    Ok(())
}

/// Fills in apiVersion and kind where the body leaves them out; refuses others than expected.
fn check_type(value: &mut Value, expected: Expected) -> Result<(), RequestError> {
    let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or("").to_owned();
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("").to_owned();
    let wanted = expected.api_version();
    if (!kind.is_empty() && kind != expected.kind) || (!api_version.is_empty() && api_version != wanted) {
        return Err(wrong_type(&api_version, &kind, expected));
    }
    if !value.is_object() {
        return Err(RequestError::BadRequest(format!(
            "the object provided is unrecognized (must be of type {}): not an object",
            expected.kind
        )));
    }
    value["apiVersion"] = wanted.into();
    value["kind"] = expected.kind.into();
    if !value.get("metadata").is_some_and(Value::is_object) && expected.definition.field("metadata").is_some() {
        value["metadata"] = json!({});
    }
    Ok(())
}

fn wrong_type(api_version: &str, kind: &str, expected: Expected) -> RequestError {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = if api_version.is_empty() {
        registry::by_kind(expected.group, expected.version, kind)
    } else {
        registry::by_kind(group, version, kind)
    };
    if kind == expected.kind && found.is_some() {
        return RequestError::BadRequest(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version()
        ));
    }
    let shown = if api_version.is_empty() { expected.api_version() } else { api_version.to_owned() };
    let cause = match found {
        Some(found) => {
            let internal = |group: &str| if group.is_empty() { "core".into() } else { first_word(group) };
            format!(
                "converting ({}.{kind}) to ({}.{}): unknown conversion",
                found.version,
                internal(expected.group),
                expected.kind
            )
        }
        None => {
            format!("no kind {kind:?} is registered for version {shown:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"")
        }
    };
    cannot_be_handled(&(shown, kind.to_owned()), expected, &cause)
}

fn first_word(group: &str) -> String {
    group.split('.').next().unwrap_or(group).to_owned()
}

fn cannot_be_handled((api_version, kind): &(String, String), expected: Expected, cause: &str) -> RequestError {
    let version = api_version.rsplit('/').next().unwrap_or("");
    RequestError::BadRequest(format!("{kind} in version {version:?} cannot be handled as a {}: {cause}", expected.kind))
}

/// A body that could not be read as the expected kind: perhaps because it is another one.
fn undecodable(body: &[u8], expected: Expected, cause: &str) -> RequestError {
    let (api_version, kind) = value_type(body);
    if kind.is_empty() {
        return RequestError::BadRequest(format!(
            "the object provided is unrecognized (must be of type {}): {cause} ({})",
            expected.kind,
            summary(body)
        ));
    }
    if kind != expected.kind || (!api_version.is_empty() && api_version != expected.api_version()) {
        return wrong_type(&api_version, &kind, expected);
    }
    cannot_be_handled(&(expected.api_version(), kind), expected, cause)
}

/// apiVersion and kind of a JSON or YAML body, as far as they can be found.
fn value_type(body: &[u8]) -> (String, String) {
    let value: Option<Value> =
        serde_json::from_slice(body).ok().or_else(|| api::yaml::to_json(body).ok().map(|(value, _)| value));
    let text = |name: &str| {
        value.as_ref().and_then(|value| value.get(name)).and_then(Value::as_str).unwrap_or("").to_owned()
    };
    (text("apiVersion"), text("kind"))
}

/// The start of a body: the text itself, or hex.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    if body.is_empty() {
        return "<empty>".into();
    }
    let short = &body[..body.len().min(SHOWN)];
    let dots = if body.len() > SHOWN { " ..." } else { "" };
    match std::str::from_utf8(short) {
        Ok(text) if text.trim_start().starts_with('{') => format!("{text:?}{dots}"),
        _ => {
            let hex: String = short.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{dots}")
        }
    }
}

/// Decoded, defaulted, in the version that is stored.
pub fn to_storage(kind: &Kind, store_kind: &Kind, mut value: Value) -> Value {
    (kind.defaults)(&mut value);
    match &kind.conversion {
        None => value,
        Some(conversion) => {
            let mut value = (conversion.to_storage)(value);
            value["apiVersion"] = api_version(store_kind).into();
            value["kind"] = store_kind.kind.into();
            (store_kind.defaults)(&mut value);
            value
        }
    }
}

pub fn from_storage(kind: &Kind, value: Value) -> Value {
    match &kind.conversion {
        None => value,
        Some(conversion) => {
            let mut value = (conversion.from_storage)(value);
            value["apiVersion"] = api_version(kind).into();
            value["kind"] = kind.kind.into();
            value
        }
    }
}
