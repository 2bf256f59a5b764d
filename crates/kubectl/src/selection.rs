//! Which objects a command is about: `TYPE NAME`, `TYPE/NAME`, `TYPE,TYPE`, `all`, selectors, or files.
//!
//! Invariant: the same words mean the same objects for every command. Deliberately absent: what is done with them.

use std::rc::Rc;

use serde_json::Value;

use crate::discovery::{Resource, no_match};
use crate::error::{Error, Result};
use crate::fail;
use crate::files;
use crate::flags::{Flag, Parsed};
use crate::rest::Url;
use crate::session::Session;
use crate::value::{list, name, namespace, object_at, text};

pub const SELECTOR: &[Flag] = &[
    Flag::text("selector", "Label selector: =, ==, !=, in, notin, exists. All of it must hold.").short('l'),
];
pub const FIELD_SELECTOR: &[Flag] = &[Flag::text("field-selector", "Field selector: =, ==, !=. What fields it may name depends on the kind.")];
pub const ALL_NAMESPACES: &[Flag] = &[Flag::switch("all-namespaces", "Objects of all namespaces; the namespace of the context and -n are ignored.").short('A')];
pub const ALL: &[Flag] = &[Flag::switch("all", "All objects of the given types in the namespace.")];
pub const CHUNK: &[Flag] = &[Flag::int("chunk-size", "500", "How many objects to ask for at once; 0 means all.")];

/// One object: as a manifest has it, or as the server has it.
#[derive(Clone, Debug)]
pub struct Info {
    pub resource: Rc<Resource>,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
    pub object: Value,
    /// The file, for messages; empty when the object came from the server.
    pub source: String,
}

impl Info {
    pub fn new(resource: Rc<Resource>, object: Value) -> Self {
        let (namespace, name) = (namespace(&object).to_owned(), name(&object).to_owned());
        Info { resource, namespace, name, object, source: String::new() }
    }

    pub fn url(&self) -> Url {
        Url::new(self.resource.object(&self.namespace, &self.name))
    }

    pub fn collection(&self) -> Url {
        Url::new(self.resource.collection(&self.namespace))
    }

    /// `deployment.apps/web`
    pub fn shown(&self) -> String {
        format!("{}/{}", self.resource.singular_qualified(), self.name)
    }
}

#[derive(Clone, Debug)]
pub struct Target {
    pub resource: Rc<Resource>,
    /// None: all that match.
    pub name: Option<String>,
}

/// The objects of `-f`, as their manifests have them.
pub async fn from_files(session: &Session, args: &Parsed) -> Result<Vec<Info>> {
    let mut infos = Vec::new();
    let mut problems = Vec::new();
    for manifest in files::manifests(session, args).await? {
        let object = files::with_metadata(manifest.object);
        match local(session, object, &manifest.source).await {
            Ok(info) => infos.push(info),
            Err(problem) => problems.push(problem),
        }
    }
    if infos.is_empty() {
        Error::all(problems)?;
    } else if !problems.is_empty() {
        // The rest goes on; what could not be understood is reported by the caller's exit code at the end.
        for problem in problems {
            session.complain(problem.message());
        }
        session.note_failure();
    }
    Ok(infos)
}

/// An object of a manifest, its namespace settled.
pub async fn local(session: &Session, mut object: Value, source: &str) -> Result<Info> {
    let (api_version, kind) = (text(&object, "/apiVersion").to_owned(), text(&object, "/kind").to_owned());
    let resource = session
        .resource_of_kind(&api_version, &kind)
        .await
        .map_err(|error| no_match(source, name(&object), namespace(&object), error))?;
    let own = namespace(&object).to_owned();
    let mut settled = String::new();
    if resource.namespaced {
        let selected = session.selected()?;
        settled = if own.is_empty() { selected.namespace.clone() } else { own.clone() };
        if selected.namespace_given && settled != selected.namespace {
            fail!(
                "the namespace from the provided object {settled:?} does not match the namespace {:?}. You must pass '--namespace={settled}' to perform this operation.",
                selected.namespace
            );
        }
        object_at(&mut object, &["metadata"]).insert("namespace".to_owned(), settled.clone().into());
    }
    let name = name(&object).to_owned();
    Ok(Info { resource, namespace: settled, name, object, source: source.to_owned() })
}

/// What the words on the command line name.
pub async fn targets(session: &Session, words: &[String]) -> Result<Vec<Target>> {
    if words.is_empty() {
        fail!("You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'");
    }
    if words.iter().any(|word| word.contains('/')) {
        let mut targets = Vec::new();
        for word in words {
            let Some((kind, name)) = word.split_once('/') else {
                fail!("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. '{path} resource/<resource_name>' instead of '{path} resource resource/<resource_name>'", path = session.path);
            };
            if name.contains('/') {
                fail!("arguments in resource/name form may not have more than one slash");
            }
            if kind.is_empty() || name.is_empty() {
                fail!("arguments in resource/name form must have a single resource and name");
            }
            targets.push(Target { resource: session.resource(kind).await?, name: Some(name.to_owned()) });
        }
        return Ok(targets);
    }
    let mut resources = Vec::new();
    for kind in words[0].split(',') {
        if kind.is_empty() {
            continue;
        }
        let category = session.discovery().await?.category(kind);
        if category.is_empty() {
            resources.push(session.resource(kind).await?);
        } else {
            resources.extend(category);
        }
    }
    let names = &words[1..];
    if names.is_empty() {
        return Ok(resources.into_iter().map(|resource| Target { resource, name: None }).collect());
    }
    let mut targets = Vec::new();
    for resource in &resources {
        targets.extend(names.iter().map(|name| Target { resource: resource.clone(), name: Some(name.clone()) }));
    }
    Ok(targets)
}

/// Selectors and paging of a list.
pub fn list_url(session: &Session, resource: &Resource, args: &Parsed) -> Result<Url> {
    let namespace = if args.is_set("all-namespaces") { "" } else { session.namespace()? };
    Ok(Url::new(resource.collection(namespace))
        .with_filled("labelSelector", args.text("selector"))
        .with_filled("fieldSelector", args.text("field-selector")))
}

/// A whole list, page after page.
pub async fn list_all(session: &Session, url: Url, page: i64) -> Result<Value> {
    let mut whole: Option<Value> = None;
    let mut from = String::new();
    loop {
        let mut next = url.clone();
        if page > 0 {
            next = next.with("limit", &page.to_string());
        }
        let mut part = session.get(next.with_filled("continue", &from)).await?;
        from = text(&part, "/metadata/continue").to_owned();
        let items = part["items"].take();
        match &mut whole {
            None => {
                part["items"] = if items.is_array() { items } else { Value::Array(Vec::new()) };
                whole = Some(part);
            }
            Some(whole) => {
                if let (Some(into), Value::Array(items)) = (whole["items"].as_array_mut(), items) {
                    into.extend(items);
                }
            }
        }
        if from.is_empty() {
            return Ok(whole.unwrap_or_default());
        }
    }
}

/// A list that the server refuses is named with its selectors.
pub fn unlisted(error: Error, resource: &Resource, url: &Url) -> Error {
    match error {
        Error::Status(mut status) if matches!(text(&status, "/reason"), "BadRequest" | "NotFound") => {
            let shown = match resource.group.as_str() {
                "" => format!("/{}, Resource={}", resource.version, resource.name),
                group => format!("{group}/{}, Resource={}", resource.version, resource.name),
            };
            let (labels, fields) = (url.value("labelSelector"), url.value("fieldSelector"));
            status["message"] = match (labels.as_str(), fields.as_str()) {
                ("", "") => format!("Unable to list {shown:?}: {}", text(&status, "/message")),
                _ => format!("Unable to find {shown:?} that match label selector {labels:?}, field selector {fields:?}: {}", text(&status, "/message")),
            }
            .into();
            Error::Status(status)
        }
        other => other,
    }
}

/// The objects of a list, with the kind that the list leaves out.
pub fn items(resource: &Rc<Resource>, list_object: &mut Value) -> Vec<Info> {
    let Some(Value::Array(found)) = list_object.get_mut("items").map(Value::take) else { return Vec::new() };
    let with_kind = |mut object: Value| {
        if object.get("kind").is_none() {
            object["kind"] = resource.kind.clone().into();
            object["apiVersion"] = resource.api_version().into();
        }
        Info::new(resource.clone(), object)
    };
    found.into_iter().map(with_kind).collect()
}

/// The same where a type without a name means all objects of it.
pub async fn select_or_all(session: &Session, args: &Parsed, words: &[String]) -> Result<(Vec<Info>, Vec<Error>)> {
    selected(session, args, words, true).await
}

/// The objects that files or words name, as the server has them. Objects that cannot be had are in the errors.
pub async fn select(session: &Session, args: &Parsed, words: &[String]) -> Result<(Vec<Info>, Vec<Error>)> {
    selected(session, args, words, false).await
}

async fn selected(session: &Session, args: &Parsed, words: &[String], all: bool) -> Result<(Vec<Info>, Vec<Error>)> {
    let mut infos = Vec::new();
    let mut problems = Vec::new();
    if files::given(args) {
        if !words.is_empty() {
            fail!("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well");
        }
        for info in from_files(session, args).await? {
            match session.get(info.url()).await {
                Ok(object) => infos.push(Info { object, ..info }),
                Err(error) => problems.push(error),
            }
        }
        return Ok((infos, problems));
    }
    let selective = all || args.changed("selector") || args.changed("field-selector") || args.is_set("all") || args.is_set("all-namespaces");
    for target in targets(session, words).await? {
        let resource = target.resource;
        match target.name {
            Some(name) => {
                if args.changed("selector") {
                    fail!("name cannot be provided when a selector is specified");
                }
                if args.is_set("all-namespaces") && resource.namespaced {
                    fail!("a resource cannot be retrieved by name across all namespaces");
                }
                let namespace = if resource.namespaced { session.namespace()? } else { "" };
                match session.get(Url::new(resource.object(namespace, &name))).await {
                    Ok(object) => infos.push(Info::new(resource, object)),
                    Err(error) => problems.push(error),
                }
            }
            None if !selective && args.knows("selector") => {
                fail!("resource(s) were provided, but no name was specified");
            }
            None => {
                let url = list_url(session, &resource, args)?;
                match list_all(session, url.clone(), 500).await {
                    Ok(mut found) => infos.extend(items(&resource, &mut found)),
                    Err(error) => problems.push(unlisted(error, &resource, &url)),
                }
            }
        }
    }
    Ok((infos, problems))
}

/// One object by `TYPE NAME` or `TYPE/NAME`, where a bare name is one of `default_type`.
pub async fn one(session: &Session, words: &[String], default_type: &str) -> Result<Info> {
    let words: Vec<String> = match words {
        [word] if !word.contains('/') && !default_type.is_empty() => vec![format!("{default_type}/{word}")],
        _ => words.to_vec(),
    };
    let mut found = targets(session, &words).await?;
    if found.len() != 1 {
        fail!("you must specify exactly one resource");
    }
    let target = found.remove(0);
    let Some(name) = target.name else { fail!("resource(s) were provided, but no name was specified") };
    let namespace = if target.resource.namespaced { session.namespace()? } else { "" };
    let object = session.get(Url::new(target.resource.object(namespace, &name))).await?;
    Ok(Info { namespace: namespace.to_owned(), name, object, resource: target.resource, source: String::new() })
}

/// Pods that a workload's selector finds, oldest wish first: running, ready, and old ones come before others.
pub async fn pods_of(session: &Session, info: &Info) -> Result<Vec<Value>> {
    if info.resource.name == "pods" {
        return Ok(vec![info.object.clone()]);
    }
    let selector = match info.object.pointer("/spec/selector") {
        Some(selector) if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() => {
            api::selector::LabelSelector::from_json(selector).map_err(|error| Error::Message(error.to_string()))?.to_string()
        }
        Some(selector) if selector.as_object().is_some_and(|map| !map.is_empty()) => crate::value::pairs(&info.object, "/spec/selector", ""),
        _ => fail!("cannot attach to {} {}/{}: no selector", info.resource.kind, info.namespace, info.name),
    };
    let url = Url::new(format!("/api/v1/namespaces/{}/pods", info.namespace)).with("labelSelector", &selector);
    let found = session.get(url).await?;
    let mut pods = list(&found, "/items").to_vec();
    pods.sort_by_key(|pod| {
        let ready = list(pod, "/status/conditions").iter().any(|one| text(one, "/type") == "Ready" && text(one, "/status") == "True");
        (text(pod, "/spec/nodeName").is_empty(), text(pod, "/status/phase") != "Running", !ready, text(pod, "/metadata/creationTimestamp").to_owned())
    });
    Ok(pods)
}

/// The pod that stands for a workload, awaited for as long as `within`.
pub async fn pod_of(session: &Session, info: &Info, within: std::time::Duration) -> Result<Value> {
    let waiting = async {
        loop {
            if let Some(pod) = pods_of(session, info).await?.into_iter().next() {
                return Ok(pod);
            }
            let url = Url::new(format!("/api/v1/namespaces/{}/pods", info.namespace)).with("watch", "true").with("timeoutSeconds", "60");
            let mut events = session.watch(url, crate::rest::JSON).await?;
            while let Some((kind, _)) = events.event().await? {
                if kind == "ADDED" || kind == "MODIFIED" {
                    break;
                }
            }
        }
    };
    match tokio::time::timeout(within, waiting).await {
        Ok(found) => found,
        Err(_) => fail!("timed out waiting for the condition"),
    }
}
