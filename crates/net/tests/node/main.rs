//! The kernel's answers: pod networks and rules in network namespaces made here. As root; skipped by name otherwise.
//!
//! Every test works in a namespace of its own ("machine") that goes with the thread that entered it, so nothing is
//! left behind, not even by a test that fails.

#![allow(clippy::print_stderr)] // Measurements, and which test was skipped.

mod flows;
mod machine;
mod nft_text;
mod overlay;
mod pods;
