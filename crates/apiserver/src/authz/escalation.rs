//! Nobody grants more than they have.

use serde_json::Value;

use super::{Asked, Rule, rbac};
use crate::admission_chain::Question;
use crate::error::RequestError;
use crate::kinds::Kind;
use crate::rest::Call;
use crate::user::SYSTEM_MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";

/// For writes of roles and bindings.
pub fn check_escalation(call: &Call, kind: &Kind, new: &Value, old: Option<&Value>) -> Result<(), RequestError> {
    if kind.group != GROUP || call.user.in_group(SYSTEM_MASTERS) {
        return Ok(());
    }
    let name = new["metadata"]["name"].as_str().unwrap_or("");
    let namespace = call.namespace();
    let may = |verb: &str, resource: &str, name: &str| {
        let question = Question { verb, group: GROUP, version: "v1", resource, subresource: "", namespace, name };
        call.server.authorizer.allows(&call.user, &Asked::Resource(question)).is_allowed()
    };
    let wanted = match kind.plural {
        "roles" | "clusterroles" => {
            let same = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
            if (same("rules") && same("aggregationRule")) || may("escalate", kind.plural, name) {
                return Ok(());
            }
            if new["aggregationRule"].is_object() && !same("aggregationRule") {
                let everything = [Rule::everything(), Rule::every_path()];
                if missing(call, &everything).is_empty() {
                    return Ok(());
                }
                return Err(RequestError::forbidden(kind, name, "must have cluster-admin privileges to use aggregationRule"));
            }
            rbac::rules_of(new)
        }
        _ => {
            let (role_kind, role) = (
                new["roleRef"]["kind"].as_str().unwrap_or(""),
                new["roleRef"]["name"].as_str().unwrap_or(""),
            );
            let unchanged = old.is_some_and(|old| old["roleRef"] == new["roleRef"] && old["subjects"] == new["subjects"]);
            let resource = if role_kind == "ClusterRole" { "clusterroles" } else { "roles" };
            if unchanged || may("bind", resource, role) {
                return Ok(());
            }
            match call.server.authorizer.role_rules(namespace, role_kind, role) {
                Some(rules) => rules,
                None => {
                    return Err(RequestError::NotFound {
                        object: crate::error::ObjectName::new(GROUP, resource, role),
                    });
                }
            }
        }
    };
    let missing = missing(call, &wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = call.user.groups.iter().map(|group| format!("{group:?}")).collect();
    Err(RequestError::forbidden(
        kind,
        name,
        format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            call.user.name,
            groups.join(" "),
            missing.iter().map(shown).collect::<Vec<_>>().join("\n")
        ),
    ))
}

/// The single permissions in `wanted` that the caller lacks.
fn missing(call: &Call, wanted: &[Rule]) -> Vec<Rule> {
    let held = call.server.authorizer.rules(&call.user, call.namespace());
    let mut missing = Vec::new();
    for rule in wanted {
        for single in singles(rule) {
            if !held.iter().any(|own| covers(own, &single)) && !missing.contains(&single) {
                missing.push(single);
            }
        }
    }
    missing
}

/// A rule as rules of one verb, group, resource and name each.
fn singles(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut out = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            out.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let base = Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                if rule.resource_names.is_empty() {
                    out.push(base.clone());
                }
                for name in &rule.resource_names {
                    out.push(Rule { resource_names: one(name), ..base.clone() });
                }
            }
        }
    }
    out
}

fn covers(own: &Rule, single: &Rule) -> bool {
    let all = |own: &[String], wanted: &[String]| {
        own.iter().any(|text| text == "*") || wanted.iter().all(|text| own.contains(text))
    };
    if !all(&own.verbs, &single.verbs) {
        return false;
    }
    if let Some(url) = single.non_resource_urls.first() {
        return own.non_resource_urls.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => url.starts_with(prefix),
            None => pattern == url,
        });
    }
    let resources = single.resources.iter().all(|wanted| {
        own.resources.iter().any(|text| {
            text == "*"
                || text == wanted
                || text.strip_prefix("*/").is_some_and(|child| wanted.split_once('/').is_some_and(|(_, own)| own == child))
        })
    });
    let names = own.resource_names.is_empty()
        || (!single.resource_names.is_empty() && single.resource_names.iter().all(|name| own.resource_names.contains(name)));
    all(&own.api_groups, &single.api_groups) && resources && names
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`
fn shown(rule: &Rule) -> String {
    let list = |texts: &[String]| texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" ");
    let mut parts = Vec::new();
    if !rule.non_resource_urls.is_empty() {
        parts.push(format!("NonResourceURLs:[{}]", list(&rule.non_resource_urls)));
    }
    if !rule.api_groups.is_empty() {
        parts.push(format!("APIGroups:[{}]", list(&rule.api_groups)));
    }
    if !rule.resources.is_empty() {
        parts.push(format!("Resources:[{}]", list(&rule.resources)));
    }
    if !rule.resource_names.is_empty() {
        parts.push(format!("ResourceNames:[{}]", list(&rule.resource_names)));
    }
    parts.push(format!("Verbs:[{}]", list(&rule.verbs)));
    format!("{{{}}}", parts.join(", "))
}
