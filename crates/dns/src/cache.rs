//! Answers of other servers, kept for a short while.
//!
//! Invariant: never more than `ENTRIES_MAX` of them, and none is given out past its time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::time::Instant;

const ENTRIES_MAX: usize = 10_000;
/// However long the owner of a name lets its answers be kept.
const KEEP_MAX: Duration = Duration::from_secs(30);

/// What was asked: the name in lower case, type, class, and whether signatures were wanted.
pub type Question = (Name, RecordType, DNSClass, bool);

#[derive(Default)]
pub struct Cache {
    entries: HashMap<Question, Entry>,
}

struct Entry {
    answer: Arc<Message>,
    stored: Instant,
    until: Instant,
}

impl Cache {
    /// The answer with its records' remaining time.
    pub fn get(&self, question: &Question, now: Instant) -> Option<Message> {
        let entry = self.entries.get(question).filter(|entry| entry.until > now)?;
        let age = (now - entry.stored).as_secs() as u32;
        let mut answer = (*entry.answer).clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals) {
            record.decrement_ttl(age);
        }
        Some(answer)
    }

    pub fn put(&mut self, question: Question, answer: &Message, now: Instant) {
        let Some(keep) = keep_for(answer) else { return };
        if self.entries.len() >= ENTRIES_MAX {
            self.make_room(now);
        }
        let entry = Entry { answer: Arc::new(answer.clone()), stored: now, until: now + keep };
        self.entries.insert(question, entry);
    }

    /// Drops what is past its time; if that is little, the half that would go first.
    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.until > now);
        if self.entries.len() > ENTRIES_MAX / 2 {
            let mut ends: Vec<Instant> = self.entries.values().map(|entry| entry.until).collect();
            ends.sort();
            let middle = ends[ends.len() / 2];
            self.entries.retain(|_, entry| entry.until > middle);
        }
    }
}

/// `None` for what is not worth keeping.
fn keep_for(answer: &Message) -> Option<Duration> {
    if answer.metadata.truncation || !matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let seconds = if answer.answers.is_empty() || answer.metadata.response_code == ResponseCode::NXDomain {
        let negative = answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
            _ => None,
        });
        negative?
    } else {
        answer.answers.iter().map(|record| record.ttl).min()?
    };
    let keep = Duration::from_secs(u64::from(seconds)).min(KEEP_MAX);
    (!keep.is_zero()).then_some(keep)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;

    use super::*;

    fn question(number: usize) -> Question {
        (Name::from_ascii(format!("n{number}.example.")).unwrap(), RecordType::A, DNSClass::IN, false)
    }

    fn answer(ttl: u32) -> Message {
        let mut answer = Message::response(1, OpCode::Query);
        answer.answers.push(Record::from_rdata(Name::root(), ttl, RData::A(A::new(1, 2, 3, 4))));
        answer
    }

    #[test]
    fn counts_time_down() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(question(1), &answer(20), now);
        let at = |seconds| cache.get(&question(1), now + Duration::from_secs(seconds)).map(|answer| answer.answers[0].ttl);
        assert_eq!([at(0), at(7), at(19), at(20)], [Some(20), Some(13), Some(1), None]);
        cache.put(question(2), &answer(3600), now);
        assert!(cache.get(&question(2), now + Duration::from_secs(31)).is_none());
        cache.put(question(3), &answer(0), now);
        assert!(cache.get(&question(3), now).is_none());
    }

    #[test]
    fn stays_small() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..ENTRIES_MAX + 10 {
            cache.put(question(number), &answer(1 + number as u32 % 29), now);
        }
        assert!(cache.entries.len() <= ENTRIES_MAX);
        assert!(cache.entries.len() > ENTRIES_MAX / 4);
    }
}
