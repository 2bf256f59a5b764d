//! Seats for requests, shared among priority levels; and the queues of who waits for one.
//!
//! Invariant: a level can always have its nominal seats less what it lends; lendable seats form one pool that whoever
//! has work may draw from, up to the level's borrowing limit. Who is owed seats is served before who borrows.
//! Deliberately absent: the original's adjustment of limits every ten seconds. Lending is decided seat by seat.
//!
//! Pure: the time is an argument, and whoever holds the lock acts on what is returned.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

/// What a request is thought to cost before it is known, in seconds; as the original.
const GUESS_SECONDS: f64 = 0.003;

/// How a priority level is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub exempt: bool,
    pub shares: u64,
    pub lendable_percent: u64,
    /// None: as far as there is anything to borrow.
    pub borrowing_limit_percent: Option<u64>,
    /// None: who finds no seat is refused.
    pub queuing: Option<Queuing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    pub queues: usize,
    pub hand_size: usize,
    pub length_limit: usize,
}

struct Waiting {
    id: u64,
    seats: u64,
    wake: oneshot::Sender<()>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Seats of what was dispatched from here and is not done.
    executing: u64,
    /// When, in the level's virtual time, the next request of this queue starts.
    next_start: f64,
}

struct Level {
    name: String,
    limits: Limits,
    nominal: u64,
    /// What it does not lend.
    own: u64,
    /// With all that it may borrow.
    most: u64,
    executing_seats: u64,
    executing: u64,
    waiting: usize,
    virtual_time: f64,
    queues: Vec<Queue>,
    /// Its object is gone.
    retired: bool,
}

#[derive(Debug)]
pub enum Outcome {
    Run,
    /// The receiver hears when there is a seat.
    Wait { id: u64, queue: usize, heard: oneshot::Receiver<()> },
    /// `queue-full` or `concurrency-limit`.
    Refuse(&'static str),
}

/// Figures of one level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    pub level: String,
    pub nominal: u64,
    pub least: u64,
    pub most: u64,
    pub executing: u64,
    pub executing_seats: u64,
    pub waiting: usize,
}

pub struct Floor {
    total: u64,
    levels: Vec<Level>,
    pool: u64,
    next_id: u64,
    waiting: usize,
}

impl Floor {
    pub fn new(total: u64) -> Floor {
        Floor { total, levels: Vec::new(), pool: 0, next_id: 0, waiting: 0 }
    }

    /// Takes over the levels that there are, and says where each stands.
    pub fn configure(&mut self, levels: &[(String, Limits)]) -> Vec<usize> {
        for level in &mut self.levels {
            level.retired = !levels.iter().any(|(name, _)| *name == level.name);
        }
        let places = levels.iter().map(|(name, limits)| self.place(name, limits)).collect();
        let shares: u64 = levels.iter().map(|(_, limits)| limits.shares).sum();
        self.pool = 0;
        for level in &mut self.levels {
            let shares_of_level = if level.retired { 0 } else { level.limits.shares };
            level.nominal = (self.total * shares_of_level).div_ceil(shares.max(1));
            let lendable = (level.nominal * level.limits.lendable_percent + 50) / 100;
            level.own = level.nominal - lendable.min(level.nominal);
            level.most = match level.limits.borrowing_limit_percent {
                Some(percent) => level.nominal + (level.nominal * percent + 50) / 100,
                None => self.total.max(level.nominal),
            };
            self.pool += lendable;
        }
        self.dispatch();
        places
    }

    fn place(&mut self, name: &str, limits: &Limits) -> usize {
        let found = self
            .levels
            .iter()
            .position(|level| level.name == name)
            .or_else(|| self.levels.iter().position(|level| level.retired && level.executing == 0 && level.waiting == 0));
        let at = found.unwrap_or_else(|| {
            self.levels.push(Level {
                name: String::new(),
                limits: limits.clone(),
                nominal: 0,
                own: 0,
                most: 0,
                executing_seats: 0,
                executing: 0,
                waiting: 0,
                virtual_time: 0.0,
                queues: Vec::new(),
                retired: false,
            });
            self.levels.len() - 1
        });
        let level = &mut self.levels[at];
        level.name = name.to_owned();
        level.limits = limits.clone();
        level.retired = false;
        // Queues that are no longer dealt drain, and go when they are empty and at the end.
        let wanted = limits.queuing.map_or(0, |queuing| queuing.queues);
        while level.queues.len() > wanted && level.queues.last().is_some_and(|last| last.waiting.is_empty() && last.executing == 0) {
            level.queues.pop();
        }
        while level.queues.len() < wanted {
            level.queues.push(Queue::default());
        }
        at
    }

    /// `flow`: the flow's schema and distinguisher, looked at only if there is need to wait.
    pub fn enter(&mut self, at: usize, seats: u64, flow: impl FnOnce() -> u64) -> Outcome {
        let level = &self.levels[at];
        if level.limits.exempt {
            self.start(at, seats);
            return Outcome::Run;
        }
        // Who comes later does not overtake those who wait.
        if level.waiting == 0 && self.fits(at, seats) {
            self.start(at, seats);
            return Outcome::Run;
        }
        let level = &mut self.levels[at];
        let Some(queuing) = level.limits.queuing else { return Outcome::Refuse("concurrency-limit") };
        let hand = deal(flow(), queuing.queues, queuing.hand_size);
        let load = |queue: &Queue| queue.waiting.iter().map(|waiting| waiting.seats).sum::<u64>() + queue.executing;
        let Some(chosen) = hand.into_iter().min_by_key(|queue| load(&level.queues[*queue])) else {
            return Outcome::Refuse("concurrency-limit");
        };
        let queue = &mut level.queues[chosen];
        if queue.waiting.len() >= queuing.length_limit {
            return Outcome::Refuse("queue-full");
        }
        if queue.waiting.is_empty() {
            queue.next_start = queue.next_start.max(level.virtual_time);
        }
        let (wake, heard) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        queue.waiting.push_back(Waiting { id, seats, wake });
        level.waiting += 1;
        self.waiting += 1;
        Outcome::Wait { id, queue: chosen, heard }
    }

    /// A request is done; `queue`: where it had waited, if it had.
    pub fn leave(&mut self, at: usize, seats: u64, queue: Option<usize>, seconds: f64) {
        let level = &mut self.levels[at];
        level.executing -= 1;
        level.executing_seats -= seats;
        if let Some(queue) = queue.and_then(|queue| level.queues.get_mut(queue)) {
            queue.executing -= seats;
            queue.next_start += (seconds - GUESS_SECONDS) * seats as f64;
        }
        if self.waiting > 0 {
            self.dispatch();
        }
    }

    /// Somebody waits no longer. False: they have a seat already.
    pub fn give_up(&mut self, at: usize, queue: usize, id: u64) -> bool {
        let level = &mut self.levels[at];
        let Some(queue) = level.queues.get_mut(queue) else { return false };
        let Some(found) = queue.waiting.iter().position(|waiting| waiting.id == id) else { return false };
        queue.waiting.remove(found);
        level.waiting -= 1;
        self.waiting -= 1;
        // Who stood behind may need fewer seats.
        self.dispatch();
        true
    }

    pub fn figures(&self) -> Vec<Figures> {
        let live = self.levels.iter().filter(|level| !level.retired || level.executing > 0);
        live.map(|level| Figures {
            level: level.name.clone(),
            nominal: level.nominal,
            least: level.own,
            most: level.most,
            executing: level.executing,
            executing_seats: level.executing_seats,
            waiting: level.waiting,
        })
        .collect()
    }

    pub fn nominal(&self, at: usize) -> u64 {
        self.levels[at].nominal
    }

    fn start(&mut self, at: usize, seats: u64) {
        let level = &mut self.levels[at];
        level.executing += 1;
        level.executing_seats += seats;
    }

    fn fits(&self, at: usize, seats: u64) -> bool {
        let level = &self.levels[at];
        // One that is wider than the level ever is must run at some time.
        if level.executing_seats == 0 && level.nominal > 0 {
            return true;
        }
        let after = level.executing_seats + seats;
        if after > level.most {
            return false;
        }
        let extra = after.saturating_sub(level.own) - level.executing_seats.saturating_sub(level.own);
        extra == 0 || self.drawn() + extra <= self.pool
    }

    /// Seats that are drawn from the pool.
    fn drawn(&self) -> u64 {
        self.levels
            .iter()
            .filter(|level| !level.limits.exempt)
            .map(|level| level.executing_seats.saturating_sub(level.own))
            .sum()
    }

    fn dispatch(&mut self) {
        while self.waiting > 0 {
            // Who has less than the nominal seats comes before who borrows; among equals the emptier level.
            let mut candidates: Vec<usize> = (0..self.levels.len()).filter(|at| self.levels[*at].waiting > 0).collect();
            candidates.sort_by(|a, b| {
                let (a, b) = (&self.levels[*a], &self.levels[*b]);
                let fill = |level: &Level| level.executing_seats as f64 / level.nominal.max(1) as f64;
                fill(a).total_cmp(&fill(b))
            });
            if !candidates.into_iter().any(|at| self.dispatch_one(at)) {
                return;
            }
        }
    }

    /// The request that is to start first in virtual time.
    fn dispatch_one(&mut self, at: usize) -> bool {
        let queues = &self.levels[at].queues;
        let next = (0..queues.len())
            .filter(|queue| !queues[*queue].waiting.is_empty())
            .min_by(|a, b| queues[*a].next_start.total_cmp(&queues[*b].next_start));
        let Some(chosen) = next else { return false };
        let Some(seats) = queues[chosen].waiting.front().map(|first| first.seats) else { return false };
        if !self.fits(at, seats) {
            return false;
        }
        self.start(at, seats);
        self.waiting -= 1;
        let level = &mut self.levels[at];
        level.waiting -= 1;
        let queue = &mut level.queues[chosen];
        level.virtual_time = level.virtual_time.max(queue.next_start);
        queue.next_start += GUESS_SECONDS * seats as f64;
        queue.executing += seats;
        if let Some(first) = queue.waiting.pop_front() {
            // One that was given up just now returns its seat when its guard is dropped.
            let _ = first.wake.send(());
        }
        true
    }
}

/// A flow's number, which deals its hand.
pub fn flow_number(schema: &str, distinguisher: &str) -> u64 {
    let digest = Sha256::new_with_prefix(schema.as_bytes()).chain_update([0]).chain_update(distinguisher.as_bytes()).finalize();
    digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// A hand of different queues, as cards are dealt from a deck by a number.
fn deal(mut number: u64, queues: usize, hand_size: usize) -> Vec<usize> {
    let mut hand: Vec<usize> = Vec::with_capacity(hand_size);
    for left in (0..queues).rev().take(hand_size.min(queues)) {
        let size = left as u64 + 1;
        let mut card = (number % size) as usize;
        number /= size;
        // The card counts among those that are left.
        let mut dealt = hand.clone();
        dealt.sort_unstable();
        for earlier in dealt {
            if card >= earlier {
                card += 1;
            }
        }
        hand.push(card);
    }
    hand
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(shares: u64, lendable_percent: u64, queuing: Option<Queuing>) -> Limits {
        Limits { exempt: false, shares, lendable_percent, borrowing_limit_percent: None, queuing }
    }

    const SHORT: Option<Queuing> = Some(Queuing { queues: 8, hand_size: 2, length_limit: 2 });

    fn floor(total: u64, levels: &[(&str, Limits)]) -> Floor {
        let mut floor = Floor::new(total);
        let levels: Vec<(String, Limits)> = levels.iter().map(|(name, limits)| ((*name).to_owned(), limits.clone())).collect();
        assert_eq!(floor.configure(&levels), (0..levels.len()).collect::<Vec<_>>());
        floor
    }

    #[track_caller]
    fn runs(floor: &mut Floor, at: usize, flow: u64) {
        assert!(matches!(floor.enter(at, 1, || flow), Outcome::Run));
    }

    #[track_caller]
    fn waits(floor: &mut Floor, at: usize, flow: u64) -> (u64, usize, oneshot::Receiver<()>) {
        match floor.enter(at, 1, || flow) {
            Outcome::Wait { id, queue, heard } => (id, queue, heard),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hand_has_no_card_twice() {
        for number in [0, 1, 12345, u64::MAX, flow_number("a", "b")] {
            let mut hand = deal(number, 16, 6);
            assert_eq!(hand, deal(number, 16, 6));
            hand.sort_unstable();
            hand.dedup();
            assert!(hand.len() == 6 && hand.iter().all(|card| *card < 16), "{hand:?}");
        }
        assert_ne!(deal(flow_number("a", "b"), 64, 6), deal(flow_number("a", "c"), 64, 6));
    }

    #[test]
    fn seats_by_shares() {
        let floor = floor(600, &[("a", limited(5, 0, None)), ("b", limited(240, 50, SHORT))]);
        let nominal: Vec<(u64, u64)> = floor.figures().iter().map(|level| (level.nominal, level.least)).collect();
        assert_eq!(nominal, [(13, 13), (588, 294)]);
    }

    #[test]
    fn who_finds_no_seat_is_refused_or_waits_and_queues_are_bounded() {
        let mut floor = floor(4, &[("reject", limited(1, 0, None)), ("queue", limited(1, 0, SHORT))]);
        runs(&mut floor, 0, 0);
        runs(&mut floor, 0, 0);
        assert!(matches!(floor.enter(0, 1, || 0), Outcome::Refuse("concurrency-limit")));
        runs(&mut floor, 1, 0);
        runs(&mut floor, 1, 0);
        let mut waiting: Vec<_> = (0..4).map(|_| waits(&mut floor, 1, 7)).collect();
        assert!(matches!(floor.enter(1, 1, || 7), Outcome::Refuse("queue-full")));
        // A seat goes to who waits, in order; who gave up does not count.
        let (id, queue, _) = waiting.remove(0);
        assert!(floor.give_up(1, queue, id));
        floor.leave(1, 1, None, 0.001);
        assert_eq!(waiting.iter_mut().map(|(.., heard)| usize::from(heard.try_recv().is_ok())).sum::<usize>(), 1);
        assert!(!floor.give_up(1, waiting[0].1, id));
    }

    #[test]
    fn lent_seats_go_back_to_their_owner_first() {
        // 8 seats: each has 4, of which the first lends 2.
        let mut floor = floor(8, &[("lender", limited(1, 50, SHORT)), ("borrower", limited(1, 0, SHORT))]);
        for _ in 0..6 {
            runs(&mut floor, 1, 1);
        }
        let (.., mut borrower) = waits(&mut floor, 1, 1);
        runs(&mut floor, 0, 2);
        runs(&mut floor, 0, 2);
        let (.., mut lender) = waits(&mut floor, 0, 2); // Its other two are lent.
        floor.leave(1, 1, None, 0.1);
        assert!(lender.try_recv().is_ok() && borrower.try_recv().is_err());
        floor.leave(1, 1, None, 0.1);
        assert!(borrower.try_recv().is_ok());
    }

    #[test]
    fn a_flow_of_many_does_not_starve_one_of_few() {
        let queuing = Some(Queuing { queues: 64, hand_size: 1, length_limit: 100 });
        let mut floor = floor(1, &[("level", limited(1, 0, queuing))]);
        runs(&mut floor, 0, 1);
        let many: Vec<_> = (0..50).map(|_| waits(&mut floor, 0, 1)).collect();
        let (_, few_queue, mut few) = waits(&mut floor, 0, 2);
        assert_ne!(few_queue, many[0].1);
        floor.leave(0, 1, None, 1.0);
        floor.leave(0, 1, Some(many[0].1), 1.0);
        assert!(few.try_recv().is_ok());
    }

    #[test]
    fn what_is_exempt_never_waits_and_a_wide_one_runs_alone() {
        let exempt = Limits { exempt: true, ..limited(0, 0, None) };
        let mut floor = floor(2, &[("exempt", exempt), ("level", limited(1, 0, SHORT))]);
        for _ in 0..100 {
            runs(&mut floor, 0, 0);
        }
        assert!(matches!(floor.enter(1, 10, || 0), Outcome::Run));
        let (.., mut next) = waits(&mut floor, 1, 0);
        floor.leave(1, 10, None, 0.1);
        assert!(next.try_recv().is_ok());
    }

    #[test]
    fn a_level_that_goes_drains_and_its_place_is_used_again() {
        let mut floor = floor(2, &[("a", limited(1, 0, SHORT)), ("b", limited(1, 0, SHORT))]);
        runs(&mut floor, 0, 0);
        let new = ("c".to_owned(), limited(1, 0, SHORT));
        assert_eq!(floor.configure(&[("b".to_owned(), limited(1, 0, SHORT)), new.clone()]), [1, 2]);
        floor.leave(0, 1, None, 0.1);
        let another = ("d".to_owned(), limited(1, 0, SHORT));
        assert_eq!(floor.configure(&[new, another]), [2, 0]);
    }
}
