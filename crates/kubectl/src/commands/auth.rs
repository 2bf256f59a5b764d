//! `kubectl auth`: can-i, whoami

use serde_json::{Value, json};

use crate::command::{Alone, COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{Format, PRINT};
use crate::rest::Url;
use crate::selection::ALL_NAMESPACES;
use crate::session::Session;
use crate::value::{flag, list, map, text};

pub static AUTH: Command = Command {
    name: "auth",
    about: "Look at what one may do.",
    usage: "[flags] [options]",
    alone: Alone::Complains,
    subcommands: &[&CAN_I, &super::reconcile::RECONCILE, &WHOAMI],
    ..COMMAND
};
static CAN_I: Command = Command {
    name: "can-i",
    about: "Ask whether an action is allowed.",
    usage: "VERB [TYPE | TYPE/NAME | NONRESOURCEURL] [options]",
    examples: "
kubectl auth can-i create pods
kubectl auth can-i --list",
    flags: &[
        &[
            Flag::switch("list", "Show all that is allowed in the namespace."),
            Flag::switch("no-headers", "Leave out the header line."),
            Flag::switch("quiet", "Say nothing; the exit code is the answer.").short('q'),
            Flag::text("subresource", "Subresource, such as log or scale."),
        ],
        ALL_NAMESPACES,
    ],
    run: Some(|session, args| Box::pin(can_i(session, args))),
    ..COMMAND
};
static WHOAMI: Command = Command {
    name: "whoami",
    about: "Show as whom the server knows the user.",
    examples: "
kubectl auth whoami
kubectl auth whoami -o jsonpath='{.status.userInfo.username}'",
    flags: &[PRINT],
    run: Some(|session, args| Box::pin(whoami(session, args))),
    ..COMMAND
};
async fn can_i(session: &Session, args: &Parsed) -> Result {
    let namespace = if args.is_set("all-namespaces") { String::new() } else { session.namespace()?.to_owned() };
    if args.is_set("list") {
        return rules(session, args, &namespace).await;
    }
    let (verb, what) = match args.args.as_slice() {
        [verb, what] => (verb, what),
        [verb, what, name] => {
            let joined = format!("{what}/{name}");
            return decide(session, args, verb, &joined, &namespace).await;
        }
        _ => fail!("you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples."),
    };
    decide(session, args, verb, what, &namespace).await
}

async fn decide(session: &Session, args: &Parsed, verb: &str, what: &str, namespace: &str) -> Result {
    let spec = if what.starts_with('/') {
        json!({"nonResourceAttributes": {"path": what, "verb": verb}})
    } else {
        let (kind, name) = what.split_once('/').unwrap_or((what, ""));
        let mut attributes = json!({"verb": verb, "namespace": namespace, "name": name, "subresource": args.text("subresource")});
        if kind == "*" {
            attributes["resource"] = "*".into();
            attributes["group"] = "*".into();
        } else {
            match session.resource(kind).await {
                Ok(resource) => {
                    attributes["resource"] = resource.name.clone().into();
                    attributes["group"] = resource.group.clone().into();
                    if !resource.namespaced {
                        attributes["namespace"] = "".into();
                        session.complain(format!("Warning: resource '{}' is not namespace scoped{}\n", resource.name, if resource.group.is_empty() { String::new() } else { format!(" in group '{}'", resource.group) }));
                    }
                }
                Err(_) => {
                    session.complain(format!("Warning: the server doesn't have a resource type '{kind}'\n"));
                    attributes["resource"] = kind.into();
                }
            }
        }
        if let Some(attributes) = attributes.as_object_mut() {
            attributes.retain(|_, value| value != "");
        }
        json!({"resourceAttributes": attributes})
    };
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {}, "spec": spec});
    let answer = session.post(Url::new("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"), &review).await?;
    let allowed = flag(&answer, "/status/allowed");
    if !args.is_set("quiet") {
        let reason = text(&answer, "/status/reason");
        let reason = if reason.is_empty() || allowed { String::new() } else { format!(" - {reason}") };
        session.say(format!("{}{reason}", if allowed { "yes" } else { "no" }))?;
    }
    if allowed { Ok(()) } else { Err(Error::Exit(1)) }
}

async fn rules(session: &Session, args: &Parsed, namespace: &str) -> Result {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "metadata": {}, "spec": {"namespace": namespace}});
    let answer = session.post(Url::new("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"), &review).await?;
    let both: Vec<Value> = list(&answer, "/status/resourceRules").iter().chain(list(&answer, "/status/nonResourceRules")).cloned().collect();
    let mut rows: Vec<Vec<String>> = super::describe::compact(&both).iter().map(|rule| rule.cells().to_vec()).collect();
    if !args.is_set("no-headers") {
        rows.insert(0, ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"].iter().map(|cell| (*cell).to_owned()).collect());
    }
    session.print(super::cluster::table(&rows))
}

async fn whoami(session: &Session, args: &Parsed) -> Result {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}});
    let answer = session.post(Url::new("/apis/authentication.k8s.io/v1/selfsubjectreviews"), &review).await?;
    let mut format = Format::of(args)?;
    if args.text("output") == "json" {
        return session.say(crate::output::typed::pretty(&answer));
    }
    if !format.is_table() {
        return session.print(format.show(&answer, args)?);
    }
    let words = |values: &[Value]| values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let mut rows = vec![vec!["ATTRIBUTE".to_owned(), "VALUE".to_owned()]];
    for (shown, pointer) in [("Username", "/status/userInfo/username"), ("UID", "/status/userInfo/uid")] {
        if !text(&answer, pointer).is_empty() {
            rows.push(vec![shown.to_owned(), text(&answer, pointer).to_owned()]);
        }
    }
    let groups = list(&answer, "/status/userInfo/groups");
    if !groups.is_empty() {
        rows.push(vec!["Groups".to_owned(), format!("[{}]", words(groups))]);
    }
    for (key, value) in map(&answer, "/status/userInfo/extra") {
        rows.push(vec![format!("Extra: {key}"), format!("[{}]", words(value.as_array().map_or(&[], Vec::as_slice)))]);
    }
    session.print(super::cluster::table(&rows))
}
