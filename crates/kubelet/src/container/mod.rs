//! From a container's specification to the runtime's configuration: environment, mounts, resources, security.

pub mod config;
pub mod env;
pub mod expand;
pub mod fields;
pub mod resources;
pub mod security;
