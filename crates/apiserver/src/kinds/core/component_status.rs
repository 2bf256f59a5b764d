//! Health of control-plane components, for old clients.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, NAME, text};
use crate::kinds::{CLUSTER, Kind, Verbs};

pub static KIND: Kind = Kind {
    kind: "ComponentStatus",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: &["cs"],
    definition: "io.k8s.api.core.v1.ComponentStatus",
    verbs: Verbs::Read,
    deprecation: "v1 ComponentStatus is deprecated in v1.19+",
    columns: &[
        NAME,
        text("Status", "Status of the component conditions"),
        text("Message", "Message of the component conditions"),
        text("Error", "Error of the component conditions"),
    ],
    cells,
    ..CLUSTER
};

fn cells(object: &Value, _now: Timestamp) -> Vec<Value> {
    let healthy = walk(object, "conditions")
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| walk(condition, "type").as_str() == Some("Healthy"));
    let (status, message, error) = match healthy {
        Some(condition) => (
            if walk(condition, "status").as_str() == Some("True") { "Healthy" } else { "Unhealthy" },
            printing::string_at(condition, "message"),
            printing::string_at(condition, "error"),
        ),
        None => ("Unknown", "".into(), "".into()),
    };
    vec![printing::name(object), status.into(), message, error]
}
