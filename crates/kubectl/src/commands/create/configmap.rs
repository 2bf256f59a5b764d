//! `kubectl create configmap`

use serde_json::Value;

use super::{GENERATED, create, name_argument, object, sources};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;
use crate::value::set;

pub static CONFIG_MAP: Command = Command {
    name: "configmap",
    aliases: &["cm"],
    about: "Create a config map from files, directories or literal values.",
    usage: "NAME [--from-file=[key=]source] [--from-literal=key1=value1] [--dry-run=server|client|none] [options]",
    examples: "
kubectl create configmap settings --from-literal=color=blue
kubectl create configmap site --from-file=index.html",
    flags: &[SOURCES, HASH, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

pub const SOURCES: &[Flag] = &[
    Flag::list("from-env-file", "File with lines of key=val, each of which becomes a key."),
    Flag::list("from-file", "File or directory; a key may be given as key=path."),
    Flag::array("from-literal", "A key and its value: mykey=somevalue."),
];
pub const HASH: &[Flag] = &[Flag::switch("append-hash", "Append a hash of the content to the name.")];

async fn run(session: &Session, args: &Parsed) -> Result {
    let name = name_argument(session, args)?;
    let mut map = object("v1", "ConfigMap", name);
    for (key, value) in sources(args, "ConfigMap", name)? {
        match String::from_utf8(value) {
            Ok(text) => set(&mut map, &["data", &key], text.into()),
            Err(binary) => set(&mut map, &["binaryData", &key], Value::String(base64(binary.as_bytes()))),
        }
    }
    create(session, args, map).await
}

pub fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}
