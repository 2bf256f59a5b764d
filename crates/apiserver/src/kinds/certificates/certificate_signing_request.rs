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
    name_problems: |_| Vec::new(),
    validate,
    validate_update: |new, old, problems| {
        keep_decisions(new, old, false, problems);
        keep_certificate(new, old, false, problems);
    },
    validate_status_update,
    validate_part_update: |_, new, old, problems| {
        keep_decisions(new, old, true, problems);
        keep_certificate(new, old, false, problems);
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
    for usage in usages.items() {
        checks::one_of(&usage, USAGES, problems);
    }
    for (index, usage) in usages.items().enumerate() {
        if usages.array()[..index].contains(usage.value) {
            problems.duplicate(&usage);
        }
    }
    let signer = spec.at("signerName");
    if signer.str() == "kubernetes.io/legacy-unknown" {
        problems.invalid(&signer, "the legacy signerName is not allowed via this API version");
    } else {
        validate_signer(&signer, problems);
    }
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
            _ => checks::one_of(&status, &["False", "True", "Unknown"], problems),
        }
        let opposite = match kind.str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !opposite.is_empty() && kinds.contains(&opposite) {
            problems.invalid_str(conditions, kind.str(), "Approved and Denied conditions are mutually exclusive");
        }
        if kinds.contains(&kind.str()) {
            problems.duplicate(&kind);
        }
        kinds.push(kind.str());
    }
}

fn validate_status_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    validate_conditions(&root.at("status.conditions"), problems);
    let certificate = root.at("status.certificate");
    if certificate.value != walk(old, "status.certificate")
        && let Some(why) = certificate_problem(certificate.str())
    {
        problems.invalid_str(&certificate, "<certificate data>", &why);
    }
    keep_decisions(new, old, false, problems);
    keep_certificate(new, old, true, problems);
}

fn certificate_problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let blocks = pem::parse_many(&bytes).unwrap_or_default();
    if blocks.is_empty() {
        return Some("must contain at least one CERTIFICATE PEM block".into());
    }
    blocks.iter().find_map(|block| {
        if block.tag() != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found \"{}\"", block.tag()));
        }
        if block.headers().iter().next().is_some() {
            return Some("no PEM block headers are permitted".into());
        }
        use x509_parser::prelude::FromDer;
        let parsed = x509_parser::certificate::X509Certificate::from_der(block.contents());
        parsed.is_err().then(|| "x509: malformed certificate".into())
    })
}

/// What has been decided stays decided, and is decided by approvers.
fn keep_decisions(new: &Value, old: &Value, approves: bool, problems: &mut Problems) {
    let root = Cursor::root(new);
    let conditions = root.at("status.conditions");
    let of = |object: &Value, kind: &str| -> Vec<Value> {
        let all = walk(object, "status.conditions").as_array().into_iter().flatten();
        all.filter(|condition| walk(condition, "type").as_str() == Some(kind)).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            problems.forbidden(&conditions, &format!("updates may not remove a condition of type \"{kind}\""));
        }
    }
    if approves {
        return;
    }
    for kind in ["Approved", "Denied"] {
        let (now, before) = (of(new, kind), of(old, kind));
        if now.len() > before.len() {
            problems.forbidden(&conditions, &format!("updates may not add a condition of type \"{kind}\""));
        } else if now.len() == before.len() && now != before {
            problems.forbidden(&conditions, &format!("updates may not modify a condition of type \"{kind}\"\n"));
        }
    }
}

fn keep_certificate(new: &Value, old: &Value, signs: bool, problems: &mut Problems) {
    let root = Cursor::root(new);
    let (certificate, before) = (root.at("status.certificate"), walk(old, "status.certificate"));
    if certificate.value == before {
        return;
    }
    if !signs {
        problems.forbidden(&certificate, "updates may not set certificate content");
    } else if before.as_str().is_some_and(|text| !text.is_empty()) {
        problems.forbidden(&certificate, "updates may not modify existing certificate content");
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

    #[test]
    fn decisions_stay() {
        let with = |kinds: &[&str], certificate: &str| {
            let conditions: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            json!({"status": {"conditions": conditions, "certificate": certificate}})
        };
        let check = |rule: fn(&Value, &Value, &mut Problems), new: Value, old: Value, expected: &str| {
            let mut problems = Problems::default();
            rule(&new, &old, &mut problems);
            assert_eq!(problems.list.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), expected);
        };
        let approve = |new: &Value, old: &Value, problems: &mut Problems| {
            (KIND.validate_part_update)("approval", new, old, problems);
        };
        check(approve, with(&["Approved"], ""), with(&[], ""), "");
        check(
            approve,
            with(&[], ""),
            with(&["Denied"], ""),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Denied\"",
        );
        check(
            KIND.validate_status_update,
            with(&["Approved", "Denied"], "eA=="),
            with(&[], ""),
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive\n\
             status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block\n\
             status.conditions: Forbidden: updates may not add a condition of type \"Approved\"\n\
             status.conditions: Forbidden: updates may not add a condition of type \"Denied\"",
        );
    }
}
