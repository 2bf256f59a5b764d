//! Commands that the original has and this client has not yet: each fails and says so.

use crate::command::{COMMAND, Command};
use crate::error::Error;

macro_rules! unsupported {
    ($($ident:ident $name:literal $about:literal),* $(,)?) => {
        $(pub static $ident: Command = Command {
            name: $name,
            about: $about,
            interspersed: false,
            run: Some(|_, _| Box::pin(async { Err(Error::not_supported($name)) })),
            ..COMMAND
        };)*
    };
}

unsupported! {
    DEBUG "debug" "Look into workloads and nodes from a container of one's own. Not supported yet.",
    KUSTOMIZE "kustomize" "Show what a kustomization makes. Not supported yet.",
}
