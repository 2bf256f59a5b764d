//! `kubectl create deployment`

use serde_json::{Value, json};

use super::{GENERATED, container_name, create, name_argument, required};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static DEPLOYMENT: Command = Command {
    name: "deployment",
    aliases: &["deploy"],
    about: "Create a deployment with the given name.",
    usage: "NAME --image=image -- [COMMAND] [args...] [options]",
    examples: "
# Three replicas of nginx, port 80 exposed
kubectl create deployment web --image=nginx --replicas=3 --port=80

# A command of one's own
kubectl create deployment date --image=busybox -- date",
    flags: &[FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::list("image", "Image names to run."),
    Flag::int("port", "-1", "The port that the container exposes."),
    Flag::int("replicas", "1", "How many pods to run.").short('r'),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    required(args, &["image"])?;
    let name = name_argument(session, args)?;
    create(session, args, deployment(name, args)?).await
}

fn deployment(name: &str, args: &Parsed) -> Result<Value> {
    let (images, command) = (args.list("image"), &args.args[1..]);
    if images.len() > 1 && !command.is_empty() {
        fail!("cannot specify multiple --image options and command");
    }
    if args.int("replicas") < 0 {
        fail!("replicas must be >= 0");
    }
    let port = args.int("port");
    let container = |image: &String| {
        let mut container = json!({"name": container_name(image), "image": image, "resources": {}});
        if !command.is_empty() {
            container["command"] = command.to_vec().into();
        }
        if port >= 0 {
            container["ports"] = json!([{"containerPort": port}]);
        }
        container
    };
    let containers: Vec<Value> = images.iter().map(container).collect();
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": args.int("replicas"),
            "selector": {"matchLabels": {"app": name}},
            "strategy": {},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}},
        },
        "status": {},
    }))
}
