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
    PROXY "proxy" "Serve the API on a local port. Not supported yet.",
    KUSTOMIZE "kustomize" "Show what a kustomization makes. Not supported yet.",
    CP "cp" "Copy files to and from containers. Not supported yet.",
    PORT_FORWARD "port-forward" "Forward local ports to a pod. Not supported yet.",
    COMPLETION "completion" "Shell completion. Not supported yet.",
    TOP "top" "Show what nodes and pods use. Not supported yet.",
}
