//! The API server: HTTP, authentication, authorization, admission, the kinds, the watch cache, discovery, OpenAPI.
//!
//! Invariant: the only door to the store. Handlers work on whole objects as JSON and are never generic over kinds;
//! what is particular to a kind stands in `kinds/`. Deliberately absent: controllers, and any typed object.

pub mod admission;
pub mod admission_chain;
mod admission_times;
pub mod allocate;
pub mod allocation;
mod api_services;
pub mod audit;
pub mod authn;
pub mod authz;
mod bootstrap;
pub mod cache;
mod discovery;
pub mod encryption;
pub mod error;
mod expiry;
pub mod flow;
mod health;
pub mod http;
pub mod kinds;
mod measured;
mod metrics;
mod openapi;
pub mod pki;
mod proxying;
mod resource_metrics;
mod rest;
mod reviews;
mod server;
mod signing;
mod tokens;
pub mod user;
mod views;

pub use audit::AuditSettings;
pub use authn::static_tokens::StaticToken;
pub use flow::FlowSettings;
pub use http::service::InProcess;
pub use http::tls::TlsConfig;
pub use server::{ApiServer, Authorization, Config, KubeletAccess, StartError};
