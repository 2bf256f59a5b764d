//! Asks a signer for a certificate.
//!
//! Invariant: who asks is the server's to say: `username`, `uid`, `groups` and `extra` are filled in by the handler.

use base64::Engine;
use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::{STATUS, same};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    definition: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    storage: "certificatesigningrequests",
    subresources: &[same("approval"), STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: |new, old| {
        lifecycle::keep_status(new, old);
        lifecycle::keep_field(new, old, "spec");
    },
    validate,
    validate_status_update,
    validate_part_update: |_, new, old, problems| {
        let root = Cursor::root(new);
        validate_conditions(&root.at("status.conditions"), problems);
        keep_decisions(&root.at("status.conditions"), old, problems);
    },
    selectable_fields: &["spec.signerName"],
    columns: &[
        NAME,
        AGE,
        text("SignerName", "io.k8s.api.certificates.v1.CertificateSigningRequestSpec#signerName"),
        text("Requestor", "io.k8s.api.certificates.v1.CertificateSigningRequestSpec#request"),
        text("RequestedDuration", "io.k8s.api.certificates.v1.CertificateSigningRequestSpec#expirationSeconds"),
        text("Condition", "io.k8s.api.certificates.v1.CertificateSigningRequestStatus#conditions"),
    ],
    cells,
    ..CLUSTER
};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const SECONDS_MIN: i64 = 600;

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let request = spec.at("request");
    if let Some(why) = request_problem(request.str()) {
        problems.invalid(&request, why);
    }
    let usages = spec.at("usages");
    if usages.is_empty() {
        problems.required(&usages, "");
    }
    for (index, usage) in usages.items().enumerate() {
        checks::one_of(&usage, USAGES, problems);
        if usages.array()[..index].contains(usage.value) {
            problems.duplicate(&usage);
        }
    }
    validate_signer(&spec.at("signerName"), problems);
    let seconds = spec.at("expirationSeconds");
    if seconds.exists() && seconds.int() < SECONDS_MIN {
        problems.invalid(&seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    validate_conditions(&root.at("status.conditions"), problems);
}

fn request_problem(text: &str) -> Option<&'static str> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    match pem::parse(&bytes) {
        Ok(block) if block.tag() == "CERTIFICATE REQUEST" => {
            use x509_parser::prelude::FromDer;
            let parsed = x509_parser::certification_request::X509CertificationRequest::from_der(block.contents());
            if parsed.is_err() { Some("asn1: structure error") } else { None }
        }
        _ => Some("PEM block type must be CERTIFICATE REQUEST"),
    }
}

/// `domain.example/path`
fn validate_signer(signer: &Cursor, problems: &mut Problems) {
    if signer.is_empty() {
        return problems.required(signer, "");
    }
    let Some((domain, path)) = signer.str().split_once('/') else {
        return problems
            .invalid(signer, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    if path.contains('/') || path.is_empty() {
        return problems
            .invalid(signer, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    }
    for sentence in api::names::dns1123_subdomain(domain) {
        problems.invalid(signer, &format!("validating label \"{domain}\": {sentence}"));
    }
    if domain.split('.').count() < 2 {
        problems.invalid(signer, "should be a domain with at least two segments separated by dots");
    }
    for sentence in api::names::dns1123_subdomain(path) {
        problems.invalid(signer, &format!("validating label \"{path}\": {sentence}"));
    }
}

fn validate_conditions(conditions: &Cursor, problems: &mut Problems) {
    let mut kinds: Vec<&str> = Vec::new();
    for condition in conditions.items() {
        let (kind, status) = (condition.at("type"), condition.at("status"));
        if kind.is_empty() {
            problems.required(&kind, "");
        }
        match (kind.str(), status.str()) {
            (_, "") => problems.required(&status, ""),
            ("Approved" | "Denied" | "Failed", "True") => {}
            ("Approved" | "Denied" | "Failed", _) => problems.not_supported(&status, &["True"]),
            _ => checks::one_of(&status, &["True", "False", "Unknown"], problems),
        }
        if kinds.contains(&kind.str()) {
            problems.duplicate(&condition);
        }
        let opposite = match kind.str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !opposite.is_empty() && kinds.contains(&opposite) {
            problems.invalid(&kind, "Approved and Denied conditions are mutually exclusive");
        }
        kinds.push(kind.str());
    }
}

fn validate_status_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let certificate = root.at("status.certificate");
    let before = walk(old, "status.certificate");
    if before.as_str().is_some_and(|text| !text.is_empty()) && certificate.value != before {
        problems.forbidden(&certificate, "updates may not replace an existing certificate");
    }
    validate_conditions(&root.at("status.conditions"), problems);
    keep_decisions(&root.at("status.conditions"), old, problems);
}

/// What has been decided stays decided.
fn keep_decisions(conditions: &Cursor, old: &Value, problems: &mut Problems) {
    let has = |kind: &str| conditions.array().iter().any(|condition| walk(condition, "type").as_str() == Some(kind));
    for kind in ["Approved", "Denied", "Failed"] {
        if printing::condition(old, kind).is_some() && !has(kind) {
            problems.forbidden(conditions, &format!("updates may not remove a condition of type \"{kind}\""));
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let has = |kind: &str| printing::condition(object, kind).is_some();
    let mut condition = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if walk(object, "status.certificate").as_str().is_some_and(|text| !text.is_empty()) {
        condition.push_str(",Issued");
    }
    let duration = walk(object, "spec.expirationSeconds").as_i64().map(printing::human_duration);
    vec![
        printing::name(object),
        printing::age(object, now),
        printing::text_or(object, "spec.signerName", "<none>"),
        printing::string_at(object, "spec.username"),
        duration.unwrap_or_else(|| "<none>".into()).into(),
        condition.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_row};
    use serde_json::json;

    #[test]
    fn rules() {
        check(
            &KIND,
            json!({"spec": {"request": "eA==", "usages": ["client auth"], "signerName": "kubernetes.io/kube-apiserver-client"}}),
            "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
        );
        let object = json!({"metadata": {"name": "c"}, "spec": {"signerName": "a.b/c", "username": "u", "expirationSeconds": 3600},
            "status": {"conditions": [{"type": "Approved"}], "certificate": "x"}});
        check_row(&KIND, object, "2026-01-01T00:00:00Z", "c | <unknown> | a.b/c | u | 60m | Approved,Issued");
    }
}
