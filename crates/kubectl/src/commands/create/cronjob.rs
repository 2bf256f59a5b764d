//! `kubectl create cronjob`

use serde_json::json;

use super::{GENERATED, create, name_argument, required};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static CRON_JOB: Command = Command {
    name: "cronjob",
    aliases: &["cj"],
    about: "Create a cron job with the given name.",
    usage: "NAME --image=image --schedule='0/5 * * * ?' -- [COMMAND] [args...] [flags] [options]",
    examples: "kubectl create cronjob nightly --image=busybox --schedule='0 3 * * *' -- date",
    flags: &[FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("image", "Image name to run."),
    Flag::text("restart", "The pods' restart policy: OnFailure or Never."),
    Flag::text("schedule", "When to run, in cron's format."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    required(args, &["image", "schedule"])?;
    let name = name_argument(session, args)?;
    let mut container = json!({"name": name, "image": args.text("image"), "resources": {}});
    if args.args.len() > 1 {
        container["command"] = args.args[1..].to_vec().into();
    }
    let restart = if args.changed("restart") { args.text("restart") } else { "OnFailure" };
    let job = json!({"metadata": {"name": name}, "spec": {"template": {"metadata": {}, "spec": {"containers": [container], "restartPolicy": restart}}}});
    create(session, args, json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
        "spec": {"schedule": args.text("schedule"), "jobTemplate": job}, "status": {}})).await
}
