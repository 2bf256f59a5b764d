//! Reads OpenAPI definitions out of k8s-openapi's generated `JsonSchema` implementations.
//!
//! Invariant: only the macro argument of `json_schema!` is tokenised; the rest of each file is searched as text.

use std::collections::BTreeMap;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One definition of the OpenAPI document.
pub struct Document {
    /// `io.k8s.api.apps.v1.Deployment`
    pub name: String,
    /// Module directory, which k8s-pb shares: `api/apps/v1`.
    pub directory: String,
    pub schema: Schema,
    /// Group, version, kind and, where the kind can be listed, the list's kind.
    pub resource: Option<Resource>,
}

pub struct Resource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: Option<String>,
}

/// A schema as far as the document uses JSON Schema.
#[derive(Default, Clone)]
pub struct Schema {
    pub description: String,
    pub type_name: String,
    pub format: String,
    /// Definition name.
    pub reference: Option<String>,
    pub items: Option<Box<Schema>>,
    pub additional_properties: Option<Box<Schema>>,
    pub properties: BTreeMap<String, Schema>,
    pub required: Vec<String>,
}

pub fn read(directory: &Path) -> Vec<Document> {
    let mut documents = Vec::new();
    for path in crate::rust_files(directory) {
        let text = std::fs::read_to_string(&path).expect("source files are UTF-8");
        let Some(name) = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("// Generated from definition "))
        else {
            continue;
        };
        let Some(start) = text.find("crate::schemars::json_schema!(") else {
            continue;
        };
        let module = path
            .parent()
            .and_then(|parent| parent.strip_prefix(directory).ok())
            .expect("found below the directory");
        let directory = module.to_str().expect("source paths are UTF-8").to_owned();
        if directory.is_empty() {
            continue; // `List<T>`, the generic list: every list is made from its item instead.
        }
        documents.push(Document {
            name: name.to_owned(),
            directory,
            schema: schema(macro_argument(&text[start..]).into_iter().collect()),
            resource: resource(&text),
        });
    }
    documents
}

fn resource(text: &str) -> Option<Resource> {
    text.contains("impl crate::Resource for").then(|| Resource {
        group: constant(text, "GROUP").expect("a resource has a group"),
        version: constant(text, "VERSION").expect("a resource has a version"),
        kind: constant(text, "KIND").expect("a resource has a kind"),
        list_kind: constant(text, "LIST_KIND"),
    })
}

fn constant(text: &str, name: &str) -> Option<String> {
    let marker = format!("const {name}: &'static str = \"");
    let start = text.find(&marker)? + marker.len();
    text[start..].split('"').next().map(str::to_owned)
}

/// The tokens between the parentheses of the macro call that `text` starts with.
fn macro_argument(text: &str) -> TokenStream {
    // The call ends where the generator's indentation does; the tokeniser would otherwise read the whole file.
    let end = text
        .find("\n        })\n")
        .expect("the generator indents the end of the macro call")
        + "\n        })".len();
    let open = text.find('(').expect("a macro call has parentheses") + 1;
    let tokens: TokenStream = text[open..end - 1]
        .parse()
        .expect("macro arguments are tokens");
    match tokens.into_iter().next() {
        Some(TokenTree::Group(group)) => group.stream(),
        _ => panic!("json_schema! takes an object"),
    }
}

/// A schema from the tokens inside its braces.
fn schema(tokens: Vec<TokenTree>) -> Schema {
    let mut schema = Schema::default();
    for (key, value) in entries(tokens) {
        match key.as_str() {
            "description" => schema.description = string(&value[0]),
            "type" => schema.type_name = string(&value[0]),
            "format" => schema.format = string(&value[0]),
            "items" => schema.items = Some(Box::new(nested(&value))),
            "additionalProperties" => schema.additional_properties = Some(Box::new(nested(&value))),
            "properties" => {
                schema.properties = entries(group(&value[0]))
                    .into_iter()
                    .map(|(name, value)| (name, nested(&value)))
                    .collect();
            }
            "required" => {
                schema.required = elements(group(&value[0]))
                    .iter()
                    .map(|value| string(&value[0]))
                    .collect()
            }
            _ => {} // oneOf and int-or-string: types that the join knows by name.
        }
    }
    schema
}

/// A schema in value position: `{...}`, `(code)` or a bare `__gen.subschema_for::<..>()`.
fn nested(value: &[TokenTree]) -> Schema {
    match &value[0] {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
            schema(group.stream().into_iter().collect())
        }
        _ => {
            let mut found = Schema::default();
            reference(value.iter().cloned().collect(), &mut found);
            assert!(found.reference.is_some(), "a reference names a type");
            found
        }
    }
}

/// Finds `subschema_for::<crate::a::b::C>` and the description inserted beside it.
fn reference(tokens: TokenStream, found: &mut Schema) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut index = 0;
    while index < tokens.len() {
        match &tokens[index] {
            TokenTree::Ident(ident) if ident == "subschema_for" => {
                let mut path = Vec::new();
                index += 1;
                while index < tokens.len()
                    && !matches!(&tokens[index], TokenTree::Punct(punct) if punct.as_char() == '>')
                {
                    if let TokenTree::Ident(ident) = &tokens[index] {
                        path.push(ident.to_string());
                    }
                    index += 1;
                }
                found.reference = Some(definition_name(&path[1..]));
            }
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let described = matches!(inner.first(), Some(TokenTree::Literal(_)))
                    && string(&inner[0]) == "description";
                if described {
                    let text = inner
                        .iter()
                        .skip(1)
                        .find(|token| matches!(token, TokenTree::Literal(_)));
                    found.description = string(text.expect("a description is a literal"));
                } else {
                    reference(group.stream(), found);
                }
            }
            _ => {}
        }
        index += 1;
    }
}

/// `["api", "apps", "v1", "Deployment"]` -> `io.k8s.api.apps.v1.Deployment`
fn definition_name(path: &[String]) -> String {
    let root = match path[0].as_str() {
        "apiextensions_apiserver" => "apiextensions-apiserver",
        "kube_aggregator" => "kube-aggregator",
        other => other,
    };
    format!("io.k8s.{root}.{}", path[1..].join("."))
}

fn entries(tokens: Vec<TokenTree>) -> Vec<(String, Vec<TokenTree>)> {
    elements(tokens)
        .into_iter()
        .map(|element| (string(&element[0]), element[2..].to_vec()))
        .collect()
}

/// Splits at commas; a trailing comma adds nothing.
fn elements(tokens: Vec<TokenTree>) -> Vec<Vec<TokenTree>> {
    let comma =
        |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
    tokens
        .split(comma)
        .filter(|element| !element.is_empty())
        .map(<[_]>::to_vec)
        .collect()
}

fn group(token: &TokenTree) -> Vec<TokenTree> {
    match token {
        TokenTree::Group(group) => group.stream().into_iter().collect(),
        other => panic!("expected a group, found {other}"),
    }
}

fn string(token: &TokenTree) -> String {
    syn::parse_str::<syn::LitStr>(&token.to_string())
        .unwrap_or_else(|error| panic!("{token}: {error}"))
        .value()
}
