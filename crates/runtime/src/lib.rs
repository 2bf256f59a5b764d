//! The CRI seam and the embedded container runtime.

pub mod cri;
pub mod image;
