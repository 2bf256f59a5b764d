//! Who sends a request: client certificates, bearer tokens, nobody in particular; and on whose behalf.
//!
//! Invariant: credentials that are shown and do not hold are refused; they never make somebody anonymous.

pub mod bootstrap_tokens;
pub mod static_tokens;
pub mod x509;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

use crate::admission_chain::Question;
use crate::authz::Asked;
use crate::error::{ObjectName, RequestError};
use crate::server::{ApiServer, Config};
use crate::tokens;
use crate::user::{AUTHENTICATED, UNAUTHENTICATED, User};

const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

pub struct Authenticator {
    static_tokens: static_tokens::StaticTokens,
    anonymous: bool,
}

impl Authenticator {
    pub fn new(config: &Config) -> Self {
        Authenticator {
            static_tokens: static_tokens::StaticTokens::new(&config.static_tokens),
            anonymous: config.anonymous,
        }
    }

    /// `certificate`: whom the connection's client certificate names.
    pub fn authenticate(
        &self,
        server: &ApiServer,
        headers: &HeaderMap,
        certificate: Option<Arc<User>>,
    ) -> Result<Arc<User>, RequestError> {
        if let Some(user) = certificate {
            return Ok(user);
        }
        match bearer(headers) {
            Some(token) => {
                self.token(server, &token, None).map(|(user, _)| Arc::new(user)).ok_or(RequestError::Unauthorized)
            }
            None if self.anonymous => Ok(Arc::new(User::anonymous())),
            None => Err(RequestError::Unauthorized),
        }
    }

    /// Whose token it is, and for whom of `audiences` it is meant. None of these: it must be meant for this server,
    /// as all tokens are that name no audience.
    pub fn token(&self, server: &ApiServer, token: &str, audiences: Option<&[String]>) -> Option<(User, Vec<String>)> {
        if let Some(found) = tokens::authenticate(server, token, audiences) {
            return Some(found);
        }
        let issuer = server.config.issuer();
        if audiences.is_some_and(|list| !list.contains(&issuer)) {
            return None;
        }
        let user = self.static_tokens.user(token).or_else(|| bootstrap_tokens::user(server, token))?;
        Some((user, vec![issuer]))
    }
}

/// The bearer token of a request, also as browsers must send it with a WebSocket.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()).filter(|token| !token.is_empty());
    }
    let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_BEARER))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// The user on whose behalf somebody acts, if they may.
pub fn impersonate(server: &ApiServer, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, RequestError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let (name, uid) = (text("impersonate-user"), text("impersonate-uid"));
    let groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    let mut target = User { name: name.clone(), uid: uid.clone(), groups: groups.clone(), ..User::default() };
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix("impersonate-extra-")
            && let Ok(value) = value.to_str()
        {
            target.extra.entry(api::percent::decode(key)).or_default().push(value.to_owned());
        }
    }
    if name.is_empty() {
        if uid.is_empty() && groups.is_empty() && target.extra.is_empty() {
            return Ok(user);
        }
        return Err(RequestError::Internal(
            "requested impersonation of a uid, groups or extra without impersonating a user".into(),
        ));
    }
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let question = Question { verb: "impersonate", group, version: "v1", resource, subresource, namespace, name };
        let asked = Asked::Resource(question);
        if server.authorizer.allows(&user, &asked).is_allowed() {
            return Ok(());
        }
        Err(RequestError::Forbidden { object: ObjectName::new(group, resource, name), why: asked.refusal(&user) })
    };
    let service_account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match service_account {
        Some((namespace, account)) => {
            may("", "serviceaccounts", "", namespace, account)?;
            if groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => may("", "users", "", "", &name)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    if !uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &uid)?;
    }
    for (key, values) in &target.extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if !target.in_group(AUTHENTICATED) && !target.in_group(UNAUTHENTICATED) {
        let group = if name == crate::user::ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        target.groups.push(group.into());
    }
    Ok(Arc::new(target))
}
