//! Brings a pod's status to the API: at once when idle, the newest only when behind, and the deletion after it.
//!
//! Invariant: what is written last is what the machine said last; a pod that was replaced by another of the same
//! name is never written to (every write names the UID). Where somebody else judged a condition otherwise (a node that
//! was taken for dead has its pods marked unready), the machine's word is written again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, ErrorKind, ObjectKey, Patch, Rest, error_kind};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
struct Wanted {
    status: Option<Arc<PodStatus>>,
    delete: bool,
    /// The pod as the API had it last.
    seen: Option<Arc<Pod>>,
}

pub struct StatusWriter {
    wanted: watch::Sender<Wanted>,
}

impl StatusWriter {
    /// Runs until it is dropped or cancelled.
    pub fn start(rest: Rest, pod: &Pod, cancel: CancellationToken) -> StatusWriter {
        let (wanted, changes) = watch::channel(Wanted::default());
        let key = ObjectKey::of(&pod.metadata);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let base = pod.status.clone().unwrap_or_default();
        tokio::spawn(async move {
            tokio::select! {
                _ = cancel.cancelled() => {}
                _ = write_all(rest, key, uid, base, changes) => {}
            }
        });
        StatusWriter { wanted }
    }

    pub fn write(&self, status: PodStatus) {
        self.wanted.send_modify(|wanted| wanted.status = Some(Arc::new(status)));
    }

    /// The API has the pod so now. `told` is the machine's word, which an agent that was started again may never have
    /// had to write.
    pub fn seen(&self, pod: &Arc<Pod>, told: Arc<PodStatus>) {
        self.wanted.send_modify(|wanted| {
            wanted.seen = Some(pod.clone());
            if wanted.status.is_none() && told.conditions.is_some() {
                wanted.status = Some(told);
            }
        });
    }

    pub fn delete(&self) {
        self.wanted.send_modify(|wanted| wanted.delete = true);
    }
}

async fn write_all(rest: Rest, key: ObjectKey, uid: String, base: PodStatus, mut changes: watch::Receiver<Wanted>) {
    let mut written = to_map(&base);
    let mut version = 0;
    let mut delay = RETRY_FIRST;
    let mut failed = false;
    loop {
        if !failed && changes.changed().await.is_err() {
            return;
        }
        let wanted = changes.borrow_and_update().clone();
        if let (Some(status), Some(seen)) = (&wanted.status, &wanted.seen)
            && version_of(seen) > version
            && let Some(found) = &seen.status
            && judged_otherwise(found, status)
        {
            written = to_map(found);
        }
        match bring(&rest, &key, &uid, (&mut written, &mut version), &wanted).await {
            Ok(Brought::All) => {
                failed = false;
                delay = RETRY_FIRST;
            }
            Ok(Brought::Gone) => return,
            Ok(Brought::NotAll) => {
                failed = true;
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_LONGEST);
            }
            Err(error) => {
                tracing::debug!(pod = %key, %error, "writing the pod's status");
                failed = true;
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_LONGEST);
            }
        }
    }
}

enum Brought {
    All,
    /// Somebody judged a condition otherwise just before, and the write did not name it.
    NotAll,
    /// The pod does not exist any more.
    Gone,
}

async fn bring(
    rest: &Rest,
    key: &ObjectKey,
    uid: &str,
    (written, version): (&mut Map<String, Value>, &mut u64),
    wanted: &Wanted,
) -> Result<Brought, client::Error> {
    if let Some(status) = &wanted.status {
        let next = to_map(status);
        let patch = difference(written, &next);
        if !patch.is_empty() {
            let body = json!({"metadata": {"uid": uid}, "status": patch});
            match rest.patch::<Pod>(key, &Patch::Strategic(body), "status").await {
                Ok(pod) => {
                    *version = version_of(&pod);
                    match &pod.status {
                        Some(found) if judged_otherwise(found, status) => {
                            *written = to_map(found);
                            return Ok(Brought::NotAll);
                        }
                        _ => *written = next,
                    }
                }
                Err(error) if is_gone(&error) => return Ok(Brought::Gone),
                Err(error) if error_kind(&error) == ErrorKind::Invalid => {
                    // Repeating it would not help, and the next status may be fine.
                    tracing::warn!(pod = %key, %error, "the status was refused");
                    *written = next;
                }
                Err(error) => return Err(error),
            }
        }
    }
    if wanted.delete {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(uid) };
        return match rest.delete::<Pod>(key, &options).await {
            Ok(_) => Ok(Brought::Gone),
            Err(error) if is_gone(&error) => Ok(Brought::Gone),
            Err(error) => Err(error),
        };
    }
    Ok(Brought::All)
}

/// Versions of one server are numbers, and the later is the larger.
fn version_of(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether a condition that the machine tells of is not so, or not there, in what the API has.
fn judged_otherwise(found: &PodStatus, wanted: &PodStatus) -> bool {
    let of = |status: &PodStatus| -> BTreeMap<String, String> {
        status.conditions.iter().flatten().map(|condition| (condition.type_.clone(), condition.status.clone())).collect()
    };
    let found = of(found);
    of(wanted).iter().any(|(type_, status)| found.get(type_) != Some(status))
}

/// Gone, or replaced by a namesake.
fn is_gone(error: &client::Error) -> bool {
    match error_kind(error) {
        ErrorKind::NotFound => true,
        // A conflict about anything but the UID may be tried again.
        ErrorKind::Conflict => error.to_string().to_lowercase().contains("uid"),
        _ => false,
    }
}

fn to_map(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A strategic merge patch: conditions merge by type and addresses by IP, everything else is replaced.
fn difference(old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for (key, value) in new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => changed_items(old.get(key), value, "type", |type_| PASSING_CONDITIONS.contains(&type_)),
            "podIPs" | "hostIPs" => changed_items(old.get(key), value, "ip", |_| true),
            _ => value.clone(),
        };
        if value.as_array().is_none_or(|items| !items.is_empty()) || !matches!(key.as_str(), "conditions" | "podIPs" | "hostIPs") {
            patch.insert(key.clone(), value);
        }
    }
    // What others own is never taken away.
    const OWN: [&str; 9] = [
        "reason", "message", "podIP", "podIPs", "containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses", "hostIP", "hostIPs",
    ];
    for key in OWN {
        if old.contains_key(key) && !new.contains_key(key) {
            patch.insert(key.to_owned(), Value::Null);
        }
    }
    patch
}

/// Of the conditions only these come and go; all others that are missing here belong to somebody else.
const PASSING_CONDITIONS: [&str; 2] = ["PodResizeInProgress", "PodResizePending"];

fn changed_items(old: Option<&Value>, new: &Value, merge_key: &str, removes: impl Fn(&str) -> bool) -> Value {
    let by_key = |list: Option<&Value>| -> BTreeMap<String, Value> {
        let items = list.and_then(Value::as_array).into_iter().flatten();
        items.map(|item| (item[merge_key].as_str().unwrap_or_default().to_owned(), item.clone())).collect()
    };
    let old = by_key(old);
    let kept = by_key(Some(new));
    let mut items: Vec<Value> = new
        .as_array()
        .into_iter()
        .flatten()
        .filter(|item| old.get(item[merge_key].as_str().unwrap_or_default()) != Some(item))
        .map(|item| {
            // A merge keeps what is not named: name what has become empty.
            let mut item = item.clone();
            if let Some(before) = old.get(item[merge_key].as_str().unwrap_or_default()).and_then(Value::as_object) {
                for key in before.keys().filter(|key| item.get(key.as_str()).is_none()).cloned().collect::<Vec<_>>() {
                    item[key] = Value::Null;
                }
            }
            item
        })
        .collect();
    let gone = old.keys().filter(|key| !kept.contains_key(*key) && removes(key));
    items.extend(gone.map(|key| json!({"$patch": "delete", merge_key: key})));
    Value::Array(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: Value, new: Value, expected: Value) {
        let map = |value: Value| value.as_object().cloned().unwrap_or_default();
        assert_eq!(Value::Object(difference(&map(old), &map(new))), expected);
    }

    #[test]
    fn a_foreign_judgement_is_noticed() {
        let status = |conditions: Value| -> PodStatus { serde_json::from_value(json!({"conditions": conditions})).unwrap() };
        let ready = status(json!([{"type": "Ready", "status": "True"}]));
        let marked = status(json!([{"type": "Ready", "status": "False"}]));
        let gated = status(json!([{"type": "Ready", "status": "True"}, {"type": "Gate", "status": "True"}]));
        assert!(judged_otherwise(&marked, &ready));
        assert!(judged_otherwise(&status(json!([])), &ready));
        assert!(!judged_otherwise(&gated, &ready), "what others add is theirs");
    }

    /// The node was marked between what the agent read and what it wrote: its write goes through, names other things,
    /// and is the newest version of the pod.
    #[tokio::test(start_paused = true)]
    async fn a_foreign_judgement_just_before_a_write_is_corrected() {
        let pod = |version: u64, status: Value| -> Value {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "ns", "uid": "u", "resourceVersion": version.to_string()}, "status": status})
        };
        let conditions = |ready: &str| json!([{"type": "Ready", "status": ready}]);
        let stored = Arc::new(parking_lot::Mutex::new(json!({"phase": "Running", "conditions": conditions("False")})));
        let api = stored.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let stored = api.clone();
            async move {
                use http_body_util::BodyExt as _;
                let bytes = request.into_body().collect().await.expect("a body").to_bytes();
                let patch: Value = serde_json::from_slice(&bytes).expect("a patch");
                let mut stored = stored.lock();
                for (key, value) in patch["status"].as_object().expect("a status") {
                    stored[key] = value.clone(); // One condition: replaced is merged.
                }
                let answer = pod(8, stored.clone()).to_string();
                Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(answer.into_bytes())))
            }
        });
        let read: Pod = serde_json::from_value(pod(6, json!({"phase": "Running", "conditions": conditions("True")}))).unwrap();
        let mut told = read.status.clone().unwrap();
        told.pod_ip = Some("10.0.0.1".into());
        let writer = StatusWriter::start(Rest::new(client::in_process(service)), &read, CancellationToken::new());
        writer.write(told.clone());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let marked: Pod = serde_json::from_value(pod(7, json!({"phase": "Running", "conditions": conditions("False")}))).unwrap();
        writer.seen(&Arc::new(marked), Arc::new(told));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*stored.lock(), json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions("True")}));
    }

    #[test]
    fn patches() {
        check(json!({"phase": "Pending"}), json!({"phase": "Pending"}), json!({}));
        check(json!({"phase": "Pending", "reason": "x"}), json!({"phase": "Running"}), json!({"phase": "Running", "reason": null}));
        check(
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "Gate", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}]}),
        );
        check(
            json!({"podIPs": [{"ip": "1"}]}),
            json!({"podIPs": [{"ip": "2"}]}),
            json!({"podIPs": [{"ip": "2"}, {"$patch": "delete", "ip": "1"}]}),
        );
        check(
            json!({"conditions": [{"type": "Gate", "status": "True"}, {"type": "PodResizeInProgress", "status": "True"}]}),
            json!({"conditions": []}),
            json!({"conditions": [{"$patch": "delete", "type": "PodResizeInProgress"}]}),
        );
        check(json!({"nominatedNodeName": "n"}), json!({}), json!({}));
    }
}
