//! The node tier of the runtime: real containers on this machine, as root; skipped by name otherwise.
//!
//! Every test ends with nothing left: no process, mount, network namespace, control group. The binary is also the
//! shim of its own containers, hence the harness of its own; it speaks as much of libtest as nextest needs.

mod containers;
mod harness;
mod lives;
mod power;
mod streams;
mod world;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|it| it == runtime::shim::COMMAND) {
        runtime::shim::main(&args[2..]);
    }
    if args.get(1).is_some_and(|it| it == lives::CHURN) {
        lives::churn(&args[2], &args[3]);
    }
    let tests: Vec<harness::Test> =
        [containers::TESTS, lives::TESTS, power::TESTS, streams::TESTS].into_iter().flatten().copied().collect();
    harness::main(&tests, &args[1..]);
}
