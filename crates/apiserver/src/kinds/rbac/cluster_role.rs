//! A set of permissions for the whole cluster.

use serde_json::Value;

use super::role::validate_rules;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, printing};

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    definition: "io.k8s.api.rbac.v1.ClusterRole",
    storage: "clusterroles",
    create_on_update: true,
    name_problems: checks::path_segment_name,
    validate,
    columns: printing::NAME_AND_CREATION,
    cells: printing::name_and_creation,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    validate_rules(object, false, problems);
    let root = Cursor::root(object);
    let aggregation = root.at("aggregationRule");
    if !aggregation.exists() {
        return;
    }
    let selectors = aggregation.at("clusterRoleSelectors");
    if selectors.is_empty() {
        problems.required(&selectors, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for selector in selectors.items() {
        checks::label_selector(&selector, problems);
    }
}
