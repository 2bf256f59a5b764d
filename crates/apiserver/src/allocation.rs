//! The seam to what the server hands out by itself: cluster IPs and node ports of Services.
//!
//! Invariant: what was handed out for a write that failed, or was a dry run, is taken back when its [`Reservation`]
//! is dropped without `keep`. Deliberately absent: the allocators (`allocate/`).

use serde_json::Value;

use crate::error::RequestError;
use crate::kinds::Kind;

/// Fills in and takes back what the server assigns.
pub trait Allocate: Send + Sync {
    /// Asked on every write: cheap.
    fn handles(&self, kind: &Kind) -> bool;

    /// Called once at start with every stored object that it handles, before the first request.
    fn load(&self, kind: &Kind, existing: &[Value]);

    /// Runs after admission and before validation.
    fn create(&self, kind: &Kind, object: &mut Value) -> Result<Reservation, RequestError>;

    /// Runs after `prepare_update` and before validation. What the old object held and the new one does not is given
    /// back when the reservation is kept.
    fn update(&self, kind: &Kind, new: &mut Value, old: &Value) -> Result<Reservation, RequestError>;

    /// The object is gone from the store.
    fn deleted(&self, kind: &Kind, old: &Value);
}

/// What one write took. Dropped: taken back.
#[derive(Default)]
#[must_use]
pub struct Reservation {
    keep: Option<Box<dyn FnOnce() + Send>>,
    take_back: Option<Box<dyn FnOnce() + Send>>,
}

impl Reservation {
    /// Nothing was taken.
    pub fn none() -> Self {
        Reservation::default()
    }

    /// `keep` runs when the write is durable, `take_back` when it is not.
    pub fn new(keep: impl FnOnce() + Send + 'static, take_back: impl FnOnce() + Send + 'static) -> Self {
        Reservation { keep: Some(Box::new(keep)), take_back: Some(Box::new(take_back)) }
    }

    pub fn keep(mut self) {
        self.take_back = None;
        if let Some(keep) = self.keep.take() {
            keep();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(take_back) = self.take_back.take() {
            take_back();
        }
    }
}
