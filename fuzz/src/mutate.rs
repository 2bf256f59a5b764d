//! Changes seeds at random, where no coverage guides: bytes, words, nesting, splices.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Inputs grow no further than this.
const LEN_MAX: usize = 64 << 10;

/// What parsers trip over.
const WORDS: &[&[u8]] = &[
    b"null", b"true", b"-0", b"1e999", b"9223372036854775808", b"-9223372036854775809", b"0.1", b"1E400m", b"\"\"",
    b"{}", b"[]", b"[{}]", b"{\"\":null}", b"\\u0000", b"\\ud800", b"\xff", b"\xf0\x9f\x92\xa9", b"\xc0\x80", b"$patch",
    b"$setElementOrder/", b"$retainKeys", b"\"$patch\":\"replace\"", b"f:", b"k:{}", b"v:", b"i:0", b".", b"*anchor", b"&anchor ",
    b"<<: ", b"!!binary ", b"- ", b"? ", b"|+\n", b"---\n", b"...\n", b"\t", b"/-", b"~1", b"~0", b"%2f", b"%00", b"%zz", b"//",
    b"/../", b"?watch=1", b"&limit=1", b"&continue=", b"&labelSelector=", b"resourceVersion", b" notin (", b"!=", b"==",
    b"\x00", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"k8s\x00", b"\x0a\x00", b"\xff\xff\xff\xff\x0f",
    b"0001-01-01T00:00:00Z", b"99999-01-01T00:00:00Z", b"2024-02-30T00:00:00Z", b"1Ki", b"1e-400", b"fieldManager=",
];

pub struct Mutator {
    random: StdRng,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    pub fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        Mutator { random: StdRng::seed_from_u64(seed), seeds }
    }

    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.any_seed();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(LEN_MAX);
        input
    }

    fn any_seed(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        self.seeds[at].clone()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random.next_u64() % bound.max(1) as u64) as usize
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(32)).min(input.len());
        match self.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.below(256) as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            4 if at < end => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..end, word.iter().copied());
            }
            5 => {
                let copied = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copied);
            }
            6 => {
                let other = self.any_seed();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 if self.below(20) == 0 => {
                let nest = [&b"["[..], b"{\"a\":", b"- ", b"(", b"\x0a\x80\x80\x04", b"a: \n "][self.below(6)];
                let times = [3, 100, 10_000][self.below(3)];
                input.splice(at..at, nest.repeat(times));
            }
            _ => input.truncate(at.max(1)),
        }
    }
}
