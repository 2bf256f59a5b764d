//! `kubectl create poddisruptionbudget`

use serde_json::{Value, json};

use super::{GENERATED, create, name_argument};
use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static POD_DISRUPTION_BUDGET: Command = Command {
    name: "poddisruptionbudget",
    aliases: &["pdb"],
    about: "Create a pod disruption budget with the given name.",
    usage: "NAME --selector=SELECTOR --min-available=N [--dry-run=server|client|none] [options]",
    examples: "kubectl create pdb web --selector=app=web --min-available=1",
    flags: &[FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("max-unavailable", "How many pods may be away: a number or a percentage."),
    Flag::text("min-available", "How many pods must stay: a number or a percentage."),
    Flag::text("selector", "Labels of the pods: key=value, separated by commas."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let name = name_argument(session, args)?;
    if args.text("selector").is_empty() {
        fail!("a selector must be specified");
    }
    let mut spec = json!({"selector": selector(args.text("selector"))?});
    match (args.changed("min-available"), args.changed("max-unavailable")) {
        (true, true) => fail!("min-available and max-unavailable cannot be both specified"),
        (false, false) => fail!("one of min-available or max-unavailable must be specified"),
        (true, false) => spec["minAvailable"] = int_or_string(args.text("min-available")),
        (false, true) => spec["maxUnavailable"] = int_or_string(args.text("max-unavailable")),
    }
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec,
        "status": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}});
    create(session, args, budget).await
}

fn int_or_string(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
}

/// `metav1.LabelSelector` of `a=b,c in (d,e)`.
pub fn selector(text: &str) -> Result<Value> {
    use api::selector::Operator;
    let parsed = api::selector::LabelSelector::parse(text).map_err(|error| Error::Message(error.to_string()))?;
    let mut selector = json!({});
    for requirement in parsed.requirements() {
        let values = &requirement.values;
        match requirement.operator {
            Operator::Equals | Operator::DoubleEquals if values.len() == 1 => {
                crate::value::set(&mut selector, &["matchLabels", &requirement.key], values[0].clone().into());
            }
            _ => fail!("selector {text:?} must consist of key=value pairs"),
        }
    }
    Ok(selector)
}
