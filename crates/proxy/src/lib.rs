//! Services to nftables: connections to a Service's addresses are led to one of its endpoints by the kernel.
//!
//! Invariant: what the kernel holds is a function of Services, EndpointSlices and this node alone. A change is one
//! transaction whose size does not depend on how many Services there are, and which leaves connections alone that it
//! does not concern. A killed proxy leaves working rules; the next one replaces them in one step.
//!
//! `observe` (informers) -> [`decide`] (pure, one Service) -> entries -> [`plan`](state) (what changed) -> one
//! transaction ([`table`] says what the rules look like).
//!
//! NetworkPolicies stand in a table of their own, see [`policy`].
//!
//! Deliberately absent: a userspace data path, host ports (the pod network's), names (DNS), and load balancers'
//! addresses (whoever puts them into a Service's status).

mod decide;
mod endpoints;
mod entry;
mod flows;
mod health;
mod policy;
mod run;
mod slots;
mod state;
mod table;

pub use policy::{PolicyConfig, PolicyEnforcer};
pub use run::{Proxy, ProxyConfig};
