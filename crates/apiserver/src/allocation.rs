//! The seam to what the server hands out by itself: cluster IPs and node ports of Services.
//!
//! Invariant: what is handed out belongs to its [`Reservation`] until that is dropped, and to the stored object from
//! the moment that the allocator has seen it. Deliberately absent: the allocators (`allocate/`).

use serde_json::Value;

use crate::error::RequestError;
use crate::kinds::Kind;

/// Fills in and takes back what the server assigns.
pub trait Allocate: Send + Sync {
    /// Asked on every write: cheap.
    fn handles(&self, kind: &Kind) -> bool;

    /// Makes its choices repeatable.
    fn seed(&self, _seed: u64) {}

    /// All stored objects that it handles: at start, and when changes were missed.
    fn load(&self, kind: &Kind, existing: &[Value]);

    /// A stored object changed, by whoever's hand. Told in order, before anything further is handed out.
    fn changed(&self, kind: &Kind, old: Option<&Value>, new: Option<&Value>);

    /// Runs after admission and before validation.
    fn create(&self, kind: &Kind, object: &mut Value) -> Result<Reservation, RequestError>;

    /// Runs after `prepare_update` and before validation.
    fn update(&self, kind: &Kind, new: &mut Value, old: &Value) -> Result<Reservation, RequestError>;
}

/// What one write took. Dropped when the write has failed, or when it has been seen in the store.
#[derive(Default)]
#[must_use]
pub struct Reservation {
    take_back: Option<Box<dyn FnOnce() + Send>>,
}

impl Reservation {
    /// Nothing was taken.
    pub fn none() -> Self {
        Reservation::default()
    }

    pub fn new(take_back: impl FnOnce() + Send + 'static) -> Self {
        Reservation { take_back: Some(Box::new(take_back)) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(take_back) = self.take_back.take() {
            take_back();
        }
    }
}
