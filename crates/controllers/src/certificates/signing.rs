//! Signs approved requests for the cluster's own signers.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::authority::{Authority, Terms};
use super::{certificate, condition, request};
use crate::context::Context;
use crate::failure::{Failure, ignore_not_found};
use crate::runner::{Controller, Next, Queue};

pub(crate) struct Signing {
    context: Arc<Context>,
    requests: Arc<Informer<CertificateSigningRequest>>,
    /// `None` without a key: somebody else signs then.
    authority: Option<Authority>,
}

impl Signing {
    pub fn new(context: &Arc<Context>) -> Self {
        let settings = &context.settings;
        let opened = settings.signing_key_pem.as_ref().map(|key_pem| Authority::open(&settings.ca_pem, key_pem));
        let authority = opened.and_then(|opened| {
            opened.inspect_err(|why| tracing::error!(why, "certificate requests are not signed: the authority cannot be used")).ok()
        });
        Signing { context: context.clone(), requests: context.informer(), authority }
    }
}

fn is_due(object: &CertificateSigningRequest) -> bool {
    let ours = [request::CLIENT, request::KUBELET_CLIENT, request::KUBELET_SERVING].contains(&object.spec.signer_name.as_str());
    let approved = condition(object, "Approved").is_some() && condition(object, "Denied").is_none();
    ours && approved && condition(object, "Failed").is_none() && certificate(object).is_none()
}

#[async_trait]
impl Controller for Signing {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.requests.subscribe(move |change: &Change<CertificateSigningRequest>| {
            if is_due(change.object()) {
                queue.add(ObjectKey::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let (Some(object), Some(authority)) = (self.requests.get(key), &self.authority) else { return Ok(Next::Settled) };
        if !is_due(&object) {
            return Ok(Next::Settled);
        }
        let wanted = request::parse(&object).map_err(Failure::Other)?;
        let now = self.context.now();
        let mut answered = (*object).clone();
        let status = answered.status.get_or_insert_default();
        let usages = object.spec.usages.clone().unwrap_or_default();
        match request::validate(&object.spec.signer_name, &wanted, &usages) {
            Ok(()) => {
                let terms = Terms {
                    usages: &usages,
                    expiration_seconds: object.spec.expiration_seconds,
                    seconds_max: i64::try_from(self.context.settings.signing_duration.as_secs()).unwrap_or(i64::MAX),
                    now,
                    serial: rand::random(),
                };
                let signed = authority.sign(&wanted, &terms);
                let signed = signed.map_err(|why| Failure::Other(format!("error auto signing csr: {why}")))?;
                status.certificate = Some(ByteString(signed.into_bytes()));
            }
            Err(why) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".into(),
                status: "True".into(),
                reason: Some("SignerValidationFailure".into()),
                message: Some(why),
                last_update_time: Some(Time(now)),
                ..CertificateSigningRequestCondition::default()
            }),
        }
        ignore_not_found(self.context.update_status(&answered).await)?;
        Ok(Next::Settled)
    }
}
