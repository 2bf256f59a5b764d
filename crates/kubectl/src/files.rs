//! `-f`: manifests from files, directories, URLs and standard input.
//!
//! Invariant: every document of every file comes out once, in order, with the name its errors are reported under.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::kubeconfig::go_io;
use crate::output::is_list;
use crate::session::Session;
use crate::value::text;

const FILENAME: Flag = Flag::list("filename", "File, directory or URL with the objects.").short('f');
const RECURSIVE: Flag = Flag::switch("recursive", "Also read the directories within a directory given with -f.").short('R');

pub const FILENAMES: &[Flag] = &[
    FILENAME,
    Flag::text("kustomize", "Directory with a kustomization. Cannot be used together with -f.").short('k'),
    RECURSIVE,
];
/// For commands that know no kustomizations.
pub const PLAIN_FILENAMES: &[Flag] = &[FILENAME];
/// For those that moreover read directories to their depths unless told otherwise.
pub const DEEP_FILENAMES: &[Flag] = &[FILENAME, RECURSIVE.default("true")];

const REDIRECTS_MAX: usize = 10;

/// A document and where it stood.
pub struct Manifest {
    pub source: String,
    pub object: Value,
}

pub fn given(args: &Parsed) -> bool {
    args.changed("filename") || args.changed("kustomize")
}

pub async fn manifests(session: &Session, args: &Parsed) -> Result<Vec<Manifest>> {
    if args.changed("kustomize") {
        if args.changed("filename") {
            fail!("only one of -f or -k can be specified");
        }
        return crate::kustomize::build(session, Path::new(args.text("kustomize")));
    }
    let mut all = Vec::new();
    let validating = args.knows("validate") && !matches!(args.text("validate"), "false" | "ignore") && !args.is_set("local");
    for name in args.list("filename") {
        if name == "-" {
            let content = session.read_input().await?;
            documents(&content, "STDIN", validating, &mut all)?;
        } else if name.starts_with("http://") || name.starts_with("https://") {
            let content = fetch(session, &name).await?;
            documents(&content, &name, validating, &mut all)?;
        } else {
            for path in paths(Path::new(&name), args.is_set("recursive"))? {
                let content = read(&path)?;
                documents(&content, &path, validating, &mut all)?;
            }
        }
    }
    Ok(all)
}

fn read(path: &str) -> Result<Vec<u8>> {
    let mut file = std::fs::File::open(path).map_err(|error| Error::Message(format!("open {path}: {}", go_io(&error))))?;
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut content)
        .map_err(|error| Error::Message(format!("error parsing {path}: read {path}: {}", go_io(&error))))?;
    Ok(content)
}

fn paths(path: &Path, recursive: bool) -> Result<Vec<String>> {
    let shown = path.display().to_string();
    let about = match std::fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fail!("the path {shown:?} does not exist"),
        Err(error) => fail!("the path {shown:?} cannot be accessed: stat {shown}: {}", go_io(&error)),
    };
    if !about.is_dir() {
        return Ok(vec![shown]);
    }
    let mut found = Vec::new();
    collect(path, recursive, &mut found)?;
    if found.is_empty() {
        fail!("error reading [{shown}]: recognized file extensions are [.json .yaml .yml]");
    }
    Ok(found)
}

fn collect(directory: &Path, recursive: bool, into: &mut Vec<String>) -> Result {
    let mut entries: Vec<_> = std::fs::read_dir(directory)?.filter_map(std::result::Result::ok).map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                collect(&entry, true, into)?;
            }
        } else if entry.extension().is_some_and(|ending| ending == "json" || ending == "yaml" || ending == "yml") {
            into.push(entry.display().to_string());
        }
    }
    Ok(())
}

async fn fetch(session: &Session, address: &str) -> Result<Vec<u8>> {
    let mut current = address.to_owned();
    for _ in 0..REDIRECTS_MAX {
        let response = fetch_once(session, &current).await?;
        let status = response.status();
        if status.is_redirection()
            && let Some(next) = response.headers().get(http::header::LOCATION).and_then(|next| next.to_str().ok())
        {
            current = if next.starts_with('/') { format!("{}{next}", origin(&current)) } else { next.to_owned() };
            continue;
        }
        if !status.is_success() {
            fail!("unable to read URL {address:?}, server reported {status}, status code={}", status.as_u16());
        }
        let body = http_body_util::BodyExt::collect(response.into_body()).await.map_err(|error| Error::Message(crate::rest::chain(&error)))?;
        return Ok(body.to_bytes().to_vec());
    }
    fail!("Get {address:?}: stopped after {REDIRECTS_MAX} redirects")
}

/// `https://host:port`
fn origin(address: &str) -> &str {
    let begin = address.find("://").map_or(0, |at| at + 3);
    &address[..address[begin..].find(['/', '?', '#']).map_or(address.len(), |at| begin + at)]
}

async fn fetch_once(session: &Session, address: &str) -> Result<http::Response<kube::client::Body>> {
    let invalid = || Error::Message(format!("the URL passed to filename {address:?} is not valid: parse {address:?}: invalid URI for request"));
    let origin = origin(address);
    let path = address[origin.len()..].split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let config = kube::Config::new(origin.parse().map_err(|_| invalid())?);
    let client = crate::connection::client(config, "", &session.environment)?;
    let request = http::Request::get(path).body(kube::client::Body::empty()).map_err(|_| invalid())?;
    client.send(request).await.map_err(|error| {
        crate::rest::unreachable(&crate::rest::chain(&error), origin)
    })
}

/// The objects of `-f` as `--local` changes them: nobody is asked, and no namespace is filled in.
pub async fn local(session: &Session, args: &Parsed) -> Result<Vec<crate::selection::Info>> {
    let mut infos = crate::selection::from_files(session, args).await?;
    let selected = session.selected()?;
    for info in infos.iter_mut().filter(|info| info.namespace == selected.namespace && !selected.namespace_given) {
        crate::value::object_at(&mut info.object, &["metadata"]).remove("namespace");
    }
    Ok(infos)
}

/// What Go's parser says of broken YAML, from what ours says.
pub fn go_yaml(said: &str) -> String {
    let Some((number, why)) = said.strip_prefix("yaml: line ").and_then(|rest| rest.split_once(": ")) else { return said.to_owned() };
    let Ok(line) = number.parse::<usize>() else { return said.to_owned() };
    let last = why.rsplit(", ").next().unwrap_or(why);
    // Go counts a parser's lines from zero, a scanner's from one.
    match last {
        "did not find expected key" => format!("yaml: line {}: {last}", line.saturating_sub(1).max(1)),
        "illegal placement of ':' indicator" => format!("yaml: line {}: did not find expected ',' or ']'", line.saturating_sub(1).max(1)),
        "found a tab" => format!("yaml: line {}: found a tab character that violates indentation", line + 1),
        "invalid indentation in multiline quoted scalar" => format!("yaml: line {line}: found unexpected end of stream"),
        _ if last.starts_with("unclosed bracket") => format!("yaml: line {line}: did not find expected node content"),
        _ if last.starts_with("tabs disallowed") || last.starts_with("unexpected character") => {
            format!("yaml: line {line}: found character that cannot start any token")
        }
        _ => format!("yaml: line {line}: {last}"),
    }
}

/// What Go's decoder says of broken JSON.
fn go_json_error(content: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    let before: usize = content.split(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(|line| line.len() + 1).sum();
    let offset = before + error.column();
    let found = content.get(offset.saturating_sub(1)).map_or(' ', |byte| char::from(*byte));
    let said = error.to_string();
    let place = if said.contains("`,` or `}`") {
        "after object key:value pair"
    } else if said.contains("`,` or `]`") {
        "after array element"
    } else if said.contains("key must be a string") || said.contains("trailing comma") {
        "looking for beginning of object key string"
    } else if said.contains("expected `:`") {
        "after object key"
    } else {
        "looking for beginning of value"
    };
    format!("json: offset {offset}: invalid character '{found}' {place}")
}

/// All documents of one text; lists are taken apart.
///
/// `validating`: what is no object is found by validation, before decoding would.
pub fn documents(content: &[u8], source: &str, validating: bool, into: &mut Vec<Manifest>) -> Result {
    let first = content.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') {
        let found: std::result::Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(content).into_iter::<Value>().collect();
        match found {
            Ok(values) => return values.into_iter().try_for_each(|value| document(value, source, validating, into)),
            // What is no JSON may still be YAML.
            Err(error) if api::yaml::to_json(content).is_err() => fail!("error parsing {source}: {}", go_json_error(content, &error)),
            Err(_) => {}
        }
    }
    for piece in api::yaml::documents(content) {
        let (value, _) = api::yaml::to_json(piece.as_bytes()).map_err(|error| Error::Message(format!("error parsing {source}: error converting YAML to JSON: {}", go_yaml(&error.to_string()))))?;
        if !value.is_null() {
            document(value, source, validating, into)?;
        }
    }
    Ok(())
}

fn document(object: Value, source: &str, validating: bool, into: &mut Vec<Manifest>) -> Result {
    if validating {
        let missing: Vec<&str> = [("/apiVersion", "apiVersion not set"), ("/kind", "kind not set")].iter().filter(|(field, _)| text(&object, field).is_empty()).map(|(_, why)| *why).collect();
        let why = match missing.as_slice() {
            _ if !object.is_object() || text(&object, "/kind") == "List" && !list_items(&object) => "invalid object to validate".to_owned(),
            [] => String::new(),
            [one] => (*one).to_owned(),
            several => format!("[{}]", several.join(", ")),
        };
        if !why.is_empty() {
            fail!("error validating {source:?}: error validating data: {why}; if you choose to ignore these errors, turn validation off with --validate=false");
        }
    }
    let what = match &object["metadata"] {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Object(_) | Value::Null => "",
    };
    if !what.is_empty() {
        fail!("unable to decode {source:?}: json: cannot unmarshal {what} into Go struct field metadataOnlyObject.metadata of type v1.ObjectMeta");
    }
    if text(&object, "/kind").is_empty() {
        let shown = crate::output::go_json(&object);
        fail!("unable to decode {source:?}: Object 'Kind' is missing in '{shown}'");
    }
    if text(&object, "/apiVersion").is_empty() {
        let shown = crate::output::go_json(&object);
        fail!("unable to decode {source:?}: Object 'apiVersion' is missing in '{shown}'");
    }
    if is_list(&object) {
        let Value::Object(mut fields) = object else { return Ok(()) };
        for item in fields.remove("items").and_then(|items| match items {
            Value::Array(items) => Some(items),
            _ => None,
        }).unwrap_or_default() {
            document(item, source, validating, into)?;
        }
        return Ok(());
    }
    into.push(Manifest { source: source.to_owned(), object });
    Ok(())
}

/// Whether a list's items are a list.
fn list_items(object: &Value) -> bool {
    object.get("items").is_none_or(|items| items.is_array() || items.is_null())
}

/// `metadata` is there even when the manifest has none.
pub fn with_metadata(mut object: Value) -> Value {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object
}
