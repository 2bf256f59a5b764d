//! CertificateSigningRequests: those of kubelets are approved, those for the cluster's own signers are signed, and
//! old ones are removed.
//!
//! Invariant: nothing is signed that was not approved and that its signer's rules, as documented for
//! `kubernetes.io/*` signers, do not allow.
//!
//! Deliberately absent: the signer `kubernetes.io/legacy-unknown`, which the v1 API refuses. Other than in the original,
//! kubelets' serving certificates need no person if they are for just what the Node says of itself.

pub(crate) mod approving;
mod authority;
pub(crate) mod cleaning;
mod der;
mod request;
pub(crate) mod signing;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

fn condition<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status != "False")
}

/// PEM; `None` as long as there is none.
fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    (!certificate.0.is_empty()).then_some(certificate.0.as_slice())
}
