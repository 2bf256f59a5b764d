//! `-k`: kustomizations, the common fields.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::Manifest;
use crate::session::Session;

pub fn build(_session: &Session, _directory: &Path) -> Result<Vec<Manifest>> {
    Err(Error::not_supported("--kustomize"))
}
