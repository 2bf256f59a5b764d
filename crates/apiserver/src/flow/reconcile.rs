//! Keeps the built-in objects as they must be, and says of every flow schema whether its priority level is there.
//!
//! Invariant: sleeps until one of these objects changes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::built_in::{GROUP, LEVELS, SCHEMAS, amended, dangling, objects};
use crate::admission_chain::{Cluster, Target};
use crate::cache::{Filter, encode};
use crate::error::RequestError;
use crate::kinds::registry;
use crate::rest::write::seconds;
use crate::server::ApiServer;

pub async fn run(server: Arc<ApiServer>) {
    let cancel = server.config.cancel.clone();
    let mut changed = [SCHEMAS, LEVELS].map(|plural| {
        let kind = registry::by_plural(GROUP, "v1", plural).expect("a built-in kind");
        server.cache.shelf(kind).subscribe()
    });
    let server = {
        // The loop must not keep the server alive.
        let weak = Arc::downgrade(&server);
        drop(server);
        weak
    };
    loop {
        changed.iter_mut().for_each(|changed| {
            changed.borrow_and_update();
        });
        let Some(strong) = server.upgrade() else { return };
        if let Err(cause) = reconcile(&strong).await {
            tracing::warn!("flow schemas and priority levels: {cause}");
        }
        drop(strong);
        let [schemas, levels] = &mut changed;
        let ended = tokio::select! {
            () = cancel.cancelled() => true,
            result = schemas.changed() => result.is_err(),
            result = levels.changed() => result.is_err(),
        };
        if ended {
            return;
        }
    }
}

async fn reconcile(server: &Arc<ApiServer>) -> Result<(), RequestError> {
    for (plural, wanted) in objects() {
        let name = wanted["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let kind = registry::by_plural(GROUP, "v1", plural).expect("a built-in kind");
        match server.cache.get(kind, "", &name) {
            None => {
                let object = fresh(server, wanted);
                server.cache.put(kind, "", &name, encode(kind, &object), 0).await?;
            }
            Some(entry) => {
                let Some(new) = amended(&entry.value(), &wanted) else { continue };
                server.cache.put(kind, "", &name, encode(kind, &new), entry.revision).await?;
            }
        }
    }
    let kind = registry::by_plural(GROUP, "v1", SCHEMAS).expect("a built-in kind");
    for entry in server.cache.select(kind, &Filter::default(), None, 0).entries {
        let object = entry.value();
        let Some(condition) = wrong_condition(server, &object) else { continue };
        let target = Target { group: GROUP, plural: SCHEMAS, namespace: "", name: entry.name() };
        let change = move |object: &mut Value| {
            set_condition(object, condition.clone());
            Ok(true)
        };
        match server.update(target, &change).await {
            Ok(()) | Err(RequestError::NotFound { .. }) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// A built-in object as it is first written.
pub fn fresh(server: &ApiServer, mut object: Value) -> Value {
    object["metadata"]["uid"] = server.new_uid().into();
    object["metadata"]["creationTimestamp"] = seconds(server.config.clock.now()).into();
    object
}

/// The condition that a schema lacks.
fn wrong_condition(server: &ApiServer, schema: &Value) -> Option<Value> {
    let level = schema.pointer("/spec/priorityLevelConfiguration/name").and_then(Value::as_str).unwrap_or("");
    let exists = server.get(GROUP, LEVELS, "", level).is_some();
    let wanted = dangling(level, exists, &seconds(server.config.clock.now()));
    let conditions = schema.pointer("/status/conditions").and_then(Value::as_array);
    let current = conditions.into_iter().flatten().find(|condition| condition["type"] == "Dangling");
    let same = current.is_some_and(|current| {
        ["status", "reason", "message"].iter().all(|field| current[*field] == wanted[*field])
    });
    (!same).then_some(wanted)
}

fn set_condition(schema: &mut Value, mut condition: Value) {
    if !schema["status"].is_object() {
        schema["status"] = json!({});
    }
    let status = &mut schema["status"];
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(list) = status["conditions"].as_array_mut() else { return };
    match list.iter_mut().find(|own| own["type"] == condition["type"]) {
        Some(own) => {
            if own["status"] == condition["status"] {
                condition["lastTransitionTime"] = own["lastTransitionTime"].clone();
            }
            *own = condition;
        }
        None => list.push(condition),
    }
}
