//! Fills in the rules of ClusterRoles that aggregate others by label.

use std::sync::Arc;

use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Change, Informer, ObjectKey, Patch};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::owners;
use crate::runner::{Controller, Next, Queue};

pub(crate) struct ClusterRoleAggregation {
    context: Arc<Context>,
    roles: Arc<Informer<ClusterRole>>,
}

impl ClusterRoleAggregation {
    pub fn new(context: &Arc<Context>) -> Self {
        ClusterRoleAggregation { context: context.clone(), roles: context.informer() }
    }
}

#[async_trait]
impl Controller for ClusterRoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn watch(&self, queue: &Queue) {
        let (roles, queue) = (self.roles.clone(), queue.clone());
        self.roles.subscribe(move |_: &Change<ClusterRole>| {
            // Any role may be part of any other; there are few that aggregate.
            for role in roles.list().iter().filter(|role| role.aggregation_rule.is_some()) {
                queue.add(ObjectKey::of(&role.metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(role) = self.roles.get(key) else { return Ok(Next::Settled) };
        let Some(rules) = decide(&role, &self.roles.list()) else { return Ok(Next::Settled) };
        let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
        self.context.patch::<ClusterRole>(key, &Patch::Merge(patch)).await?;
        Ok(Next::Settled)
    }
}

/// Pure. The rules that the role should have, if it has others.
fn decide(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let Ok(selector) = LabelSelector::from_typed(selector) else { continue };
        let parts = all.iter().filter(|part| part.metadata.name != role.metadata.name && owners::matches(&selector, &part.metadata));
        for rule in parts.flat_map(|part| part.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::rbac::v1::AggregationRule;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

    #[test]
    fn rules_of_labelled_roles_are_joined() {
        let role = |name: &str, label: Option<&str>, verbs: &[&str]| {
            let mut role = ClusterRole::default();
            role.metadata.name = Some(name.into());
            role.metadata.labels = label.map(|label| [(label.to_owned(), "true".to_owned())].into());
            let rule = |verb: &&str| PolicyRule { verbs: vec![(*verb).to_owned()], ..PolicyRule::default() };
            role.rules = Some(verbs.iter().map(rule).collect());
            Arc::new(role)
        };
        let mut view = (*role("view", None, &[])).clone();
        let labels = [("to-view".to_owned(), "true".to_owned())].into();
        view.aggregation_rule = Some(AggregationRule {
            cluster_role_selectors: Some(vec![meta::LabelSelector { match_labels: Some(labels), match_expressions: None }]),
        });
        let all = [role("a", Some("to-view"), &["get"]), role("b", Some("to-view"), &["get", "list"]), role("c", None, &["delete"])];
        let rules = decide(&view, &all).unwrap();
        assert_eq!(rules.iter().map(|rule| rule.verbs[0].as_str()).collect::<Vec<_>>(), ["get", "list"]);
        view.rules = Some(rules);
        assert_eq!(decide(&view, &all), None);
    }
}
