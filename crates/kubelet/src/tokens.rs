//! Service account tokens, bound to their pods, kept until four fifths of their life are over.

use std::collections::HashMap;
use std::sync::Arc;

use api::clock::Clock;
use client::{ObjectKey, Rest};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::pod::spec;

/// However long a token lives, a day-old one is replaced.
const OLDEST: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TokenKey {
    pod_uid: String,
    service_account: String,
    audience: String,
    expiration_seconds: i64,
}

#[derive(Clone, Debug)]
pub struct Token {
    pub text: String,
    pub refresh_at: Timestamp,
}

pub struct Tokens {
    rest: Rest,
    clock: Clock,
    kept: Mutex<HashMap<TokenKey, Token>>,
}

impl Tokens {
    pub fn new(rest: Rest, clock: Clock) -> Arc<Tokens> {
        Arc::new(Tokens { rest, clock, kept: Mutex::new(HashMap::new()) })
    }

    pub async fn get(&self, pod: &Pod, audience: &str, expiration_seconds: i64) -> Result<Token, String> {
        let service_account = spec::spec(pod).service_account_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let key = TokenKey {
            pod_uid: spec::uid(pod).to_owned(),
            service_account: service_account.clone(),
            audience: audience.to_owned(),
            expiration_seconds,
        };
        let now = self.clock.now();
        let kept = self.kept.lock().get(&key).cloned();
        if let Some(token) = kept.filter(|token| token.refresh_at > now) {
            return Ok(token);
        }
        let audiences: Vec<&str> = if audience.is_empty() { Vec::new() } else { vec![audience] };
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": spec::name(pod), "uid": spec::uid(pod)},
            },
        });
        let account = ObjectKey::new(spec::namespace(pod), service_account);
        let answer: Value = self
            .rest
            .post::<ServiceAccount>(&account, "token", &request)
            .await
            .map_err(|error| format!("failed to fetch token: {error}"))?;
        let text = answer["status"]["token"].as_str().ok_or("failed to fetch token: the answer holds none")?.to_owned();
        let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let life = expires.map_or(SignedDuration::from_secs(expiration_seconds), |expires| expires.duration_since(now));
        let token = Token { text, refresh_at: now + refresh_after(life) };
        self.kept.lock().insert(key, token.clone());
        Ok(token)
    }

    pub fn forget(&self, pod_uid: &str) {
        self.kept.lock().retain(|key, _| key.pod_uid != pod_uid);
    }
}

fn refresh_after(life: SignedDuration) -> SignedDuration {
    (life * 4 / 5).min(OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_expire() {
        assert_eq!(refresh_after(SignedDuration::from_secs(600)), SignedDuration::from_secs(480));
        assert_eq!(refresh_after(SignedDuration::from_hours(24 * 365)), OLDEST);
    }
}
