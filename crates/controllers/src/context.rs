//! What every controller is given: the API, the caches, the clock, and ways to write that the caches see.
//!
//! Invariant: a write made here is in the cache before the call returns, so that the next round of the same
//! controller never acts on a world from before its own deeds.

use std::sync::Arc;

use api::clock::Clock;
use client::{Cached, DeleteOptions, ErrorKind, EventRecorder, Informer, Informers, Metadata, ObjectKey, Patch, Rest, Scope, error_kind};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Serialize, de::DeserializeOwned};

use crate::Settings;

/// Bounds for kinds that can be read, written and cached; every type of k8s-openapi qualifies.
pub(crate) trait Object:
    kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
}

pub(crate) struct Context {
    pub rest: Rest,
    pub informers: Arc<Informers>,
    pub clock: Clock,
    pub settings: Settings,
}

impl Context {
    pub fn informer<K: Object>(&self) -> Arc<Informer<K>> {
        self.informers.of::<K>()
    }

    /// Those objects of a kind for which a field has a value.
    pub fn informer_where<K: Object>(&self, field: &str, value: &str) -> Arc<Informer<K>> {
        self.informers.scoped(Scope { field_selector: Some(format!("{field}={value}")), ..Scope::default() })
    }

    pub fn metadata_informer<K: Object>(&self) -> Arc<Informer<Metadata<K>>> {
        self.informers.metadata_of()
    }

    pub fn recorder(&self, component: &str) -> EventRecorder {
        EventRecorder::new(self.rest.client().clone(), self.clock.clone(), component, "")
    }

    /// Whole seconds, as the API stores times; so a computed status equals a stored one.
    pub fn now(&self) -> Timestamp {
        whole_seconds(self.clock.now())
    }

    pub async fn create<K: Object>(&self, object: &K) -> Result<K, kube::Error> {
        let written = self.rest.create(object).await?;
        self.observe(&written);
        Ok(written)
    }

    pub async fn update<K: Object>(&self, object: &K) -> Result<K, kube::Error> {
        let written = self.rest.update(object).await?;
        self.observe(&written);
        Ok(written)
    }

    pub async fn update_status<K: Object>(&self, object: &K) -> Result<K, kube::Error> {
        let written = self.rest.update_status(object).await?;
        self.observe(&written);
        Ok(written)
    }

    pub async fn patch<K: Object>(&self, key: &ObjectKey, patch: &Patch) -> Result<K, kube::Error> {
        let written = self.rest.patch(key, patch, "").await?;
        self.observe(&written);
        Ok(written)
    }

    pub async fn patch_status<K: Object>(&self, key: &ObjectKey, patch: &Patch) -> Result<K, kube::Error> {
        let written = self.rest.patch(key, patch, "status").await?;
        self.observe(&written);
        Ok(written)
    }

    /// An object that is gone already, or whose namesake took its place, counts as deleted.
    pub async fn delete<K: Object>(&self, key: &ObjectKey, options: &DeleteOptions) -> Result<(), kube::Error> {
        let outcome = self.rest.delete::<K>(key, options).await;
        let gone = match outcome {
            Ok(Some(remaining)) => {
                self.observe(&remaining);
                // Objects without finalizers and grace are answered whole and are gone all the same.
                remaining.meta().deletion_timestamp.is_none()
            }
            Ok(None) => true,
            Err(error) if error_kind(&error) == ErrorKind::NotFound => true,
            // The precondition failed: the name belongs to another object by now.
            Err(error) if error_kind(&error) == ErrorKind::Conflict && options.resource_version.is_none() => true,
            Err(error) => return Err(error),
        };
        if gone
            && let Some(informer) = self.informers.started::<K>()
            && let Some(held) = informer.get(key)
        {
            let uid = options.uid.clone().unwrap_or_else(|| Cached::uid(&*held).to_owned());
            informer.observe_gone(key, &uid);
        }
        Ok(())
    }

    fn observe<K: Object>(&self, written: &K) {
        if let Some(informer) = self.informers.started::<K>() {
            informer.observe(written.clone());
        }
    }
}

pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).expect("a second of a valid time is a valid time")
}

/// Seconds from `earlier` to `later`, negative when it is the other way round.
pub(crate) fn seconds_between(earlier: &Time, later: Timestamp) -> i64 {
    later.as_second() - earlier.0.as_second()
}
