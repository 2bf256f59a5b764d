//! The `scale` subresource: a kind's replicas and selector as autoscaling/v1 Scale.

use api::selector::LabelSelector;
use serde_json::{Value, json};

use super::decode::{Expected, body};
use super::options::FieldValidation;
use super::patch::{apply_existing, is_apply, patched, read, read_configuration};
use super::write::{Change, Rules, change_object, text};
use super::{Call, Content, Reply, RequestError, options};
use crate::cache::api_version;
use crate::error::ObjectName;
use crate::kinds::{Problem, ProblemReason, ScalePaths, Subresource};
use crate::views;

const DEFINITION: &str = "io.k8s.api.autoscaling.v1.Scale";
const SPEAKS: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

pub async fn get(call: &Call, subresource: &'static Subresource) -> Result<Reply, RequestError> {
    let entry = call.current()?;
    Ok(reply(scale_of(&entry.value(), paths(subresource)?)))
}

pub async fn update(call: &Call, subresource: &'static Subresource) -> Result<Reply, RequestError> {
    let validation = options::check(&call.query, "UpdateOptions")?;
    let scale = body(call, Expected::speaks(SPEAKS)?, validation)?;
    write(call, subresource, &|_| Ok(scale.clone())).await
}

pub async fn patch(call: &Call, subresource: &'static Subresource) -> Result<Reply, RequestError> {
    let validation = options::check(&call.query, "PatchOptions")?;
    let expected = Expected::speaks(SPEAKS)?;
    if is_apply(call) {
        return apply_to_parent(call, subresource, expected, validation).await;
    }
    let patch = read(call)?;
    write(call, subresource, &|current| patched(call, &patch, current, expected, validation)).await
}

/// Server-side apply of a Scale is one of the field that it stands for: it is owned in the object itself.
async fn apply_to_parent(
    call: &Call,
    subresource: &'static Subresource,
    expected: Expected,
    validation: FieldValidation,
) -> Result<Reply, RequestError> {
    let paths = paths(subresource)?;
    let scale = read_configuration(call, expected, validation)?;
    let mut config = json!({
        "apiVersion": api_version(call.kind), "kind": call.kind.kind, "metadata": scale["metadata"],
    });
    if let Some(replicas) = scale.pointer("/spec/replicas") {
        let number = replicas.as_i64().unwrap_or(0);
        if number < 0 {
            return Err(negative(call, number));
        }
        set(&mut config, paths.spec_replicas, replicas.clone());
    }
    let written = apply_existing(call, &config, Rules::Whole).await?;
    let written = written.ok_or_else(|| RequestError::not_found(call.kind, call.name()))?;
    Ok(reply(scale_of(&written.value(), paths)))
}

type MakeScale<'a> = dyn Fn(Value) -> Result<Value, RequestError> + Send + Sync + 'a;

async fn write(
    call: &Call,
    subresource: &'static Subresource,
    make_scale: &MakeScale<'_>,
) -> Result<Reply, RequestError> {
    let paths = paths(subresource)?;
    let make = |current: Value| {
        let scale = make_scale(scale_of(&current, paths))?;
        let own = text(&scale, "name");
        if own != call.name() {
            return Err(RequestError::BadRequest(format!(
                "the name of the object ({own}) does not match the name on the URL ({})",
                call.name()
            )));
        }
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            return Err(negative(call, replicas));
        }
        let mut new = current;
        let metadata = super::write::metadata(&mut new);
        metadata.remove("resourceVersion");
        for field in ["resourceVersion", "uid"] {
            let condition = text(&scale, field);
            if !condition.is_empty() {
                metadata.insert(field.into(), condition.into());
            }
        }
        set(&mut new, paths.spec_replicas, replicas.into());
        Ok(new)
    };
    let change = Change { make: &make, rules: Rules::Whole, record: true, options: None };
    let written = change_object(call, &change).await?;
    let written = written.ok_or_else(|| RequestError::not_found(call.kind, call.name()))?;
    Ok(reply(scale_of(&written.value(), paths)))
}

fn negative(call: &Call, replicas: i64) -> RequestError {
    RequestError::Invalid {
        object: ObjectName::new("autoscaling", "Scale", call.name()),
        problems: vec![Problem {
            reason: ProblemReason::Invalid,
            field: "spec.replicas".into(),
            detail: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        }],
    }
}

fn paths(subresource: &'static Subresource) -> Result<&'static ScalePaths, RequestError> {
    subresource.scale.as_ref().ok_or_else(|| RequestError::internal("a scale without paths"))
}

fn reply(scale: Value) -> Reply {
    Reply::ok(Content::Value { kind: views::plain_kind(), definition: DEFINITION, value: scale })
}

/// The Scale of an object.
fn scale_of(object: &Value, paths: &ScalePaths) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut spec = json!({});
    if let Some(replicas) = at(object, paths.spec_replicas).as_i64().filter(|replicas| *replicas != 0) {
        spec["replicas"] = replicas.into();
    }
    let mut status = json!({"replicas": at(object, paths.status_replicas).as_i64().unwrap_or(0)});
    let selector = selector_text(at(object, paths.selector));
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A selector object or a plain map of labels, as text.
fn selector_text(selector: &Value) -> String {
    let Some(map) = selector.as_object() else { return String::new() };
    if map.contains_key("matchLabels") || map.contains_key("matchExpressions") {
        return LabelSelector::from_json(selector).map(|selector| selector.to_string()).unwrap_or_default();
    }
    let pairs: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.join(",")
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    static MISSING: Value = Value::Null;
    path.trim_start_matches('.').split('.').try_fold(object, |at, step| at.get(step)).unwrap_or(&MISSING)
}

fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for step in path.trim_start_matches('.').split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[step];
    }
    *at = value;
}
