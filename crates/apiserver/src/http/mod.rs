//! HTTP: what comes over the wire and how it goes back.

pub mod body;
pub mod negotiate;
pub mod query;
pub mod reply;
pub mod request_info;
pub mod service;
pub mod tls;
