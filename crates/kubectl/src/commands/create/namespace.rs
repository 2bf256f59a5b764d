//! `kubectl create namespace`

use serde_json::json;

use super::{GENERATED, create, name_argument, object};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::flags::Parsed;
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static NAMESPACE: Command = Command {
    name: "namespace",
    aliases: &["ns"],
    about: "Create a namespace with the given name.",
    usage: "NAME [--dry-run=server|client|none] [options]",
    examples: "kubectl create namespace team-a",
    flags: &[GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

async fn run(session: &Session, args: &Parsed) -> Result {
    let mut namespace = object("v1", "Namespace", name_argument(session, args)?);
    namespace["spec"] = json!({});
    namespace["status"] = json!({});
    create(session, args, namespace).await
}
