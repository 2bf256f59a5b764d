//! Removes requests that are done with: an hour after they were answered, a day after nobody did.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, DeleteOptions, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use x509_parser::prelude::FromDer;

use super::{certificate, condition};
use crate::context::{Context, seconds_between};
use crate::failure::Failure;
use crate::runner::{Controller, Next, Queue};

const ANSWERED_SECONDS: i64 = 3600;
const PENDING_SECONDS: i64 = 24 * 3600;

pub(crate) struct Cleaning {
    context: Arc<Context>,
    requests: Arc<Informer<CertificateSigningRequest>>,
}

impl Cleaning {
    pub fn new(context: &Arc<Context>) -> Self {
        Cleaning { context: context.clone(), requests: context.informer() }
    }
}

/// Pure. Seconds until the request goes, at most 0 when it is due; `None` while nothing makes it go.
fn seconds_left(request: &CertificateSigningRequest, now: Timestamp) -> Option<i64> {
    let left = |since: Option<&Time>, seconds: i64| since.map(|since| seconds - seconds_between(since, now));
    let answered = |kind: &str| condition(request, kind).and_then(|condition| left(condition.last_update_time.as_ref(), ANSWERED_SECONDS));
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    let pending = conditions.is_none_or(Vec::is_empty);
    let issued = certificate(request).is_some();
    [
        pending.then(|| left(request.metadata.creation_timestamp.as_ref(), PENDING_SECONDS)).flatten(),
        issued.then(|| answered("Approved")).flatten(),
        issued.then(|| expiry(request)).flatten().map(|at| at - now.as_second()),
        answered("Denied"),
        answered("Failed"),
    ]
    .into_iter()
    .flatten()
    .min()
}

fn expiry(request: &CertificateSigningRequest) -> Option<i64> {
    let block = pem::parse(certificate(request)?).ok()?;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(block.contents()).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

#[async_trait]
impl Controller for Cleaning {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.requests.subscribe(move |change: &Change<CertificateSigningRequest>| {
            if !matches!(change, Change::Deleted(_)) {
                queue.add(ObjectKey::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(request) = self.requests.get(key) else { return Ok(Next::Settled) };
        match seconds_left(&request, self.context.now()) {
            None => Ok(Next::Settled),
            Some(left @ 1..) => Ok(Next::After(Duration::from_secs(left.unsigned_abs()))),
            Some(_) => {
                let options = DeleteOptions::uid(request.metadata.uid.clone().unwrap_or_default());
                self.context.delete::<CertificateSigningRequest>(key, &options).await?;
                Ok(Next::Settled)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;

    #[track_caller]
    fn check(kind: &str, age: i64, issued: bool, expected: Option<i64>) {
        let mut request = CertificateSigningRequest::default();
        request.metadata.creation_timestamp = Some(fixtures::ago(age));
        let status = request.status.get_or_insert_default();
        if !kind.is_empty() {
            let last_update_time = Some(fixtures::ago(age));
            let condition = CertificateSigningRequestCondition { type_: kind.into(), status: "True".into(), last_update_time, ..Default::default() };
            status.conditions = Some(vec![condition]);
        }
        status.certificate = issued.then(|| ByteString(b"PEM".to_vec()));
        assert_eq!(seconds_left(&request, fixtures::now()), expected);
    }

    #[test]
    fn how_long_requests_stay() {
        check("", 60, false, Some(86_340));
        check("", 90_000, false, Some(-3_600));
        check("Approved", 60, true, Some(3_540));
        check("Approved", 60, false, None); // Its signer may yet come.
        check("Denied", 3_600, false, Some(0));
        check("Failed", 60, false, Some(3_540));
    }
}
