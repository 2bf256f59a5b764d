//! The time, handed in: logic never asks the system.
//!
//! Invariant: a simulated clock advances with tokio's clock alone, so under a paused runtime an hour passes in
//! no time and every run of a seed sees the same instants.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Wall-clock time of one cluster; cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Simulated { start: Timestamp, since: Instant },
}

impl Clock {
    pub fn system() -> Self {
        Clock(Source::System)
    }

    /// Reads `start` now and advances with `tokio::time::Instant` from here on.
    pub fn starting_at(start: Timestamp) -> Self {
        Clock(Source::Simulated {
            start,
            since: Instant::now(),
        })
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Simulated { start, since } => {
                let elapsed =
                    SignedDuration::try_from(since.elapsed()).unwrap_or(SignedDuration::MAX);
                start.checked_add(elapsed).unwrap_or(Timestamp::MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_time_follows_the_paused_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let clock = Clock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
            tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
            assert_eq!(clock.now().to_string(), "2026-01-01T01:00:00Z");
        });
    }
}
