//! `kubectl get`

use serde_json::{Value, json};
use std::rc::Rc;

use crate::command::{COMMAND, Command};
use crate::discovery::Resource;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{self, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::jsonpath::JsonPath;
use crate::output::table::{Options, Printer};
use crate::output::{Format, PRINT, is_list, list_of, table};
use crate::rest::{JSON, TABLE, Url};
use crate::selection::{ALL_NAMESPACES, CHUNK, FIELD_SELECTOR, SELECTOR, Target, from_files, items, list_all, list_url, targets, unlisted};
use crate::session::Session;
use crate::value::{list, text};

pub static GET: Command = Command {
    name: "get",
    about: "Show one or many objects as a table or in the form that -o names.",
    usage: "[(-o|--output=)json|yaml|name|go-template|go-template-file|template|templatefile|jsonpath|jsonpath-as-json|jsonpath-file|custom-columns|custom-columns-file|wide] (TYPE[.VERSION][.GROUP] [NAME | -l label] | TYPE[.VERSION][.GROUP]/NAME ...) [flags] [options]",
    examples: "
# All pods of the namespace
kubectl get pods

# One deployment as YAML
kubectl get deployment web -o yaml

# Pods and services together, with more columns
kubectl get pods,services -o wide

# Names of all nodes
kubectl get nodes -o jsonpath='{.items[*].metadata.name}'",
    flags: &[FLAGS, FILENAMES, PRINT, SELECTOR, FIELD_SELECTOR, ALL_NAMESPACES, CHUNK],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::switch("ignore-not-found", "Succeed silently when the object does not exist."),
    Flag::list("label-columns", "Labels to show as columns of their own.").short('L'),
    Flag::switch("no-headers", "Leave out the header line."),
    Flag::switch("output-watch-events", "Show what kind of event each line of a watch is."),
    Flag::text("raw", "Path to ask the server for, as it stands."),
    Flag::switch("server-print", "Let the server make the table.").default("true"),
    Flag::switch("show-kind", "Show the kind in front of each name."),
    Flag::switch("show-labels", "Show all labels as the last column."),
    Flag::text("sort-by", "JSONPath of the field to sort by."),
    Flag::text("subresource", "Ask for this subresource of the object."),
    Flag::switch("watch", "After showing what there is, go on to show changes.").short('w'),
    Flag::switch("watch-only", "Show changes alone."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    if args.changed("raw") {
        let bytes = session.call_raw(http::Method::GET, Url::new(args.text("raw")), JSON, "", Vec::new()).await?;
        return session.print(bytes);
    }
    let mut format = Format::of(args)?;
    if args.args.is_empty() && !files::given(args) {
        session.complain("You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n");
        return Err(session.usage_error("Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods)."));
    }
    if args.is_set("output-watch-events") && !(args.is_set("watch") || args.is_set("watch-only")) {
        fail!("--output-watch-events option can only be used with --watch or --watch-only");
    }
    let wanted = wanted(session, args).await?;
    if args.is_set("watch") || args.is_set("watch-only") {
        return watch(session, args, &wanted, &mut format).await;
    }
    if format.is_table() { tables(session, args, &wanted, &format).await } else { objects(session, args, &wanted, &mut format).await }
}

/// What is asked for: one object or one collection.
struct Wanted {
    target: Target,
    namespace: String,
}

async fn wanted(session: &Session, args: &Parsed) -> Result<Vec<Wanted>> {
    if files::given(args) {
        let infos = from_files(session, args).await?;
        return Ok(infos
            .into_iter()
            .map(|info| Wanted { target: Target { resource: info.resource, name: Some(info.name) }, namespace: info.namespace })
            .collect());
    }
    let found = targets(session, &args.args).await?;
    let all = args.is_set("all-namespaces");
    if found.iter().any(|target| target.name.is_some()) {
        if args.changed("selector") || args.changed("field-selector") {
            fail!("name cannot be provided when a selector is specified");
        }
        if all && found.iter().any(|target| target.name.is_some() && target.resource.namespaced) {
            fail!("a resource cannot be retrieved by name across all namespaces");
        }
    }
    let namespace = if all { String::new() } else { session.namespace()?.to_owned() };
    Ok(found.into_iter().map(|target| Wanted { target, namespace: namespace.clone() }).collect())
}

impl Wanted {
    fn url(&self, session: &Session, args: &Parsed) -> Result<Url> {
        let subresource = args.text("subresource");
        match &self.target.name {
            Some(name) => {
                let path = self.target.resource.object(&self.namespace, name);
                Ok(Url::new(if subresource.is_empty() { path } else { format!("{path}/{subresource}") }))
            }
            None => list_url(session, &self.target.resource, args),
        }
    }
}

/// Asks for one table, page after page.
async fn table_of(session: &Session, args: &Parsed, wanted: &Wanted) -> Result<Value> {
    let mut url = wanted.url(session, args)?;
    let page = args.int("chunk-size");
    if wanted.target.name.is_none() && page > 0 {
        url = url.with("limit", &page.to_string());
    }
    if args.changed("sort-by") {
        url = url.with("includeObject", "Object");
    }
    let accept = if args.is_set("server-print") { TABLE } else { JSON };
    let answer = session.call(http::Method::GET, url.clone(), accept, "", Vec::new()).await;
    let answer = if wanted.target.name.is_none() { answer.map_err(|error| unlisted(error, &wanted.target.resource, &url)) } else { answer };
    let mut whole = as_table(session, answer?);
    loop {
        let from = text(&whole, "/metadata/continue").to_owned();
        if from.is_empty() {
            return Ok(whole);
        }
        let mut next = as_table(session, session.call(http::Method::GET, url.clone().with("continue", &from), accept, "", Vec::new()).await?);
        if let (Some(rows), Value::Array(more)) = (whole["rows"].as_array_mut(), next["rows"].take()) {
            rows.extend(more);
        }
        whole["metadata"] = next["metadata"].take();
    }
}

fn as_table(session: &Session, answer: Value) -> Value {
    if text(&answer, "/kind") == "Table" {
        return answer;
    }
    let objects = if is_list(&answer) { list(&answer, "/items").to_vec() } else { vec![answer.clone()] };
    let mut made = table::generic(&objects, session.clock.now());
    made["metadata"] = answer["metadata"].clone();
    made
}

async fn tables(session: &Session, args: &Parsed, wanted: &[Wanted], format: &Format) -> Result {
    let mut printer = Printer::new(options(session, args, format));
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for one in wanted {
        match table_of(session, args, one).await {
            Ok(table) => found.push((one.target.resource.clone(), table)),
            Err(error) if error.is_not_found() && args.is_set("ignore-not-found") && one.target.name.is_some() => {}
            Err(error) => problems.push(error),
        }
    }
    // Rows of one kind stand together, however they were asked for.
    let mut kinds: Vec<(Rc<Resource>, Value)> = Vec::new();
    for (resource, mut table) in found {
        match kinds.last_mut().filter(|(known, _)| *known == resource) {
            Some((_, known)) => {
                if let (Some(rows), Value::Array(more)) = (known["rows"].as_array_mut(), table["rows"].take()) {
                    rows.extend(more);
                }
            }
            None => kinds.push((resource, table)),
        }
    }
    if args.changed("sort-by") {
        for (_, table) in &mut kinds {
            // One row is in order whatever the field is.
            if let Some(rows) = table["rows"].as_array_mut().filter(|rows| rows.len() > 1) {
                let path = JsonPath::parse_relaxed(args.text("sort-by")).map_err(Error::Message)?;
                sort(rows, &path, args.text("sort-by"), |row| &row["object"])?;
            }
        }
    }
    let distinct = kinds.iter().any(|(resource, _)| *resource != kinds[0].0);
    printer.options.with_kind = distinct || args.is_set("show-kind");
    let mut printed = false;
    for (resource, table) in &kinds {
        if list(table, "/rows").is_empty() {
            continue;
        }
        if printed {
            session.say("")?;
        }
        printer.options.with_namespace = args.is_set("all-namespaces") && resource.namespaced;
        printer.next_kind();
        session.print(printer.lines(table, resource, ""))?;
        printed = true;
    }
    if !printed && problems.is_empty() && !args.is_set("ignore-not-found") {
        let namespaced = wanted.iter().any(|one| one.target.resource.namespaced);
        if args.is_set("all-namespaces") || !namespaced {
            session.complain("No resources found");
        } else {
            session.complain(format!("No resources found in {} namespace.", session.namespace()?));
        }
    }
    Error::all(problems)
}

fn options(session: &Session, args: &Parsed, format: &Format) -> Options {
    Options {
        wide: matches!(format, Format::Table { wide: true }),
        no_headers: args.is_set("no-headers"),
        with_namespace: args.is_set("all-namespaces"),
        with_kind: args.is_set("show-kind"),
        show_labels: args.is_set("show-labels"),
        label_columns: args.list("label-columns"),
        watch_events: args.is_set("output-watch-events"),
        colours: session.colours(),
    }
}

async fn objects(session: &Session, args: &Parsed, wanted: &[Wanted], format: &mut Format) -> Result {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    let single = wanted.len() == 1 && wanted[0].target.name.is_some();
    for one in wanted {
        let url = one.url(session, args)?;
        let answer = match one.target.name {
            Some(_) => session.get(url).await.map(|object| vec![object]),
            None => list_all(session, url.clone(), args.int("chunk-size"))
                .await
                .map_err(|error| unlisted(error, &one.target.resource, &url))
                .map(|mut found| items(&one.target.resource, &mut found).into_iter().map(|info| info.object).collect()),
        };
        match answer {
            Ok(objects) => found.extend(objects),
            Err(error) if error.is_not_found() && args.is_set("ignore-not-found") => {}
            Err(error) => problems.push(error),
        }
    }
    if args.changed("sort-by") {
        let path = JsonPath::parse_relaxed(args.text("sort-by")).map_err(Error::Message)?;
        sort(&mut found, &path, args.text("sort-by"), |object| object)?;
    }
    let nothing_said = !problems.is_empty() || args.is_set("ignore-not-found");
    if single && found.len() == 1 {
        session.print(format.show(&found[0], args)?)?;
    } else if !(found.is_empty() && nothing_said) {
        session.print(format.show(&list_of(found), args)?)?;
    }
    Error::all(problems)
}

/// By the value at `path`: numbers, quantities and times by their size, what is missing first.
fn sort<T>(rows: &mut [T], path: &JsonPath, shown: &str, object: impl Fn(&T) -> &Value) -> Result {
    let found_any = rows.iter().any(|row| !path.find(object(row)).is_empty());
    if !rows.is_empty() && !found_any {
        let inner = shown.trim_start_matches('{').trim_end_matches('}').trim_start_matches('.');
        fail!("couldn't find any field with path {:?} in the list of objects", format!("{{.{inner}}}"));
    }
    rows.sort_by(|a, b| compare(path.find(object(a)).first().copied(), path.find(object(b)).first().copied()));
    Ok(())
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(Value::Number(a)), Some(Value::Number(b))) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        (Some(Value::String(a)), Some(Value::String(b))) => match (api::quantity::Quantity::parse(a), api::quantity::Quantity::parse(b)) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(b),
        },
        (Some(a), Some(b)) => a.to_string().cmp(&b.to_string()),
    }
}

async fn watch(session: &Session, args: &Parsed, wanted: &[Wanted], format: &mut Format) -> Result {
    let [one] = wanted else {
        fail!("you may only specify a single resource type");
    };
    let resource = &one.target.resource;
    let mut printer = Printer::new(options(session, args, format));
    printer.options.with_namespace &= resource.namespaced;
    let live = format.is_table() && session.live() && !args.is_set("output-watch-events");
    let mut shown = Value::Null;
    // One object is watched as a list of one.
    let (url, revision) = match &one.target.name {
        Some(name) => {
            let url = Url::new(resource.collection(&one.namespace)).with("fieldSelector", &format!("metadata.name={name}"));
            let object = session.get(one.url(session, args)?).await?;
            let revision = text(&object, "/metadata/resourceVersion").to_owned();
            if live && !args.is_set("watch-only") {
                shown = table_of(session, args, one).await?;
            } else if !args.is_set("watch-only") {
                first(session, args, one, &mut printer, format, &object).await?;
            }
            (url, revision)
        }
        None => {
            let url = one.url(session, args)?;
            let accept = if format.is_table() { TABLE } else { JSON };
            let found = session.call(http::Method::GET, url.clone(), accept, "", Vec::new()).await?;
            let revision = text(&found, "/metadata/resourceVersion").to_owned();
            if live && !args.is_set("watch-only") {
                shown = as_table(session, found);
            } else if !args.is_set("watch-only") {
                first(session, args, one, &mut printer, format, &found).await?;
            }
            (url, revision)
        }
    };
    let accept = if format.is_table() { TABLE } else { JSON };
    let watch_url = url.with("resourceVersion", &revision).with("watch", "true");
    let mut events = session.watch(watch_url, accept).await?;
    if live {
        return super::live::watch(session, &printer.options, resource, &shown, &mut events).await;
    }
    while let Some((kind, object)) = events.event().await? {
        if kind == "BOOKMARK" {
            continue;
        }
        if format.is_table() {
            let table = as_table(session, object);
            session.print(printer.lines(&table, resource, &kind))?;
        } else if args.is_set("output-watch-events") {
            session.print(format.show(&json!({"type": kind, "object": object}), args)?)?;
        } else {
            session.print(format.show(&object, args)?)?;
        }
        session.flush()?;
    }
    Ok(())
}

/// What there is before the changes.
async fn first(session: &Session, args: &Parsed, one: &Wanted, printer: &mut Printer, format: &mut Format, found: &Value) -> Result {
    if format.is_table() {
        let table = match text(found, "/kind") {
            "Table" => found.clone(),
            _ if one.target.name.is_some() => table_of(session, args, one).await?,
            _ => as_table(session, found.clone()),
        };
        if !list(&table, "/rows").is_empty() {
            session.print(printer.lines(&table, &one.target.resource, "ADDED"))?;
        }
    } else if is_list(found) {
        let mut found = found.clone();
        for info in items(&one.target.resource, &mut found) {
            session.print(format.show(&info.object, args)?)?;
        }
    } else {
        session.print(format.show(found, args)?)?;
    }
    session.flush()
}
