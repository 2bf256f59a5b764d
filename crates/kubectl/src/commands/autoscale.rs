//! `kubectl autoscale`

use serde_json::json;

use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::files::FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report};
use crate::selection::{Info, select};
use crate::session::Session;

pub static AUTOSCALE: Command = Command {
    name: "autoscale",
    about: "Have a deployment, replica set or stateful set scaled by its load.",
    usage: "(-f FILENAME | TYPE NAME | TYPE/NAME) [--min=MINPODS] --max=MAXPODS [--cpu-percent=CPU] [options]",
    examples: "kubectl autoscale deployment web --min=2 --max=10 --cpu-percent=80",
    flags: &[FLAGS, FILENAMES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::int("cpu-percent", "-1", "CPU to aim at, in percent of what the pods request."),
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-autoscale"),
    Flag::int("max", "-1", "How many pods at most."),
    Flag::int("min", "-1", "How many pods at least."),
    Flag::text("name", "Name of the autoscaler; that of the object when left out."),
    Flag::switch("save-config", "Keep the configuration in an annotation, for a later apply."),
    Flag::text("validate", "").default("strict").hidden(),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    if !args.changed("max") {
        fail!("required flag(s) \"max\" not set");
    }
    let (least, most) = (args.int("min"), args.int("max"));
    if most < 1 {
        fail!("--max=MAXPODS is required and must be at least 1, max: {most}");
    }
    if most < least {
        fail!("--max=MAXPODS must be larger or equal to --min=MINPODS, max: {most}, min: {least}");
    }
    let (infos, problems) = select(session, args, &args.args).await?;
    crate::error::Error::all(problems)?;
    let resource = session.resource_of_kind("autoscaling/v2", "HorizontalPodAutoscaler").await?;
    let dry_run = DryRun::of(session, args)?;
    for info in infos {
        if !info.resource.subresources.iter().any(|sub| sub == "scale") {
            fail!("cannot autoscale a {}", info.resource.kind);
        }
        let name = if args.changed("name") { args.text("name").to_owned() } else { info.name.clone() };
        let mut spec = json!({"maxReplicas": most, "scaleTargetRef": {"apiVersion": info.resource.api_version(), "kind": info.resource.kind, "name": info.name}});
        if least > 0 {
            spec["minReplicas"] = least.into();
        }
        if args.int("cpu-percent") >= 0 {
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": args.int("cpu-percent")}}}]);
        }
        let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name, "namespace": info.namespace}, "spec": spec});
        let mut made = Info { resource: resource.clone(), namespace: info.namespace.clone(), name, object, source: String::new() };
        super::create::post(session, args, &mut made, dry_run).await?;
        report(session, args, &made, "autoscaled", dry_run)?;
    }
    Ok(())
}
