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
    let method = spec.at("distinguisherMethod");
    let methods = &["ByNamespace", "ByUser"];
    if method.exists() && !methods.contains(&method.at("type").str()) {
        problems.not_supported_struct(&method.at("type").with(method.value), &["type"], methods);
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
    let name = root.at("metadata.name").str();
    if built_in::mandatory_spec(built_in::SCHEMAS, name).is_some_and(|fixed| fixed != object["spec"]) {
        problems.invalid(&spec, &format!("spec of '{name}' must equal the fixed value"));
    }
    super::validate_conditions(&root, problems);
}

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn validate_rule(rule: &Cursor, problems: &mut Problems) {
    let subjects = rule.at("subjects");
    if subjects.is_empty() {
        problems.required(&subjects, "subjects must contain at least one value");
    }
    for subject in subjects.items() {
        validate_subject(&subject, problems);
    }
    let (resources, urls) = (rule.at("resourceRules"), rule.at("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        problems.required(rule, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for item in resources.items() {
        validate_resources(&item, problems);
    }
    for item in urls.items() {
        validate_verbs(&item.at("verbs"), problems);
        let urls = item.at("nonResourceURLs");
        if urls.is_empty() {
            problems.required(&urls, "nonResourceURLs must contain at least one value");
        } else if alone(&urls, "non-resource URLs", problems) {
            continue;
        }
        for url in urls.items() {
            if let Some(fault) = fault_of_url(url.str()) {
                problems.invalid(&url, fault);
            }
        }
    }
}

fn validate_subject(subject: &Cursor, problems: &mut Problems) {
    const FIELDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.at("kind");
    let Some((_, field)) = FIELDS.iter().find(|(name, _)| *name == kind.str()) else {
        return problems.not_supported(&kind, &["Group", "ServiceAccount", "User"]);
    };
    let own = subject.at(field);
    if own.exists() {
        let (name, namespace) = (own.at("name"), own.at("namespace"));
        let account = *field == "serviceAccount";
        if name.is_empty() {
            problems.required(&name, "");
        } else if account && name.str() != "*" {
            checks::subdomain(&name, problems);
        }
        if account && namespace.is_empty() {
            problems.required(&namespace, "must specify namespace for service account");
        } else if account {
            checks::label(&namespace, problems);
        }
    } else {
        problems.required(&own, &format!("{field} is required when subject kind is '{}'", kind.str()));
    }
    for (name, other) in FIELDS {
        let at = subject.at(other);
        if other != *field && at.exists() {
            problems.forbidden(&at, &format!("{other} is forbidden when subject kind is not '{name}'"));
        }
    }
}

fn validate_resources(rule: &Cursor, problems: &mut Problems) {
    validate_verbs(&rule.at("verbs"), problems);
    for (field, one, others) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let list = rule.at(field);
        if list.is_empty() {
            problems.required(&list, &format!("resource rules must supply at least one {one}"));
        } else {
            alone(&list, others, problems);
        }
    }
    let namespaces = rule.at("namespaces");
    if namespaces.is_empty() && !rule.at("clusterScope").bool() {
        let sentence = "resource rules that are not cluster scoped must supply at least one namespace";
        problems.required(&namespaces, sentence);
    } else if !alone(&namespaces, "namespaces", problems) {
        for namespace in namespaces.items() {
            for sentence in api::names::dns1123_label(namespace.str()) {
                let sentence = format!("each member of this list must be '*' or a DNS-1123 label; {sentence}");
                problems.invalid(&namespace, &sentence);
            }
        }
    }
}

fn validate_verbs(verbs: &Cursor, problems: &mut Problems) {
    if verbs.is_empty() {
        problems.required(verbs, "verbs must contain at least one value");
    } else if !alone(verbs, "verbs", problems) && !verbs.items().all(|verb| VERBS.contains(&verb.str())) {
        problems.not_supported_plain(verbs, &verbs.value.to_string(), VERBS);
    }
}

/// Whether there is a `*`, which must stand alone.
fn alone(list: &Cursor, others: &str, problems: &mut Problems) -> bool {
    let wild = list.items().any(|item| item.str() == "*");
    if wild && list.len() > 1 {
        problems.invalid(list, &format!("if '*' is present, must not specify other {others}"));
    }
    wild
}

fn fault_of_url(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || stars == 1 && !url.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::KIND;
    use crate::kinds::testing::check_defaulted;
    use serde_json::{Value, json};

    fn with(field: &str, value: Value) -> Value {
        let mut rule = json!({"subjects": [{"kind": "Group", "group": {"name": "a"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a", "/b/*"]}]});
        rule[field] = value;
        json!({"metadata": {"name": "a"}, "spec": {"priorityLevelConfiguration": {"name": "system"}, "rules": [rule]}})
    }

    #[test]
    fn rules_of_schemas() {
        for (field, value, expected) in [
            ("x", json!(1), ""),
            (
                "subjects",
                json!([{"kind": "ServiceAccount", "serviceAccount": {"name": "*"}, "user": {"name": "x"}}]),
                "spec.rules[0].subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account\n\
                 spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
            ),
            (
                "resourceRules",
                json!([{"verbs": ["get", "fly"], "apiGroups": ["*", "apps"], "namespaces": ["A_"]}]),
                "spec.rules[0].resourceRules[0].verbs: Unsupported value: [\"get\",\"fly\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"\n\
                 spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"apps\"]: if '*' is present, must not specify other api groups\n\
                 spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource\n\
                 spec.rules[0].resourceRules[0].namespaces[0]: Invalid value: \"A_\": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ),
            (
                "nonResourceRules",
                json!([{"verbs": ["*", "get"], "nonResourceURLs": ["a", "/a//b", "/*/b", "/a b", ""]}]),
                "spec.rules[0].nonResourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs\n\
                 spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash\n\
                 spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a//b\": must not contain double slash\n\
                 spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/*/b\": wildcard can only do suffix matching\n\
                 spec.rules[0].nonResourceRules[0].nonResourceURLs[3]: Invalid value: \"/a b\": must not contain white-space\n\
                 spec.rules[0].nonResourceRules[0].nonResourceURLs[4]: Invalid value: \"\": must not be empty",
            ),
        ] {
            check_defaulted(&KIND, with(field, value), expected);
        }
        let mut by_colour = with("x", json!(1));
        by_colour["spec"]["distinguisherMethod"] = json!({"type": "ByColour"});
        by_colour["status"] = json!({"conditions": [{"type": "A"}, {"type": "A"}, {}]});
        check_defaulted(
            &KIND,
            by_colour,
            "spec.distinguisherMethod.type: Unsupported value: {\"Type\":\"ByColour\"}: supported values: \"ByNamespace\", \"ByUser\"\n\
             status.conditions[1].type: Duplicate value: \"A\"\n\
             status.conditions[2].type: Required value: must not be empty",
        );
    }
}
