//! A set of permissions in one namespace.

use serde_json::Value;

use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, printing};

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    singular: "role",
    definition: "io.k8s.api.rbac.v1.Role",
    storage: "roles",
    create_on_update: true,
    name_problems: checks::path_segment_name,
    validate: |object, problems| validate_rules(object, true, problems),
    columns: printing::NAME_AND_CREATION,
    cells: printing::name_and_creation,
    ..NAMESPACED
};

pub fn validate_rules(object: &Value, namespaced: bool, problems: &mut Problems) {
    let root = Cursor::root(object);
    for rule in root.at("rules").items() {
        let (verbs, urls) = (rule.at("verbs"), rule.at("nonResourceURLs"));
        let (groups, resources, names) = (rule.at("apiGroups"), rule.at("resources"), rule.at("resourceNames"));
        if verbs.is_empty() {
            problems.required(&verbs, "verbs must contain at least one value");
        }
        if !urls.is_empty() {
            if namespaced {
                problems.invalid(&urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !groups.is_empty() || !resources.is_empty() || !names.is_empty() {
                problems.invalid(&urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if groups.is_empty() {
            problems.required(&groups, "resource rules must supply at least one api group");
        }
        if resources.is_empty() {
            problems.required(&resources, "resource rules must supply at least one resource");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::check;
    use serde_json::json;

    #[test]
    fn rules() {
        check(&KIND, json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}), "");
        check(
            &KIND,
            json!({"rules": [{"verbs": [], "resources": ["pods"]}]}),
            "rules[0].verbs: Required value: verbs must contain at least one value\n\
             rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        );
        check(
            &KIND,
            json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]}),
            "rules[0].nonResourceURLs: Invalid value: [\"/healthz\"]: namespaced rules cannot apply to non-resource URLs",
        );
    }
}
