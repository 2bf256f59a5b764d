//! The paths of a group version as OpenAPI describes them.

use serde_json::{Map, Value, json};

use crate::discovery::kinds_of;
use crate::kinds::{Kind, Subresource, Verbs};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Two,
    Three,
}

const BODIES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// name, type, description
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = ("dryRun", "string", "All: nothing is persisted, everything else happens.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "Who makes this change; printable, at most 128 characters.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What becomes of unknown and duplicate fields: Ignore drops them, Warn (the default) drops them with a warning, Strict refuses the request.",
);
const FORCE: Parameter = ("force", "boolean", "Take over fields that other managers own; for apply requests alone.");
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Ask for BOOKMARK events."),
    ("continue", "string", "The token of the page before."),
    ("fieldSelector", "string", "Restrict the objects by their fields."),
    ("labelSelector", "string", "Restrict the objects by their labels."),
    ("limit", "integer", "The most objects in one answer."),
    ("resourceVersion", "string", "How fresh the answer must be."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied to list calls."),
    ("sendInitialEvents", "boolean", "Begin a watch with events of what is there."),
    ("timeoutSeconds", "integer", "Ends the call after this time."),
    ("watch", "boolean", "Watch for changes."),
];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "Orphan, Background or Foreground."),
];

struct Operation<'a> {
    kind: &'a Kind,
    /// `createNamespacedPod`
    id: String,
    action: &'static str,
    method: &'static str,
    spoken: (&'static str, &'static str, &'static str),
    parameters: Vec<Parameter>,
    body: Option<&'a str>,
    answer: Option<String>,
    created: bool,
}

pub fn of(group: &'static str, version: &'static str, flavour: Flavour) -> Map<String, Value> {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let mut paths = Map::new();
    for kind in kinds_of(group, version) {
        let place = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{place}/{}", kind.plural);
        add(&mut paths, &collection, kind.namespaced, false, collection_operations(kind), flavour);
        if matches!(kind.verbs, Verbs::Create) {
            continue;
        }
        if kind.namespaced {
            let everywhere = vec![list_operation(kind, "ForAllNamespaces")];
            add(&mut paths, &format!("{root}/{}", kind.plural), false, false, everywhere, flavour);
        }
        let item = format!("{collection}/{{name}}");
        add(&mut paths, &item, kind.namespaced, true, item_operations(kind), flavour);
        for subresource in kind.subresources {
            let path = format!("{item}/{}", subresource.name);
            add(&mut paths, &path, kind.namespaced, true, subresource_operations(kind, subresource), flavour);
        }
    }
    paths
}

fn scope(kind: &Kind) -> &'static str {
    if kind.namespaced { "Namespaced" } else { "" }
}

fn own(kind: &Kind) -> (&'static str, &'static str, &'static str) {
    (kind.group, kind.version, kind.kind)
}

fn list_operation<'a>(kind: &'a Kind, suffix: &str) -> Operation<'a> {
    let id = if suffix.is_empty() { format!("list{}{}", scope(kind), kind.kind) } else { format!("list{}{suffix}", kind.kind) };
    Operation {
        kind,
        id,
        action: "list",
        method: "get",
        spoken: own(kind),
        parameters: LIST.to_vec(),
        body: None,
        answer: Some(format!("{}List", kind.definition)),
        created: false,
    }
}

fn operation<'a>(kind: &'a Kind, action: &'static str) -> Operation<'a> {
    let (method, verb, parameters): (_, _, &[Parameter]) = match action {
        "get" => ("get", "read", &[]),
        "post" => ("post", "create", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]),
        "put" => ("put", "replace", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]),
        "patch" => ("patch", "patch", &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE]),
        "deletecollection" => ("delete", "deleteCollection", DELETE),
        _ => ("delete", "delete", DELETE),
    };
    let body = match action {
        "post" | "put" => Some(kind.definition),
        "patch" => Some(PATCH),
        "delete" | "deletecollection" => Some(DELETE_OPTIONS),
        _ => None,
    };
    let mut parameters = parameters.to_vec();
    if action == "deletecollection" {
        parameters.extend(LIST.iter().filter(|(name, _, _)| !matches!(*name, "watch" | "allowWatchBookmarks")));
    }
    let answer = if method == "delete" { STATUS } else { kind.definition };
    Operation {
        kind,
        id: format!("{verb}{}{}", scope(kind), kind.kind),
        action,
        method,
        spoken: own(kind),
        parameters,
        body,
        answer: Some(answer.to_owned()),
        created: matches!(action, "post" | "put" | "patch"),
    }
}

fn collection_operations(kind: &Kind) -> Vec<Operation<'_>> {
    let verbs = kind.verbs.names();
    let mut list = Vec::new();
    if verbs.contains(&"list") {
        list.push(list_operation(kind, ""));
    }
    if verbs.contains(&"create") {
        list.push(operation(kind, "post"));
    }
    if verbs.contains(&"deletecollection") {
        list.push(operation(kind, "deletecollection"));
    }
    list
}

fn item_operations(kind: &Kind) -> Vec<Operation<'_>> {
    let verbs = kind.verbs.names();
    [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")]
        .into_iter()
        .filter(|(verb, _)| verbs.contains(verb))
        .map(|(_, action)| operation(kind, action))
        .collect()
}

fn subresource_operations<'a>(kind: &'a Kind, subresource: &'a Subresource) -> Vec<Operation<'a>> {
    let mut suffix = String::new();
    let mut letters = subresource.name.chars();
    suffix.extend(letters.next().map(|first| first.to_ascii_uppercase()));
    suffix.extend(letters);
    let connect = matches!(subresource.name, "attach" | "exec" | "portforward" | "proxy");
    let definition = subresource.speaks.and_then(|(group, version, spoken)| {
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        api::schema::definition_of_kind(&api_version, spoken).map(|definition| definition.name)
    });
    let shown = definition.unwrap_or(kind.definition);
    subresource
        .verbs
        .iter()
        .map(|verb| {
            let action = match *verb {
                "create" => "post",
                "update" => "put",
                "patch" => "patch",
                "delete" => "delete",
                _ => "get",
            };
            let mut operation = operation(kind, action);
            operation.id.push_str(&suffix);
            operation.spoken = subresource.speaks.unwrap_or(own(kind));
            if connect || subresource.name == "log" {
                operation.action = if connect { "connect" } else { "get" };
                operation.id = format!("{}{}{}{suffix}", if connect { "connect" } else { "read" }, scope(kind), kind.kind);
                if connect {
                    operation.id = operation.id.replacen("connect", &format!("connect{}", capital(action)), 1);
                }
                operation.parameters.clear();
                operation.body = None;
                operation.answer = None;
            } else {
                operation.answer = Some(shown.to_owned());
                if matches!(action, "post" | "put") {
                    operation.body = Some(shown);
                }
            }
            operation
        })
        .collect()
}

fn capital(method: &str) -> String {
    let mut letters = method.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn add(
    paths: &mut Map<String, Value>,
    path: &str,
    in_namespace: bool,
    named: bool,
    operations: Vec<Operation<'_>>,
    flavour: Flavour,
) {
    let mut item = Map::new();
    let mut common = Vec::new();
    if named {
        common.push(path_parameter("name", "name of the object", flavour));
    }
    if in_namespace {
        common.push(path_parameter("namespace", "object name and auth scope, such as for teams and projects", flavour));
    }
    common.push(query_parameter(PRETTY, flavour));
    for operation in operations {
        item.insert(operation.method.to_owned(), describe(&operation, flavour));
    }
    item.insert("parameters".into(), common.into());
    paths.insert(path.to_owned(), item.into());
}

fn path_parameter(name: &str, description: &str, flavour: Flavour) -> Value {
    let mut parameter = json!({"name": name, "in": "path", "required": true, "description": description, "uniqueItems": true});
    set_type(&mut parameter, "string", flavour);
    parameter
}

fn query_parameter((name, kind, description): Parameter, flavour: Flavour) -> Value {
    let mut parameter = json!({"name": name, "in": "query", "description": description, "uniqueItems": true});
    set_type(&mut parameter, kind, flavour);
    parameter
}

fn set_type(parameter: &mut Value, kind: &str, flavour: Flavour) {
    match flavour {
        Flavour::Two => parameter["type"] = kind.into(),
        Flavour::Three => {
            parameter["schema"] = json!({"type": kind, "uniqueItems": true});
            parameter.as_object_mut().expect("made as an object").remove("uniqueItems");
        }
    }
}

fn describe(operation: &Operation<'_>, flavour: Flavour) -> Value {
    let (group, version, kind) = operation.spoken;
    let prefix = match flavour {
        Flavour::Two => "#/definitions/",
        Flavour::Three => "#/components/schemas/",
    };
    let reference = |name: &str| json!({"$ref": format!("{prefix}{name}")});
    let mut parameters: Vec<Value> =
        operation.parameters.iter().map(|parameter| query_parameter(*parameter, flavour)).collect();
    let tag = if operation.kind.group.is_empty() {
        format!("core_{}", operation.kind.version)
    } else {
        let short = operation.kind.group.split('.').next().unwrap_or("");
        format!("{short}_{}", operation.kind.version)
    };
    let mut codes = vec![("200", "OK")];
    if operation.created {
        codes.push(("201", "Created"));
    }
    codes.push(("401", "Unauthorized"));
    let answers: Map<String, Value> = codes
        .into_iter()
        .map(|(code, text)| {
            let mut answer = json!({"description": text});
            if let Some(name) = operation.answer.as_deref().filter(|_| code != "401") {
                match flavour {
                    Flavour::Two => answer["schema"] = reference(name),
                    Flavour::Three => {
                        for media in BODIES {
                            answer["content"][*media]["schema"] = reference(name);
                        }
                    }
                }
            }
            (code.to_owned(), answer)
        })
        .collect();
    let mut out = json!({
        "description": format!("{} {}", operation.action, operation.kind.kind),
        "operationId": operation.id_with_group(),
        "tags": [tag],
        "responses": answers,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    let medias = if operation.method == "patch" { PATCHES } else { BODIES };
    match (flavour, operation.body) {
        (Flavour::Two, body) => {
            if let Some(body) = body {
                parameters.insert(
                    0,
                    json!({"name": "body", "in": "body", "required": operation.method != "delete", "schema": reference(body)}),
                );
            }
            out["consumes"] = json!(if operation.method == "patch" { PATCHES } else { &["*/*"] });
            out["produces"] = json!(BODIES);
            out["schemes"] = json!(["https"]);
        }
        (Flavour::Three, Some(body)) => {
            for media in medias {
                out["requestBody"]["content"][*media]["schema"] = reference(body);
            }
            if operation.method != "delete" {
                out["requestBody"]["required"] = true.into();
            }
        }
        (Flavour::Three, None) => {}
    }
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    out
}

impl Operation<'_> {
    /// `createCoreV1NamespacedPod`, as client generators name their methods.
    fn id_with_group(&self) -> String {
        let short = if self.kind.group.is_empty() { "core" } else { self.kind.group.trim_end_matches(".k8s.io") };
        let group: String = short.split('.').map(capital).collect();
        let version = capital(self.kind.version);
        let split = self.id.find(|c: char| c.is_ascii_uppercase()).unwrap_or(self.id.len());
        let (verb, rest) = self.id.split_at(split);
        // Verbs of two words: connectGet, deleteCollection.
        for second in ["Collection", "Get", "Post", "Put", "Patch", "Delete"] {
            if matches!(verb, "connect" | "delete")
                && let Some(rest) = rest.strip_prefix(second)
            {
                return format!("{verb}{second}{group}{version}{rest}");
            }
        }
        format!("{verb}{group}{version}{rest}")
    }
}
