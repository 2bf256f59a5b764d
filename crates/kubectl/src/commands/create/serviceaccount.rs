//! `kubectl create serviceaccount`

use super::{GENERATED, create, name_argument, object};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::flags::Parsed;
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static SERVICE_ACCOUNT: Command = Command {
    name: "serviceaccount",
    aliases: &["sa"],
    about: "Create a service account with the given name.",
    usage: "NAME [--dry-run=server|client|none] [options]",
    examples: "kubectl create serviceaccount robot",
    flags: &[GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

async fn run(session: &Session, args: &Parsed) -> Result {
    create(session, args, object("v1", "ServiceAccount", name_argument(session, args)?)).await
}
