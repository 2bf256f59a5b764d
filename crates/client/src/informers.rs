//! One informer per kind and scope, shared by everybody in the process; mostly of the whole cluster.
//!
//! Whoever needs few objects of a kind that is numerous asks for a scope, and who only counts for [`Metadata`]: a
//! decoded ConfigMap takes twice what its bytes do.

use std::any::{Any, TypeId};
use std::sync::Arc;

use futures::future::BoxFuture;
use kube::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::cache::Cached;
use crate::informer::{Informer, Scope, Source};
use crate::metadata::Metadata;
use crate::wire::path_of;

pub struct Informers {
    client: Client,
    cancel: CancellationToken,
    /// In the order in which they were asked for; there are a few dozen at most.
    started: Mutex<Vec<Started>>,
}

struct Started {
    kind: TypeId,
    scope: Scope,
    informer: Arc<dyn Any + Send + Sync>,
    synced: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Informers {
    pub fn new(client: Client, cancel: CancellationToken) -> Arc<Self> {
        Arc::new(Informers { client, cancel, started: Mutex::new(Vec::new()) })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer of a kind, started on first use.
    pub fn of<K: Cached + kube::Resource<DynamicType = ()>>(&self) -> Arc<Informer<K>> {
        self.scoped(Scope::default())
    }

    /// The informer of some objects of a kind, started on first use. What is written is not shown to it at once.
    pub fn scoped<K: Cached + kube::Resource<DynamicType = ()>>(&self, scope: Scope) -> Arc<Informer<K>> {
        self.shared(scope, |scope| Informer::<K>::start(&self.client, scope, self.cancel.clone()))
    }

    /// The metadata of all objects of a kind.
    pub fn metadata_of<K: kube::Resource<DynamicType = ()> + Send + Sync + 'static>(&self) -> Arc<Informer<Metadata<K>>> {
        let source = Source { path: path_of::<K>(None), metadata_only: true };
        self.shared(Scope::default(), |scope| Informer::start_at(&self.client, source, scope, self.cancel.clone()))
    }

    fn shared<K: Cached>(&self, scope: Scope, start: impl FnOnce(Scope) -> Arc<Informer<K>>) -> Arc<Informer<K>> {
        let mut started = self.started.lock();
        let kind = TypeId::of::<K>();
        if let Some(known) = started.iter().find(|known| known.kind == kind && known.scope == scope) {
            return known.informer.clone().downcast().expect("stored under its own type's id");
        }
        let informer = start(scope.clone());
        let waited_for = informer.clone();
        started.push(Started {
            kind,
            scope,
            informer: informer.clone(),
            synced: Arc::new(move || {
                let informer = waited_for.clone();
                Box::pin(async move { informer.synced().await })
            }),
        });
        informer
    }

    /// The informer of a whole kind if somebody has asked for it before.
    pub fn started<K: Cached>(&self) -> Option<Arc<Informer<K>>> {
        let started = self.started.lock();
        let known = started.iter().find(|known| known.kind == TypeId::of::<K>() && known.scope == Scope::default())?;
        Some(known.informer.clone().downcast().expect("stored under its own type's id"))
    }

    /// Returns once every informer started so far has its first list.
    pub async fn synced(&self) {
        let waits: Vec<_> = self.started.lock().iter().map(|known| known.synced.clone()).collect();
        for wait in waits {
            wait().await;
        }
    }
}
