//! The paths of the API as OpenAPI describes them.
//!
//! Invariant: paths, operation ids, actions, parameters, answers and tags are the original's: client generators make
//! their methods of them.
//! Deliberately absent: shared parameter objects, which v2 of the original makes to save bytes; the descriptions of
//! parameters are our own.

use serde_json::{Map, Value, json};

use super::parameters::{self, Parameter, Place};
use crate::discovery::kinds_of;
use crate::kinds::{Kind, Subresource, Verbs};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Two,
    Three,
}

const ANYTHING: &[&str] = &["*/*"];
const BODIES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const LOGS: &[&str] = &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// What an operation answers with.
enum Answer {
    /// A definition by its name.
    Definition(String),
    Text,
}

struct Operation {
    method: &'static str,
    /// `x-kubernetes-action`; empty where no kind is concerned.
    action: &'static str,
    id: String,
    description: String,
    tag: String,
    /// Group, version and kind that are spoken.
    spoken: Option<(&'static str, &'static str, &'static str)>,
    /// Path parameters too.
    parameters: Vec<Parameter>,
    /// Definition, and whether it must be sent.
    body: Option<(String, bool)>,
    consumes: &'static [&'static str],
    produces: &'static [&'static str],
    codes: &'static [(&'static str, &'static str)],
    answer: Answer,
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const OK_CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const OK_ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];
const OK_CREATED_ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];

/// Everything below `/api/<version>/` or `/apis/<group>/<version>/`, and that path itself.
pub fn of(group: &'static str, version: &'static str, flavour: Flavour) -> Map<String, Value> {
    let root = root(group, version);
    let mut paths = Map::new();
    let resources = plain(
        format!("get{}APIResources", group_version(group, version)),
        "get available resources",
        tag(group, version),
        &format!("{META}.APIResourceList"),
    );
    add(&mut paths, &format!("{root}/"), vec![resources], flavour);
    for kind in kinds_of(group, version) {
        let place = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{place}/{}", kind.plural);
        add(&mut paths, &format!("{root}{collection}"), collection_operations(kind), flavour);
        if matches!(kind.verbs, Verbs::Create) {
            continue;
        }
        let item = format!("{collection}/{{name}}");
        add(&mut paths, &format!("{root}{item}"), item_operations(kind), flavour);
        for subresource in kind.subresources {
            let path = format!("{root}{item}/{}", subresource.name);
            if subresource.name == "proxy" {
                add(&mut paths, &format!("{path}/{{path}}"), connect_operations(kind, subresource, true), flavour);
            }
            add(&mut paths, &path, subresource_operations(kind, subresource), flavour);
        }
        let watched = kind.verbs.names().contains(&"watch");
        if kind.namespaced {
            let everywhere = format!("/{}", kind.plural);
            add(&mut paths, &format!("{root}{everywhere}"), vec![list(kind, true)], flavour);
            if watched {
                add(&mut paths, &format!("{root}/watch{everywhere}"), vec![watch(kind, Watched::Everywhere)], flavour);
            }
        }
        if watched {
            add(&mut paths, &format!("{root}/watch{collection}"), vec![watch(kind, Watched::Collection)], flavour);
            add(&mut paths, &format!("{root}/watch{item}"), vec![watch(kind, Watched::Item)], flavour);
        }
    }
    paths
}

/// What belongs to no version, with the v3 document that tells of it.
pub fn others(groups: &[&str], flavour: Flavour) -> Vec<(String, Map<String, Value>)> {
    let mut all = Vec::new();
    let mut one = |document: &str, operation: Operation| {
        let mut paths = Map::new();
        let path = if document.is_empty() { "/".to_owned() } else { format!("/{document}/") };
        add(&mut paths, &path, vec![operation], flavour);
        all.push((document.to_owned(), paths));
    };
    let versions = "get available API versions";
    one("api", plain("getCoreAPIVersions".into(), versions, "core".into(), &format!("{META}.APIVersions")));
    one("apis", plain("getAPIVersions".into(), versions, "apis".into(), &format!("{META}.APIGroupList")));
    for group in groups.iter().filter(|group| !group.is_empty()) {
        let name = group_name(group);
        let about = plain(
            format!("get{name}APIGroup"),
            "get information of a group",
            uncapitalised(&name),
            &format!("{META}.APIGroup"),
        );
        one(&format!("apis/{group}"), about);
    }
    let version = plain(
        "getCodeVersion".into(),
        "get the version information for this server",
        "version".into(),
        "io.k8s.apimachinery.pkg.version.Info",
    );
    one("version", Operation { consumes: &["application/json"], produces: &["application/json"], ..version });
    let discovery = plain(
        "getServiceAccountIssuerOpenIDConfiguration".into(),
        "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
        "WellKnown".into(),
        "",
    );
    one(
        ".well-known/openid-configuration",
        Operation { consumes: &[], produces: &["application/json"], answer: Answer::Text, ..discovery },
    );
    let keys = plain(
        "getServiceAccountIssuerOpenIDKeyset".into(),
        "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
        "openid".into(),
        "",
    );
    one(
        "openid/v1/jwks",
        Operation { consumes: &[], produces: &["application/jwk-set+json"], answer: Answer::Text, ..keys },
    );
    all
}

/// A GET that concerns no kind.
fn plain(id: String, description: &str, tag: String, definition: &str) -> Operation {
    Operation {
        method: "get",
        action: "",
        id,
        description: description.to_owned(),
        tag,
        spoken: None,
        parameters: Vec::new(),
        body: None,
        consumes: BODIES,
        produces: BODIES,
        codes: OK,
        answer: Answer::Definition(definition.to_owned()),
    }
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// `RbacAuthorization` of `rbac.authorization.k8s.io`.
fn group_name(group: &str) -> String {
    let short = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    short.split('.').map(capitalised).collect()
}

fn group_version(group: &str, version: &str) -> String {
    format!("{}{}", group_name(group), capitalised(version))
}

fn tag(group: &str, version: &str) -> String {
    format!("{}_{version}", uncapitalised(&group_name(group)))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn uncapitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

/// `a Pod`, `an Ingress`, `Endpoints`.
fn with_article(noun: &str) -> String {
    if noun.ends_with('s') && !noun.ends_with("ss") {
        return noun.to_owned();
    }
    let vowel = noun.starts_with(['A', 'E', 'I', 'O', 'U']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// `Namespaced` where that is what the kind is.
fn scope(kind: &Kind) -> &'static str {
    if kind.namespaced { "Namespaced" } else { "" }
}

/// Parameters of the path of an object or of a collection.
fn path_parameters(kind: &Kind, named: Option<&'static str>) -> Vec<Parameter> {
    let mut list = Vec::new();
    if let Some(spoken) = named {
        list.push(parameters::name(spoken));
    }
    if kind.namespaced {
        list.push(parameters::NAMESPACE);
    }
    list
}

/// An operation on objects of a kind; `verb` begins its id, `infix` and `suffix` stand around the kind.
fn operation(kind: &Kind, method: &'static str, action: &'static str, id: [&str; 3]) -> Operation {
    let [verb, infix, suffix] = id;
    Operation {
        method,
        action,
        id: format!("{verb}{}{infix}{}{suffix}", group_version(kind.group, kind.version), kind.kind),
        description: String::new(),
        tag: tag(kind.group, kind.version),
        spoken: Some((kind.group, kind.version, kind.kind)),
        parameters: Vec::new(),
        body: None,
        consumes: ANYTHING,
        produces: BODIES,
        codes: OK,
        answer: Answer::Definition(kind.definition.to_owned()),
    }
}

fn list(kind: &Kind, everywhere: bool) -> Operation {
    let mut parameters = if everywhere { Vec::new() } else { path_parameters(kind, None) };
    parameters.push(parameters::PRETTY);
    parameters.extend_from_slice(parameters::LIST);
    let watched = kind.verbs.names().contains(&"watch");
    let id = if everywhere { ["list", "", "ForAllNamespaces"] } else { ["list", scope(kind), ""] };
    Operation {
        description: format!("list{} objects of kind {}", if watched { " or watch" } else { "" }, kind.kind),
        parameters,
        produces: STREAMS,
        answer: Answer::Definition(format!("{}List", kind.definition)),
        ..operation(kind, "get", "list", id)
    }
}

enum Watched {
    Everywhere,
    Collection,
    Item,
}

fn watch(kind: &Kind, watched: Watched) -> Operation {
    let (action, id, mut parameters) = match watched {
        Watched::Everywhere => ("watchlist", ["watch", "", "ListForAllNamespaces"], Vec::new()),
        Watched::Collection => ("watchlist", ["watch", scope(kind), "List"], path_parameters(kind, None)),
        Watched::Item => ("watch", ["watch", scope(kind), ""], path_parameters(kind, Some(kind.kind))),
    };
    parameters.push(parameters::PRETTY);
    parameters.extend_from_slice(parameters::LIST);
    let description = match watched {
        Watched::Item => format!(
            "watch changes to an object of kind {}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter.",
            kind.kind
        ),
        _ => format!(
            "watch individual changes to a list of {}. deprecated: use the 'watch' parameter with a list operation instead.",
            kind.kind
        ),
    };
    Operation {
        description,
        parameters,
        produces: STREAMS,
        answer: Answer::Definition(format!("{META}.WatchEvent")),
        ..operation(kind, "get", action, id)
    }
}

fn collection_operations(kind: &Kind) -> Vec<Operation> {
    let verbs = kind.verbs.names();
    let mut operations = Vec::new();
    if verbs.contains(&"list") {
        operations.push(list(kind, false));
    }
    let mut common = path_parameters(kind, None);
    common.push(parameters::PRETTY);
    if verbs.contains(&"create") {
        operations.push(Operation {
            description: format!("create {}", with_article(kind.kind)),
            parameters: [&common, parameters::WRITE].concat(),
            body: Some((kind.definition.to_owned(), true)),
            codes: OK_CREATED_ACCEPTED,
            ..operation(kind, "post", "post", ["create", scope(kind), ""])
        });
    }
    if verbs.contains(&"deletecollection") {
        let infix = format!("Collection{}", scope(kind));
        let selection = parameters::LIST.iter().filter(|own| !matches!(own.name, "watch" | "allowWatchBookmarks"));
        operations.push(Operation {
            description: format!("delete collection of {}", kind.kind),
            parameters: common.iter().chain(parameters::DELETE).chain(selection).copied().collect(),
            body: Some((format!("{META}.DeleteOptions"), false)),
            answer: Answer::Definition(format!("{META}.Status")),
            ..operation(kind, "delete", "deletecollection", ["delete", &infix, ""])
        });
    }
    operations
}

fn item_operations(kind: &Kind) -> Vec<Operation> {
    let verbs = kind.verbs.names();
    let part = Part { kind, subresource: "", spoken: kind.kind, definition: kind.definition };
    let mut operations: Vec<Operation> =
        ["get", "update", "patch"].into_iter().filter(|verb| verbs.contains(verb)).filter_map(|verb| part.operation(verb)).collect();
    if verbs.contains(&"delete") {
        let answer = if kind.answers_deletion_with_object { kind.definition.to_owned() } else { format!("{META}.Status") };
        operations.push(Operation {
            description: format!("delete {}", with_article(kind.kind)),
            parameters: [&part.common()[..], parameters::DELETE].concat(),
            body: Some((format!("{META}.DeleteOptions"), false)),
            codes: OK_ACCEPTED,
            answer: Answer::Definition(answer),
            ..operation(kind, "delete", "delete", ["delete", scope(kind), ""])
        });
    }
    operations
}

/// An object, or a part of one.
struct Part<'a> {
    kind: &'a Kind,
    /// Empty for the object itself.
    subresource: &'a str,
    spoken: &'static str,
    definition: &'a str,
}

impl Part<'_> {
    fn common(&self) -> Vec<Parameter> {
        let mut common = path_parameters(self.kind, Some(self.spoken));
        common.push(parameters::PRETTY);
        common
    }

    fn operation(&self, verb: &str) -> Option<Operation> {
        let (kind, subresource) = (self.kind, self.subresource);
        let of = if subresource.is_empty() { String::new() } else { format!("{subresource} of ") };
        let (method, id, description, more, consumes, codes) = match verb {
            "get" => ("get", "read", format!("read {of}the specified {}", kind.kind), &[][..], ANYTHING, OK),
            "update" => {
                let description = format!("replace {of}the specified {}", kind.kind);
                ("put", "replace", description, parameters::WRITE, ANYTHING, OK_CREATED)
            }
            "patch" => {
                let description = format!("partially update {of}the specified {}", kind.kind);
                ("patch", "patch", description, parameters::PATCH, PATCHES, OK_CREATED)
            }
            "create" => {
                let description = format!("create {of}{}", with_article(kind.kind));
                ("post", "create", description, parameters::WRITE, ANYTHING, OK_CREATED_ACCEPTED)
            }
            _ => return None,
        };
        let body = match verb {
            "get" => None,
            "patch" => Some((format!("{META}.Patch"), true)),
            _ => Some((self.definition.to_owned(), true)),
        };
        Some(Operation {
            description,
            parameters: [&self.common()[..], more].concat(),
            body,
            consumes,
            codes,
            answer: Answer::Definition(self.definition.to_owned()),
            ..operation(kind, method, method, [id, scope(kind), &capitalised(subresource)])
        })
    }
}

fn subresource_operations(kind: &Kind, subresource: &Subresource) -> Vec<Operation> {
    match subresource.name {
        "attach" | "exec" | "portforward" | "proxy" => return connect_operations(kind, subresource, false),
        "log" => return vec![log_operation(kind)],
        _ => {}
    }
    let definition = subresource.speaks.and_then(|(group, version, spoken)| {
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        api::schema::definition_of_kind(&api_version, spoken).map(|definition| definition.name)
    });
    let spoken = subresource.speaks.unwrap_or((kind.group, kind.version, kind.kind));
    let part = Part {
        kind,
        subresource: subresource.name,
        spoken: spoken.2,
        definition: definition.unwrap_or(kind.definition),
    };
    let operations = subresource.verbs.iter().filter_map(|verb| part.operation(verb));
    operations.map(|operation| Operation { spoken: Some(spoken), ..operation }).collect()
}

fn log_operation(kind: &Kind) -> Operation {
    let mut common = path_parameters(kind, Some(kind.kind));
    common.push(parameters::PRETTY);
    Operation {
        description: format!("read log of the specified {}", kind.kind),
        parameters: [&common[..], parameters::LOG].concat(),
        produces: LOGS,
        answer: Answer::Text,
        ..operation(kind, "get", "get", ["read", scope(kind), "Log"])
    }
}

fn connect_operations(kind: &Kind, subresource: &Subresource, with_path: bool) -> Vec<Operation> {
    let (options, methods): (&[Parameter], &[&'static str]) = match subresource.name {
        "attach" => (parameters::ATTACH, &["get", "post"]),
        "exec" => (parameters::EXEC, &["get", "post"]),
        "portforward" => (parameters::PORT_FORWARD, &["get", "post"]),
        _ => (parameters::PROXY, &["delete", "get", "head", "options", "patch", "post", "put"]),
    };
    let spoken = subresource.speaks.unwrap_or((kind.group, kind.version, kind.kind));
    let suffix = format!("{}{}", capitalised(subresource.name), if with_path { "WithPath" } else { "" });
    let mut common = path_parameters(kind, Some(spoken.2));
    if with_path {
        common.push(parameters::PATH);
    }
    common.extend_from_slice(options);
    methods
        .iter()
        .map(|method| Operation {
            description: format!(
                "connect {} requests to {} of {}",
                method.to_ascii_uppercase(),
                subresource.name,
                kind.kind
            ),
            spoken: Some(spoken),
            parameters: common.clone(),
            produces: ANYTHING,
            answer: Answer::Text,
            ..operation(kind, method, "connect", [
                "connect",
                &format!("{}{}", capitalised(method), scope(kind)),
                &suffix,
            ])
        })
        .collect()
}

/// What all operations of a path have in common stands beside them, as in the original.
fn add(paths: &mut Map<String, Value>, path: &str, operations: Vec<Operation>, flavour: Flavour) {
    let common: Vec<Parameter> = match operations.split_first() {
        Some((first, rest)) => {
            let everywhere = |own: &&Parameter| rest.iter().all(|operation| operation.parameters.contains(own));
            first.parameters.iter().filter(everywhere).copied().collect()
        }
        None => return,
    };
    let mut item = Map::new();
    if !common.is_empty() {
        item.insert("parameters".into(), describe_parameters(&common, flavour).into());
    }
    for operation in operations {
        item.insert(operation.method.to_owned(), describe(&operation, &common, flavour));
    }
    paths.insert(path.to_owned(), item.into());
}

/// Sorted by name.
fn describe_parameters(list: &[Parameter], flavour: Flavour) -> Vec<Value> {
    let mut list = list.to_vec();
    list.sort_by_key(|parameter| (parameter.name, parameter.place != Place::Path));
    list.iter().map(|parameter| describe_parameter(parameter, flavour)).collect()
}

fn describe_parameter(parameter: &Parameter, flavour: Flavour) -> Value {
    let place = if parameter.place == Place::Path { "path" } else { "query" };
    let mut out = json!({"name": parameter.name, "in": place, "description": parameter.description()});
    if parameter.place == Place::Path {
        out["required"] = true.into();
    }
    match flavour {
        Flavour::Two => {
            out["type"] = parameter.kind.into();
            out["uniqueItems"] = true.into();
        }
        Flavour::Three => out["schema"] = json!({"type": parameter.kind, "uniqueItems": true}),
    }
    out
}

fn describe(operation: &Operation, common: &[Parameter], flavour: Flavour) -> Value {
    let prefix = match flavour {
        Flavour::Two => "#/definitions/",
        Flavour::Three => "#/components/schemas/",
    };
    let reference = |name: &str| json!({"$ref": format!("{prefix}{name}")});
    let schema = match &operation.answer {
        Answer::Definition(name) => reference(name),
        Answer::Text => json!({"type": "string"}),
    };
    let mut answers = json!({"401": {"description": "Unauthorized"}});
    for (code, text) in operation.codes {
        let answer = &mut answers[*code];
        answer["description"] = (*text).into();
        match flavour {
            Flavour::Two => answer["schema"] = schema.clone(),
            Flavour::Three => {
                for media in operation.produces {
                    answer["content"][*media]["schema"] = schema.clone();
                }
            }
        }
    }
    let own: Vec<Parameter> = operation.parameters.iter().filter(|own| !common.contains(own)).copied().collect();
    let mut parameters = describe_parameters(&own, flavour);
    let mut out = json!({
        "description": operation.description, "operationId": operation.id, "tags": [operation.tag], "responses": answers,
    });
    if let Some((group, version, kind)) = operation.spoken {
        out["x-kubernetes-action"] = operation.action.into();
        out["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
    }
    match flavour {
        Flavour::Two => {
            if let Some((body, required)) = &operation.body {
                let mut parameter = json!({"name": "body", "in": "body", "schema": reference(body)});
                if *required {
                    parameter["required"] = true.into();
                }
                parameters.insert(0, parameter);
            }
            for (key, medias) in [("consumes", operation.consumes), ("produces", operation.produces)] {
                if !medias.is_empty() {
                    out[key] = json!(medias);
                }
            }
            out["schemes"] = json!(["https"]);
        }
        Flavour::Three => {
            if let Some((body, required)) = &operation.body {
                for media in operation.consumes {
                    out["requestBody"]["content"][*media]["schema"] = reference(body);
                }
                if *required {
                    out["requestBody"]["required"] = true.into();
                }
            }
        }
    }
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    out
}
