//! What happened to an object.
//!
//! This is the storage version: events.k8s.io reads and writes the same objects by other names.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, text, wide};
use crate::kinds::{Column, Cursor, Kind, NAMESPACED, Problems, checks};

pub static KIND: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    definition: "io.k8s.api.core.v1.Event",
    storage: "events",
    create_on_update: true,
    validate,
    validate_update,
    selectable_fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    field_value,
    columns: COLUMNS,
    cells,
    ..NAMESPACED
};

pub const COLUMNS: &[Column] = &[
    text("Last Seen", "io.k8s.api.core.v1.Event#lastTimestamp"),
    text("Type", "io.k8s.api.core.v1.Event#type"),
    text("Reason", "io.k8s.api.core.v1.Event#reason"),
    text("Object", "io.k8s.api.core.v1.Event#involvedObject"),
    wide("Subobject", "io.k8s.api.core.v1.ObjectReference#fieldPath"),
    wide("Source", "io.k8s.api.core.v1.Event#source"),
    text("Message", "io.k8s.api.core.v1.Event#message"),
    wide("First Seen", "io.k8s.api.core.v1.Event#firstTimestamp"),
    wide("Count", "io.k8s.api.core.v1.Event#count"),
    Column { format: "name", ..wide("Name", "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta#name") },
];

fn field_value(event: &Value, field: &str) -> String {
    let text = |path: &str| walk(event, path).as_str().unwrap_or("").to_owned();
    match field {
        "source" => {
            Some(text("source.component")).filter(|s| !s.is_empty()).unwrap_or_else(|| text("reportingComponent"))
        }
        other => text(other),
    }
}

/// Events of the old API are judged leniently, those with `eventTime` strictly.
fn validate(event: &Value, problems: &mut Problems) {
    let root = Cursor::root(event);
    let involved = root.at("involvedObject");
    let (namespace, own) = (involved.at("namespace"), root.at("metadata.namespace"));
    // Events about what has no namespace lie in `default`.
    let expected = if namespace.is_empty() { "default" } else { namespace.str() };
    let lenient_system = namespace.is_empty() && own.str() == "kube-system";
    if own.str() != expected && !lenient_system {
        problems.invalid_str(&namespace, namespace.str(), "does not match event.namespace");
    }
    if root.at("eventTime").exists() {
        validate_strict(&root, problems);
    }
}

fn validate_strict(root: &Cursor, problems: &mut Problems) {
    let (controller, instance) = (root.at("reportingComponent"), root.at("reportingInstance"));
    let problem_fields = [(&controller, "reportingController"), (&instance, "reportingInstance")];
    for (at, name) in problem_fields {
        if at.is_empty() {
            problems.required(&root.at(name), "");
        }
    }
    if !controller.is_empty() {
        problems.invalid_each(
            &root.at("reportingController").with(controller.value),
            api::names::qualified_name(controller.str()),
        );
    }
    too_long(&instance, 128, problems);
    for (field, max) in [("action", 128), ("reason", 128)] {
        let at = root.at(field);
        if at.is_empty() {
            problems.required(&at, "");
        }
        too_long(&at, max, problems);
    }
    too_long(&root.at("message"), 1024, problems);
    let series = root.at("series");
    if series.exists() {
        if series.at("count").int() < 2 {
            problems.invalid_str(&series.at("count"), "", "should be at least 2");
        }
        if series.at("lastObservedTime").is_empty() {
            problems.required(&series.at("lastObservedTime"), "");
        }
    }
    checks::one_of(&root.at("type"), &["Normal", "Warning"], problems);
}

fn too_long(at: &Cursor, max: usize, problems: &mut Problems) {
    if at.len() > max {
        problems.invalid_str(at, "", &format!("can have at most {max} characters"));
    }
}

/// New-style events change only in their series.
fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    if !root.at("eventTime").exists() && walk(old, "eventTime").is_null() {
        return;
    }
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "reportingComponent",
        "reportingInstance",
        "eventTime",
        "action",
        "related",
        "type",
    ] {
        let at = root.at(field);
        problems.immutable(&at, walk(old, field));
    }
}

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let ago = |path: &str| printing::since(walk(event, path), now);
    let set = |path: &str| !walk(event, path).is_null();
    let first = if set("firstTimestamp") { ago("firstTimestamp") } else { ago("eventTime") };
    let mut last = if set("lastTimestamp") { ago("lastTimestamp") } else { first.clone() };
    let mut count = walk(event, "count").as_i64().unwrap_or(0);
    if set("series") {
        last = ago("series.lastObservedTime");
        count = walk(event, "series.count").as_i64().unwrap_or(0);
    } else if count == 0 {
        // Single events of the new API have no count.
        count = 1;
    }
    let text = |path: &str| walk(event, path).as_str().unwrap_or("").to_owned();
    let either = |a: &str, b: &str| Some(text(a)).filter(|s| !s.is_empty()).unwrap_or_else(|| text(b));
    let kind = text("involvedObject.kind").to_lowercase();
    let name = text("involvedObject.name");
    let target = if name.is_empty() { kind } else { format!("{kind}/{name}") };
    let (component, host) =
        (either("source.component", "reportingComponent"), either("source.host", "reportingInstance"));
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last.into(),
        text("type").into(),
        text("reason").into(),
        target.into(),
        text("involvedObject.fieldPath").into(),
        source.into(),
        text("message").trim().into(),
        first.into(),
        json!(count),
        printing::name(event),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_row};

    #[test]
    fn rows() {
        let event = json!({
            "metadata": {"name": "web.1", "namespace": "default"}, "type": "Normal", "reason": "Scheduled",
            "message": "Successfully assigned \n", "source": {"component": "default-scheduler"},
            "involvedObject": {"kind": "Pod", "name": "web"},
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:01:00Z", "count": 3,
        });
        check_row(
            &KIND,
            event,
            "2026-01-01T00:01:30Z",
            "30s | Normal | Scheduled | pod/web |  | default-scheduler | Successfully assigned | 90s | 3 | web.1",
        );
    }

    #[test]
    fn the_namespace_must_fit() {
        let event = |namespace: &str, involved: &str| json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": involved}});
        check(&KIND, event("a", "a"), "");
        check(&KIND, event("default", ""), "");
        check(&KIND, event("kube-system", ""), "");
        check(&KIND, event("a", "b"), "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace");
    }
}
