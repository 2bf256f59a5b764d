//! Whether somebody may do something: system:masters may, then the Node rules are asked, then RBAC.
//!
//! Invariant: pure over the watch cache; a binding that was acknowledged counts for the next request.

mod controller_policy;
mod escalation;
mod node;
pub mod policy;
pub mod rbac;

use std::sync::Arc;

use crate::admission_chain::Question;
use crate::cache::Cache;
use crate::http::request_info::RequestInfo;
use crate::server::Authorization;
use crate::user::{SYSTEM_MASTERS, User};

pub use escalation::check_escalation;
pub use rbac::Rule;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    Resource(Question<'a>),
    Path { verb: &'a str, path: &'a str },
}

impl<'a> From<&Question<'a>> for Asked<'a> {
    fn from(question: &Question<'a>) -> Self {
        Asked::Resource(*question)
    }
}

impl<'a> Asked<'a> {
    pub fn of(info: &'a RequestInfo) -> Asked<'a> {
        if !info.is_resource {
            return Asked::Path { verb: info.verb, path: &info.path };
        }
        Asked::Resource(Question {
            verb: info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
        })
    }

    /// `User "x" cannot list resource "pods" in API group "" in the namespace "default"`
    pub fn refusal(&self, user: &User) -> String {
        match self {
            Asked::Path { verb, path } => format!("User {:?} cannot {verb} path {path:?}", user.name),
            Asked::Resource(question) => {
                let slash = if question.subresource.is_empty() { "" } else { "/" };
                let resource = format!("{}{slash}{}", question.resource, question.subresource);
                let place = if question.namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {:?}", question.namespace)
                };
                format!(
                    "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
                    user.name, question.verb, question.group
                )
            }
        }
    }
}

pub enum Decision {
    Allowed { reason: String },
    /// Nobody allows it; `reason` may say what is broken.
    NoOpinion { reason: String },
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allowed { .. })
    }

    pub fn reason(&self) -> &str {
        match self {
            Decision::Allowed { reason } | Decision::NoOpinion { reason } => reason,
        }
    }
}

pub struct Authorizer {
    mode: Authorization,
    cache: Arc<Cache>,
    rbac: rbac::Rbac,
}

impl Authorizer {
    pub fn new(mode: Authorization, cache: Arc<Cache>) -> Self {
        Authorizer { mode, rbac: rbac::Rbac::new(cache.clone()), cache }
    }

    pub fn allows(&self, user: &User, asked: &Asked<'_>) -> Decision {
        if self.mode == Authorization::AlwaysAllow || user.in_group(SYSTEM_MASTERS) {
            return Decision::Allowed { reason: String::new() };
        }
        if let Some(node) = node::node_name(user)
            && let Asked::Resource(question) = asked
        {
            match node::decide(&self.cache, node, question) {
                node::Verdict::Allowed => return Decision::Allowed { reason: String::new() },
                node::Verdict::Refused(reason) => return Decision::NoOpinion { reason },
                node::Verdict::NotMine => {}
            }
        }
        self.rbac.allows(user, asked)
    }

    /// All rules that somebody has in a namespace.
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut rules = self.rbac.rules(user, namespace);
        if user.in_group(SYSTEM_MASTERS) || self.mode == Authorization::AlwaysAllow {
            for rule in [Rule::every_path(), Rule::everything()] {
                if !rules.contains(&rule) {
                    rules.insert(0, rule);
                }
            }
        }
        rules
    }

    /// The rules of a role, for who wants to grant it.
    pub fn role_rules(&self, namespace: &str, kind: &str, name: &str) -> Option<Vec<Rule>> {
        self.rbac.role_rules(namespace, kind, name)
    }
}
