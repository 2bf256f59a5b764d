//! Who asks for a certificate is noted down; who approves or signs one must be allowed to for its signer; and nobody
//! gets `system:masters`.

use async_trait::async_trait;
use base64::Engine;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation, Question};
use crate::error::RequestError;
use crate::kinds::Kind;

const GROUP: &str = "certificates.k8s.io";

/// Not a plugin of the original, which does this in the handler: only here is it known who asks.
pub struct CertificateRequester;
pub struct CertificateApproval;
pub struct CertificateSigning;
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Admission for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Create && is_request(kind) && subresource.is_empty()
    }

    async fn mutate(&self, attributes: &Attributes<'_>, request: &mut Value) -> Result<(), RequestError> {
        let user = attributes.user;
        let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        for (field, value, empty) in [
            ("username", json!(user.name), user.name.is_empty()),
            ("uid", json!(user.uid), user.uid.is_empty()),
            ("groups", json!(user.groups), user.groups.is_empty()),
            ("extra", json!(user.extra), user.extra.is_empty()),
        ] {
            if empty {
                spec.remove(field)
            } else {
                spec.insert(field.into(), value)
            };
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Update && is_request(kind) && subresource == "approval"
    }

    async fn validate(&self, attributes: &Attributes<'_>, request: &Value) -> Result<(), RequestError> {
        let signer = request["spec"]["signerName"].as_str().unwrap_or("");
        if may(attributes, "approve", signer) {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName \"{signer}\"");
        Err(RequestError::forbidden(attributes.kind, attributes.name, why))
    }
}

#[async_trait]
impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Update && is_request(kind) && subresource == "status"
    }

    async fn validate(&self, attributes: &Attributes<'_>, request: &Value) -> Result<(), RequestError> {
        let old = attributes.old.unwrap_or(&Value::Null);
        let unchanged =
            request["status"]["certificate"] == old["status"]["certificate"] && failures(request) == failures(old);
        let signer = old["spec"]["signerName"].as_str().unwrap_or("");
        if unchanged || may(attributes, "sign", signer) {
            return Ok(());
        }
        let why = format!("user not permitted to sign requests with signerName \"{signer}\"");
        Err(RequestError::forbidden(attributes.kind, attributes.name, why))
    }
}

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Create && is_request(kind) && subresource.is_empty()
    }

    async fn validate(&self, attributes: &Attributes<'_>, request: &Value) -> Result<(), RequestError> {
        if request["spec"]["signerName"] != "kubernetes.io/kube-apiserver-client" {
            return Ok(());
        }
        if asks_for_masters(request) {
            let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
            return Err(RequestError::forbidden(attributes.kind, attributes.name, why));
        }
        Ok(())
    }
}

fn is_request(kind: &Kind) -> bool {
    kind.group == GROUP && kind.plural == "certificatesigningrequests"
}

fn failures(request: &Value) -> Vec<&Value> {
    let conditions = request["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|condition| condition["type"] == "Failed").collect()
}

/// Allowed for this signer, or for all of its domain.
fn may(attributes: &Attributes<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or("");
    let wildcard = format!("{domain}/*");
    [signer, &wildcard].into_iter().any(|name| {
        attributes.cluster.allowed(
            attributes.user,
            &Question { verb, group: GROUP, version: "*", resource: "signers", name, ..Question::default() },
        )
    })
}

fn asks_for_masters(request: &Value) -> bool {
    let Some(text) = request["spec"]["request"].as_str() else { return false };
    let Ok(pem_text) = base64::engine::general_purpose::STANDARD.decode(text) else { return false };
    let Ok(block) = pem::parse(&pem_text) else { return false };
    use x509_parser::prelude::FromDer;
    let Ok((_, parsed)) = x509_parser::certification_request::X509CertificationRequest::from_der(block.contents())
    else {
        return false;
    };
    parsed
        .certification_request_info
        .subject
        .iter_organization()
        .any(|organization| organization.as_str().is_ok_and(|name| name == crate::user::SYSTEM_MASTERS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::World;

    #[tokio::test]
    async fn requests_and_decisions() {
        let mut world = World::new(&[]);
        let request = json!({"metadata": {"name": "c"}, "spec": {"signerName": "a.b/c", "username": "root", "extra": {"x": ["y"]}}});
        let made = world.mutate(&CertificateRequester, GROUP, "certificatesigningrequests", "", request).await;
        let made = made.expect("a request");
        assert_eq!(
            made["spec"],
            json!({"signerName": "a.b/c", "username": "alice", "groups": ["system:authenticated"]})
        );
        let target = (GROUP, "certificatesigningrequests", "approval");
        let refused = world.validate_for(&CertificateApproval, target, Operation::Update, "", &made, None).await;
        assert_eq!(
            refused,
            "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: user not permitted to approve requests with signerName \"a.b/c\""
        );
        world.allowed = vec!["approve signers"];
        assert_eq!(world.validate_for(&CertificateApproval, target, Operation::Update, "", &made, None).await, "");
    }
}
