//! The API server over the in-memory store, through its in-process service: requests in, answers out.

mod access;
mod discovery;
mod harness;
mod reads;
mod streams;
mod tls;
mod watches;
mod writes;
