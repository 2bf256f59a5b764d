//! The flow schemas and priority levels that every cluster has.
//!
//! Invariant: the mandatory ones (`exempt`, `catch-all`) are always as written here; the suggested ones as long as
//! `apf.kubernetes.io/autoupdate-spec` says so.

use serde_json::{Value, json};

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
pub const LEVELS: &str = "prioritylevelconfigurations";
pub const SCHEMAS: &str = "flowschemas";
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// name, shares, lendable percent, (queues, hand size); all queues are 50 long
type LevelRow = (&'static str, u64, u64, Option<(u64, u64)>);

static LEVEL_ROWS: &[LevelRow] = &[
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];
const QUEUE_LENGTH: u64 = 50;

/// What a schema is about.
enum Matches {
    Everything,
    /// (verbs, group, resources, cluster scope too)
    Resources(&'static [(&'static [&'static str], &'static str, &'static [&'static str], bool)]),
    Paths(&'static [&'static str]),
}

struct SchemaRow {
    name: &'static str,
    level: &'static str,
    precedence: u64,
    /// `ByUser`, `ByNamespace` or nothing.
    method: &'static str,
    /// `Kind:name`
    subjects: &'static [&'static str],
    matches: Matches,
}

const EVERYBODY: &[&str] = &["Group:system:unauthenticated", "Group:system:authenticated"];
const LEADER_VERBS: &[&str] = &["get", "create", "update"];
const LEASES: Matches = Matches::Resources(&[(LEADER_VERBS, "coordination.k8s.io", &["leases"], false)]);

static SCHEMA_ROWS: &[SchemaRow] = &[
    SchemaRow { name: "exempt", level: "exempt", precedence: 1, method: "", subjects: &["Group:system:masters"], matches: Matches::Everything },
    SchemaRow {
        name: "probes",
        level: "exempt",
        precedence: 2,
        method: "",
        subjects: EVERYBODY,
        matches: Matches::Paths(&["/healthz", "/readyz", "/livez"]),
    },
    SchemaRow {
        name: "system-leader-election",
        level: "leader-election",
        precedence: 100,
        method: "ByUser",
        subjects: &["User:system:kube-controller-manager", "User:system:kube-scheduler", "ServiceAccount:kube-system/*"],
        matches: LEASES,
    },
    SchemaRow {
        name: "endpoint-controller",
        level: "workload-high",
        precedence: 150,
        method: "ByUser",
        subjects: &[
            "User:system:kube-controller-manager",
            "ServiceAccount:kube-system/endpoint-controller",
            "ServiceAccount:kube-system/endpointslicemirroring-controller",
        ],
        matches: Matches::Resources(&[(LEADER_VERBS, "", &["endpoints"], false)]),
    },
    SchemaRow {
        name: "workload-leader-election",
        level: "leader-election",
        precedence: 200,
        method: "ByUser",
        subjects: &["ServiceAccount:kube-system/*"],
        matches: LEASES,
    },
    SchemaRow {
        name: "system-node-high",
        level: "node-high",
        precedence: 400,
        method: "ByUser",
        subjects: &["Group:system:nodes"],
        matches: Matches::Resources(&[
            (&["*"], "", &["nodes", "nodes/status"], true),
            (&["*"], "coordination.k8s.io", &["leases"], false),
        ]),
    },
    SchemaRow { name: "system-nodes", level: "system", precedence: 500, method: "ByUser", subjects: &["Group:system:nodes"], matches: Matches::Everything },
    SchemaRow {
        name: "kube-controller-manager",
        level: "workload-high",
        precedence: 800,
        method: "ByNamespace",
        subjects: &["User:system:kube-controller-manager"],
        matches: Matches::Everything,
    },
    SchemaRow {
        name: "kube-scheduler",
        level: "workload-high",
        precedence: 800,
        method: "ByNamespace",
        subjects: &["User:system:kube-scheduler"],
        matches: Matches::Everything,
    },
    SchemaRow {
        name: "kube-system-service-accounts",
        level: "workload-high",
        precedence: 900,
        method: "ByNamespace",
        subjects: &["ServiceAccount:kube-system/*"],
        matches: Matches::Everything,
    },
    SchemaRow {
        name: "service-accounts",
        level: "workload-low",
        precedence: 9000,
        method: "ByUser",
        subjects: &["Group:system:serviceaccounts"],
        matches: Matches::Everything,
    },
    SchemaRow { name: "global-default", level: "global-default", precedence: 9900, method: "ByUser", subjects: EVERYBODY, matches: Matches::Everything },
    SchemaRow { name: "catch-all", level: "catch-all", precedence: 10000, method: "ByUser", subjects: EVERYBODY, matches: Matches::Everything },
];

/// (plural, object) of each, levels first.
pub fn objects() -> Vec<(&'static str, Value)> {
    let mut all = vec![(LEVELS, object("exempt", json!({
        "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
    })))];
    all.extend(LEVEL_ROWS.iter().map(|(name, shares, lendable, queuing)| {
        let response = match queuing {
            None => json!({"type": "Reject"}),
            Some((queues, hand)) => json!({
                "type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH},
            }),
        };
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        (LEVELS, object(name, json!({"type": "Limited", "limited": limited})))
    }));
    all.extend(SCHEMA_ROWS.iter().map(|row| (SCHEMAS, object(row.name, schema_spec(row)))));
    all
}

pub fn is_mandatory(name: &str) -> bool {
    matches!(name, "exempt" | "catch-all")
}

/// The fixed spec of a mandatory object.
pub fn mandatory_spec(plural: &str, name: &str) -> Option<Value> {
    let found = objects().into_iter().find(|(own, object)| *own == plural && object["metadata"]["name"] == name)?;
    is_mandatory(name).then(|| found.1["spec"].clone())
}

fn object(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "generation": 1, "annotations": {AUTOUPDATE: "true"}}, "spec": spec})
}

fn schema_spec(row: &SchemaRow) -> Value {
    let subjects: Vec<Value> = row.subjects.iter().filter_map(|text| text.split_once(':')).map(subject).collect();
    let mut rule = json!({"subjects": subjects});
    match &row.matches {
        Matches::Everything => {
            rule["resourceRules"] =
                json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        }
        Matches::Paths(paths) => rule["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": paths}]),
        Matches::Resources(list) => {
            rule["resourceRules"] = list
                .iter()
                .map(|(verbs, group, resources, cluster)| {
                    let mut own = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
                    if *cluster {
                        own["clusterScope"] = true.into();
                    }
                    own
                })
                .collect();
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": row.level}, "matchingPrecedence": row.precedence, "rules": [rule],
    });
    if !row.method.is_empty() {
        spec["distinguisherMethod"] = json!({"type": row.method});
    }
    spec
}

fn subject((kind, name): (&str, &str)) -> Value {
    match (kind, name.split_once('/')) {
        ("ServiceAccount", Some((namespace, name))) => {
            json!({"kind": kind, "serviceAccount": {"namespace": namespace, "name": name}})
        }
        ("User", _) => json!({"kind": kind, "user": {"name": name}}),
        _ => json!({"kind": kind, "group": {"name": name}}),
    }
}

/// What an existing object must become; None: it may stay.
pub fn amended(current: &Value, wanted: &Value) -> Option<Value> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or("");
    let annotation = current["metadata"]["annotations"][AUTOUPDATE].as_str();
    let mandatory = is_mandatory(name);
    let follows = mandatory
        || match annotation {
            Some(text) => text == "true",
            // Written before there was the annotation: as long as nobody has touched the spec.
            None => current["metadata"]["generation"] == 1,
        };
    let mut new = current.clone();
    let wanted_annotation = if follows { "true" } else { "false" };
    if annotation != Some(wanted_annotation) && (mandatory || annotation.is_none()) {
        if !new["metadata"]["annotations"].is_object() {
            new["metadata"]["annotations"] = json!({});
        }
        new["metadata"]["annotations"][AUTOUPDATE] = wanted_annotation.into();
    }
    if follows {
        let mut spec = wanted["spec"].clone();
        // What the exempt level has to lend is the administrator's.
        if let Some(exempt) = current["spec"].get("exempt").filter(|_| mandatory && name == "exempt") {
            spec["exempt"] = exempt.clone();
        }
        if new["spec"] != spec {
            new["spec"] = spec;
            let generation = current["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = (generation + 1).into();
        }
    }
    (new != *current).then_some(new)
}

/// The `Dangling` condition of a schema whose level is there, or is not.
pub fn dangling(level: &str, exists: bool, since: &str) -> Value {
    let (status, reason, end) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    json!({
        "type": "Dangling", "status": status, "reason": reason, "lastTransitionTime": since,
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let names = |plural: &str| -> Vec<String> {
            let own = objects().into_iter().filter(|(own, _)| *own == plural);
            own.map(|(_, object)| object["metadata"]["name"].as_str().unwrap_or("").to_owned()).collect()
        };
        assert_eq!(names(LEVELS).len(), 8);
        assert_eq!(names(SCHEMAS).len(), 13);
        assert!(mandatory_spec(SCHEMAS, "catch-all").is_some() && mandatory_spec(SCHEMAS, "probes").is_none());
    }

    #[test]
    fn who_changed_a_suggested_object_may_keep_it() {
        let wanted = objects().into_iter().find(|(_, object)| object["metadata"]["name"] == "service-accounts").expect("there").1;
        assert_eq!(amended(&wanted, &wanted), None);
        let mut changed = wanted.clone();
        changed["spec"]["matchingPrecedence"] = 7.into();
        assert_eq!(amended(&changed, &wanted).expect("follows")["spec"]["matchingPrecedence"], 9000);
        changed["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(amended(&changed, &wanted), None);
        changed["metadata"]["annotations"] = json!({});
        changed["metadata"]["generation"] = 2.into();
        let kept = amended(&changed, &wanted).expect("is marked");
        assert_eq!((&kept["metadata"]["annotations"][AUTOUPDATE], &kept["spec"]["matchingPrecedence"]), (&json!("false"), &json!(7)));
    }

    #[test]
    fn what_is_mandatory_comes_back() {
        let wanted = objects().into_iter().find(|(plural, object)| *plural == LEVELS && object["metadata"]["name"] == "exempt").expect("there").1;
        let mut changed = wanted.clone();
        changed["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        changed["spec"]["exempt"]["nominalConcurrencyShares"] = 9.into();
        let back = amended(&changed, &wanted).expect("is changed");
        assert_eq!(back["metadata"]["annotations"][AUTOUPDATE], "true");
        assert_eq!(back["spec"]["exempt"]["nominalConcurrencyShares"], 9);
    }
}
