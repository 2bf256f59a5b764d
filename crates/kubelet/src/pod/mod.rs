//! A pod on its node: the machine that decides, the worker that acts.

pub mod effects;
pub mod hooks;
pub mod machine;
pub mod spec;
pub mod status_writer;
pub mod worker;
