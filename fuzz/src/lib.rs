//! What must hold for any input at all, one function for each reader of what clients send.
//!
//! Invariant: a target panics only when the product is wrong: it panicked itself, blew a small input up, contradicted
//! itself, or answered 5xx to what the client did wrong. libFuzzer drives the targets by coverage (`script/fuzz`); the
//! tests drive them for seconds with mutated seeds. Deliberately absent: any expectation of what a given input means;
//! that is for the tests beside the code.

mod codec;
mod mutate;
mod seeds;
mod server;

pub use codec::{apply, json, patch, protobuf, selector, yaml};
pub use mutate::Mutator;
pub use seeds::{TARGETS, Target, seeds};
pub use server::{router, token};

/// No answer may be larger than this, however it was asked for; inputs are a few KiB.
pub const OUTPUT_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::time::{Duration, Instant};

    use super::*;

    /// What a run may add to the process at its height.
    const MEMORY_MAX: u64 = 768 << 20;
    /// One small input may take no longer, on whatever machine.
    const INPUT_TIME_MAX: Duration = Duration::from_secs(20);

    /// `FUZZ_SECONDS` (3) of mutated seeds; `FUZZ_SEED` repeats a run.
    #[track_caller]
    fn check(name: &str) {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seconds = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(3));
        let seed = number("FUZZ_SEED").unwrap_or(1);
        let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
        let before = peak_memory();
        let seeds = seeds(name);
        for seed in &seeds {
            run(target, seed, 0);
        }
        let mut mutator = Mutator::new(seed, seeds);
        let began = Instant::now();
        let mut inputs = 0;
        while began.elapsed() < seconds {
            run(target, &mutator.next_input(), seed);
            inputs += 1;
        }
        let grown = peak_memory().saturating_sub(before);
        assert!(grown < MEMORY_MAX, "seed {seed}: {grown} bytes more after {inputs} inputs");
    }

    fn run(target: &Target, input: &[u8], seed: u64) {
        let began = Instant::now();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        let took = began.elapsed();
        if outcome.is_err() || took > INPUT_TIME_MAX {
            let path = std::env::temp_dir().join(format!("fuzz-{}-{seed}", target.name));
            let kept = std::fs::write(&path, input).is_ok();
            panic!("{}: seed {seed}, {took:?}, {} bytes (kept in {}: {kept}): {}", target.name, input.len(), path.display(), input.escape_ascii());
        }
    }

    /// The highest resident size that this process has had, in bytes.
    fn peak_memory() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() << 10
    }

    #[test]
    fn json_bodies() {
        check("json");
    }

    #[test]
    fn yaml_bodies() {
        check("yaml");
    }

    #[test]
    fn protobuf_bodies() {
        check("protobuf");
    }

    #[test]
    fn patches() {
        check("patch");
    }

    #[test]
    fn applied_configurations() {
        check("apply");
    }

    #[test]
    fn selectors() {
        check("selector");
    }

    #[test]
    fn requests() {
        check("router");
    }

    #[test]
    fn credentials() {
        check("token");
    }
}
