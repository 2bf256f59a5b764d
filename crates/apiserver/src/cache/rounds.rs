//! A crowd of watchers goes through a shelf's ring in step.
//!
//! Invariant: in a crowd everybody reads from mark to mark, so that most read the very same events, which are written
//! down once for all of them. A mark is set at once where the last round is long enough ago. Deliberately absent: a
//! task that sets marks. The first watcher who comes when one is due sets it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use store::Revision;
use tokio::time::Instant;

use super::frames::Shape;

/// More watchers of a kind than this are a crowd.
const CROWD: usize = 100;
/// So long passes between rounds for each of the crowd: a few times what a round costs, so that others have time.
const EACH: Duration = Duration::from_micros(100);
const BETWEEN_MAX: Duration = Duration::from_millis(100);
/// What was written down last; those who are in step want the newest or the one before.
const PIECES: usize = 4;

#[derive(Default)]
pub struct Rounds {
    /// Each watcher holds a clone.
    members: Arc<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// All up to here may be read.
    mark: Revision,
    /// When the next mark may be set.
    next: Option<Instant>,
    pieces: VecDeque<Piece>,
}

/// Events after `from`, as read by who watches `namespace` (empty: all) without selectors.
#[derive(Clone)]
pub struct Piece {
    pub from: Revision,
    /// The mark that bounded it.
    pub upto: Revision,
    pub shape: Shape,
    pub namespace: String,
    pub bytes: Bytes,
    /// All up to here is in it.
    pub reached: Revision,
}

/// Belongs to the crowd while it lives.
pub struct Member {
    _member: Arc<()>,
}

impl Rounds {
    pub fn join(&self) -> Member {
        Member { _member: self.members.clone() }
    }

    /// Up to where may be read now, where there is a crowd; `newest` is what there is.
    pub fn mark(&self, newest: Revision) -> Option<Revision> {
        let crowd = Arc::strong_count(&self.members) - 1;
        if crowd <= CROWD {
            return None;
        }
        let mut state = self.state.lock();
        if newest > state.mark {
            let now = Instant::now();
            if state.next.is_none_or(|next| next <= now) {
                state.mark = newest;
                state.next = Some(now + (EACH * crowd as u32).min(BETWEEN_MAX));
            }
        }
        Some(state.mark)
    }

    /// When the next mark may be set.
    pub fn next(&self) -> Option<Instant> {
        self.state.lock().next
    }

    /// What is the same for many: the first who asks makes it.
    pub fn piece<E>(
        &self,
        (from, upto): (Revision, Revision),
        shape: Shape,
        namespace: &str,
        make: impl FnOnce() -> Result<(Bytes, Revision), E>,
    ) -> Result<(Bytes, Revision), E> {
        // Others wait meanwhile: what they wait for is what they want.
        let mut state = self.state.lock();
        let is_it = |piece: &&Piece| {
            (piece.from, piece.upto, piece.shape) == (from, upto, shape) && piece.namespace == namespace
        };
        if let Some(piece) = state.pieces.iter().find(is_it) {
            return Ok((piece.bytes.clone(), piece.reached));
        }
        let (bytes, reached) = make()?;
        if state.pieces.len() == PIECES {
            state.pieces.pop_front();
        }
        let namespace = namespace.to_owned();
        state.pieces.push_back(Piece { from, upto, shape, namespace, bytes: bytes.clone(), reached });
        Ok((bytes, reached))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_reads_from_mark_to_mark() {
        let rounds = Rounds::default();
        let few: Vec<Member> = (0..CROWD).map(|_| rounds.join()).collect();
        assert_eq!(rounds.mark(7), None, "who is not many reads what there is");
        let many: Vec<Member> = (0..CROWD).map(|_| rounds.join()).collect();
        assert_eq!(rounds.mark(7), Some(7), "after quiet times at once");
        assert_eq!(rounds.mark(8), Some(7));
        let next = rounds.next().expect("there was a round");
        assert_eq!(next - Instant::now(), EACH * 200);
        tokio::time::sleep_until(next).await;
        assert_eq!((rounds.mark(9), rounds.mark(10)), (Some(9), Some(9)));
        drop(few);
        drop(many);
        assert_eq!(rounds.mark(10), None);
    }

    #[test]
    fn what_is_the_same_is_made_once() {
        let rounds = Rounds::default();
        let shape = Shape { protobuf: false, partial: false };
        let mut made = 0;
        let mut ask = |from, namespace: &str| {
            let make = || {
                made += 1;
                Ok::<_, ()>((Bytes::from(format!("{from}{namespace}")), 9))
            };
            rounds.piece((from, 9), shape, namespace, make).expect("is made").0
        };
        assert_eq!((ask(1, ""), ask(1, ""), ask(1, "a"), ask(2, "")), ("1".into(), "1".into(), "1a".into(), "2".into()));
        for from in 3..8 {
            ask(from, "");
        }
        assert_eq!(ask(7, ""), "7");
        assert_eq!(made, 8);
    }
}
