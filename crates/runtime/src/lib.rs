//! The CRI seam and the embedded container runtime.
//!
//! `cri` is what the kubelet sees; `embedded` implements it in the agent's process; `shim` is a process per pod
//! that owns the pod's containers, so that they outlive the agent; `container` is what a forked child of the shim
//! does to become a container. Deliberately absent: Kubernetes' objects, and networks beyond asking for an address.

mod capabilities;
mod cgroup;
mod container;
pub mod cri;
pub mod embedded;
pub mod image;
mod seccomp;
pub mod shim;
mod spec;
mod sys;
