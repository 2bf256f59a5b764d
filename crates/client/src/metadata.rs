//! Who an object is, and nothing else of it: for those who count.

use std::marker::PhantomData;

use serde::{Deserialize, Deserializer};

use crate::cache::Cached;
use crate::key::ObjectKey;

/// An object of kind `K` without its content.
pub struct Metadata<K> {
    namespace: Box<str>,
    name: Box<str>,
    uid: Box<str>,
    resource_version: Box<str>,
    kind: PhantomData<fn() -> K>,
}

impl<'de, K> Deserialize<'de> for Metadata<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Fields,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            #[serde(default)]
            namespace: Box<str>,
            name: Box<str>,
            uid: Box<str>,
            resource_version: Box<str>,
        }
        let Object { metadata: Fields { namespace, name, uid, resource_version } } = Object::deserialize(deserializer)?;
        Ok(Metadata { namespace, name, uid, resource_version, kind: PhantomData })
    }
}

impl<K> Metadata<K> {
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl<K: 'static> Cached for Metadata<K> {
    fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.to_string(), name: self.name.to_string() }
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn resource_version(&self) -> &str {
        &self.resource_version
    }

    fn controller_uid(&self) -> Option<&str> {
        None // Nobody who only counts asks for owners.
    }
}
