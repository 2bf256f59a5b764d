//! `kubectl create quota`

use serde_json::{Value, json};

use super::{GENERATED, create, name_argument};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static QUOTA: Command = Command {
    name: "quota",
    aliases: &["resourcequota"],
    about: "Create a resource quota with the given name.",
    usage: "NAME [--hard=key1=value1,key2=value2] [--scopes=Scope1,Scope2] [--dry-run=server|client|none] [options]",
    examples: "kubectl create quota small --hard=cpu=1,memory=1G,pods=2",
    flags: &[FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("hard", "Limits: resource=quantity, separated by commas."),
    Flag::text("scopes", "Scopes that the quota is limited to."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let name = name_argument(session, args)?;
    let mut spec = json!({});
    for pair in args.text("hard").split(',').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else { fail!("Invalid argument syntax {pair}, expected <resource>=<value>") };
        crate::value::set(&mut spec, &["hard", key], value.into());
    }
    let scopes: Vec<Value> = args.text("scopes").split(',').filter(|scope| !scope.is_empty()).map(Value::from).collect();
    if !scopes.is_empty() {
        spec["scopes"] = scopes.into();
    }
    create(session, args, json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec, "status": {}})).await
}
