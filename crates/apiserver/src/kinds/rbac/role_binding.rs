//! Grants a role in one namespace.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default_text, each, inside, text as text_of};
use crate::kinds::printing::{self, AGE, NAME, text, wide};
use crate::kinds::{Column, Cursor, Kind, NAMESPACED, Problems, checks};

pub const GROUP: &str = "rbac.authorization.k8s.io";

pub static KIND: Kind = Kind {
    group: GROUP,
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    definition: "io.k8s.api.rbac.v1.RoleBinding",
    storage: "rolebindings",
    create_on_update: true,
    name_problems: checks::path_segment_name,
    defaults: default_binding,
    validate: |object, problems| validate_binding(object, true, problems),
    validate_update: keep_role,
    columns: COLUMNS,
    cells,
    ..NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    text("Role", "io.k8s.api.rbac.v1.RoleBinding#roleRef"),
    AGE,
    wide("Users", "Users in the roleBinding"),
    wide("Groups", "Groups in the roleBinding"),
    wide("ServiceAccounts", "ServiceAccounts in the roleBinding"),
];

pub fn default_binding(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    inside(map, "roleRef", |reference| default_text(reference, "apiGroup", GROUP));
    each(map, "subjects", |subject| {
        if matches!(text_of(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    });
}

pub fn validate_binding(object: &Value, namespaced: bool, problems: &mut Problems) {
    let root = Cursor::root(object);
    let role = root.at("roleRef");
    checks::one_of(&role.at("apiGroup"), &[GROUP], problems);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    checks::one_of(&role.at("kind"), kinds, problems);
    let name = role.at("name");
    if name.is_empty() {
        problems.required(&name, "");
    } else {
        problems.invalid_each(&name, checks::path_segment_name(name.str()));
    }
    for subject in root.at("subjects").items() {
        validate_subject(&subject, namespaced, problems);
    }
}

fn validate_subject(subject: &Cursor, namespaced: bool, problems: &mut Problems) {
    let (name, group) = (subject.at("name"), subject.at("apiGroup"));
    if name.is_empty() {
        problems.required(&name, "");
    }
    match subject.at("kind").str() {
        "ServiceAccount" => {
            if !name.is_empty() {
                checks::subdomain(&name, problems);
            }
            if !group.is_empty() {
                problems.not_supported(&group, &[""]);
            }
            // In a namespace it means the binding's own.
            if !namespaced && subject.at("namespace").is_empty() {
                problems.required(&subject.at("namespace"), "");
            }
        }
        kind @ ("User" | "Group") => {
            if name.is_empty() {
                problems.invalid_str(&name, "", &format!("{} name cannot be empty", kind.to_lowercase()));
            }
            if group.str() != GROUP {
                problems.not_supported(&group, &[GROUP]);
            }
        }
        _ => checks::one_of(&subject.at("kind"), &["ServiceAccount", "User", "Group"], problems),
    }
}

/// Another role wants another binding.
pub fn keep_role(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let role = root.at("roleRef");
    if role.value != walk(old, "roleRef") {
        let shown = |field: &str| super::super::problems::go_quoted(role.at(field).str());
        let printed =
            format!("{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}", shown("apiGroup"), shown("kind"), shown("name"));
        problems.invalid_plain(&role, printed, "cannot change roleRef");
    }
}

pub fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let string = |value: &Value, field: &str| walk(value, field).as_str().unwrap_or("").to_owned();
    let subjects = walk(object, "subjects").as_array().map_or(&[][..], Vec::as_slice);
    let of = |kind: &str| -> Value {
        let own = subjects.iter().filter(|subject| string(subject, "kind") == kind);
        let names: Vec<String> = own
            .map(|subject| match kind {
                "ServiceAccount" => format!("{}/{}", string(subject, "namespace"), string(subject, "name")),
                _ => string(subject, "name"),
            })
            .collect();
        names.join(", ").into()
    };
    let role = walk(object, "roleRef");
    vec![
        printing::name(object),
        format!("{}/{}", string(role, "kind"), string(role, "name")).into(),
        printing::age(object, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_row, check_update};
    use serde_json::json;

    fn binding(role: &str) -> Value {
        json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": role},
            "subjects": [{"kind": "User", "name": "alice"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]})
    }

    #[test]
    fn rules() {
        check_defaulted(&KIND, binding("r"), "");
        check_defaulted(&KIND, binding("a/b"), "roleRef.name: Invalid value: \"a/b\": may not contain '/'");
        check_update(
            &KIND,
            binding("x"),
            binding("r"),
            "roleRef: Invalid value: {\"APIGroup\":\"\",\"Kind\":\"Role\",\"Name\":\"x\"}: cannot change roleRef",
        );
        let mut nobody = binding("r");
        nobody["subjects"] = json!([{"kind": "User", "name": ""}, {"kind": "Robot", "name": "r"}, {"kind": "ServiceAccount", "name": "s", "apiGroup": "x"}]);
        check_defaulted(
            &KIND,
            nobody,
            "subjects[0].name: Required value\n\
             subjects[0].name: Invalid value: \"\": user name cannot be empty\n\
             subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"\n\
             subjects[2].apiGroup: Unsupported value: \"x\": supported values: \"\"",
        );
        check_row(&KIND, binding("r"), "2026-01-01T00:00:00Z", "b | Role/r | <unknown> | alice |  | n/s");
    }
}
