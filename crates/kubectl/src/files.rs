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

pub const FILENAMES: &[Flag] = &[
    Flag::list("filename", "File, directory or URL with the objects.").short('f'),
    Flag::text("kustomize", "Directory with a kustomization. Cannot be used together with -f.").short('k'),
    Flag::switch("recursive", "Also read the directories within a directory given with -f.").short('R'),
];

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
    for name in args.list("filename") {
        if name == "-" {
            let content = session.read_input().await?;
            documents(&content, "STDIN", &mut all)?;
        } else if name.starts_with("http://") || name.starts_with("https://") {
            let content = fetch(&name).await?;
            documents(&content, &name, &mut all)?;
        } else {
            for path in paths(Path::new(&name), args.is_set("recursive"))? {
                let content = read(&path)?;
                documents(&content, &path, &mut all)?;
            }
        }
    }
    Ok(all)
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::Message(format!("open {path}: {}", go_io(&error))))
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

async fn fetch(address: &str) -> Result<Vec<u8>> {
    let uri: http::Uri = address.parse().map_err(|_| Error::Message(format!("the URL passed to filename {address:?} is not valid")))?;
    let origin = format!("{}://{}", uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |authority| authority.as_str()));
    let origin = origin.parse().map_err(|_| Error::Message(format!("the URL passed to filename {address:?} is not valid")))?;
    let client = kube::Client::try_from(kube::Config::new(origin)).map_err(|error| Error::Message(error.to_string()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::get(path).body(kube::client::Body::empty()).map_err(|error| Error::Message(error.to_string()))?;
    let response = client.send(request).await.map_err(|error| Error::Message(format!("Get {address:?}: {}", crate::rest::chain(&error))))?;
    let status = response.status();
    if !status.is_success() {
        fail!("unable to read URL {address:?}, server reported {status}, status code={}", status.as_u16());
    }
    let body = http_body_util::BodyExt::collect(response.into_body()).await.map_err(|error| Error::Message(crate::rest::chain(&error)))?;
    Ok(body.to_bytes().to_vec())
}

/// All documents of one text; lists are taken apart.
pub fn documents(content: &[u8], source: &str, into: &mut Vec<Manifest>) -> Result {
    let first = content.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') {
        let mut stream = serde_json::Deserializer::from_slice(content).into_iter::<Value>();
        for value in &mut stream {
            let value = value.map_err(|error| Error::Message(format!("error parsing {source}: json: {error}")))?;
            document(value, source, into)?;
        }
        return Ok(());
    }
    for piece in api::yaml::documents(content) {
        let (value, _) = api::yaml::to_json(piece.as_bytes()).map_err(|error| Error::Message(format!("error parsing {source}: error converting YAML to JSON: {error}")))?;
        if !value.is_null() {
            document(value, source, into)?;
        }
    }
    Ok(())
}

fn document(object: Value, source: &str, into: &mut Vec<Manifest>) -> Result {
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
            document(item, source, into)?;
        }
        return Ok(());
    }
    into.push(Manifest { source: source.to_owned(), object });
    Ok(())
}

/// `metadata` is there even when the manifest has none.
pub fn with_metadata(mut object: Value) -> Value {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object
}
