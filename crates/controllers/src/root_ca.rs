//! Publishes the cluster's CA in every namespace, as ConfigMap `kube-root-ca.crt`, and keeps it there.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, ErrorKind, Informer, ObjectKey, error_kind};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};

use crate::context::Context;
use crate::failure::{Failure, is_namespace_terminating};
use crate::runner::{Controller, Next, Queue};
use crate::service_accounts::is_terminating;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub(crate) struct RootCa {
    context: Arc<Context>,
    namespaces: Arc<Informer<Namespace>>,
    config_maps: Arc<Informer<ConfigMap>>,
}

impl RootCa {
    pub fn new(context: &Arc<Context>) -> Self {
        RootCa { context: context.clone(), namespaces: context.informer(), config_maps: context.informer_where("metadata.name", NAME) }
    }
}

#[async_trait]
impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.namespaces.subscribe(move |change: &Change<Namespace>| own.add(ObjectKey::of(&change.object().metadata)));
        let queue = queue.clone();
        self.config_maps.subscribe(move |change: &Change<ConfigMap>| {
            let metadata = &change.object().metadata;
            if metadata.name.as_deref() == Some(NAME) && !matches!(change, Change::Added(_)) {
                queue.add(ObjectKey::cluster(metadata.namespace.clone().unwrap_or_default()));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::Settled) };
        if is_terminating(&namespace) {
            return Ok(Next::Settled);
        }
        let held = self.config_maps.get(&ObjectKey::new(key.name.clone(), NAME));
        let Some(wanted) = decide(&key.name, &self.context.settings.ca_pem, held.as_deref()) else { return Ok(Next::Settled) };
        let outcome = match held {
            Some(_) => self.context.update(&wanted).await,
            None => self.context.create(&wanted).await,
        };
        match outcome {
            Err(error) if is_namespace_terminating(&error) || error_kind(&error) == ErrorKind::AlreadyExists => {}
            outcome => {
                outcome?;
            }
        }
        Ok(Next::Settled)
    }
}

/// Pure. What to write, if anything.
fn decide(namespace: &str, ca_pem: &str, held: Option<&ConfigMap>) -> Option<ConfigMap> {
    let data = [("ca.crt".to_owned(), ca_pem.to_owned())].into();
    let mut wanted = held.cloned().unwrap_or_default();
    wanted.metadata.name = Some(NAME.into());
    wanted.metadata.namespace = Some(namespace.into());
    wanted.metadata.annotations.get_or_insert_default().insert("kubernetes.io/description".into(), DESCRIPTION.into());
    wanted.data = Some(data);
    wanted.binary_data = None;
    (held != Some(&wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_changed_is_put_right() {
        let made = decide("ns", "PEM", None).unwrap();
        assert_eq!(made.data.as_ref().unwrap()["ca.crt"], "PEM");
        assert_eq!(decide("ns", "PEM", Some(&made)), None);
        let mut spoilt = made.clone();
        spoilt.data.as_mut().unwrap().insert("extra".into(), "x".into());
        assert_eq!(decide("ns", "PEM", Some(&spoilt)), Some(made));
    }
}
