//! Cells of tables, formatted as the original formats them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Column;
use super::cursor::walk;

/// What `about` looks like for fields of the metadata.
macro_rules! metadata {
    ($field:literal) => {
        concat!("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta#", $field)
    };
}

pub const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0, about: metadata!("name") };
pub const AGE: Column = text("Age", metadata!("creationTimestamp"));
const CREATED_AT: Column =
    Column { name: "Created At", kind: "date", format: "", priority: 0, about: metadata!("creationTimestamp") };

pub const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
pub const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");

pub const NAME_AND_AGE: &[Column] = &[NAME, AGE];
/// What kinds without columns of their own show.
pub const NAME_AND_CREATION: &[Column] = &[NAME, CREATED_AT];

pub const fn text(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0, about }
}

pub const fn integer(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0, about }
}

pub const fn boolean(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0, about }
}

/// Shown with `-o wide` only.
pub const fn wide(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1, about }
}

pub fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub fn name_and_creation(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![name(object), walk(object, "metadata.creationTimestamp").clone()]
}

pub fn name(object: &Value) -> Value {
    walk(object, "metadata.name").clone()
}

pub fn age(object: &Value, now: Timestamp) -> Value {
    since(walk(object, "metadata.creationTimestamp"), now).into()
}

/// How long ago a time was, `<unknown>` when it is not set.
pub fn since(time: &Value, now: Timestamp) -> String {
    match parse_time(time) {
        Some(time) => human_duration(now.as_second() - time.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// `<invalid>` and the like stay texts: a cell is whatever the original prints.
pub fn parse_time(time: &Value) -> Option<Timestamp> {
    time.as_str()?.parse().ok()
}

/// About three digits of a duration: `5s`, `2m30s`, `10m`, `3h5m`, `2d4h`, `40d`, `2y15d`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, big_unit, small: i64, small_unit| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 60 * 3 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(days, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// `a=1,b=2`, or `<none>`.
pub fn labels(map: &Value) -> String {
    match map.as_object() {
        Some(map) if !map.is_empty() => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
            pairs.join(",")
        }
        _ => "<none>".to_owned(),
    }
}

/// A label selector as `kubectl get -o wide` shows it: `<none>` for one that selects everything or nothing.
pub fn selector(value: &Value) -> String {
    match api::selector::LabelSelector::from_json(value) {
        Ok(selector) => {
            let text = selector.to_string();
            if text.is_empty() { "<none>".to_owned() } else { text }
        }
        Err(_) => "<error>".to_owned(),
    }
}

/// Names and images of a pod spec's containers.
pub fn containers(spec: &Value) -> [Value; 2] {
    let list = walk(spec, "containers").as_array().map_or(&[][..], Vec::as_slice);
    ["name", "image"].map(|field| {
        let all: Vec<&str> = list.iter().map(|container| walk(container, field).as_str().unwrap_or("")).collect();
        all.join(",").into()
    })
}

/// `a,b,c + 2 more...`
pub fn at_most(list: &[String], max: usize) -> String {
    let shown = list[..list.len().min(max)].join(",");
    if list.len() > max { format!("{shown} + {} more...", list.len() - max) } else { shown }
}

/// Texts of a list, joined.
pub fn joined(list: &Value, separator: &str) -> String {
    let texts: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    texts.join(separator)
}

/// The text at a path, or `otherwise` when missing or empty.
pub fn text_or(object: &Value, path: &str, otherwise: &str) -> Value {
    match walk(object, path).as_str() {
        Some(text) if !text.is_empty() => text.into(),
        _ => otherwise.into(),
    }
}

/// The condition of that type.
pub fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    walk(object, "status.conditions")
        .as_array()?
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
}

/// The text at a path, `""` when missing.
pub fn string_at(object: &Value, path: &str) -> Value {
    json!(walk(object, path).as_str().unwrap_or(""))
}

/// The number at a path, 0 when missing.
pub fn int_at(object: &Value, path: &str) -> Value {
    json!(walk(object, path).as_i64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        #[track_caller]
        fn check(seconds: i64, expected: &str) {
            assert_eq!(human_duration(seconds), expected);
        }
        check(-5, "<invalid>");
        check(-1, "0s");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(150, "2m30s");
        check(600, "10m");
        check(3 * 3600 - 1, "179m");
        check(3 * 3600, "3h");
        check(3 * 3600 + 300, "3h5m");
        check(8 * 3600, "8h");
        check(47 * 3600, "47h");
        check(48 * 3600, "2d");
        check(52 * 3600, "2d4h");
        check(8 * 86400, "8d");
        check(400 * 86400, "400d");
        check(731 * 86400, "2y1d");
        check(9 * 365 * 86400, "9y");
    }
}
