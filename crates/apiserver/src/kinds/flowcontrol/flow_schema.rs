//! Which requests share a priority level.

use jiff::Timestamp;
use serde_json::Value;

use crate::flow::built_in;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default_number, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    definition: "io.k8s.api.flowcontrol.v1.FlowSchema",
    storage: "flowschemas",
    subresources: &[STATUS],
    defaults: |object| {
        if let Some(spec) = object_at(object, "spec") {
            default_number(spec, "matchingPrecedence", 1000);
        }
    },
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    columns: &[
        NAME,
        text("PriorityLevel", "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationReference#name"),
        text("MatchingPrecedence", "io.k8s.api.flowcontrol.v1.FlowSchemaSpec#matchingPrecedence"),
        text("DistinguisherMethod", "io.k8s.api.flowcontrol.v1.FlowSchemaSpec#distinguisherMethod"),
        AGE,
        text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
    ],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let precedence = spec.at("matchingPrecedence");
    if precedence.int() <= 0 {
        problems.invalid_plain(&precedence, precedence.int(), "must be a positive value");
    }
    if precedence.int() > 10000 {
        problems.invalid_plain(&precedence, precedence.int(), "must not be greater than 10000");
    }
    if precedence.int() == 1 && root.at("metadata.name").str() != "exempt" {
        problems.invalid_plain(&precedence, 1, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let name = root.at("metadata.name").str();
    if built_in::mandatory_spec(built_in::SCHEMAS, name).is_some_and(|fixed| fixed != object["spec"]) {
        problems.invalid(&spec, &format!("spec of '{name}' must equal the fixed value"));
    }
    let method = spec.at("distinguisherMethod");
    if method.exists() {
        checks::one_of(&method.at("type"), &["ByNamespace", "ByUser"], problems);
    }
    let level = spec.at("priorityLevelConfiguration.name");
    if level.is_empty() {
        problems.required(&level, "must reference a priority level");
    } else {
        checks::subdomain(&level, problems);
    }
    for rule in spec.at("rules").items() {
        validate_rule(&rule, problems);
    }
}

fn validate_rule(rule: &Cursor, problems: &mut Problems) {
    let subjects = rule.at("subjects");
    if subjects.is_empty() {
        problems.required(&subjects, "subjects must contain at least one value");
    }
    for subject in subjects.items() {
        let kind = subject.at("kind");
        let (field, name) = match kind.str() {
            "ServiceAccount" => ("serviceAccount", "serviceAccount.name"),
            "User" => ("user", "user.name"),
            "Group" => ("group", "group.name"),
            _ => {
                problems.not_supported(&kind, &["Group", "ServiceAccount", "User"]);
                continue;
            }
        };
        if !subject.at(field).exists() {
            problems
                .required(&subject.at(field), &format!("{field} is required when subject kind is '{}'", kind.str()));
        } else if subject.at(name).is_empty() {
            problems.required(&subject.at(name), "");
        }
    }
    let (resources, urls) = (rule.at("resourceRules"), rule.at("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        problems.required(rule, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (list, fields) in
        [(&resources, &["verbs", "apiGroups", "resources"][..]), (&urls, &["verbs", "nonResourceURLs"])]
    {
        for item in list.items() {
            for field in fields {
                checks::required(&item.at(field), problems);
            }
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let dangling = printing::condition(object, "Dangling").and_then(|condition| walk(condition, "status").as_str());
    vec![
        printing::name(object),
        printing::string_at(object, "spec.priorityLevelConfiguration.name"),
        printing::int_at(object, "spec.matchingPrecedence"),
        printing::text_or(object, "spec.distinguisherMethod.type", "<none>"),
        printing::age(object, now),
        dangling.unwrap_or("?").into(),
    ]
}
