//! Requests that end at a kubelet or behind a Service: logs, exec, attach, port-forward, proxy.
//!
//! Invariant: after an upgrade bytes pass unseen in both directions. Deliberately absent: any stream protocol. The
//! kubelet speaks WebSocket and SPDY itself.

mod connect;
mod pod;
mod service;

pub use pod::{fetch_from_kubelet, pod_log, pod_stream};
pub use service::proxy;
