//! Flow schemas, compiled: which requests they are about.
//!
//! Invariant: pure. The order of the list is the order in which they are asked.

use serde::Deserialize;
use serde_json::Value;

use super::floor::{Limits, Queuing};
use crate::http::request_info::RequestInfo;
use crate::user::User;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct SchemaSpec {
    pub priority_level_configuration: Reference,
    pub matching_precedence: i64,
    distinguisher_method: Option<Method>,
    rules: Vec<PolicyRules>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Reference {
    pub name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Method {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PolicyRules {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    kind: String,
    user: Option<Reference>,
    group: Option<Reference>,
    service_account: Option<ServiceAccount>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ServiceAccount {
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NonResourceRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Distinguisher {
    None,
    User,
    Namespace,
}

impl SchemaSpec {
    pub fn of(object: &Value) -> SchemaSpec {
        object.get("spec").and_then(|spec| SchemaSpec::deserialize(spec).ok()).unwrap_or_default()
    }

    pub fn distinguisher(&self) -> Distinguisher {
        match self.distinguisher_method.as_ref().map_or("", |method| method.kind.as_str()) {
            "ByUser" => Distinguisher::User,
            "ByNamespace" => Distinguisher::Namespace,
            _ => Distinguisher::None,
        }
    }

    pub fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rules| {
            rules.subjects.iter().any(|subject| subject.matches(user))
                && match info.is_resource {
                    true => rules.resource_rules.iter().any(|rule| rule.matches(info)),
                    false => rules.non_resource_rules.iter().any(|rule| rule.matches(info)),
                }
        })
    }
}

impl Subject {
    fn matches(&self, user: &User) -> bool {
        match self.kind.as_str() {
            "User" => self.user.as_ref().is_some_and(|own| own.name == "*" || own.name == user.name),
            "Group" => self.group.as_ref().is_some_and(|own| own.name == "*" || user.in_group(&own.name)),
            "ServiceAccount" => self.service_account.as_ref().is_some_and(|own| {
                let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(namespace, name)| namespace == own.namespace && (own.name == "*" || own.name == name))
            }),
            _ => false,
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        has(&self.verbs, info.verb)
            && has(&self.api_groups, &info.group)
            && self.resources.iter().any(|own| {
                own == "*"
                    || match own.split_once('/') {
                        Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
                        None => info.subresource.is_empty() && *own == info.resource,
                    }
            })
            && match info.namespace.as_str() {
                "" => self.cluster_scope,
                namespace => has(&self.namespaces, namespace),
            }
    }
}

impl NonResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        has(&self.verbs, info.verb)
            && self.urls.iter().any(|own| match own.strip_suffix('*') {
                Some(prefix) => info.path.starts_with(prefix),
                None => *own == info.path,
            })
    }
}

/// What a PriorityLevelConfiguration says.
pub fn limits(object: &Value) -> Limits {
    let spec = &object["spec"];
    let exempt = spec["type"] == "Exempt";
    let own = if exempt { &spec["exempt"] } else { &spec["limited"] };
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let queuing = &own["limitResponse"]["queuing"];
    let queues = own["limitResponse"]["type"] == "Queue";
    Limits {
        exempt,
        shares: number(&own["nominalConcurrencyShares"]),
        lendable_percent: number(&own["lendablePercent"]).min(100),
        borrowing_limit_percent: own["borrowingLimitPercent"].as_u64(),
        queuing: queues.then(|| Queuing {
            queues: number(&queuing["queues"]).clamp(1, QUEUES_MAX) as usize,
            hand_size: number(&queuing["handSize"]).max(1) as usize,
            length_limit: number(&queuing["queueLengthLimit"]) as usize,
        }),
    }
}

/// As validation allows.
const QUEUES_MAX: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::built_in::{SCHEMAS, objects};
    use super::*;
    use crate::http::query::Query;

    /// The built-in schema that a request falls under.
    #[track_caller]
    fn check(user: &str, groups: &[&str], request: &str, expected: &str) {
        let mut schemas: Vec<(String, SchemaSpec)> = objects()
            .into_iter()
            .filter(|(plural, _)| *plural == SCHEMAS)
            .map(|(_, object)| (object["metadata"]["name"].as_str().unwrap_or("").to_owned(), SchemaSpec::of(&object)))
            .collect();
        schemas.sort_by(|a, b| (a.1.matching_precedence, &a.0).cmp(&(b.1.matching_precedence, &b.0)));
        let (method, path) = request.split_once(' ').expect("method and path");
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let method: Method = method.parse().expect("a method");
        let info = RequestInfo::parse(&method, path, &Query::parse(query));
        let user = if user.is_empty() { User::anonymous() } else { User::authenticated(user, groups) };
        let found = schemas.iter().find(|(_, spec)| spec.matches(&user, &info)).map_or("", |(name, _)| name);
        assert_eq!(found, expected, "{} {request}", user.name);
    }

    #[test]
    fn classification() {
        let nodes: &[&str] = &["system:nodes"];
        let accounts: &[&str] = &["system:serviceaccounts"];
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
        check("admin", &["system:masters"], "GET /api/v1/pods", "exempt");
        check("", &[], "GET /healthz", "probes");
        check("", &[], "GET /healthz/ping", "global-default");
        check("", &[], "GET /api/v1/pods", "global-default");
        check("alice", &[], "GET /api/v1/pods", "global-default");
        check("system:kube-scheduler", &[], &format!("PUT {lease}"), "system-leader-election");
        check("system:kube-scheduler", &[], &format!("PATCH {lease}"), "kube-scheduler");
        check("system:kube-controller-manager", &[], "PUT /api/v1/namespaces/a/endpoints/x", "endpoint-controller");
        check("system:kube-controller-manager", &[], "GET /api/v1/pods?watch=1", "kube-controller-manager");
        check("system:serviceaccount:kube-system:a", accounts, &format!("GET {lease}"), "system-leader-election");
        check("system:serviceaccount:kube-system:a", accounts, "GET /api/v1/pods", "kube-system-service-accounts");
        check("system:serviceaccount:default:a", accounts, "GET /api/v1/pods", "service-accounts");
        check("system:node:n", nodes, "PATCH /api/v1/nodes/n/status", "system-node-high");
        check("system:node:n", nodes, &format!("PUT {lease}"), "system-node-high");
        check("system:node:n", nodes, "GET /api/v1/pods", "system-nodes");
    }
}
