//! Enough of libtest's command line: `--list`, `--exact`, filters.
#![allow(clippy::print_stdout)]

use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Clone, Copy)]
pub struct Test {
    pub name: &'static str,
    pub run: fn(),
}

/// Tests of a module: `tests![first, second]` inside it.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            run: || $crate::world::run(stringify!($name), |world| Box::pin($name(world))),
        }),*];
    };
}

pub fn main(tests: &[Test], args: &[String]) {
    let has = |flag: &str| args.iter().any(|it| it == flag);
    let mut filters = Vec::new();
    let mut args_left = args.iter();
    while let Some(arg) = args_left.next() {
        match arg.as_str() {
            "--format" | "--test-threads" | "--skip" => drop(args_left.next()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    let wanted = |test: &&Test| {
        filters.is_empty()
            || filters.iter().any(|it| if has("--exact") { test.name == *it } else { test.name.contains(it) })
    };
    if has("--list") {
        // None of them is ignored; being skipped is told when they run.
        if !has("--ignored") {
            tests.iter().filter(wanted).for_each(|test| println!("{}: test", test.name));
        }
        return;
    }
    let mut failed = 0;
    for test in tests.iter().filter(wanted) {
        if !nix::unistd::geteuid().is_root() {
            println!("test {} ... skipped: needs root", test.name);
            continue;
        }
        let before = std::time::Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(test.run)).is_ok();
        println!("test {} ... {} ({:?})", test.name, if passed { "ok" } else { "FAILED" }, before.elapsed());
        failed += usize::from(!passed);
    }
    std::process::exit(if failed == 0 { 0 } else { 101 });
}
