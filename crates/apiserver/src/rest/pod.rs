//! What is done to pods alone: binding to a node, eviction.

use serde_json::{Value, json};

use super::decode::{Expected, body};
use super::write::{Change, Rules, change_object, text};
use super::{Call, Reply, RequestError, created_status, delete, options, subresource_name};
use crate::admission_chain::{Cluster, Operation, Target};
use crate::kinds::registry;

const BINDING: (&str, &str, &str) = ("", "v1", "Binding");
const EVICTION: (&str, &str, &str) = ("policy", "v1", "Eviction");
const VIOLATION: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Sets a pod's node, once.
pub async fn bind(call: &Call) -> Result<Reply, RequestError> {
    let validation = options::check(&call.query, "CreateOptions")?;
    let binding = body(call, Expected::speaks(BINDING)?, validation)?;
    let name = if call.name().is_empty() { text(&binding, "name") } else { call.name() };
    if !text(&binding, "name").is_empty() && text(&binding, "name") != name {
        return Err(RequestError::BadRequest("name in URL does not match name in Binding object".into()));
    }
    let pods = registry::by_plural("", "v1", "pods").ok_or(RequestError::NoSuchPath)?;
    let call = &call.retarget(pods, "binding", name);
    let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or("");
    let target_kind = binding.pointer("/target/kind").and_then(Value::as_str).unwrap_or("");
    if node.is_empty() || !matches!(target_kind, "" | "Node") {
        let mut problems = crate::kinds::Problems::default();
        let (field, detail) = if node.is_empty() {
            ("target.name", "Required value".to_owned())
        } else {
            ("target.kind", format!("Unsupported value: {target_kind:?}: supported values: \"Node\", \"<empty>\""))
        };
        let reason = if node.is_empty() {
            crate::kinds::ProblemReason::Required
        } else {
            crate::kinds::ProblemReason::NotSupported
        };
        problems.list.push(crate::kinds::Problem { reason, field: field.into(), detail });
        return Err(RequestError::Invalid {
            object: crate::error::ObjectName::new("", "Binding", name),
            problems: problems.list,
        });
    }
    let conflict = |why: String| RequestError::Conflict { object: subresource_name(call), why };
    let make = |mut pod: Value| {
        let uid = text(&binding, "uid");
        if !uid.is_empty() && uid != text(&pod, "uid") {
            return Err(conflict(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", text(&pod, "uid"))));
        }
        if !text(&pod, "deletionTimestamp").is_empty() {
            return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        match pod["spec"]["nodeName"].as_str() {
            None | Some("") => {}
            Some(assigned) => {
                return Err(conflict(format!("pod {name} is already assigned to node {assigned:?}")));
            }
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        pod["spec"]["nodeName"] = node.into();
        for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
            pod["metadata"]["annotations"][key] = value.clone();
        }
        let now = super::write::seconds(call.now);
        let generation = pod["metadata"]["generation"].clone();
        let mut condition =
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
        if generation.is_number() {
            condition["observedGeneration"] = generation;
        }
        set_condition(&mut pod["status"]["conditions"], condition);
        super::write::metadata(&mut pod).remove("resourceVersion");
        Ok(pod)
    };
    let change = Change { make: &make, rules: Rules::Part(&|_, _| {}), record: false, options: Some(&binding) };
    match change_object(call, &change).await? {
        Some(_) => Ok(created_status()),
        None => Err(RequestError::not_found(pods, name)),
    }
}

fn set_condition(conditions: &mut Value, condition: Value) {
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let list = conditions.as_array_mut().expect("was just made sure");
    match list.iter_mut().find(|own| own["type"] == condition["type"]) {
        Some(own) => *own = condition,
        None => list.push(condition),
    }
}

/// Deletes a pod if its disruption budget has room.
pub async fn evict(call: &Call) -> Result<Reply, RequestError> {
    let validation = options::check(&call.query, "CreateOptions")?;
    let mut eviction = body(call, Expected::speaks(EVICTION)?, validation)?;
    let own = text(&eviction, "name");
    if !own.is_empty() && own != call.name() {
        return Err(RequestError::BadRequest("name in URL does not match name in Eviction object".into()));
    }
    let entry = call.current()?;
    let pod = entry.value();
    let mut attributes = call.attributes(Operation::Create, call.name(), None);
    attributes.options = Some(&eviction);
    call.server.admission.validate(&attributes, &pod).await?;

    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    let dry_run = super::options::is_dry_run(&call.query) || eviction["deleteOptions"].get("dryRun").is_some();
    let needs_budget = !matches!(phase, "Succeeded" | "Failed" | "Pending") && text(&pod, "deletionTimestamp").is_empty();
    if needs_budget {
        take_from_budget(call, &pod, entry.namespace(), dry_run).await?;
    }
    if !dry_run && text(&pod, "deletionTimestamp").is_empty() {
        mark_disrupted(call, entry.namespace()).await?;
    }
    let options = eviction.get_mut("deleteOptions").map_or(Value::Null, Value::take);
    delete::delete_by(call, call.name(), options).await?;
    Ok(created_status())
}

/// Who looks at the pod's end sees that it was not its own fault.
async fn mark_disrupted(call: &Call, namespace: &str) -> Result<(), RequestError> {
    let condition = serde_json::json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": super::write::seconds(call.now),
    });
    let mark = |pod: &mut Value| {
        let conditions = &mut pod["status"]["conditions"];
        if conditions.is_null() {
            *conditions = Value::Array(Vec::new());
        }
        let Some(conditions) = conditions.as_array_mut() else { return Ok(false) };
        conditions.retain(|known| known["type"] != "DisruptionTarget");
        conditions.push(condition.clone());
        Ok(true)
    };
    call.server.update(Target { group: "", plural: "pods", namespace, name: call.name() }, &mark).await
}

async fn take_from_budget(call: &Call, pod: &Value, namespace: &str, dry_run: bool) -> Result<(), RequestError> {
    let server = &call.server;
    let budgets: Vec<Value> = server
        .list("policy", "poddisruptionbudgets", namespace)
        .into_iter()
        .filter(|budget| selects(&budget["spec"]["selector"], pod))
        .collect();
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(RequestError::Internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.".into(),
            ));
        }
    };
    let number = |budget: &Value, field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let ready = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|list| list.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"));
    if !ready {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if always || number(budget, "currentHealthy") >= number(budget, "desiredHealthy").max(1) {
            return Ok(());
        }
    }
    let name = text(budget, "name");
    let take = |budget: &mut Value| {
        let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
        if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
            let cause = format!("The disruption budget {name} is still being processed by the server.");
            return Err(violation(&cause, 10));
        }
        let allowed = number(budget, "disruptionsAllowed");
        if allowed <= 0 {
            let (wanted, present) = (number(budget, "desiredHealthy"), number(budget, "currentHealthy"));
            let cause = format!("The disruption budget {name} needs {wanted} healthy pods and has {present} currently");
            return Err(violation(&cause, 0));
        }
        if dry_run {
            return Ok(false);
        }
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        budget["status"]["disruptedPods"][call.name()] = super::write::seconds(call.now).into();
        Ok(true)
    };
    server.update(Target { group: "policy", plural: "poddisruptionbudgets", namespace, name }, &take).await
}

fn violation(cause: &str, retry_seconds: u32) -> RequestError {
    RequestError::TooManyRequests {
        message: VIOLATION.into(),
        retry_seconds,
        causes: vec![json!({"reason": "DisruptionBudget", "message": cause})],
    }
}

fn selects(selector: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    api::selector::LabelSelector::from_json(selector)
        .is_ok_and(|selector| selector.matches_with(|key| labels.get(key).and_then(Value::as_str)))
}
