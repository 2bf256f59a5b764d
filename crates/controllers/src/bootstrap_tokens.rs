//! Bootstrap tokens: those that are past their time go, and those that may sign vouch for `kube-public/cluster-info`.
//!
//! Invariant: the signature of a token is in the ConfigMap exactly as long as the token is there, holds and may sign.
//! Deliberately absent: the ConfigMap itself, which whoever lets nodes join writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Change, DeleteOptions, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use ring::hmac;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, ignore_not_found};
use crate::runner::{Controller, Next, Queue};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const PUBLIC: &str = "kube-public";
const CLUSTER_INFO: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// Takes tokens away when they expire.
pub(crate) struct TokenCleaner {
    context: Arc<Context>,
    secrets: Arc<Informer<Secret>>,
}

/// Signs the ConfigMap.
pub(crate) struct BootstrapSigner {
    context: Arc<Context>,
    secrets: Arc<Informer<Secret>>,
    config_maps: Arc<Informer<ConfigMap>>,
}

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
        && secret.metadata.namespace.as_deref() == Some(NAMESPACE)
        && secret.metadata.name.as_deref().is_some_and(|name| name.starts_with(PREFIX))
}

fn text<'a>(secret: &'a Secret, field: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(field));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or("")
}

/// Seconds that a token has left; None: for ever. One whose time cannot be read has none.
fn seconds_left(secret: &Secret, now: Timestamp) -> Option<i64> {
    let text = text(secret, "expiration");
    if text.is_empty() {
        return None;
    }
    Some(text.parse::<Timestamp>().map_or(0, |end| end.duration_since(now).as_secs().max(i64::from(end > now))))
}

impl TokenCleaner {
    pub fn new(context: &Arc<Context>) -> Self {
        TokenCleaner { context: context.clone(), secrets: context.informer_where("type", TYPE) }
    }
}

#[async_trait]
impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.secrets.subscribe(move |change: &Change<Secret>| {
            if is_token(change.object()) && !matches!(change, Change::Deleted(_)) {
                queue.add(ObjectKey::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(secret) = self.secrets.get(key).filter(|secret| is_token(secret)) else { return Ok(Next::Settled) };
        match seconds_left(&secret, self.context.now()) {
            None => Ok(Next::Settled),
            Some(left) if left > 0 => Ok(Next::after_seconds(Some(left))),
            Some(_) => {
                let options = DeleteOptions {
                    resource_version: secret.metadata.resource_version.clone(),
                    ..DeleteOptions::uid(secret.metadata.uid.clone().unwrap_or_default())
                };
                ignore_not_found(self.context.delete::<Secret>(key, &options).await)?;
                Ok(Next::Settled)
            }
        }
    }
}

impl BootstrapSigner {
    pub fn new(context: &Arc<Context>) -> Self {
        BootstrapSigner {
            context: context.clone(),
            secrets: context.informer_where("type", TYPE),
            config_maps: context.informer_where("metadata.name", CLUSTER_INFO),
        }
    }
}

#[async_trait]
impl Controller for BootstrapSigner {
    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let info = ObjectKey::new(PUBLIC, CLUSTER_INFO);
        let (own, key) = (queue.clone(), info.clone());
        self.secrets.subscribe(move |change: &Change<Secret>| {
            if is_token(change.object()) {
                own.add(key.clone());
            }
        });
        let queue = queue.clone();
        self.config_maps.subscribe(move |change: &Change<ConfigMap>| {
            if ObjectKey::of(&change.object().metadata) == info {
                queue.add(info.clone());
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(held) = self.config_maps.get(key) else { return Ok(Next::Settled) };
        let tokens: Vec<Arc<Secret>> =
            self.secrets.list_namespace(NAMESPACE).into_iter().filter(|secret| is_token(secret)).collect();
        let now = self.context.now();
        if let Some(wanted) = signed(&held, &tokens, now) {
            ignore_not_found(self.context.update(&wanted).await)?;
        }
        // The next token that ceases to hold takes its signature along.
        Ok(Next::after_seconds(tokens.iter().filter_map(|token| seconds_left(token, now)).filter(|left| *left > 0).min()))
    }
}

/// Pure. The ConfigMap with the signatures that it should have; None: it has them.
fn signed(held: &ConfigMap, tokens: &[Arc<Secret>], now: Timestamp) -> Option<ConfigMap> {
    let data = held.data.clone().unwrap_or_default();
    let content = data.get(KUBECONFIG)?.clone();
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(name, _)| !name.starts_with(SIGNATURE)).map(|(name, text)| (name.clone(), text.clone())).collect();
    for token in tokens {
        let (id, secret) = (text(token, "token-id"), text(token, "token-secret"));
        let named = token.metadata.name.as_deref().and_then(|name| name.strip_prefix(PREFIX)) == Some(id);
        let holds = seconds_left(token, now).is_none_or(|left| left > 0);
        if named && holds && !secret.is_empty() && text(token, "usage-bootstrap-signing") == "true" {
            wanted.insert(format!("{SIGNATURE}{id}"), signature(&content, id, secret));
        }
    }
    (wanted != data).then(|| ConfigMap { data: Some(wanted), ..held.clone() })
}

/// A JSON web signature without its payload, which the reader has.
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;
    use crate::fixtures::now;

    fn token(id: &str, fields: &[(&str, &str)]) -> Arc<Secret> {
        let mut secret = Secret { type_: Some(TYPE.into()), ..Secret::default() };
        secret.metadata.name = Some(format!("{PREFIX}{id}"));
        secret.metadata.namespace = Some(NAMESPACE.into());
        let own = [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        secret.data = Some(own.iter().chain(fields).map(|(name, text)| ((*name).to_owned(), bytes(text))).collect());
        Arc::new(secret)
    }

    #[test]
    fn what_a_token_has_left() {
        let left = |expiration: &str| seconds_left(&token("abcdef", &[("expiration", expiration)]), now());
        assert_eq!(left(""), None);
        assert_eq!(left("2026-03-01T12:00:30Z"), Some(30));
        assert_eq!(left("2026-03-01T14:00:30+02:00"), Some(30));
        assert_eq!(left("2026-03-01T11:59:59Z"), Some(0));
        assert_eq!(left("tomorrow"), Some(0));
    }

    #[test]
    fn signatures_come_and_go_with_their_tokens() {
        let mut held = ConfigMap::default();
        assert_eq!(signed(&held, &[token("abcdef", &[])], now()), None); // Nothing to sign yet.
        let data = [("kubeconfig", "text"), ("jws-kubeconfig-gone99", "old"), ("other", "x")];
        held.data = Some(data.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect());
        let tokens = [
            token("abcdef", &[]),
            token("expire", &[("expiration", "2026-01-01T00:00:00Z")]),
            token("silent", &[("usage-bootstrap-signing", "false")]),
        ];
        let made = signed(&held, &tokens, now()).expect("differs");
        let names: Vec<&str> = made.data.as_ref().expect("has data").keys().map(String::as_str).collect();
        assert_eq!(names, ["jws-kubeconfig-abcdef", "kubeconfig", "other"]);
        assert_eq!(signed(&made, &tokens, now()), None);
    }

    #[test]
    fn a_detached_signature() {
        let text = signature("payload", "joshua", "my secret");
        let parts: Vec<&str> = text.split('.').collect();
        assert_eq!(parts[0], "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9");
        assert_eq!((parts.len(), parts[1]), (3, ""));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"my secret");
        let signed = format!("{}.{}", parts[0], URL_SAFE_NO_PAD.encode("payload"));
        assert!(hmac::verify(&key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).expect("base64")).is_ok());
    }
}
