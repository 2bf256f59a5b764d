//! The API server over the in-memory store, through its in-process service: requests in, answers out.

mod access;
mod addresses;
mod auth;
mod conformance;
mod discovery;
mod flow;
mod harness;
mod openapi_oracle;
mod reads;
mod roundtrip;
mod streams;
mod tls;
mod watches;
mod writes;
