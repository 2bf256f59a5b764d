//! Sees that every namespace has its `default` ServiceAccount.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, ErrorKind, Informer, ObjectKey, error_kind};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

use crate::context::Context;
use crate::failure::{Failure, is_namespace_terminating};
use crate::runner::{Controller, Next, Queue};

const DEFAULT: &str = "default";

pub(crate) struct ServiceAccounts {
    context: Arc<Context>,
    namespaces: Arc<Informer<Namespace>>,
    accounts: Arc<Informer<ServiceAccount>>,
}

impl ServiceAccounts {
    pub fn new(context: &Arc<Context>) -> Self {
        ServiceAccounts { context: context.clone(), namespaces: context.informer(), accounts: context.informer() }
    }
}

#[async_trait]
impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.namespaces.subscribe(move |change: &Change<Namespace>| own.add(ObjectKey::of(&change.object().metadata)));
        let queue = queue.clone();
        self.accounts.subscribe(move |change: &Change<ServiceAccount>| {
            if let Change::Deleted(account) = change {
                queue.add(ObjectKey::cluster(account.metadata.namespace.clone().unwrap_or_default()));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::Settled) };
        let account_key = ObjectKey::new(key.name.clone(), DEFAULT);
        if is_terminating(&namespace) || self.accounts.get(&account_key).is_some() {
            return Ok(Next::Settled);
        }
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(DEFAULT.into());
        account.metadata.namespace = Some(key.name.clone());
        match self.context.create(&account).await {
            Err(error) if is_namespace_terminating(&error) || error_kind(&error) == ErrorKind::AlreadyExists => {}
            outcome => {
                outcome?;
            }
        }
        Ok(Next::Settled)
    }
}

pub(crate) fn is_terminating(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_some() || phase == Some("Terminating")
}
