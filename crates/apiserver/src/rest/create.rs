//! POST of an object.

use super::decode::{Expected, body};
use super::write::create_object;
use super::{Call, Reply, RequestError, options};

pub async fn create(call: &Call) -> Result<Reply, RequestError> {
    let validation = options::check(&call.query, "CreateOptions")?;
    let object = body(call, Expected::of(call.kind), validation)?;
    Ok(create_object(call, object, true).await?.reply(call))
}
