//! Tells kubelets by an annotation how long they may cache Secrets and ConfigMaps, by the cluster's size.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey, Patch};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::runner::{Controller, Next, Queue};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

pub(crate) struct NodeTtl {
    context: Arc<Context>,
    nodes: Arc<Informer<Node>>,
}

impl NodeTtl {
    pub fn new(context: &Arc<Context>) -> Self {
        NodeTtl { context: context.clone(), nodes: context.informer() }
    }
}

#[async_trait]
impl Controller for NodeTtl {
    fn name(&self) -> &'static str {
        "ttl-controller"
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.nodes.subscribe(move |change: &Change<Node>| {
            let stands = change.old().is_some_and(|old| old.metadata.annotations == change.object().metadata.annotations);
            if !stands {
                queue.add(ObjectKey::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Settled) };
        let held = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION));
        let held_seconds = held.and_then(|text| text.parse().ok());
        let wanted = ttl_seconds(self.nodes.len(), held_seconds);
        if held_seconds != Some(wanted) {
            let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted.to_string()}}});
            self.context.patch::<Node>(key, &Patch::Merge(patch)).await?;
        }
        Ok(Next::Settled)
    }
}

/// Pure. Steps up above a boundary and down only well below it, lest nodes at a boundary flap.
fn ttl_seconds(nodes: usize, held: Option<u32>) -> u32 {
    // Nodes down to, nodes up to, seconds.
    const STEPS: [(usize, usize, u32); 5] = [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];
    let fits = |(low, high, _): &&(usize, usize, u32)| *low <= nodes && nodes <= *high;
    let stays = STEPS.iter().filter(fits).find(|(_, _, seconds)| held == Some(*seconds));
    stays.or_else(|| STEPS.iter().find(fits)).map_or(300, |(_, _, seconds)| *seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(nodes: usize, held: Option<u32>, expected: u32) {
        assert_eq!(ttl_seconds(nodes, held), expected);
    }

    #[test]
    fn bigger_clusters_cache_longer() {
        //    nodes  held       seconds
        check(1, None, 0);
        check(100, Some(0), 0);
        check(101, Some(0), 15);
        check(95, Some(15), 15); // Down again only well below.
        check(89, Some(15), 0);
        check(500, Some(15), 15);
        check(501, Some(15), 30);
        check(450, Some(30), 30);
        check(449, Some(30), 15);
        check(1001, Some(30), 60);
        check(899, Some(60), 30);
        check(2001, Some(60), 300);
        check(1799, Some(300), 60);
        check(5000, None, 300);
        check(5000, Some(7), 300); // Somebody else's number.
    }
}
