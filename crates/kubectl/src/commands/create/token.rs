//! `kubectl create token`

use serde_json::json;

use super::name_argument;
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{Format, PRINT};
use crate::rest::Url;
use crate::session::Session;
use crate::value::text;

pub static TOKEN: Command = Command {
    name: "token",
    about: "Ask for a token of a service account.",
    usage: "SERVICE_ACCOUNT_NAME [options]",
    examples: "kubectl create token default --duration=10m",
    flags: &[FLAGS, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::array("audience", "Who the token is for."),
    Flag::text("bound-object-kind", "Kind of the object that the token lives and dies with: Pod, Secret or Node."),
    Flag::text("bound-object-name", "Its name."),
    Flag::text("bound-object-uid", "Its UID."),
    Flag::duration("duration", "0s", "How long the token is to be good for. The server may decide otherwise."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let name = name_argument(session, args)?;
    let mut spec = json!({});
    if !args.list("audience").is_empty() {
        spec["audiences"] = args.list("audience").into();
    }
    if args.changed("duration") {
        spec["expirationSeconds"] = args.duration("duration").as_secs().into();
    }
    let kind = args.text("bound-object-kind");
    if !kind.is_empty() {
        if !["Pod", "Secret", "Node"].contains(&kind) {
            fail!("supported --bound-object-kind values are Node, Pod, Secret");
        }
        if args.text("bound-object-name").is_empty() {
            fail!("--bound-object-name is required if --bound-object-kind is provided");
        }
        spec["boundObjectRef"] = json!({"kind": kind, "apiVersion": "v1", "name": args.text("bound-object-name")});
        if args.changed("bound-object-uid") {
            spec["boundObjectRef"]["uid"] = args.text("bound-object-uid").into();
        }
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": spec});
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{name}/token", session.namespace()?);
    let answer = session.post(Url::new(path), &request).await.map_err(|error| match error {
        crate::error::Error::Status(status) => crate::error::Error::Message(format!("failed to create token: {}", text(&status, "/message"))),
        other => other,
    })?;
    let mut format = Format::of(args)?;
    if format.is_table() {
        return session.say(text(&answer, "/status/token"));
    }
    session.print(format.show(&answer, args)?)
}
