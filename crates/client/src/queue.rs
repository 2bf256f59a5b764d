//! A queue of keys to look at, with client-go's rules.
//!
//! Invariant: an item is never handed to two workers at once, and an item added while it is being worked on
//! comes again afterwards. It holds at most one entry per distinct item, so it is bounded by the number of
//! objects.
//!
//! What a queue with a name has done is kept beside its items, under their lock, and printed under the original's names.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{self, Done, QueueNumbers};

/// client-go's `DefaultTypedControllerRateLimiter`: 5 ms doubled per failure up to 1000 s, and for all
/// items together 10 a second with bursts of 100.
const FAILURE_BASE: Duration = Duration::from_millis(5);
pub const FAILURE_MAX: Duration = Duration::from_secs(1000);
const BUCKET_INTERVAL: Duration = Duration::from_millis(100);
const BUCKET_BURST: u32 = 100;

/// Cheap to clone; clones share the queue.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Wanted: waiting in `ready`, or to be queued again when its worker is done.
    /// Since when.
    dirty: HashMap<T, Instant>,
    /// Since when.
    processing: HashMap<T, Instant>,
    delayed: BTreeMap<(Instant, u64), T>,
    delayed_at: HashMap<T, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<T, u32>,
    failure_max: Duration,
    /// When the next rate-limited addition may come at the earliest, less the burst.
    bucket: Option<Instant>,
    shut_down: bool,
    done: Done,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        WorkQueue { shared: self.shared.clone() }
    }
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    pub fn new() -> Self {
        WorkQueue::with_longest_delay(FAILURE_MAX)
    }

    /// One whose items wait no longer than this however often they have failed.
    pub fn with_longest_delay(failure_max: Duration) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            delayed: BTreeMap::new(),
            delayed_at: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            failure_max,
            bucket: None,
            shut_down: false,
            done: Done::default(),
        };
        WorkQueue { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// Its work is told among the process's metrics, under this name.
    pub fn named(self, name: &'static str) -> Self
    where
        T: Send + 'static,
    {
        let shared = Arc::downgrade(&self.shared);
        metrics::tell_of(name, Box::new(move || Some(shared.upgrade()?.state.lock().numbers(Instant::now()))));
        self
    }

    pub fn add(&self, item: T) {
        if self.shared.state.lock().add(item) {
            self.shared.wake.notify_one();
        }
    }

    /// Adds the item when `delay` has passed; of several delays the earliest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        let mut state = self.shared.state.lock();
        state.done.retries += 1;
        if delay.is_zero() {
            drop(state);
            return self.add(item);
        }
        state.add_at(item, Instant::now() + delay);
        drop(state);
        // Every waiting worker computes anew how long it may sleep.
        self.shared.wake.notify_waiters();
    }

    /// Adds the item after a delay that grows with its failures.
    pub fn add_rate_limited(&self, item: T) {
        let delay = self.shared.state.lock().next_delay(&item, Instant::now());
        self.add_after(item, delay);
    }

    /// Forgets the item's failures.
    pub fn forget(&self, item: &T) {
        self.shared.state.lock().failures.remove(item);
    }

    pub fn failures(&self, item: &T) -> u32 {
        self.shared.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// The next item, or `None` once the queue is shut down and drained. Call `done` with it afterwards.
    pub async fn get(&self) -> Option<T> {
        loop {
            let woken = self.shared.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let until = {
                let mut state = self.shared.state.lock();
                state.release_delayed(Instant::now());
                if let Some(item) = state.take() {
                    if !state.ready.is_empty() {
                        self.shared.wake.notify_one();
                    }
                    return Some(item);
                }
                if state.shut_down {
                    return None;
                }
                state.delayed.first_key_value().map(|((at, _), _)| *at)
            };
            match until {
                Some(at) => tokio::select! {
                    biased;
                    _ = woken => {}
                    _ = tokio::time::sleep_until(at) => {}
                },
                None => woken.await,
            }
        }
    }

    pub fn done(&self, item: &T) {
        if self.shared.state.lock().done(item) {
            self.shared.wake.notify_one();
        }
    }

    /// Takes nothing new; workers drain what is ready and end.
    pub fn shut_down(&self) {
        self.shared.state.lock().shut_down = true;
        self.shared.wake.notify_waiters();
    }

    /// How many items are ready to be worked on.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether a worker should be woken.
    fn add(&mut self, item: T) -> bool {
        if self.shut_down || self.dirty.contains_key(&item) {
            return false;
        }
        self.done.adds += 1;
        self.dirty.insert(item.clone(), Instant::now());
        if self.processing.contains_key(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    fn add_at(&mut self, item: T, at: Instant) {
        if self.shut_down {
            return;
        }
        if let Some(known) = self.delayed_at.get(&item) {
            if known.0 <= at {
                return;
            }
            self.delayed.remove(&known.clone());
        }
        self.sequence += 1;
        self.delayed_at.insert(item.clone(), (at, self.sequence));
        self.delayed.insert((at, self.sequence), item);
    }

    fn release_delayed(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let item = entry.remove();
            self.delayed_at.remove(&item);
            self.add(item);
        }
    }

    fn take(&mut self) -> Option<T> {
        let item = self.ready.pop_front()?;
        let now = Instant::now();
        if let Some(since) = self.dirty.remove(&item) {
            self.done.waited.observe((now - since).as_secs_f64());
        }
        self.processing.insert(item.clone(), now);
        Some(item)
    }

    fn done(&mut self, item: &T) -> bool {
        if let Some(since) = self.processing.remove(item) {
            self.done.worked.observe(since.elapsed().as_secs_f64());
        }
        if !self.dirty.contains_key(item) {
            return false;
        }
        self.ready.push_back(item.clone());
        true
    }

    fn numbers(&self, now: Instant) -> QueueNumbers {
        let running = || self.processing.values().map(|since| (now - *since).as_secs_f64());
        QueueNumbers {
            depth: self.dirty.len(),
            unfinished: running().sum(),
            longest: running().fold(0.0, f64::max),
            done: self.done.clone(),
        }
    }

    fn next_delay(&mut self, item: &T, now: Instant) -> Duration {
        let failures = self.failures.entry(item.clone()).or_insert(0);
        let own = FAILURE_BASE.saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX)).min(self.failure_max);
        *failures = failures.saturating_add(1);

        let slot = self.bucket.map_or(now, |slot| slot.max(now)) + BUCKET_INTERVAL;
        self.bucket = Some(slot);
        let overall = slot.saturating_duration_since(now).saturating_sub(BUCKET_INTERVAL * BUCKET_BURST);
        own.max(overall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_item_is_queued_once_and_processed_by_one() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a"); // While it is being worked on: comes again after `done`.
        assert_eq!(queue.get().await, Some("b"));
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"b");
        queue.shut_down();
        assert_eq!(queue.get().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_earliest_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("slow", Duration::from_secs(60));
        queue.add_after("slow", Duration::from_secs(10));
        queue.add_after("slow", Duration::from_secs(90));
        assert_eq!(queue.get().await, Some("slow"));
        assert_eq!(start.elapsed().as_secs(), 10);
        queue.done(&"slow");
        assert!(tokio::time::timeout(Duration::from_secs(500), queue.get()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleeping_worker_wakes_for_something_earlier() {
        let queue = WorkQueue::new();
        queue.add_after(1, Duration::from_secs(3600));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.get().await }
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        queue.add_after(2, Duration::from_secs(5));
        assert_eq!(waiting.await.unwrap(), Some(2));
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[test]
    fn delays_double_and_the_bucket_spreads_a_flood() {
        let queue = WorkQueue::new();
        let now = Instant::now();
        let mut state = queue.shared.state.lock();
        let delays: Vec<u128> = (0..5).map(|_| state.next_delay(&0, now).as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80]);
        for item in 1..=200 {
            state.next_delay(&item, now);
        }
        assert!(state.next_delay(&1000, now) > Duration::from_secs(9));
        for _ in 0..40 {
            state.next_delay(&0, now);
        }
        assert!(state.next_delay(&0, now) >= FAILURE_MAX);
    }
}
