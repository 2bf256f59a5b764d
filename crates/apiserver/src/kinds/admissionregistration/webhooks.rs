//! What both kinds of webhook configuration share.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{Object, default, default_text, each, inside, make};
use crate::kinds::printing::{self, AGE, NAME, integer};
use crate::kinds::{CLUSTER, Column, Cursor, Kind, Problems, checks, lifecycle};

pub const COMMON: Kind = Kind {
    group: "admissionregistration.k8s.io",
    categories: &["api-extensions"],
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| lifecycle::count_generation(new, old, &["webhooks"]),
    columns: COLUMNS,
    cells,
    ..CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"), AGE];

const CONDITIONS_MAX: usize = 64;
const SECONDS_MAX: i64 = 30;

pub fn default_webhooks(object: &mut Value, mutating: bool) {
    let Some(map) = object.as_object_mut() else { return };
    each(map, "webhooks", |webhook| {
        default(webhook, "failurePolicy", "Fail");
        default(webhook, "matchPolicy", "Equivalent");
        make(webhook, "namespaceSelector");
        make(webhook, "objectSelector");
        default(webhook, "timeoutSeconds", 10);
        if mutating {
            default(webhook, "reinvocationPolicy", "Never");
        }
        inside(webhook, "clientConfig", |config| inside(config, "service", |service| default(service, "port", 443)));
        each(webhook, "rules", default_rule);
    });
}

pub fn default_rule(rule: &mut Object) {
    default_text(rule, "scope", "*");
}

pub fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let mut names: Vec<&str> = Vec::new();
    for webhook in root.at("webhooks").items() {
        validate_webhook(&webhook, problems);
        let name = webhook.at("name");
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        }
        names.push(name.str());
    }
}

fn validate_webhook(webhook: &Cursor, problems: &mut Problems) {
    let name = webhook.at("name");
    if checks::required(&name, problems) {
        checks::subdomain(&name, problems);
        if name.str().split('.').count() < 3 {
            problems.invalid(&name, "should be a domain with at least three segments separated by dots");
        }
    }
    checks::label_selector(&webhook.at("namespaceSelector"), problems);
    checks::label_selector(&webhook.at("objectSelector"), problems);
    for rule in webhook.at("rules").items() {
        validate_rule(&rule, problems);
    }
    checks::optional_one_of(&webhook.at("failurePolicy"), &["Fail", "Ignore"], problems);
    checks::optional_one_of(&webhook.at("matchPolicy"), &["Equivalent", "Exact"], problems);
    checks::optional_one_of(&webhook.at("reinvocationPolicy"), &["IfNeeded", "Never"], problems);
    let effects = webhook.at("sideEffects");
    if effects.is_empty() {
        problems.required(&effects, "must specify one of None, NoneOnDryRun");
    } else {
        checks::one_of(&effects, &["None", "NoneOnDryRun"], problems);
    }
    let seconds = webhook.at("timeoutSeconds");
    if seconds.exists() && !(1..=SECONDS_MAX).contains(&seconds.int()) {
        problems.invalid(&seconds, "the timeout value must be between 1 and 30 seconds");
    }
    validate_versions(&webhook.at("admissionReviewVersions"), problems);
    validate_client(&webhook.at("clientConfig"), problems);
    let conditions = webhook.at("matchConditions");
    if conditions.len() > CONDITIONS_MAX {
        problems.too_many(&conditions, conditions.len(), CONDITIONS_MAX);
    }
    validate_conditions(&conditions, problems);
}

pub fn validate_conditions(conditions: &Cursor, problems: &mut Problems) {
    let mut names: Vec<&str> = Vec::new();
    for condition in conditions.items() {
        let (name, expression) = (condition.at("name"), condition.at("expression"));
        if expression.str().trim().is_empty() {
            problems.required(&expression, "");
        }
        if checks::required(&name, problems) {
            problems.invalid_each(&name, api::names::qualified_name(name.str()));
            if names.contains(&name.str()) {
                problems.duplicate(&name);
            }
            names.push(name.str());
        }
    }
}

pub fn validate_rule(rule: &Cursor, problems: &mut Problems) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        let at = rule.at(field);
        if at.is_empty() {
            problems.required(&at, "");
        }
        let wildcard = at.array().iter().any(|item| item == "*");
        if field != "resources" && wildcard && at.len() > 1 {
            let what = match field {
                "operations" => "operations",
                "apiGroups" => "API groups",
                _ => "API versions",
            };
            problems.invalid(&at, &format!("if '*' is present, must not specify other {what}"));
        }
    }
    for operation in rule.at("operations").items() {
        checks::one_of(&operation, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"], problems);
    }
    checks::optional_one_of(&rule.at("scope"), &["*", "Cluster", "Namespaced"], problems);
}

fn validate_versions(versions: &Cursor, problems: &mut Problems) {
    if versions.is_empty() {
        return problems.required(versions, "must specify one of v1, v1beta1");
    }
    let mut known = false;
    for (index, version) in versions.items().enumerate() {
        for sentence in api::names::dns1035_label(version.str()) {
            problems.invalid(&version, &sentence);
        }
        if versions.array()[..index].contains(version.value) {
            problems.invalid(&version, "duplicate version");
        }
        known |= matches!(version.str(), "v1" | "v1beta1");
    }
    if !known {
        problems.invalid(versions, "must include at least one of v1, v1beta1");
    }
}

fn validate_client(config: &Cursor, problems: &mut Problems) {
    let (url, service) = (config.at("url"), config.at("service"));
    if url.exists() == service.exists() {
        return problems.required(config, "exactly one of url or service is required");
    }
    if url.exists() {
        if !url.str().starts_with("https://") {
            problems.invalid(&url, "'https' is the only allowed URL scheme; desired format: https://host[/path]");
        }
        for (mark, what) in
            [("?", "query parameters are not permitted in the URL"), ("#", "fragments are not permitted in the URL")]
        {
            if url.str().contains(mark) {
                problems.invalid(&url, what);
            }
        }
        return;
    }
    for (field, sentence) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        let at = service.at(field);
        if at.is_empty() {
            problems.required(&at, sentence);
        }
    }
    let port = service.at("port");
    if port.exists() && !(1..=65535).contains(&port.int()) {
        problems.invalid(&port, &format!("port is not valid: {}", checks::PORT));
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = walk(object, "webhooks").as_array().map_or(0, Vec::len);
    vec![printing::name(object), json!(count), printing::age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::super::validating_webhook_configuration::KIND;
    use crate::kinds::testing::check_defaulted;
    use serde_json::{Value, json};

    fn with(field: &str, value: Value) -> Value {
        let mut webhook = json!({"name": "a.example.com", "clientConfig": {"url": "https://x/"}, "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["pods"]}]});
        webhook[field] = value;
        json!({"webhooks": [webhook]})
    }

    #[test]
    fn rules() {
        check_defaulted(&KIND, with("timeoutSeconds", json!(5)), "");
        check_defaulted(
            &KIND,
            with("name", json!("a.b")),
            "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
        );
        check_defaulted(
            &KIND,
            with("timeoutSeconds", json!(31)),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        );
        check_defaulted(
            &KIND,
            with("clientConfig", json!({})),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        );
    }
}
