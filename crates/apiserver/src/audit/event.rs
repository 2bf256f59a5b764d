//! audit.k8s.io/v1 `Event`.

use bytes::Bytes;
use http::{HeaderMap, response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Level, Seen};
use crate::http::body::Body;
use crate::user::User;

/// Bodies above this are left out, so that the log cannot be used to fill memory.
const OBJECT_MAX: usize = 4 << 20;

pub fn base(seen: &Seen<'_>, level: Level) -> Value {
    let info = seen.info;
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.name(), "auditID": seen.id,
        "stage": "", "requestURI": seen.uri.path_and_query().map_or("", |path| path.as_str()), "verb": info.verb,
        "user": user(seen.user), "requestReceivedTimestamp": time(seen.received), "stageTimestamp": "",
    });
    let addresses = source_addresses(seen);
    if !addresses.is_empty() {
        event["sourceIPs"] = addresses.into();
    }
    let agent = text(seen.headers, "user-agent");
    if !agent.is_empty() {
        event["userAgent"] = agent.into();
    }
    if info.is_resource {
        let mut object = json!({});
        for (field, value) in [
            ("resource", &info.resource),
            ("namespace", &info.namespace),
            ("name", &info.name),
            ("apiGroup", &info.group),
            ("apiVersion", &info.version),
            ("subresource", &info.subresource),
        ] {
            if !value.is_empty() {
                object[field] = value.as_str().into();
            }
        }
        event["objectRef"] = object;
    }
    event
}

pub fn user(user: &User) -> Value {
    let mut value = json!({"username": user.name});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        value["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

/// Microseconds, as Go prints a MicroTime.
pub fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

pub fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
}

/// Who forwarded it, by what they say, and who is connected.
fn source_addresses(seen: &Seen<'_>) -> Vec<String> {
    let forwarded = text(seen.headers, "x-forwarded-for");
    let real = text(seen.headers, "x-real-ip");
    let mut addresses: Vec<String> = Vec::new();
    let stated = forwarded.split(',').chain([real.as_str()]).filter_map(|text| text.trim().parse().ok());
    for address in stated.chain(seen.peer) {
        let text = address.to_string();
        if !addresses.contains(&text) {
            addresses.push(text);
        }
    }
    addresses
}

/// A body as an object.
pub fn object(bytes: &Bytes, content_type: &str, omit_managed_fields: bool) -> Option<Value> {
    if bytes.len() > OBJECT_MAX {
        return None;
    }
    let mut value = if bytes.starts_with(b"k8s\0") {
        api::protobuf::decode(bytes).ok()?
    } else if content_type.contains("yaml") {
        api::yaml::to_json(bytes).ok()?.0
    } else {
        serde_json::from_slice(bytes).ok()?
    };
    if omit_managed_fields {
        let forget = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        forget(&mut value);
        value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(forget);
    }
    Some(value)
}

/// A body that is in memory, with a copy of its bytes.
pub async fn whole(body: Body) -> (Body, Option<Bytes>) {
    match body {
        Body::Full(Some(bytes)) => (Body::full(bytes.clone()), Some(bytes)),
        Body::List(list) if !list.is_packed() => match Body::List(list).collect().await {
            Ok(collected) => {
                let bytes = collected.to_bytes();
                (Body::full(bytes.clone()), Some(bytes))
            }
            Err(_) => (Body::empty(), None),
        },
        other => (other, None),
    }
}

/// What an event tells of an answer.
pub struct Answer {
    code: u16,
    /// A failure's Status.
    status: Option<Value>,
    content_type: String,
    bytes: Option<Bytes>,
}

impl Answer {
    pub fn of(parts: &response::Parts, body: &Body, bytes: Option<Bytes>) -> Answer {
        let content_type = text(&parts.headers, "content-type");
        let status = match body {
            Body::Full(Some(bytes)) if !parts.status.is_success() => object(bytes, &content_type, false),
            _ => None,
        };
        let bytes = bytes.filter(|_| !parts.headers.contains_key("content-encoding"));
        Answer { code: parts.status.as_u16(), status, content_type, bytes }
    }

    pub fn write(&self, event: &mut Value, omit_managed_fields: bool) {
        let mut status = json!({"metadata": {}, "code": self.code});
        if let Some(failure) = self.status.as_ref().filter(|failure| failure["kind"] == "Status") {
            for field in ["status", "message", "reason", "details"] {
                if let Some(value) = failure.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        event["responseStatus"] = status;
        if let Some(object) = self.bytes.as_ref().and_then(|bytes| object(bytes, &self.content_type, omit_managed_fields)) {
            event["responseObject"] = object;
        }
    }
}

/// One line, with the fields that people look for first in front.
pub fn line(event: &Value) -> Vec<u8> {
    const FIRST: [&str; 4] = ["kind", "apiVersion", "level", "auditID"];
    let mut line = vec![b'{'];
    let mut put = |name: &str, value: &Value| {
        if line.len() > 1 {
            line.push(b',');
        }
        serde_json::to_writer(&mut line, name).expect("writing to memory cannot fail");
        line.push(b':');
        serde_json::to_writer(&mut line, value).expect("writing to memory cannot fail");
    };
    for name in FIRST {
        put(name, &event[name]);
    }
    for (name, value) in event.as_object().into_iter().flatten() {
        if !FIRST.contains(&name.as_str()) {
            put(name, value);
        }
    }
    line.extend_from_slice(b"}\n");
    line
}
