//! `kubectl create priorityclass`

use serde_json::json;

use super::{GENERATED, create, name_argument};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static PRIORITY_CLASS: Command = Command {
    name: "priorityclass",
    aliases: &["pc"],
    about: "Create a priority class with the given name.",
    usage: "NAME --value=VALUE --global-default=BOOL [--dry-run=server|client|none] [options]",
    examples: "kubectl create priorityclass high --value=1000 --description='what must run'",
    flags: &[FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("description", "What the class is for."),
    Flag::switch("global-default", "Use it for pods that name no class."),
    Flag::text("preemption-policy", "Whether pods of it push others out.").default("PreemptLowerPriority"),
    Flag::int("value", "0", "The priority of its pods."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name_argument(session, args)?},
        "value": args.int("value"), "preemptionPolicy": args.text("preemption-policy")});
    if args.is_set("global-default") {
        class["globalDefault"] = true.into();
    }
    if args.changed("description") {
        class["description"] = args.text("description").into();
    }
    create(session, args, class).await
}
