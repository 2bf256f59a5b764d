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
        validate_versions(&webhook.at("admissionReviewVersions"), problems);
        let name = webhook.at("name");
        if name.is_empty() {
            continue;
        }
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        }
        names.push(name.str());
    }
}

fn validate_webhook(webhook: &Cursor, problems: &mut Problems) {
    let name = webhook.at("name");
    if checks::required(&name, problems) {
        let faults = api::names::dns1123_subdomain(name.str());
        if !faults.is_empty() {
            problems.invalid(&name, &faults.join(","));
        } else if name.str().split('.').count() < 3 {
            problems.invalid(&name, "should be a domain with at least three segments separated by dots");
        }
    }
    for rule in webhook.at("rules").items() {
        validate_rule(&rule, problems);
    }
    checks::optional_one_of(&webhook.at("failurePolicy"), &["Fail", "Ignore"], problems);
    checks::optional_one_of(&webhook.at("matchPolicy"), &["Equivalent", "Exact"], problems);
    let effects = webhook.at("sideEffects");
    if !effects.exists() {
        problems.required(&effects, "must specify one of None, NoneOnDryRun");
    } else {
        checks::one_of(&effects, &["None", "NoneOnDryRun"], problems);
    }
    let seconds = webhook.at("timeoutSeconds");
    if seconds.exists() && !(1..=SECONDS_MAX).contains(&seconds.int()) {
        problems.invalid(&seconds, "the timeout value must be between 1 and 30 seconds");
    }
    checks::label_selector(&webhook.at("namespaceSelector"), problems);
    checks::label_selector(&webhook.at("objectSelector"), problems);
    checks::optional_one_of(&webhook.at("reinvocationPolicy"), &["IfNeeded", "Never"], problems);
    validate_client(&webhook.at("clientConfig"), problems);
    validate_conditions(&webhook.at("matchConditions"), problems);
}

pub fn validate_conditions(conditions: &Cursor, problems: &mut Problems) {
    if conditions.len() > CONDITIONS_MAX {
        problems.too_many(conditions, conditions.len(), CONDITIONS_MAX);
    }
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
    for (field, others) in
        [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
    {
        let list = rule.at(field);
        if list.is_empty() {
            problems.required(&list, "");
        } else if list.len() > 1 && list.items().any(|item| item.str() == "*") {
            problems.invalid(&list, &format!("if '*' is present, must not specify other {others}"));
        }
        for item in list.items() {
            if field == "operations" {
                checks::one_of(&item, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"], problems);
            } else if field == "apiVersions" {
                checks::required(&item, problems);
            }
        }
    }
    validate_resources(&rule.at("resources"), problems);
    checks::optional_one_of(&rule.at("scope"), &["*", "Cluster", "Namespaced"], problems);
}

/// Names, and names with their subresources: `a`, `a/b`, `a/*`, `*/b`, `*/*`, `*`.
fn validate_resources(list: &Cursor, problems: &mut Problems) {
    if list.is_empty() {
        problems.required(list, "");
    }
    let (mut with_all, mut in_all): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    // As the original, which remembers the last name without a subresource alone.
    let mut bare = false;
    for item in list.items() {
        let text = item.str();
        if text.is_empty() {
            problems.required(&item, "");
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            bare = text != "*";
            continue;
        };
        for (known, part, covering) in
            [(&with_all, resource, format!("{resource}/*")), (&in_all, sub, format!("*/{sub}"))]
        {
            if known.contains(&part) {
                problems.invalid(&item, &format!("if '{covering}' is present, must not specify {text}"));
            }
        }
        if sub == "*" {
            with_all.push(resource);
        }
        if resource == "*" {
            in_all.push(sub);
        }
    }
    let has = |wanted: &str| list.items().any(|item| item.str() == wanted);
    if list.len() > 1 && has("*/*") {
        problems.invalid(list, "if '*/*' is present, must not specify other resources");
    }
    if has("*") && bare {
        problems.invalid(list, "if '*' is present, must not specify other resources without subresources");
    }
}

fn validate_versions(versions: &Cursor, problems: &mut Problems) {
    if versions.is_empty() {
        return problems.required(versions, "must specify one of v1, v1beta1");
    }
    let mut known = false;
    for (index, version) in versions.items().enumerate() {
        if versions.array()[..index].contains(version.value) {
            problems.invalid(&version, "duplicate version");
            continue;
        }
        problems.invalid_each(&version, api::names::dns1035_label(version.str()));
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
        return validate_url(&url, problems);
    }
    // Crosswise, as in the original: it passes the two in the wrong order.
    for (empty, blamed, sentence) in
        [("namespace", "name", "service name is required"), ("name", "namespace", "service namespace is required")]
    {
        if service.at(empty).is_empty() {
            problems.required(&service.at(blamed), sentence);
        }
    }
    let port = service.at("port");
    if port.exists() && !(1..=65535).contains(&port.int()) {
        problems.invalid(&port, &format!("port is not valid: {}", checks::PORT));
    }
    validate_path(&service.at("path"), problems);
}

const URL_FORM: &str = "; desired format: https://host[/path]";

fn validate_url(url: &Cursor, problems: &mut Problems) {
    let (text, fragment) = url.str().split_once('#').unwrap_or((url.str(), ""));
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    let authority = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or(""));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        problems.invalid_str(url, scheme, &format!("'https' is the only allowed URL scheme{URL_FORM}"));
    }
    if host.is_empty() {
        problems.invalid_str(url, host, &format!("host must be provided{URL_FORM}"));
    }
    for (part, what) in [(user, "user information is"), (fragment, "fragments are"), (query, "query parameters are")] {
        if !part.is_empty() {
            problems.invalid_str(url, part, &format!("{what} not permitted in the URL"));
        }
    }
}

fn validate_path(path: &Cursor, problems: &mut Problems) {
    let text = path.str();
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        return problems.invalid(path, "segment[0] may not be empty");
    }
    if !text.starts_with('/') {
        problems.invalid(path, "must start with a '/'");
    }
    // The first character goes, slash or not.
    let mut rest = text.chars();
    rest.next();
    let rest = rest.as_str();
    for (index, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            problems.invalid(path, &format!("segment[{index}] may not be empty"));
            continue;
        }
        for sentence in api::names::dns1123_subdomain(step) {
            problems.invalid(path, &format!("segment[{index}]: {sentence}"));
        }
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
        for (field, value, expected) in [
            (
                "clientConfig",
                json!({"url": "http://a:b@/x?q=1#f"}),
                "clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]\n\
                 clientConfig.url: Invalid value: \"\": host must be provided; desired format: https://host[/path]\n\
                 clientConfig.url: Invalid value: \"a:b\": user information is not permitted in the URL\n\
                 clientConfig.url: Invalid value: \"f\": fragments are not permitted in the URL\n\
                 clientConfig.url: Invalid value: \"q=1\": query parameters are not permitted in the URL",
            ),
            (
                "clientConfig",
                json!({"service": {"name": "a", "path": "/a//b"}}),
                "clientConfig.service.name: Required value: service name is required\n\
                 clientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
            ),
            (
                "admissionReviewVersions",
                json!(["v2", "v2"]),
                "admissionReviewVersions[1]: Invalid value: \"v2\": duplicate version\n\
                 admissionReviewVersions: Invalid value: [\"v2\",\"v2\"]: must include at least one of v1, v1beta1",
            ),
            (
                "rules",
                json!([{"operations": ["*", "FLY"], "apiGroups": [""], "apiVersions": [""],
                    "resources": ["a/*", "a/b", "*/*", "*", "c"], "scope": "Odd"}]),
                "rules[0].operations: Invalid value: [\"*\",\"FLY\"]: if '*' is present, must not specify other operations\n\
                 rules[0].operations[1]: Unsupported value: \"FLY\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"\n\
                 rules[0].apiVersions[0]: Required value\n\
                 rules[0].resources[1]: Invalid value: \"a/b\": if 'a/*' is present, must not specify a/b\n\
                 rules[0].resources: Invalid value: [\"a/*\",\"a/b\",\"*/*\",\"*\",\"c\"]: if '*/*' is present, must not specify other resources\n\
                 rules[0].resources: Invalid value: [\"a/*\",\"a/b\",\"*/*\",\"*\",\"c\"]: if '*' is present, must not specify other resources without subresources\n\
                 rules[0].scope: Unsupported value: \"Odd\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
            ),
            (
                "matchConditions",
                json!([{"name": "a", "expression": "true"}, {"name": "a", "expression": " "}]),
                "matchConditions[1].expression: Required value\n\
                 matchConditions[1].name: Duplicate value: \"a\"",
            ),
        ] {
            let lines: Vec<String> = expected
                .lines()
                .map(|line| format!("webhooks[0].{line}"))
                .collect();
            check_defaulted(&KIND, with(field, value), &lines.join("\n"));
        }
    }
}
