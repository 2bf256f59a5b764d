//! Who leads, as the store says, against who writes.
//!
//! Invariant checked: of the copies of one component only the holder of its Lease writes, but for the Lease itself
//! and for events, which standbys may tell.

use std::collections::BTreeMap;

use http::Request;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;

/// Holders by the Lease's name.
#[derive(Default)]
pub(crate) struct Leaders {
    holders: Mutex<BTreeMap<String, String>>,
    broken: Mutex<Vec<String>>,
}

impl Leaders {
    /// The store has this Lease now.
    pub fn lease(&self, name: &str, lease: Option<&Value>) {
        let holder = lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str()).unwrap_or_default();
        self.holders.lock().insert(name.to_owned(), holder.to_owned());
    }

    pub fn holder(&self, lease: &str) -> Option<String> {
        self.holders.lock().get(lease).filter(|holder| !holder.is_empty()).cloned()
    }

    /// A copy sends a write. Its identity is the Lease's name, an underscore, and what is its own.
    pub fn writes(&self, identity: &str, request: &Request<Body>) {
        let path = request.uri().path();
        if path.contains("/leases") || path.contains("/events") || path.contains("/subjectaccessreviews") {
            return;
        }
        let Some((lease, _)) = identity.split_once('_') else { return };
        let holder = self.holder(lease);
        if holder.as_deref() != Some(identity) {
            let holder = holder.unwrap_or_else(|| "nobody".to_owned());
            self.broken.lock().push(format!("{identity} sends {} {path} while {holder} leads", request.method()));
        }
    }

    pub fn take_broken(&self) -> Vec<String> {
        std::mem::take(&mut *self.broken.lock())
    }
}
