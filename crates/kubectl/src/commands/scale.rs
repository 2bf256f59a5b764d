//! `kubectl scale`

use serde_json::json;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report};
use crate::rest::{MERGE_PATCH, Url};
use crate::selection::{ALL, SELECTOR, select};
use crate::session::Session;
use crate::value::{int, text};

pub static SCALE: Command = Command {
    name: "scale",
    about: "Set how many replicas a deployment, replica set, stateful set or replication controller has.",
    usage: "[--resource-version=version] [--current-replicas=count] --replicas=COUNT (-f FILENAME | TYPE NAME) [options]",
    examples: "kubectl scale --replicas=3 deployment/web",
    flags: &[FLAGS, FILENAMES, SELECTOR, ALL, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::int("current-replicas", "-1", "Scale only when there are this many now."),
    Flag::int("replicas", "0", "How many there shall be."),
    Flag::text("resource-version", "Scale only while the object has this version."),
    Flag::duration("timeout", "0s", "How long to wait until it is so; zero means not to wait."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    if !args.changed("replicas") {
        fail!("required flag(s) \"replicas\" not set");
    }
    if args.int("replicas") < 0 {
        fail!("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0");
    }
    let dry_run = DryRun::of(session, args)?;
    let (infos, mut problems) = select(session, args, &args.args).await?;
    if infos.is_empty() {
        match problems.first() {
            Some(problem) => fail!("no objects passed to scale {}", problem.bare()),
            None => fail!("no objects passed to scale"),
        }
    }
    for mut info in infos {
        if dry_run != DryRun::Client {
            if args.changed("current-replicas") && int(&info.object, "/spec/replicas") != args.int("current-replicas") {
                problems.push(Error::Message(format!("Expected replicas to be {}, was {}", args.int("current-replicas"), int(&info.object, "/spec/replicas"))));
                continue;
            }
            if args.changed("resource-version") && text(&info.object, "/metadata/resourceVersion") != args.text("resource-version") {
                problems.push(Error::Message(format!("Expected resource version to be {}, was {}", args.text("resource-version"), text(&info.object, "/metadata/resourceVersion"))));
                continue;
            }
            if !info.resource.subresources.iter().any(|sub| sub == "scale") {
                problems.push(Error::Message("the server could not find the requested resource".to_owned()));
                continue;
            }
            let url = Url::new(format!("{}/scale", info.url().as_str())).with_filled("dryRun", dry_run.query()).with("fieldManager", "kubectl-scale");
            match session.patch(url, MERGE_PATCH, &json!({"spec": {"replicas": args.int("replicas")}})).await {
                Ok(_) => info.object["spec"]["replicas"] = args.int("replicas").into(),
                Err(error) => {
                    problems.push(error);
                    continue;
                }
            }
        }
        report(session, args, &info, "scaled", dry_run)?;
    }
    Error::all(problems)
}
