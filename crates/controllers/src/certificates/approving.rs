//! Approves the client certificates of kubelets, if RBAC lets whoever asks have them; and their serving certificates, if
//! a node asks for itself and for names and addresses that its Node has.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;

use super::{certificate, condition, request};
use crate::context::Context;
use crate::failure::{Failure, ignore_not_found};
use crate::runner::{Controller, Next, Queue};

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

pub(crate) struct Approving {
    context: Arc<Context>,
    requests: Arc<Informer<CertificateSigningRequest>>,
    nodes: Arc<Informer<Node>>,
}

/// Pure. The subresources whose creation must be allowed, one of them, and what is said then.
fn candidates(object: &CertificateSigningRequest) -> Result<Vec<(&'static str, &'static str)>, String> {
    if is_decided(object) {
        return Ok(Vec::new());
    }
    if object.spec.signer_name != request::KUBELET_CLIENT {
        return Ok(Vec::new());
    }
    let wanted = request::parse(object)?;
    let usages = object.spec.usages.clone().unwrap_or_default();
    if request::validate(request::KUBELET_CLIENT, &wanted, &usages).is_err() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    if object.spec.username.as_deref() == Some(&wanted.common_name) {
        found.push(("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."));
    }
    found.push(("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."));
    Ok(found)
}

fn is_decided(object: &CertificateSigningRequest) -> bool {
    certificate(object).is_some() || condition(object, "Approved").is_some() || condition(object, "Denied").is_some()
}

/// Pure. The name of the node that asks for its own serving certificate, if the request may be granted at all.
fn serving_node(object: &CertificateSigningRequest) -> Option<&str> {
    if is_decided(object) || object.spec.signer_name != request::KUBELET_SERVING {
        return None;
    }
    let node = object.spec.username.as_deref()?.strip_prefix(NODE_PREFIX)?;
    object.spec.groups.iter().flatten().any(|group| group == NODES).then_some(node)
}

/// Pure. Whether the request is for the node itself and for nothing but names and addresses that its Node has.
fn fits(object: &CertificateSigningRequest, node: &Node) -> Result<bool, String> {
    let wanted = request::parse(object)?;
    let usages = object.spec.usages.clone().unwrap_or_default();
    if request::validate(request::KUBELET_SERVING, &wanted, &usages).is_err() {
        return Ok(false);
    }
    let is_own = object.spec.username.as_deref() == Some(&wanted.common_name);
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let known: Vec<&str> = addresses.into_iter().flatten().map(|address| address.address.as_str()).collect();
    Ok(is_own && wanted.names.iter().all(|name| known.contains(&name.as_str())))
}

impl Approving {
    pub fn new(context: &Arc<Context>) -> Self {
        Approving { context: context.clone(), requests: context.informer(), nodes: context.informer() }
    }

    async fn approve(&self, object: &CertificateSigningRequest, message: &str) -> Result<(), Failure> {
        let mut approved = object.clone();
        let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.push(CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some(message.into()),
            ..CertificateSigningRequestCondition::default()
        });
        ignore_not_found(self.context.rest.put(&approved, "approval").await)?;
        Ok(())
    }

    async fn is_allowed(&self, object: &CertificateSigningRequest, subresource: &str) -> Result<bool, Failure> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: object.spec.username.clone(),
                uid: object.spec.uid.clone(),
                groups: object.spec.groups.clone(),
                extra: object.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    resource: Some("certificatesigningrequests".into()),
                    subresource: Some(subresource.into()),
                    verb: Some("create".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        Ok(self.context.rest.create(&review).await?.status.is_some_and(|status| status.allowed))
    }
}

#[async_trait]
impl Controller for Approving {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.requests.subscribe(move |change: &Change<CertificateSigningRequest>| own.add(ObjectKey::of(&change.object().metadata)));
        let (queue, requests) = (queue.clone(), self.requests.clone());
        self.nodes.subscribe(move |change: &Change<Node>| {
            let name = change.object().metadata.name.as_deref();
            let waiting = requests.list().into_iter().filter(|object| serving_node(object).is_some_and(|node| Some(node) == name));
            waiting.for_each(|object| queue.add(ObjectKey::of(&object.metadata)));
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(object) = self.requests.get(key) else { return Ok(Next::Settled) };
        if let Some(node) = serving_node(&object) {
            // Without a Node, or with other addresses, its next change is waited for.
            let node = self.nodes.get(&ObjectKey::cluster(node));
            if let Some(node) = node && fits(&object, &node).map_err(Failure::Other)? {
                self.approve(&object, "Auto approving kubelet serving certificate: its names are those of the Node.").await?;
            }
            return Ok(Next::Settled);
        }
        let candidates = candidates(&object).map_err(Failure::Other)?;
        for (subresource, message) in &candidates {
            if self.is_allowed(&object, subresource).await? {
                self.approve(&object, message).await?;
                return Ok(Next::Settled);
            }
        }
        if !candidates.is_empty() {
            let tried: Vec<&str> = candidates.iter().map(|(subresource, _)| *subresource).collect();
            tracing::info!("recognized csr {:?} as {tried:?} but subject access review was not approved", key.name);
        }
        Ok(Next::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(subject: &str, signer: &str, user: &str, decided: &str, expected: &[&str]) {
        let mut object = request::tests::made(subject, &[]);
        object.spec.signer_name = signer.into();
        object.spec.username = Some(user.into());
        object.spec.usages = Some(vec!["digital signature".into(), "client auth".into()]);
        if !decided.is_empty() {
            let condition = CertificateSigningRequestCondition { type_: decided.into(), status: "True".into(), ..Default::default() };
            object.status.get_or_insert_default().conditions = Some(vec![condition]);
        }
        let found: Vec<&str> = candidates(&object).unwrap().into_iter().map(|(subresource, _)| subresource).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn serving_certificates_are_for_the_nodes_own_names() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "a"}]},
        }))
        .unwrap();
        let check = |user: &str, names: &[&str], expected: bool| {
            let mut object = request::tests::made("system:nodes/system:node:a", names);
            object.spec.signer_name = request::KUBELET_SERVING.into();
            object.spec.username = Some(user.into());
            object.spec.groups = Some(vec![NODES.into(), "system:authenticated".into()]);
            object.spec.usages = Some(vec!["digital signature".into(), "server auth".into()]);
            let asks = serving_node(&object) == Some("a");
            assert_eq!(asks && fits(&object, &node).unwrap(), expected, "{user} {names:?}");
        };
        check("system:node:a", &["a", "192.0.2.1"], true);
        check("system:node:a", &["192.0.2.1"], true);
        check("system:node:a", &["a", "192.0.2.2"], false);
        check("system:node:a", &["kubernetes", "192.0.2.1"], false);
        check("system:node:b", &["a"], false);
        check("jane", &["a"], false);
    }

    #[test]
    fn kubelets_alone() {
        let node = "system:nodes/system:node:a";
        check(node, request::KUBELET_CLIENT, "system:bootstrap:x", "", &["nodeclient"]);
        check(node, request::KUBELET_CLIENT, "system:node:a", "", &["selfnodeclient", "nodeclient"]);
        check(node, request::KUBELET_CLIENT, "system:node:a", "Denied", &[]);
        check(node, request::CLIENT, "system:node:a", "", &[]);
        check("devs/jane", request::KUBELET_CLIENT, "jane", "", &[]);
    }
}
