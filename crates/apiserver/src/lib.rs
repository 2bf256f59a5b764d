//! The API server: HTTP, authentication, authorization, admission, the kinds, the watch cache, discovery, OpenAPI.
//!
//! Invariant: the only door to the store. Handlers work on whole objects as JSON and are never generic over kinds;
//! what is particular to a kind stands in `kinds/`. Deliberately absent: controllers, and any typed object.

pub mod admission;
pub mod admission_chain;
pub mod allocate;
pub mod allocation;
pub mod error;
pub mod kinds;
pub mod pki;
pub mod user;
