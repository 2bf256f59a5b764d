//! The order in which resources come out.

use std::cmp::Ordering;

use super::document::SortOptions;
use super::resource::{Id, Resource};
use crate::error::Result;
use crate::fail;

/// What others need comes first. The original's list, which is never to change.
const FIRST: &[&str] = &[
    "Namespace", "ResourceQuota", "StorageClass", "CustomResourceDefinition", "ServiceAccount", "PodSecurityPolicy", "Role", "ClusterRole",
    "RoleBinding", "ClusterRoleBinding", "ConfigMap", "Secret", "Endpoints", "Service", "LimitRange", "PriorityClass", "PersistentVolume",
    "PersistentVolumeClaim", "Deployment", "StatefulSet", "CronJob", "PodDisruptionBudget",
];
const LAST: &[&str] = &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

pub enum Order {
    AsRead,
    ByKind { first: Vec<String>, last: Vec<String> },
}

impl Order {
    pub fn legacy() -> Result<Self> {
        let owned = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect();
        Ok(Order::ByKind { first: owned(FIRST), last: owned(LAST) })
    }

    pub fn of(options: &SortOptions) -> Result<Self> {
        match (options.order.as_str(), &options.legacy_sort_options) {
            ("fifo", None) => Ok(Order::AsRead),
            ("fifo", Some(_)) => fail!("the field 'sortOptions.legacySortOptions' is set but the selected sort order is 'fifo', not 'legacy'"),
            ("legacy", None) => Order::legacy(),
            ("legacy", Some(kinds)) => Ok(Order::ByKind { first: kinds.order_first.clone(), last: kinds.order_last.clone() }),
            _ => fail!("the field 'sortOptions.order' must be one of [fifo, legacy]"),
        }
    }

    pub fn sort(&self, resources: &mut [Resource]) {
        let Order::ByKind { first, last } = self else { return };
        let rank = |kind: &str| -> isize {
            let at = |kinds: &[String]| kinds.iter().position(|known| known == kind).and_then(|at| isize::try_from(at).ok());
            let length = isize::try_from(first.len()).unwrap_or(0);
            at(last).map(|at| at + 1).or_else(|| at(first).map(|at| at - length)).unwrap_or(0)
        };
        resources.sort_by(|left, right| {
            let (left, right) = (left.current(), right.current());
            rank(&left.kind).cmp(&rank(&right.kind)).then_with(|| by_name(&left, &right))
        });
    }
}

fn by_name(left: &Id, right: &Id) -> Ordering {
    fn or<'a>(text: &'a str, none: &'a str) -> &'a str {
        if text.is_empty() { none } else { text }
    }
    // Joined by "_" before they are compared, and so the separator counts, too.
    let kind = |id: &Id| format!("{}_{}_{}", or(&id.group, "~G"), or(&id.version, "~V"), or(&id.kind, "~K"));
    let place = |id: &Id| format!("{}|{}", or(&id.namespace, "~X"), or(&id.name, "~N"));
    kind(left).cmp(&kind(right)).then_with(|| place(left).cmp(&place(right)))
}
