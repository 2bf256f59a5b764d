//! `kubectl wait`

use serde_json::{Value, json};
use std::time::Duration;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::DEEP_FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::jsonpath::JsonPath;
use crate::output::{DryRun, PRINT, report};
use crate::rest::{JSON, Url};
use crate::selection::{ALL, ALL_NAMESPACES, FIELD_SELECTOR, Info, SELECTOR, items, list_all, list_url, targets};
use crate::session::Session;
use crate::value::{int, list, plain, text};

pub static WAIT: Command = Command {
    name: "wait",
    about: "Wait until a condition holds for one or many objects.",
    usage: "([-f FILENAME] | resource.group/resource.name | resource.group [(-l label | --all)]) [--for=create|--for=delete|--for condition=available|--for=jsonpath='{}'[=value]] [options]",
    examples: "
kubectl wait --for=condition=Ready pod/web
kubectl wait --for=delete pod/web --timeout=60s
kubectl wait --for=jsonpath='{.status.phase}'=Running pod/web",
    flags: &[FLAGS, DEEP_FILENAMES, SELECTOR, FIELD_SELECTOR, ALL, ALL_NAMESPACES, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("for", "What to wait for: create, delete, condition=name[=value] or jsonpath='{expression}'[=value]."),
    Flag::switch("local", "Ask no server about what is given; only with -f."),
    Flag::duration("timeout", "30s", "How long to wait. Zero: look once. Negative: a week."),
];

enum Wanted {
    Create,
    Delete,
    Condition(String, String),
    Path(JsonPath, Option<String>),
}

impl Wanted {
    fn parse(text: &str) -> Result<Self> {
        let lower = text.to_lowercase();
        if lower == "delete" {
            return Ok(Wanted::Delete);
        }
        if lower == "create" {
            return Ok(Wanted::Create);
        }
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
            return Ok(Wanted::Condition(name.to_owned(), value.to_owned()));
        }
        if let Some(path) = text.strip_prefix("jsonpath=") {
            let (path, value) = match path.rfind('}') {
                Some(end) => (&path[..=end], path[end + 1..].strip_prefix('=')),
                None => match path.split_once('=') {
                    Some((path, value)) => (path, Some(value)),
                    None => (path, None),
                },
            };
            let path = path.trim_matches('\'');
            if value == Some("") {
                fail!("jsonpath wait has to have a value after equal sign, like --for=jsonpath='{{.status.readyReplicas}}'=3");
            }
            let value = value.map(|value| value.trim_matches(|c| c == '"' || c == '\'').to_owned());
            return Ok(Wanted::Path(JsonPath::parse_relaxed(path).map_err(Error::Message)?, value));
        }
        fail!("unrecognized condition: {text:?}")
    }

    /// Whether it holds for an object that is there.
    fn holds(&self, object: &Value) -> Result<bool> {
        match self {
            Wanted::Create => Ok(true),
            Wanted::Delete => Ok(false),
            Wanted::Condition(name, value) => {
                let found = list(object, "/status/conditions").iter().find(|one| text(one, "/type").eq_ignore_ascii_case(name));
                Ok(found.is_some_and(|condition| {
                    let generation = int(object, "/metadata/generation");
                    let observed = match condition.get("observedGeneration").and_then(Value::as_i64) {
                        Some(observed) => Some(observed),
                        None => object.pointer("/status/observedGeneration").and_then(Value::as_i64),
                    };
                    // A condition of an older specification says nothing about this one.
                    observed.is_none_or(|observed| generation == 0 || observed >= generation) && text(condition, "/status").eq_ignore_ascii_case(value)
                }))
            }
            Wanted::Path(path, value) => {
                let found = path.find(object);
                match (value, found.as_slice()) {
                    (None, found) => Ok(!found.is_empty()),
                    (Some(_), []) => Ok(false),
                    (Some(value), [one]) if !one.is_object() && !one.is_array() => Ok(plain(one) == *value),
                    (Some(_), [_]) => fail!("jsonpath leads to a nested object or list which is not supported"),
                    (Some(_), _) => fail!("given jsonpath expression matches more than one value"),
                }
            }
        }
    }
}

async fn run(session: &Session, args: &Parsed) -> Result {
    let wanted = Wanted::parse(args.text("for"))?;
    let given = args.text("timeout");
    let limit = if given.starts_with('-') { Duration::from_secs(7 * 24 * 3600) } else { args.duration("timeout") };
    let deadline = tokio::time::Instant::now() + limit;
    let mut missing = Vec::new();
    let infos = find(session, args, &wanted, deadline, &mut missing).await?;
    if infos.is_empty() {
        Error::all(missing)?;
        if matches!(wanted, Wanted::Delete) {
            return Ok(());
        }
        fail!("no matching resources found");
    }
    let outcomes = futures::future::join_all(infos.into_iter().map(|info| wait_for(session, args, &wanted, info, deadline))).await;
    Error::all(outcomes.into_iter().filter_map(std::result::Result::err).chain(missing).collect())
}

/// What to wait for. Objects that must appear first are only names.
async fn find(session: &Session, args: &Parsed, wanted: &Wanted, deadline: tokio::time::Instant, missing: &mut Vec<Error>) -> Result<Vec<Info>> {
    if crate::files::given(args) {
        return crate::selection::from_files(session, args).await;
    }
    let mut infos = Vec::new();
    for target in targets(session, &args.args).await? {
        match target.name {
            Some(name) => {
                let namespace = if target.resource.namespaced { session.namespace()?.to_owned() } else { String::new() };
                let mut info = Info { resource: target.resource, namespace, name, object: json!({}), source: String::new() };
                match (wanted, session.get(info.url()).await) {
                    (_, Ok(object)) => {
                        info.object = object;
                        infos.push(info);
                    }
                    (Wanted::Create, Err(error)) if error.is_not_found() => infos.push(info),
                    (Wanted::Delete, Err(error)) if error.is_not_found() => {}
                    (_, Err(error)) if error.is_not_found() => missing.push(error),
                    (_, Err(error)) => return Err(error),
                }
            }
            None => {
                if !(args.changed("selector") || args.changed("field-selector") || args.is_set("all") || args.is_set("all-namespaces")) {
                    fail!("resource(s) were provided, but no name was specified");
                }
                let mut found = list_all(session, list_url(session, &target.resource, args)?, 500).await?;
                if matches!(wanted, Wanted::Create) && list(&found, "/items").is_empty() {
                    let url = list_url(session, &target.resource, args)?
                        .with("watch", "true")
                        .with("resourceVersion", text(&found, "/metadata/resourceVersion"));
                    let appears = async {
                        let mut events = session.watch(url, JSON).await?;
                        while let Some((kind, object)) = events.event().await? {
                            if kind == "ADDED" {
                                return Ok::<_, Error>(Some(object));
                            }
                        }
                        Ok(None)
                    };
                    match tokio::time::timeout_at(deadline, appears).await {
                        Ok(object) => infos.extend(object?.map(|object| Info::new(target.resource.clone(), object))),
                        Err(_) => fail!("timed out waiting for the condition on {}", target.resource.name),
                    }
                }
                infos.extend(items(&target.resource, &mut found));
            }
        }
    }
    Ok(infos)
}

async fn wait_for(session: &Session, args: &Parsed, wanted: &Wanted, mut info: Info, deadline: tokio::time::Instant) -> Result {
    if matches!(wanted, Wanted::Delete) {
        super::delete::gone(session, &info, deadline).await?;
        return report(session, args, &info, "deleted", DryRun::None).or_else(|_| session.say(format!("{} deleted", info.shown())));
    }
    let waiting = async {
        loop {
            let mut revision = String::new();
            match session.get(info.url()).await {
                Ok(object) => {
                    if wanted.holds(&object)? {
                        return Ok::<Value, Error>(object);
                    }
                    revision = text(&object, "/metadata/resourceVersion").to_owned();
                }
                Err(error) if error.is_not_found() && matches!(wanted, Wanted::Create) => {}
                Err(error) => return Err(error),
            }
            let url = Url::new(info.resource.collection(&info.namespace))
                .with("fieldSelector", &format!("metadata.name={}", info.name))
                .with_filled("resourceVersion", &revision)
                .with("watch", "true");
            let mut events = session.watch(url, JSON).await?;
            while let Some((kind, object)) = events.event().await? {
                match kind.as_str() {
                    "BOOKMARK" => {}
                    "DELETED" => return Err(Error::Status(json!({"reason": "NotFound", "message": format!("{} {:?} not found", info.resource.qualified(), info.name)}))),
                    _ if wanted.holds(&object)? => return Ok(object),
                    _ => {}
                }
            }
        }
    };
    // Zero looks once.
    let deadline = deadline.max(tokio::time::Instant::now() + Duration::from_millis(500));
    match tokio::time::timeout_at(deadline, waiting).await {
        Err(_) => fail!("timed out waiting for the condition on {}/{}", info.resource.name, info.name),
        Ok(object) => info.object = object?,
    }
    report(session, args, &info, "condition met", DryRun::None)
}
