//! `kubectl explain`: the fields of a kind, from the server's OpenAPI v3 documents

use serde_json::Value;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::rest::Url;
use crate::session::Session;
use crate::value::{list, map, text};

pub static EXPLAIN: Command = Command {
    name: "explain",
    about: "Show the fields of a kind and what they mean.",
    usage: "TYPE [--recursive=FALSE|TRUE] [--api-version=api-version-group] [-o|--output=plaintext|plaintext-openapiv2] [options]",
    examples: "
kubectl explain pods
kubectl explain deployment.spec.strategy",
    flags: &[&[
        Flag::text("api-version", "Group and version to look in."),
        Flag::text("output", "plaintext").default("plaintext"),
        Flag::switch("recursive", "The fields of fields too, without words."),
    ]],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

async fn run(session: &Session, args: &Parsed) -> Result {
    let [wanted] = args.args.as_slice() else {
        return Err(Error::from(if args.args.is_empty() {
            "You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources.\n"
        } else {
            "We accept only this format: explain RESOURCE\n"
        }));
    };
    // `deployments.apps` may be a kind; what follows is the path of fields.
    let parts: Vec<&str> = wanted.split('.').collect();
    let mut found = None;
    for end in (1..=parts.len()).rev() {
        let name = parts[..end].join(".");
        if let Some(resource) = session.discovery().await?.by_name(&name) {
            found = Some((resource, parts[end..].to_vec()));
            break;
        }
    }
    let Some((mut resource, path)) = found else {
        // Said without the usual `error: ` in front.
        return Err(Error::Unreachable(format!("the server doesn't have a resource type {:?}", parts[0])));
    };
    if args.changed("api-version") {
        let wanted = args.text("api-version");
        let (group, version) = wanted.split_once('/').unwrap_or(("", wanted));
        let missing = format!("couldn't find resource for \"{group}/{version}, Resource={}\"", resource.name);
        resource = session.resource_of_kind(wanted, &resource.kind).await.map_err(|_| Error::Message(missing))?;
    }
    let base = if resource.group.is_empty() { format!("api/{}", resource.version) } else { format!("apis/{}/{}", resource.group, resource.version) };
    let document = session.get(Url::new(format!("/openapi/v3/{base}"))).await?;
    let is_kind = |schema: &&Value| {
        list(schema, "/x-kubernetes-group-version-kind").iter().any(|one| text(one, "/kind") == resource.kind && text(one, "/version") == resource.version && text(one, "/group") == resource.group)
    };
    let Some(schema) = map(&document, "/components/schemas").map(|(_, schema)| schema).find(is_kind) else {
        fail!("GVR ({}) not found in OpenAPI schema", resource.qualified());
    };
    let mut out = String::new();
    if !resource.group.is_empty() {
        out += &format!("GROUP:      {}\n", resource.group);
    }
    out += &format!("KIND:       {}\nVERSION:    {}\n\n", resource.kind, resource.version);
    let mut at = schema;
    let mut field = None;
    for part in &path {
        let resolved = resolve(&document, inner(&document, at));
        let Some(next) = resolved.pointer("/properties").and_then(|fields| fields.get(*part)) else {
            session.print(out)?;
            fail!("field {part:?} does not exist");
        };
        field = Some((*part, next));
        at = next;
    }
    if let Some((name, schema)) = field {
        let options: String = options(schema).iter().map(|option| format!("\n    {option}")).collect();
        let options = if options.is_empty() { options } else { format!("ENUM:{options}") };
        out += &format!("FIELD: {name} <{}>\n{options}\n\n", type_name(&document, schema));
    }
    out += "DESCRIPTION:\n";
    let resolved = resolve(&document, inner(&document, at));
    let own = text(at, "/description");
    let own = if own.is_empty() { text(resolved, "/description") } else { own };
    out += &wrap(if own.is_empty() { "<empty>" } else { own }, 4);
    if field.is_some() && !text(resolved, "/description").is_empty() && text(resolved, "/description") != own {
        out += &wrap(text(resolved, "/description"), 4);
    }
    out += "    \n";
    if map(resolved, "/properties").next().is_some() {
        out += "FIELDS:\n";
        fields(&document, resolved, args.is_set("recursive"), 1, &mut Vec::new(), &mut out);
    }
    session.say(out)
}

fn fields<'a>(document: &'a Value, schema: &'a Value, recursive: bool, level: usize, within: &mut Vec<&'a str>, out: &mut String) {
    let indent = "  ".repeat(level);
    for (name, field) in map(schema, "/properties") {
        *out += &format!("{indent}{name}\t<{}>{}\n", type_name(document, field), required(schema, name));
        let mut options = options(field);
        if options.len() > OPTIONS_MAX {
            options.truncate(OPTIONS_MAX);
            options.push("....".to_owned());
        }
        if !options.is_empty() {
            *out += &format!("{indent}enum: {}\n", options.join(", "));
        }
        if recursive {
            let target = inner(document, field);
            let reference = reference(target);
            // A kind within itself is named, not opened.
            if !within.contains(&reference) {
                within.push(reference);
                fields(document, resolve(document, target), true, level + 1, within, out);
                within.pop();
            }
        } else {
            let described = text(field, "/description");
            let described = if described.is_empty() { text(resolve(document, inner(document, field)), "/description") } else { described };
            *out += &wrap(if described.is_empty() { "<no description>" } else { described }, 4);
            *out += "\n";
        }
    }
}

/// Among the fields of a kind no more are shown.
const OPTIONS_MAX: usize = 4;

/// The values that a field may have, where they are listed.
fn options(field: &Value) -> Vec<String> {
    let shown = |option: &Value| if option.as_str() == Some("") { "\"\"".to_owned() } else { crate::value::plain(option) };
    list(field, "/enum").iter().map(shown).collect()
}

fn required(parent: &Value, name: &str) -> &'static str {
    if list(parent, "/required").iter().any(|one| one.as_str() == Some(name)) { " -required-" } else { "" }
}

fn reference(schema: &Value) -> &str {
    let direct = text(schema, "/$ref");
    if direct.is_empty() { text(schema, "/allOf/0/$ref") } else { direct }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let name = reference(schema).rsplit('/').next().unwrap_or_default();
    document.pointer("/components/schemas").and_then(|schemas| schemas.get(name)).unwrap_or(schema)
}

/// The element of lists and maps.
fn inner<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let _ = document;
    match (schema.get("items"), schema.get("additionalProperties").filter(|one| one.is_object())) {
        (Some(items), _) => inner(document, items),
        (None, Some(values)) => inner(document, values),
        _ => schema,
    }
}

fn type_name(document: &Value, schema: &Value) -> String {
    if let Some(items) = schema.get("items") {
        return format!("[]{}", type_name(document, items));
    }
    if let Some(values) = schema.get("additionalProperties").filter(|one| one.is_object()) {
        return format!("map[string]{}", type_name(document, values));
    }
    let name = reference(schema).rsplit('.').next().unwrap_or_default();
    match (name, text(schema, "/type")) {
        ("", "") => "Object".to_owned(),
        ("", "object") => "Object".to_owned(),
        ("", kind) => kind.to_owned(),
        (name, _) => {
            let resolved = resolve(document, schema);
            match text(resolved, "/type") {
                "string" if name != "IntOrString" && name != "Quantity" => "string".to_owned(),
                _ => name.to_owned(),
            }
        }
    }
}

/// Lines of at most 80 columns; what a line is indented by already stays.
fn wrap(words: &str, indent: usize) -> String {
    const WIDTH: usize = 80;
    let mut out = String::new();
    for paragraph in words.split('\n') {
        let own = paragraph.len() - paragraph.trim_start_matches(' ').len();
        let margin = " ".repeat(indent + own);
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && margin.len() + line.chars().count() + 1 + word.chars().count() > WIDTH {
                out += &format!("{margin}{line}\n");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        out += &format!("{margin}{line}\n");
    }
    out
}
