//! Whether the answer to a write has reached who asked for it: who never hears what became of a creation will ask
//! for it again, and an invariant allows for just that.
//!
//! Invariant: what the store is told within `Asked::during` is known to be that request's doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static ASKED: Answer;
}

/// The answer to one request; not lost until it is known to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer(Arc<AtomicBool>);

impl Answer {
    /// Of the request that is being carried out, if it came by a link.
    pub fn to_present_request() -> Option<Answer> {
        ASKED.try_with(Clone::clone).ok()
    }

    pub fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Held while a request is on its way; dropped without `has_arrived`, the answer is lost.
pub(crate) struct Asked {
    answer: Answer,
    arrived: bool,
}

impl Asked {
    pub fn new() -> Asked {
        Asked { answer: Answer::default(), arrived: false }
    }

    pub fn during<W: Future>(&self, work: W) -> TaskLocalFuture<Answer, W> {
        ASKED.scope(self.answer.clone(), work)
    }

    pub fn has_arrived(mut self) {
        self.arrived = true;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.arrived {
            self.answer.0.store(true, Ordering::Relaxed);
        }
    }
}
