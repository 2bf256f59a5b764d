//! A number with its recent past.

use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Recent {
    current: i64,
    /// What it was, and until when.
    past: Vec<(Duration, i64)>,
}

impl Recent {
    pub fn set(&mut self, now: Duration, value: i64) {
        if value != self.current {
            self.past.push((now, self.current));
            self.current = value;
        }
    }

    /// The largest that it was within `window` before `now`.
    pub fn max(&mut self, now: Duration, window: Duration) -> i64 {
        self.past.retain(|(until, _)| now.saturating_sub(*until) <= window);
        self.past.iter().map(|(_, value)| *value).fold(self.current, i64::max)
    }
}
