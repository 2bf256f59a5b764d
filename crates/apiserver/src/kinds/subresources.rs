//! The subresources that several kinds share.

use super::{ScalePaths, Subresource};

const READ_WRITE: &[&str] = &["get", "patch", "update"];
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// Speaks the kind itself.
pub const fn same(name: &'static str) -> Subresource {
    Subresource { name, speaks: None, verbs: READ_WRITE, scale: None }
}

pub const STATUS: Subresource = same("status");

pub const fn scale(paths: ScalePaths) -> Subresource {
    Subresource { name: "scale", speaks: Some(("autoscaling", "v1", "Scale")), verbs: READ_WRITE, scale: Some(paths) }
}

pub const fn create(name: &'static str, speaks: (&'static str, &'static str, &'static str)) -> Subresource {
    Subresource { name, speaks: Some(speaks), verbs: &["create"], scale: None }
}

/// exec, attach, portforward: opened by GET (WebSocket) or POST (SPDY).
pub const fn connect(name: &'static str, options: &'static str) -> Subresource {
    Subresource { name, speaks: Some(("", "v1", options)), verbs: &["create", "get"], scale: None }
}

pub const fn proxy(options: &'static str) -> Subresource {
    Subresource { name: "proxy", speaks: Some(("", "v1", options)), verbs: PROXY_VERBS, scale: None }
}
