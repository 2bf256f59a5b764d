//! What is taken of one kind of thing. A claim counts, so that a thing held by the stored object and by an update of it
//! is free only when both are gone.

use std::collections::HashMap;
use std::hash::Hash;

pub struct Pool<T> {
    taken: HashMap<T, u32>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Pool { taken: HashMap::new() }
    }
}

impl<T: Hash + Eq> Pool<T> {
    pub fn is_taken(&self, thing: &T) -> bool {
        self.taken.contains_key(thing)
    }

    pub fn take(&mut self, thing: T) {
        *self.taken.entry(thing).or_insert(0) += 1;
    }

    pub fn give_back(&mut self, thing: &T) {
        if let Some(count) = self.taken.get_mut(thing) {
            *count -= 1;
            if *count == 0 {
                self.taken.remove(thing);
            }
        }
    }
}
