//! Who calls the agent's API and what they may: client certificates of the cluster's CA, or tokens that the API
//! server reviews; `system:masters` may all, others what SubjectAccessReview says of `nodes/<part>`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::Rest;
use http::{HeaderMap, Method, header};
use parking_lot::Mutex;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig as TlsServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ServerConfig;

/// Answers of the API server are kept this long, and so many of them.
const KEPT_FOR: Duration = Duration::from_secs(10);
const KEPT_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

/// Who, which verb, which part of the node.
type Question = (Identity, &'static str, &'static str);

pub struct Access {
    rest: Rest,
    node_name: String,
    tokens: Mutex<HashMap<String, (Instant, Option<Identity>)>>,
    decisions: Mutex<HashMap<Question, (Instant, bool)>>,
}

impl Access {
    pub fn new(rest: Rest, node_name: String) -> Access {
        Access { rest, node_name, tokens: Mutex::default(), decisions: Mutex::default() }
    }

    pub async fn by_token(&self, headers: &HeaderMap) -> Option<Identity> {
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?.trim().to_owned();
        if let Some((at, known)) = self.tokens.lock().get(&token)
            && at.elapsed() < KEPT_FOR
        {
            return known.clone();
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer: Value = self.rest.post_at("/apis/authentication.k8s.io/v1/tokenreviews".to_owned(), &review).await.ok()?;
        let user = &answer["status"]["user"];
        let identity = (answer["status"]["authenticated"] == true).then(|| Identity {
            user: user["username"].as_str().unwrap_or_default().to_owned(),
            groups: user["groups"].as_array().into_iter().flatten().filter_map(|group| group.as_str().map(str::to_owned)).collect(),
        });
        keep(&mut self.tokens.lock(), token, identity.clone());
        identity
    }

    /// The error is the answer's text.
    pub async fn allow(&self, identity: &Identity, method: &Method, path: &str) -> Result<(), String> {
        if identity.groups.iter().any(|group| group == "system:masters") {
            return Ok(());
        }
        let verb = verb_of(method);
        let candidates = subresources_of(path);
        for subresource in candidates {
            let key = (identity.clone(), verb, *subresource);
            let known = self.decisions.lock().get(&key).filter(|(at, _)| at.elapsed() < KEPT_FOR).map(|(_, allowed)| *allowed);
            let allowed = match known {
                Some(allowed) => allowed,
                None => {
                    let allowed = self.review(identity, verb, subresource).await;
                    keep(&mut self.decisions.lock(), key, allowed);
                    allowed
                }
            };
            if allowed {
                return Ok(());
            }
        }
        let subresource = candidates.last().copied().unwrap_or("proxy");
        Err(format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])", identity.user))
    }

    async fn review(&self, identity: &Identity, verb: &str, subresource: &str) -> bool {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": identity.user,
                "groups": identity.groups,
                "resourceAttributes": {
                    "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node_name,
                },
            },
        });
        let answer = self.rest.post_at::<Value>("/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned(), &review).await;
        answer.is_ok_and(|answer| answer["status"]["allowed"] == true)
    }
}

fn keep<K: std::hash::Hash + Eq, V>(kept: &mut HashMap<K, (Instant, V)>, key: K, value: V) {
    if kept.len() >= KEPT_MAX {
        kept.retain(|_, (at, _)| at.elapsed() < KEPT_FOR);
    }
    if kept.len() < KEPT_MAX {
        kept.insert(key, (Instant::now(), value));
    }
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// What access to a path is called, the finest first.
fn subresources_of(path: &str) -> &'static [&'static str] {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

/// User and groups of a certificate: common name and organisations.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let user = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = parsed.subject().iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    Some(Identity { user, groups })
}

pub fn tls_config(config: &ServerConfig) -> io::Result<Arc<TlsServerConfig>> {
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, format!("the kubelet's TLS: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&config.client_ca_pem) {
        roots.add(certificate.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))?;
    }
    // Callers without a certificate may still bring a token.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| invalid(&error))?;
    let mut tls = TlsServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(config.serving.clone());
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, expected) in [("/stats/summary", "stats"), ("/metrics/resource", "metrics"), ("/exec/a/b/c", "proxy"), ("/pods", "pods")] {
            assert_eq!(subresources_of(path)[0], expected);
        }
    }
}
