//! Fills Secrets of type `kubernetes.io/service-account-token` with a token that lives as long as the Secret.
//!
//! Invariant: a token Secret whose ServiceAccount is gone goes, too, and with it the token.
//!
//! Deliberately absent: the issuer `kubernetes/serviceaccount` of the original. The token is one of TokenRequest,
//! bound to the Secret, for the longest time that there is; so it is checked and revoked like any other.
//! References in `ServiceAccount.secrets` are left to whoever wrote them.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, DeleteOptions, ErrorKind, Informer, ObjectKey, error_kind};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, ignore_not_found};
use crate::runner::{Controller, Next, Queue};

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// The most that TokenRequest grants: 136 years.
const EXPIRATION_SECONDS: i64 = 1 << 32;
/// Index of token Secrets by `namespace/account`.
const BY_ACCOUNT: &str = "service-account";

pub(crate) struct TokenSecrets {
    context: Arc<Context>,
    secrets: Arc<Informer<Secret>>,
    accounts: Arc<Informer<ServiceAccount>>,
}

#[derive(Debug, PartialEq)]
enum Decision {
    Nothing,
    /// The account is gone, or a namesake took its place.
    Delete,
    /// What to write, the token aside.
    Fill { secret: Box<Secret>, needs_token: bool },
}

/// Pure.
fn decide(secret: &Secret, account: Option<&ServiceAccount>, ca_pem: &str) -> Decision {
    let annotation = |name: &str| secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
    let known_uid = annotation(UID).filter(|uid| !uid.is_empty());
    let Some(account) = account.filter(|account| known_uid.is_none_or(|uid| Some(uid) == account.metadata.uid.as_ref())) else {
        return Decision::Delete;
    };
    let mut wanted = secret.clone();
    let data = wanted.data.get_or_insert_default();
    data.insert("ca.crt".into(), ByteString(ca_pem.as_bytes().to_vec()));
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    data.entry("namespace".into()).or_insert_with(|| ByteString(namespace.into_bytes()));
    let needs_token = data.get("token").is_none_or(|token| token.0.is_empty());
    let uid = account.metadata.uid.clone().unwrap_or_default();
    wanted.metadata.annotations.get_or_insert_default().insert(UID.into(), uid);
    if needs_token || wanted != *secret { Decision::Fill { secret: Box::new(wanted), needs_token } } else { Decision::Nothing }
}

fn account_of(secret: &Secret) -> Option<ObjectKey> {
    if secret.type_.as_deref() != Some(TYPE) {
        return None;
    }
    let name = secret.metadata.annotations.as_ref()?.get(NAME)?;
    Some(ObjectKey::new(secret.metadata.namespace.clone().unwrap_or_default(), name))
}

impl TokenSecrets {
    pub fn new(context: &Arc<Context>) -> Self {
        let secrets: Arc<Informer<Secret>> = context.informer_where("type", TYPE);
        secrets.index_by(BY_ACCOUNT, |secret: &Secret| account_of(secret).map(|key| key.to_string()).into_iter().collect());
        TokenSecrets { context: context.clone(), secrets, accounts: context.informer() }
    }

    async fn token(&self, account: &ObjectKey, secret: &Secret) -> Result<String, Failure> {
        let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": secret.metadata.name, "uid": secret.metadata.uid});
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": EXPIRATION_SECONDS, "boundObjectRef": bound},
        });
        let answer = self.context.rest.post::<ServiceAccount>(account, "token", &body).await?;
        let token = answer["status"]["token"].as_str().filter(|token| !token.is_empty());
        token.map(str::to_owned).ok_or_else(|| Failure::Other(format!("no token was issued for {account}")))
    }
}

#[async_trait]
impl Controller for TokenSecrets {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.secrets.subscribe(move |change: &Change<Secret>| {
            if account_of(change.object()).is_some() && !matches!(change, Change::Deleted(_)) {
                own.add(ObjectKey::of(&change.object().metadata));
            }
        });
        let (secrets, queue) = (self.secrets.clone(), queue.clone());
        self.accounts.subscribe(move |change: &Change<ServiceAccount>| {
            for secret in secrets.indexed(BY_ACCOUNT, &ObjectKey::of(&change.object().metadata).to_string()) {
                queue.add(ObjectKey::of(&secret.metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Next::Settled) };
        let Some(account_key) = account_of(&secret).filter(|_| secret.metadata.deletion_timestamp.is_none()) else {
            return Ok(Next::Settled);
        };
        let mut account = self.accounts.get(&account_key);
        let mut decision = decide(&secret, account.as_deref(), &self.context.settings.ca_pem);
        if decision == Decision::Delete {
            // The cache may be behind: nothing is deleted on its word.
            account = match self.context.rest.get::<ServiceAccount>(&account_key).await {
                Ok(account) => Some(Arc::new(account)),
                Err(error) if error_kind(&error) == ErrorKind::NotFound => None,
                Err(error) => return Err(error.into()),
            };
            decision = decide(&secret, account.as_deref(), &self.context.settings.ca_pem);
        }
        match decision {
            Decision::Nothing => {}
            Decision::Delete => {
                let options = DeleteOptions {
                    resource_version: secret.metadata.resource_version.clone(),
                    ..DeleteOptions::uid(secret.metadata.uid.clone().unwrap_or_default())
                };
                self.context.delete::<Secret>(key, &options).await?;
            }
            Decision::Fill { secret: mut wanted, needs_token } => {
                if needs_token {
                    let token = self.token(&account_key, &secret).await?;
                    wanted.data.get_or_insert_default().insert("token".into(), ByteString(token.into_bytes()));
                }
                ignore_not_found(self.context.update(&*wanted).await)?;
            }
        }
        Ok(Next::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(known_uid: &str, token: &str, account_uid: Option<&str>, expected: &str) {
        let mut secret = Secret::default();
        secret.metadata.namespace = Some("ns".into());
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(NAME.into(), "robot".into());
        if !known_uid.is_empty() {
            annotations.insert(UID.into(), known_uid.into());
        }
        if !token.is_empty() {
            let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
            secret.data = Some([("token", token), ("ca.crt", "PEM"), ("namespace", "ns")].map(|(key, value)| (key.to_owned(), bytes(value))).into());
        }
        let account = account_uid.map(|uid| {
            let mut account = ServiceAccount::default();
            account.metadata.uid = Some(uid.into());
            account
        });
        let told = match decide(&secret, account.as_ref(), "PEM") {
            Decision::Nothing => "nothing".to_owned(),
            Decision::Delete => "delete".to_owned(),
            Decision::Fill { secret, needs_token } => {
                let data = secret.data.unwrap();
                let keys: Vec<&str> = data.keys().map(String::as_str).collect();
                format!("fill {} token={needs_token} uid={}", keys.join(","), secret.metadata.annotations.unwrap()[UID])
            }
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn secrets_follow_their_account() {
        check("", "", None, "delete");
        check("", "", Some("u1"), "fill ca.crt,namespace token=true uid=u1");
        check("u1", "jwt", Some("u1"), "nothing");
        check("", "jwt", Some("u1"), "fill ca.crt,namespace,token token=false uid=u1");
        check("u0", "jwt", Some("u1"), "delete");
    }
}
