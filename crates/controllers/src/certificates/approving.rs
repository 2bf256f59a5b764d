//! Approves the client certificates of kubelets, if RBAC lets whoever asks have them.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

use super::{certificate, condition, request};
use crate::context::Context;
use crate::failure::{Failure, ignore_not_found};
use crate::runner::{Controller, Next, Queue};

pub(crate) struct Approving {
    context: Arc<Context>,
    requests: Arc<Informer<CertificateSigningRequest>>,
}

/// Pure. The subresources whose creation must be allowed, one of them, and what is said then.
fn candidates(object: &CertificateSigningRequest) -> Result<Vec<(&'static str, &'static str)>, String> {
    if certificate(object).is_some() || condition(object, "Approved").is_some() || condition(object, "Denied").is_some() {
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

impl Approving {
    pub fn new(context: &Arc<Context>) -> Self {
        Approving { context: context.clone(), requests: context.informer() }
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
        let queue = queue.clone();
        self.requests.subscribe(move |change: &Change<CertificateSigningRequest>| queue.add(ObjectKey::of(&change.object().metadata)));
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(object) = self.requests.get(key) else { return Ok(Next::Settled) };
        let candidates = candidates(&object).map_err(Failure::Other)?;
        for (subresource, message) in &candidates {
            if self.is_allowed(&object, subresource).await? {
                let mut approved = (*object).clone();
                let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
                conditions.push(CertificateSigningRequestCondition {
                    type_: "Approved".into(),
                    status: "True".into(),
                    reason: Some("AutoApproved".into()),
                    message: Some((*message).into()),
                    ..CertificateSigningRequestCondition::default()
                });
                ignore_not_found(self.context.rest.put(&approved, "approval").await)?;
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
    fn kubelets_alone() {
        let node = "system:nodes/system:node:a";
        check(node, request::KUBELET_CLIENT, "system:bootstrap:x", "", &["nodeclient"]);
        check(node, request::KUBELET_CLIENT, "system:node:a", "", &["selfnodeclient", "nodeclient"]);
        check(node, request::KUBELET_CLIENT, "system:node:a", "Denied", &[]);
        check(node, request::CLIENT, "system:node:a", "", &[]);
        check("devs/jane", request::KUBELET_CLIENT, "jane", "", &[]);
    }
}
