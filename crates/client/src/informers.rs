//! One cluster-wide informer per kind, shared by everybody in the process.

use std::any::{Any, TypeId};
use std::sync::Arc;

use futures::future::BoxFuture;
use kube::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::cache::Cached;
use crate::informer::{Informer, Scope};

pub struct Informers {
    client: Client,
    cancel: CancellationToken,
    /// In the order in which they were asked for; there are a few dozen at most.
    started: Mutex<Vec<Started>>,
}

struct Started {
    kind: TypeId,
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
        let mut started = self.started.lock();
        let kind = TypeId::of::<K>();
        if let Some(known) = started.iter().find(|known| known.kind == kind) {
            return known.informer.clone().downcast().expect("stored under its own type's id");
        }
        let informer = Informer::<K>::start(&self.client, Scope::default(), self.cancel.clone());
        let waited_for = informer.clone();
        started.push(Started {
            kind,
            informer: informer.clone(),
            synced: Arc::new(move || {
                let informer = waited_for.clone();
                Box::pin(async move { informer.synced().await })
            }),
        });
        informer
    }

    /// The informer of a kind if somebody has asked for it before.
    pub fn started<K: Cached>(&self) -> Option<Arc<Informer<K>>> {
        let started = self.started.lock();
        let known = started.iter().find(|known| known.kind == TypeId::of::<K>())?;
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
