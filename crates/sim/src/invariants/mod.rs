//! What must hold: after every write, when all is at rest, and what "at rest" means.
//!
//! Invariant: an invariant reads the world and changes nothing in it. Where a component may act on what it knew a
//! moment ago, the bound is the loosest of the last `STALE_FOR`.

mod daemons;
mod jobs;
mod placement;
mod quotas;
mod recent;
mod rolling;
mod services;
mod stateful;
mod tidiness;

use std::time::Duration;

use crate::world::{Change, World};

/// How long a component may go on with an old view: a stalled watch, a lost request and its repetition.
pub(crate) const STALE_FOR: Duration = Duration::from_secs(15);

/// The most that a component's clock may be ahead.
pub(crate) const SKEW_MAX: Duration = Duration::from_secs(3);

pub(crate) trait Invariant: Send {
    fn after(&mut self, _change: &Change, _world: &World, _broken: &mut Vec<String>) {}

    fn at_rest(&self, _world: &World, _broken: &mut Vec<String>) {}

    /// What is still on its way.
    fn unsettled(&self, _world: &World, _unsettled: &mut Vec<String>) {}
}

pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(rolling::Rolling::default()),
        Box::new(stateful::Stateful),
        Box::new(daemons::Daemons),
        Box::new(jobs::Jobs::default()),
        Box::new(placement::Placement::default()),
        Box::new(services::Services),
        Box::new(quotas::Quotas),
        Box::new(tidiness::Tidiness),
    ]
}
