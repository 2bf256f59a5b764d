//! `kubectl create job`

use serde_json::{Value, json};

use super::{GENERATED, create, name_argument};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::rest::Url;
use crate::selection::targets;
use crate::session::Session;
use crate::value::{name, text};

pub static JOB: Command = Command {
    name: "job",
    about: "Create a job with the given name.",
    usage: "NAME --image=image [--from=cronjob/name] -- [COMMAND] [args...] [options]",
    examples: "
kubectl create job once --image=busybox -- date
kubectl create job now --from=cronjob/nightly",
    flags: &[FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("from", "The cron job to take the job's specification from."),
    Flag::text("image", "Image name to run."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let job_name = name_argument(session, args)?;
    let command = &args.args[1..];
    let job = match (args.changed("image"), args.changed("from")) {
        (true, true) | (false, false) => fail!("either --image or --from must be specified"),
        (true, false) => {
            let mut container = json!({"name": job_name, "image": args.text("image"), "resources": {}});
            if !command.is_empty() {
                container["command"] = command.to_vec().into();
            }
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job_name},
                "spec": {"template": {"metadata": {}, "spec": {"containers": [container], "restartPolicy": "Never"}}}, "status": {}})
        }
        (false, true) => {
            if !command.is_empty() {
                fail!("cannot specify --from and command");
            }
            from_cron_job(session, job_name, args.text("from")).await?
        }
    };
    create(session, args, job).await
}

async fn from_cron_job(session: &Session, job_name: &str, from: &str) -> Result<Value> {
    let found = targets(session, &[from.to_owned()]).await?;
    let [target] = found.as_slice() else { fail!("from must be an existing cronjob") };
    let Some(cron_name) = target.name.as_ref().filter(|_| target.resource.name == "cronjobs") else {
        fail!("from must be an existing cronjob");
    };
    let cron_job = session.get(Url::new(target.resource.object(session.namespace()?, cron_name))).await?;
    let template = &cron_job["spec"]["jobTemplate"];
    let mut metadata = json!({"name": job_name, "annotations": {"cronjob.kubernetes.io/instantiate": "manual"}, "ownerReferences": [{
        "apiVersion": "batch/v1", "kind": "CronJob", "name": name(&cron_job), "uid": text(&cron_job, "/metadata/uid"), "controller": true}]});
    for (key, value) in crate::value::map(template, "/metadata/annotations") {
        metadata["annotations"][key] = value.clone();
    }
    if let Some(labels) = template.pointer("/metadata/labels") {
        metadata["labels"] = labels.clone();
    }
    Ok(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"], "status": {}}))
}

/// `A=b` for containers; the value may hold further `=`.
pub fn parse_environment(pairs: &[String]) -> Result<Vec<Value>> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(json!({"name": name, "value": value})),
            _ => fail!("invalid env: {pair}"),
        })
        .collect()
}
