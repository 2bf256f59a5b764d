//! Talks to the kernel about networks: links, addresses and routes, the pod network, nftables, connection tracking.
//!
//! Invariant: everything this crate makes carries the instance's name (devices, tables) or stands in its state
//! directory, so it can be found again after a crash, and [`pod_network::BridgeNetwork::clean_up`] leaves nothing.
//! Sockets belong to the network namespace of the thread that opened them, so several "machines" fit in one process.
//!
//! Deliberately absent: Kubernetes objects (`proxy` and the kubelet translate them), and any external program but
//! CNI plugins that somebody configured: no `ip`, `nft`, `iptables` or `conntrack` is run. Netlink is spoken directly:
//! one batch per change is what keeps attaching a pod below some milliseconds and a change of rules below one.

pub mod address_watch;
pub mod arp;
pub mod cni;
pub mod conntrack;
mod error;
pub mod host;
pub mod host_ports;
pub mod ipam;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod overlay;
pub mod pod_network;
pub mod route;
pub mod sysctl;

pub use error::NetError;
