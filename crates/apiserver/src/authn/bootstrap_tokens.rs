//! Tokens by which new nodes join: Secrets of type `bootstrap.kubernetes.io/token` in kube-system.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::admission_chain::Cluster;
use crate::server::ApiServer;
use crate::user::{AUTHENTICATED, User};

pub fn user(server: &ApiServer, token: &str) -> Option<User> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if id.len() != 6 || secret.len() != 16 || !plain(id) || !plain(secret) {
        return None;
    }
    let stored = server.get("", "secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    if stored["type"] != "bootstrap.kubernetes.io/token" || stored["metadata"].get("deletionTimestamp").is_some() {
        return None;
    }
    let field = |name: &str| decoded(&stored, name).unwrap_or_default();
    // Digests: the time that a comparison takes tells nothing of the secret.
    let same = Sha256::digest(field("token-secret")) == Sha256::digest(secret);
    if !same || field("token-id") != id || field("usage-bootstrap-authentication") != "true" {
        return None;
    }
    let expiration = field("expiration");
    if !expiration.is_empty() {
        let end: jiff::Timestamp = expiration.parse().ok()?;
        if end <= server.config.clock.now() {
            return None;
        }
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    let extra = field("auth-extra-groups");
    groups.extend(extra.split(',').filter(|group| group.starts_with("system:bootstrappers:")).map(str::to_owned));
    groups.push(AUTHENTICATED.into());
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

fn decoded(secret: &Value, field: &str) -> Option<String> {
    let encoded = secret["data"].get(field)?.as_str()?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}
