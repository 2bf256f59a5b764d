//! How every component talks to the API server: transport, shared informers, work queue, events, leases.
//!
//! Invariant: a component that lives on this crate needs nothing but an API server. It cannot tell whether
//! that server is in its own process or behind TLS on another machine.
//!
//! Deliberately absent: any knowledge of what a controller wants, and any other way to time than
//! `tokio::time` and `api::clock`, so that all of it runs under the paused clock.

mod cache;
mod compact;
mod errors;
mod events;
mod informer;
mod informers;
mod metadata;
pub mod metrics;
mod key;
pub mod lease;
mod queue;
pub mod remote;
mod rest;
pub mod spdy;
mod transport;
mod wire;
mod workers;

pub use cache::{Cached, Change};
pub use errors::{ErrorKind, error_kind};
pub use events::{EventRecorder, EventType};
pub use informer::{Informer, Scope, Source};
pub use informers::Informers;
pub use metadata::Metadata;
pub use key::{ObjectKey, object_ref};
pub use queue::{FAILURE_MAX, WorkQueue};
pub use rest::{DeleteOptions, Error, Patch, Propagation, Rest};
pub use transport::{from_kubeconfig, in_process, in_process_as};
pub use wire::path_of;
pub use workers::run_workers;
