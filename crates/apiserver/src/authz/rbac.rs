//! RBAC over the watch cache: roles and bindings compiled into an index by subject.
//!
//! Invariant: the index is rebuilt when, and only when, a role or binding changed. Aggregated cluster roles have the
//! union of the roles that they select, whether or not a controller has written it down.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::selector::LabelSelector;
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Revision;

use super::{Asked, Decision};
use crate::cache::{Cache, Filter, Shelf};
use crate::kinds::registry;
use crate::user::User;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    pub fn everything() -> Rule {
        let star = || vec!["*".to_owned()];
        Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() }
    }

    pub fn every_path() -> Rule {
        Rule { verbs: vec!["*".into()], non_resource_urls: vec!["*".into()], ..Rule::default() }
    }

    pub fn allows(&self, asked: &Asked<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|own| own == "*" || own == wanted);
        match asked {
            Asked::Path { verb, path } => {
                has(&self.verbs, verb)
                    && self.non_resource_urls.iter().any(|own| match own.strip_suffix('*') {
                        Some(prefix) => path.starts_with(prefix),
                        None => own == path,
                    })
            }
            Asked::Resource(question) => {
                has(&self.verbs, question.verb)
                    && has(&self.api_groups, question.group)
                    && self.allows_resource(question.resource, question.subresource)
                    && (self.resource_names.is_empty() || self.resource_names.iter().any(|own| own == question.name))
            }
        }
    }

    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|own| {
            if own == "*" {
                return true;
            }
            match own.split_once('/') {
                None => own == resource && subresource.is_empty(),
                Some((parent, child)) => child == subresource && !subresource.is_empty() && (parent == "*" || parent == resource),
            }
        })
    }
}

/// What a binding grants.
struct Grant {
    /// Empty: everywhere.
    namespace: String,
    rules: Result<Arc<[Rule]>, String>,
    /// `ClusterRoleBinding "x" of ClusterRole "y" to Group "z"`
    reason: String,
}

#[derive(Default)]
struct Index {
    revisions: [Revision; 4],
    users: HashMap<String, Vec<Arc<Grant>>>,
    groups: HashMap<String, Vec<Arc<Grant>>>,
    /// (namespace, name); cluster roles have no namespace.
    roles: HashMap<(String, String), Arc<[Rule]>>,
}

pub struct Rbac {
    cache: Arc<Cache>,
    shelves: [Arc<Shelf>; 4],
    index: ArcSwap<Index>,
}

const RESOURCES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

impl Rbac {
    pub fn new(cache: Arc<Cache>) -> Self {
        let shelves = RESOURCES.map(|plural| {
            let kind = registry::by_plural("rbac.authorization.k8s.io", "v1", plural).expect("a built-in kind");
            cache.shelf(kind).clone()
        });
        Rbac { cache, shelves, index: ArcSwap::default() }
    }

    fn current(&self) -> Arc<Index> {
        let revisions = [0, 1, 2, 3].map(|at: usize| self.shelves[at].revision());
        let index = self.index.load_full();
        if index.revisions == revisions {
            return index;
        }
        let index = Arc::new(self.compile(revisions));
        self.index.store(index.clone());
        index
    }

    fn compile(&self, revisions: [Revision; 4]) -> Index {
        let all = |at: usize| -> Vec<Value> {
            let selected = self.shelves[at].select(&Filter::default(), None, 0, || self.cache.applied());
            selected.entries.iter().map(|entry| entry.value()).collect()
        };
        let mut index = Index { revisions, ..Index::default() };
        let cluster_roles = all(0);
        for role in &cluster_roles {
            let rules = aggregated(role, &cluster_roles).unwrap_or_else(|| rules_of(role));
            index.roles.insert((String::new(), name(role)), rules.into());
        }
        for role in all(1) {
            index.roles.insert((namespace(&role), name(&role)), rules_of(&role).into());
        }
        for binding in all(2).into_iter().chain(all(3)) {
            index.add(&binding);
        }
        index
    }

    pub fn allows(&self, user: &User, asked: &Asked<'_>) -> Decision {
        let index = self.current();
        let mut broken: Vec<String> = Vec::new();
        for grant in index.grants(user) {
            if !grant.counts_for(asked) {
                continue;
            }
            match &grant.rules {
                Ok(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    return Decision::Allowed { reason: format!("RBAC: allowed by {}", grant.reason) };
                }
                Ok(_) => {}
                Err(cause) if !broken.contains(cause) => broken.push(cause.clone()),
                Err(_) => {}
            }
        }
        let reason = match broken.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision::NoOpinion { reason }
    }

    pub fn rules(&self, user: &User, wanted: &str) -> Vec<Rule> {
        let index = self.current();
        let grants = index.grants(user).filter(|grant| grant.namespace.is_empty() || grant.namespace == wanted);
        grants.filter_map(|grant| grant.rules.as_ref().ok()).flat_map(|rules| rules.iter().cloned()).collect()
    }

    pub fn role_rules(&self, namespace: &str, kind: &str, name: &str) -> Option<Vec<Rule>> {
        let namespace = if kind == "ClusterRole" { "" } else { namespace };
        self.current().roles.get(&(namespace.to_owned(), name.to_owned())).map(|rules| rules.to_vec())
    }
}

impl Grant {
    fn counts_for(&self, asked: &Asked<'_>) -> bool {
        match asked {
            _ if self.namespace.is_empty() => true,
            Asked::Resource(question) => self.namespace == question.namespace,
            Asked::Path { .. } => false,
        }
    }
}

impl Index {
    fn grants<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Arc<Grant>> {
        let by_group = user.groups.iter().filter_map(|group| self.groups.get(group)).flatten();
        self.users.get(&user.name).into_iter().flatten().chain(by_group)
    }

    fn add(&mut self, binding: &Value) {
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or("").to_owned();
        let home = namespace(binding);
        let role = &binding["roleRef"];
        let (role_kind, role_name) = (text(role, "kind"), text(role, "name"));
        let role_home = if role_kind == "ClusterRole" { String::new() } else { home.clone() };
        let rules = match self.roles.get(&(role_home, role_name.clone())) {
            Some(rules) => Ok(rules.clone()),
            None => Err(format!("{}.rbac.authorization.k8s.io {role_name:?} not found", role_kind.to_lowercase())),
        };
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let (kind, subject_name) = (text(subject, "kind"), text(subject, "name"));
            let (own, shown) = match home.as_str() {
                "" => (format!("ClusterRoleBinding {:?}", name(binding)), subject_name.clone()),
                _ => (format!("RoleBinding \"{}/{}\"", name(binding), home), subject_name.clone()),
            };
            let reason = format!("{own} of {role_kind} {role_name:?} to {kind} {shown:?}");
            let grant = Arc::new(Grant { namespace: home.clone(), rules: rules.clone(), reason });
            match kind.as_str() {
                "User" => self.users.entry(subject_name).or_default().push(grant),
                "Group" => self.groups.entry(subject_name).or_default().push(grant),
                "ServiceAccount" => {
                    let place = subject["namespace"].as_str().filter(|place| !place.is_empty()).unwrap_or(&home);
                    let user = format!("system:serviceaccount:{place}:{subject_name}");
                    self.users.entry(user).or_default().push(grant);
                }
                _ => {}
            }
        }
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or("").to_owned()
}

fn namespace(object: &Value) -> String {
    object["metadata"]["namespace"].as_str().unwrap_or("").to_owned()
}

pub fn rules_of(role: &Value) -> Vec<Rule> {
    role.get("rules").and_then(|rules| Vec::<Rule>::deserialize(rules).ok()).unwrap_or_default()
}

/// The union of what an aggregated role selects, in order of names; None for other roles.
pub fn aggregated(role: &Value, all: &[Value]) -> Option<Vec<Rule>> {
    selectors_of(role)?;
    let mut rules = Vec::new();
    gather(role, all, &mut BTreeSet::new(), &mut rules);
    Some(rules)
}

fn selectors_of(role: &Value) -> Option<Vec<LabelSelector>> {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array()?;
    Some(selectors.iter().filter_map(|selector| LabelSelector::from_json(selector).ok()).collect())
}

/// One that is aggregated itself counts with what it selects. Roles may select each other: each is `met` once.
fn gather<'a>(role: &'a Value, all: &'a [Value], met: &mut BTreeSet<&'a str>, rules: &mut Vec<Rule>) {
    if !met.insert(role["metadata"]["name"].as_str().unwrap_or("")) {
        return;
    }
    let Some(selectors) = selectors_of(role) else {
        for rule in rules_of(role) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        return;
    };
    let is_selected = |candidate: &&Value| {
        let labels = &candidate["metadata"]["labels"];
        selectors.iter().any(|selector| selector.matches_with(|key| labels.get(key).and_then(Value::as_str)))
    };
    let mut found: Vec<&Value> = all.iter().filter(is_selected).collect();
    found.sort_by_key(|candidate| candidate["metadata"]["name"].as_str());
    for candidate in found {
        gather(candidate, all, met, rules);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use crate::admission_chain::Question;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |text: &str| text.split(' ').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        Rule {
            verbs: list(verbs),
            api_groups: if groups.is_empty() { vec![String::new()] } else { list(groups) },
            resources: list(resources),
            resource_names: list(names),
            ..Rule::default()
        }
    }

    #[test]
    fn rules() {
        #[track_caller]
        fn check(rule: &Rule, verb: &str, path: &str, expected: bool) {
            let (resource, name) = path.split_once(' ').unwrap_or((path, ""));
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let asked = Asked::Resource(Question { verb, resource, subresource, name, ..Question::default() });
            assert_eq!(rule.allows(&asked), expected, "{verb} {path}");
        }
        let reader = rule("get list", "", "pods pods/log", "");
        check(&reader, "get", "pods", true);
        check(&reader, "get", "pods/log", true);
        check(&reader, "get", "pods/exec", false);
        check(&reader, "delete", "pods", false);
        let scaler = rule("update", "*", "*/scale", "");
        check(&scaler, "update", "deployments/scale", true);
        check(&scaler, "update", "deployments", false);
        let one = rule("get", "", "configmaps", "a");
        check(&one, "get", "configmaps a", true);
        check(&one, "get", "configmaps b", false);
        check(&one, "list", "configmaps", false);
        check(&Rule::everything(), "list", "pods/anything", true);
        let path = Asked::Path { verb: "get", path: "/healthz/ping" };
        let urls = Rule { verbs: vec!["get".into()], non_resource_urls: vec!["/healthz/*".into()], ..Rule::default() };
        assert!(urls.allows(&path) && !Rule::everything().allows(&path));
    }

    /// Also where roles select each other, or themselves.
    #[test]
    fn aggregated_roles_have_what_they_select() {
        let role = |name: &str, labels: &[&str], selects: Option<&str>, verb: &str| {
            let labels: serde_json::Map<String, Value> = labels.iter().map(|label| ((*label).to_owned(), "true".into())).collect();
            let mut role = json!({"metadata": {"name": name, "labels": labels},
                "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]});
            if let Some(label) = selects {
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
            }
            role
        };
        let all = [
            role("one", &["to-two", "to-one"], Some("to-one"), "stale"),
            role("two", &["to-one"], Some("to-two"), "stale"),
            role("a", &["to-one"], None, "get"),
            role("b", &["to-two"], None, "list"),
            role("c", &[], None, "watch"),
        ];
        let verbs = |at: usize| {
            let rules = aggregated(&all[at], &all)?;
            Some(rules.into_iter().map(|rule| rule.verbs.concat()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!((verbs(0).as_deref(), verbs(1).as_deref(), verbs(2)), (Some("get list"), Some("list get"), None));
    }
}
