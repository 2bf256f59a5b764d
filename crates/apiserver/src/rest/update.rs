//! PUT of an object.

use serde_json::Value;

use super::decode::{Expected, body};
use super::write::{Change, Rules, Written, change_object, create_object, text};
use super::{Call, Reply, RequestError, options};

pub async fn update(call: &Call) -> Result<Reply, RequestError> {
    let validation = options::check(&call.query, "UpdateOptions")?;
    let object = body(call, Expected::of(call.kind), validation)?;
    let make = |_: Value| Ok(object.clone());
    let change = Change { make: &make, rules: Rules::Whole, record: true, options: None };
    match change_object(call, &change).await? {
        Some(written) => Ok(written.reply(call)),
        None => Ok(create_on_update(call, object).await?.reply(call)),
    }
}

async fn create_on_update(call: &Call, mut object: Value) -> Result<Written, RequestError> {
    if !call.store_kind.create_on_update {
        return Err(RequestError::not_found(call.kind, call.name()));
    }
    if !matches!(text(&object, "resourceVersion"), "" | "0") {
        return Err(RequestError::modified(call.kind, call.name()));
    }
    if text(&object, "name").is_empty() {
        object["metadata"]["name"] = call.name().into();
    }
    create_object(call, object, true).await
}
