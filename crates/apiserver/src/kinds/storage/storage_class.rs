//! How volumes are provisioned.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::default_text;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    definition: "io.k8s.api.storage.v1.StorageClass",
    storage: "storageclasses",
    answers_deletion_with_object: true,
    defaults: |object| {
        if let Some(map) = object.as_object_mut() {
            default_text(map, "reclaimPolicy", "Delete");
            default_text(map, "volumeBindingMode", "Immediate");
        }
    },
    validate,
    validate_update,
    columns: &[
        NAME,
        text("Provisioner", "io.k8s.api.storage.v1.StorageClass#provisioner"),
        text("ReclaimPolicy", "io.k8s.api.storage.v1.StorageClass#reclaimPolicy"),
        text("VolumeBindingMode", "io.k8s.api.storage.v1.StorageClass#volumeBindingMode"),
        text("AllowVolumeExpansion", "io.k8s.api.storage.v1.StorageClass#allowVolumeExpansion"),
        AGE,
    ],
    cells,
    ..CLUSTER
};

const PARAMETERS_MAX: usize = 512;
const PARAMETER_BYTES_MAX: usize = 256 * 1024;

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let provisioner = root.at("provisioner");
    if provisioner.is_empty() {
        problems.required(&provisioner, "");
    } else {
        let lower = provisioner.str().to_lowercase();
        problems.invalid_each_str(&provisioner, &lower, api::names::qualified_name(&lower));
    }
    validate_parameters(&root.at("parameters"), problems);
    let policy = root.at("reclaimPolicy");
    if !policy.is_empty() {
        checks::one_of(&policy, &["Delete", "Retain"], problems);
    }
    let mode = root.at("volumeBindingMode");
    if mode.is_empty() {
        problems.required(&mode, "");
    } else {
        checks::one_of(&mode, &["Immediate", "WaitForFirstConsumer"], problems);
    }
    let topologies = root.at("allowedTopologies");
    for (index, term) in topologies.items().enumerate() {
        let mut keys: Vec<&str> = Vec::new();
        for requirement in term.at("matchLabelExpressions").items() {
            let (key, values) = (requirement.at("key"), requirement.at("values"));
            if values.is_empty() {
                problems.required(&values, "");
            }
            for (index, value) in values.items().enumerate() {
                if values.array()[..index].contains(value.value) {
                    problems.duplicate(&value);
                }
            }
            problems.invalid_each(&key, api::names::qualified_name(key.str()));
            if keys.contains(&key.str()) {
                problems.duplicate(&key);
            }
            keys.push(key.str());
        }
        if topologies.array()[..index].contains(term.value) {
            problems.duplicate_str(&term.at("matchLabelExpressions"), "");
        }
    }
}

/// Keys must not be empty, and all of it not too large.
pub fn validate_parameters(parameters: &Cursor, problems: &mut Problems) {
    if parameters.len() > PARAMETERS_MAX {
        problems.too_long(parameters, PARAMETERS_MAX);
        return;
    }
    let mut bytes = 0;
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            problems.invalid_str(parameters, key, "field can not be empty.");
        }
        bytes += key.len() + value.len();
    }
    if bytes > PARAMETER_BYTES_MAX {
        problems.too_long(parameters, PARAMETER_BYTES_MAX);
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        let at = root.at(field);
        if at.value != walk(old, field) {
            problems.forbidden(&at, &format!("updates to {field} are forbidden."));
        }
    }
    problems.immutable(&root.at("volumeBindingMode"), walk(old, "volumeBindingMode"));
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let name = walk(object, "metadata.name").as_str().unwrap_or("");
    let annotations = walk(object, "metadata.annotations");
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|key| annotations.get(key).and_then(Value::as_str) == Some("true"));
    vec![
        if default { format!("{name} (default)").into() } else { name.into() },
        printing::string_at(object, "provisioner"),
        printing::text_or(object, "reclaimPolicy", "Delete"),
        printing::text_or(object, "volumeBindingMode", "Immediate"),
        walk(object, "allowVolumeExpansion").as_bool().unwrap_or(false).into(),
        printing::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_row, check_update};
    use serde_json::json;

    #[test]
    fn rules() {
        let class = json!({"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "a.b/c"});
        check_defaulted(&KIND, class.clone(), "");
        check_defaulted(&KIND, json!({}), "provisioner: Required value");
        check_update(
            &KIND,
            json!({"provisioner": "x"}),
            class.clone(),
            "provisioner: Forbidden: updates to provisioner are forbidden.",
        );
        check_row(
            &KIND,
            class,
            "2026-01-01T00:00:00Z",
            "fast (default) | a.b/c | Delete | Immediate | false | <unknown>",
        );
    }

    #[test]
    fn topologies_and_policies() {
        let term = json!({"matchLabelExpressions": [{"key": "zone", "values": ["a", "a"]}, {"key": "zone", "values": []}]});
        check_defaulted(
            &KIND,
            json!({"provisioner": "A b", "reclaimPolicy": "Burn", "volumeBindingMode": "Later", "parameters": {"": "x"}, "allowedTopologies": [term]}),
            "provisioner: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')\n\
             parameters: Invalid value: \"\": field can not be empty.\n\
             reclaimPolicy: Unsupported value: \"Burn\": supported values: \"Delete\", \"Retain\"\n\
             volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"\n\
             allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"\n\
             allowedTopologies[0].matchLabelExpressions[1].values: Required value\n\
             allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"zone\"",
        );
    }
}
