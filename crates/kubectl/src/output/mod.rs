//! `-o`: how objects are shown.
//!
//! Invariant: each format prints what the original prints, byte for byte. Deliberately absent: the columns of tables,
//! which the server makes, and the texts of `describe`.

pub mod columns;
pub mod jsonpath;
pub mod live;
pub mod table;
pub mod tabs;
pub mod typed;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::kubeconfig::go_io;
use crate::selection::Info;
use crate::session::Session;
use crate::value::{list, name, text};

const OUTPUT: Flag = Flag::text("output", "Output format: json, yaml, name, go-template, go-template-file, template, templatefile, jsonpath, jsonpath-as-json or jsonpath-file.").short('o');
const TEMPLATE: Flag = Flag::text("template", "Template text or file for the output formats that take one.");
const MISSING_KEYS: Flag = Flag::switch("allow-missing-template-keys", "Print nothing for fields that a template names and the object lacks.").default("true");
const MANAGED_FIELDS: Flag = Flag::switch("show-managed-fields", "Keep managedFields in JSON and YAML.");

pub const PRINT: &[Flag] = &[OUTPUT, TEMPLATE, MISSING_KEYS, MANAGED_FIELDS];
/// For commands that print objects anyway.
pub const PRINT_YAML: &[Flag] = &[OUTPUT.default("yaml"), TEMPLATE, MISSING_KEYS, MANAGED_FIELDS];

pub const DRY_RUN: &[Flag] = &[Flag::text(
    "dry-run",
    "\"none\", \"server\" or \"client\". With client, print the object instead of sending it; with server, send it without keeping it.",
)
.default("none")
.bare("unchanged")];

pub enum Format {
    Table { wide: bool },
    Json,
    Yaml,
    Name,
    /// Parsed, and as it was written.
    JsonPath(jsonpath::JsonPath, String),
    JsonPathAsJson(jsonpath::JsonPath),
    Columns(columns::Columns),
    Template(Box<gotmpl::Template>, String),
}

impl Format {
    pub fn of(args: &Parsed) -> Result<Self> {
        let output = args.text("output");
        let (kind, argument) = match output.split_once('=') {
            Some((kind, argument)) => (kind, argument.to_owned()),
            None => (output, args.text("template").to_owned()),
        };
        let kind = if !args.changed("output") && args.changed("template") { "go-template" } else { kind };
        let from_file = |kind: &str| -> Result<String> {
            if argument.is_empty() {
                fail!("template format specified but no template given");
            }
            std::fs::read_to_string(&argument)
                .map_err(|error| Error::Message(format!("error reading --template {argument}, open {argument}: {} ({kind})", go_io(&error))))
        };
        let given = || -> Result<String> {
            if argument.is_empty() { fail!("template format specified but no template given") } else { Ok(argument.clone()) }
        };
        let path = |template: &str| {
            jsonpath::JsonPath::parse(template).map_err(|error| Error::Message(format!("error parsing jsonpath {template}, {error}")))
        };
        let rendered = |template: String| Ok::<Format, Error>(Format::JsonPath(path(&template)?, template));
        let is_get = args.knows("label-columns");
        Ok(match kind {
            "" => Format::Table { wide: false },
            "wide" if is_get => Format::Table { wide: true },
            "json" => Format::Json,
            "yaml" => Format::Yaml,
            "name" => Format::Name,
            "jsonpath" => rendered(given()?)?,
            "jsonpath-as-json" => Format::JsonPathAsJson(path(&given()?)?),
            "jsonpath-file" => rendered(from_file(kind)?)?,
            "custom-columns" if is_get => Format::Columns(columns::Columns::parse(&argument, args.is_set("no-headers"))?),
            "custom-columns-file" if is_get => Format::Columns(columns::Columns::parse_file(&from_file(kind)?, args.is_set("no-headers"))?),
            "go-template" | "template" => template(given()?, args)?,
            "go-template-file" | "templatefile" => template(from_file(kind)?, args)?,
            _ => {
                let allowed = if is_get {
                    "custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,template,templatefile,wide,yaml"
                } else {
                    "go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,template,templatefile,yaml"
                };
                fail!("unable to match a printer suitable for the output format {kind:?}, allowed formats are: {allowed}")
            }
        })
    }

    pub fn is_table(&self) -> bool {
        matches!(self, Format::Table { .. })
    }

    /// One object, or a list of several.
    pub fn show(&mut self, object: &Value, args: &Parsed) -> Result<String> {
        let mut object = object.clone();
        // Templates see all there is.
        if matches!(self, Format::Json | Format::Yaml) && !args.is_set("show-managed-fields") {
            drop_managed_fields(&mut object);
        }
        Ok(match self {
            Format::Json => pretty_json(&object) + "\n",
            Format::Yaml => api::yaml::to_yaml(&object),
            Format::Name | Format::Table { .. } => name_line(&object),
            Format::JsonPath(path, source) => path
                .render(&object, args.is_set("allow-missing-template-keys"))
                .map_err(|error| Error::Message(format!(
                    "error executing jsonpath {source:?}: Error executing template: {error}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{source}\n\tobject given to jsonpath engine was:\n\t\t{}\n\n\n",
                    go_dump(&object)
                )))?,
            Format::JsonPathAsJson(path) => pretty_json(&Value::Array(path.find(&object).into_iter().cloned().collect())) + "\n",
            Format::Columns(columns) => {
                let items = list(&object, "/items");
                let objects: Vec<&Value> = if is_list(&object) { items.iter().collect() } else { vec![&object] };
                columns.lines(&objects)
            }
            Format::Template(template, source) => template
                .execute_to_string(&gotmpl::to_value(&object).map_err(|error| Error::Message(error.to_string()))?)
                .map_err(|error| match error.to_string().strip_prefix("undefined function: ") {
                    // Go finds that while it parses.
                    Some(name) => Error::Message(format!("error parsing template {source}, template: output:1: function {name:?} not defined")),
                    None => Error::Message(format!("error executing template: {error}")),
                })?,
        })
    }
}

fn template(source: String, args: &Parsed) -> Result<Format> {
    let missing = if args.is_set("allow-missing-template-keys") { gotmpl::MissingKey::Invalid } else { gotmpl::MissingKey::Error };
    let parsed = gotmpl::Template::new("output")
        .missing_key(missing)
        .func("base64decode", |values| {
            let encoded = values.first().map(ToString::to_string).unwrap_or_default();
            let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).unwrap_or_default();
            Ok(gotmpl::Value::String(String::from_utf8_lossy(&decoded).into_owned().into()))
        })
        .parse(&source)
        .map_err(|error| Error::Message(format!("error parsing template {source}, {}", without_column(&error.to_string()))))?;
    Ok(Format::Template(Box::new(parsed), source))
}

/// Go tells the line alone: `template: output:1: unclosed action`.
fn without_column(said: &str) -> String {
    let Some((line, rest)) = said.strip_prefix("template: output:").and_then(|rest| rest.split_once(':')) else { return said.to_owned() };
    match rest.split_once(": ") {
        Some((column, why)) if column.bytes().all(|byte| byte.is_ascii_digit()) => format!("template: output:{line}: {why}"),
        _ => said.to_owned(),
    }
}

pub fn is_list(object: &Value) -> bool {
    object.get("items").is_some_and(Value::is_array) && text(object, "/kind").ends_with("List")
}

pub fn drop_managed_fields(object: &mut Value) {
    if is_list(object) {
        for item in object["items"].as_array_mut().into_iter().flatten() {
            drop_managed_fields(item);
        }
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// `pod/web`, one line for each object.
pub fn name_line(object: &Value) -> String {
    if is_list(object) {
        return list(object, "/items").iter().map(name_line).collect();
    }
    let group = text(object, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = text(object, "/kind").to_lowercase();
    if group.is_empty() { format!("{kind}/{}\n", name(object)) } else { format!("{kind}.{group}/{}\n", name(object)) }
}

/// Several objects as the `v1.List` that the original makes of them.
pub fn list_of(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// Go escapes these three in JSON.
fn escape_html(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// `%#v` of the maps and slices that Go decodes JSON into.
fn go_dump(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Object(fields) => {
            let inner: Vec<String> = fields.iter().map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), go_dump(value))).collect();
            format!("map[string]interface {{}}{{{}}}", inner.join(", "))
        }
        Value::Array(items) => {
            let inner: Vec<String> = items.iter().map(go_dump).collect();
            format!("[]interface {{}}{{{}}}", inner.join(", "))
        }
        other => other.to_string(),
    }
}

/// One line, as Go's `json.Marshal` has it.
pub fn go_json(value: &Value) -> String {
    escape_html(&value.to_string())
}

/// Four spaces, as the original indents.
pub fn pretty_json(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, serde_json::ser::PrettyFormatter::with_indent(b"    "));
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => escape_html(&String::from_utf8_lossy(&out)),
        Err(_) => go_json(value),
    }
}

/// `%v` of a Go float.
pub fn go_float(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e21 { format!("{value:.0}") } else { value.to_string() }
}

/// How a change is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    None,
    Client,
    Server,
}

impl DryRun {
    pub fn of(session: &Session, args: &Parsed) -> Result<Self> {
        match args.text("dry-run") {
            "none" | "false" | "" => Ok(DryRun::None),
            "client" => Ok(DryRun::Client),
            "server" => Ok(DryRun::Server),
            "unchanged" | "true" => {
                session.complain("W: --dry-run is deprecated and can be replaced with --dry-run=client.");
                Ok(DryRun::Client)
            }
            other => fail!("Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\"."),
        }
    }

    pub fn query(self) -> &'static str {
        if self == DryRun::Server { "All" } else { "" }
    }

    pub fn suffix(self) -> &'static str {
        match self {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }
}

/// `deployment.apps/web scaled`, or the object in the form that `-o` asks for.
pub fn report(session: &Session, args: &Parsed, info: &Info, done: &str, dry_run: DryRun) -> Result {
    let mut format = Format::of(args)?;
    match format {
        Format::Table { .. } => session.say(format!("{} {done}{}", info.shown(), dry_run.suffix())),
        Format::Name => session.say(info.shown()),
        _ => {
            let text = format.show(&info.object, args)?;
            if matches!(format, Format::Yaml) && session.another_document() {
                session.say("---")?;
            }
            session.print(text)
        }
    }
}

/// The same for what a generator made: as JSON, its fields stand as the original declares them.
pub fn report_typed(session: &Session, args: &Parsed, info: &Info, done: &str, dry_run: DryRun) -> Result {
    if args.text("output") != "json" {
        return report(session, args, info, done, dry_run);
    }
    let mut object = info.object.clone();
    if !args.is_set("show-managed-fields") {
        drop_managed_fields(&mut object);
    }
    session.say(typed::pretty(&object))
}

pub fn timestamp(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok()
}

/// `5m`, `2d3h`; `<unknown>` for a time that is missing.
pub fn age_of(since: &str, now: jiff::Timestamp) -> String {
    match timestamp(since) {
        Some(since) => human_duration(now.as_second() - since.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// `HumanDuration` of apimachinery.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    if seconds < -1 {
        "<invalid>".to_owned()
    } else if seconds < 0 {
        "0s".to_owned()
    } else if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        two(hours / 24, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{}d", hours / 24)
    } else if hours < 24 * 365 * 8 {
        two(hours / 24 / 365, "y", hours / 24 % 365, "d")
    } else {
        format!("{}y", hours / 24 / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let check = |seconds: i64, expected: &str| assert_eq!(human_duration(seconds), expected);
        check(0, "0s");
        check(119, "119s");
        check(125, "2m5s");
        check(600, "10m");
        check(3 * 3600 + 60, "3h1m");
        check(8 * 3600, "8h");
        check(49 * 3600, "2d1h");
        check(24 * 3600 * 9, "9d");
        check(24 * 3600 * 800, "2y70d");
    }
}
