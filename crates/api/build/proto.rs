//! Reads protobuf messages out of k8s-pb's generated structs: tags, types, and the Go markers in doc comments.

use std::collections::HashMap;
use std::path::Path;

use syn::{Attribute, GenericArgument, Item, PathArguments, Type};

/// Messages by module directory and lower-cased name: prost spells `CSIDriver` as `CsiDriver`.
pub type Messages = HashMap<(String, String), Message>;

pub struct Message {
    pub fields: Vec<ProtoField>,
    pub markers: Markers,
    pub description: String,
}

pub struct ProtoField {
    /// Lower-cased, without underscores.
    pub name: String,
    pub tag: u32,
    pub repeated: bool,
    pub map: bool,
    /// The message type of the field, of its elements, or of its map values.
    pub message: Option<(String, String)>,
    pub markers: Markers,
    pub description: String,
}

/// `+key=value` lines of a Go comment, in order.
pub struct Markers(Vec<(String, String)>);

impl Markers {
    pub fn get(&self, key: &str) -> &str {
        self.0
            .iter()
            .find(|(found, _)| found == key)
            .map_or("", |(_, value)| value)
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(found, _)| found == key)
    }

    pub fn all(&self, key: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(found, _)| found == key)
            .map(|(_, value)| value.clone())
            .collect()
    }
}

pub fn read(source: &Path) -> Messages {
    let mut messages = Messages::new();
    for path in crate::rust_files(source) {
        let module = path
            .parent()
            .and_then(|parent| parent.strip_prefix(source).ok())
            .expect("found below the source");
        let module = module.to_str().expect("source paths are UTF-8");
        if path.file_name().is_none_or(|name| name != "mod.rs")
            || !module.contains("/v") && !module.starts_with("apimachinery/")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("source files are UTF-8");
        for item in syn::parse_file(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .items
        {
            let Item::Struct(item) = item else { continue };
            let (description, markers) = documentation(&item.attrs);
            let fields = item
                .fields
                .iter()
                .filter_map(|field| proto_field(module, field))
                .collect();
            let key = (module.to_owned(), item.ident.to_string().to_lowercase());
            messages.insert(
                key,
                Message {
                    fields,
                    markers,
                    description,
                },
            );
        }
    }
    messages
}

fn proto_field(module: &str, field: &syn::Field) -> Option<ProtoField> {
    let attribute = field
        .attrs
        .iter()
        .find(|attribute| attribute.path().is_ident("prost"))?;
    let mut tag = 0;
    let (mut repeated, mut map, mut message) = (false, false, false);
    attribute
        .parse_nested_meta(|meta| {
            let key = meta
                .path
                .get_ident()
                .map(ToString::to_string)
                .unwrap_or_default();
            match key.as_str() {
                "message" => message = true,
                "repeated" => repeated = true,
                "tag" => {
                    tag = meta
                        .value()?
                        .parse::<syn::LitStr>()?
                        .value()
                        .parse()
                        .expect("a tag is a number")
                }
                "btree_map" => {
                    map = true;
                    message = meta
                        .value()?
                        .parse::<syn::LitStr>()?
                        .value()
                        .ends_with("message");
                }
                _ if meta.input.peek(syn::Token![=]) => drop(meta.value()?.parse::<syn::Lit>()?),
                _ => {}
            }
            Ok(())
        })
        .expect("prost attributes are lists of keys");
    let name = field
        .ident
        .as_ref()
        .expect("messages have named fields")
        .to_string();
    let (description, markers) = documentation(&field.attrs);
    Some(ProtoField {
        name: plain(name.trim_start_matches("r#")),
        tag,
        repeated,
        map,
        message: message.then(|| resolve(module, innermost(&field.ty))),
        markers,
        description,
    })
}

/// Names joined by this form agree between Go, JSON and prost.
pub fn plain(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_lowercase()
}

/// `Option<Vec<Box<T>>>` -> `T`; a map's value type.
fn innermost(kind: &Type) -> &syn::Path {
    let Type::Path(path) = kind else {
        panic!("messages hold paths only")
    };
    match &path
        .path
        .segments
        .last()
        .expect("a path has segments")
        .arguments
    {
        PathArguments::AngleBracketed(arguments) => match arguments.args.last() {
            Some(GenericArgument::Type(inner)) => innermost(inner),
            _ => panic!("generic arguments are types"),
        },
        _ => &path.path,
    }
}

/// A path as seen from `module` -> directory and lower-cased name.
fn resolve(module: &str, path: &syn::Path) -> (String, String) {
    let mut directory: Vec<String> = module.split('/').map(str::to_owned).collect();
    let segments: Vec<String> = path
        .segments
        .iter()
        .map(|segment| segment.ident.to_string())
        .collect();
    let (name, modules) = segments.split_last().expect("a path has segments");
    for segment in modules {
        if segment == "super" {
            directory.pop();
        } else {
            directory.push(segment.clone());
        }
    }
    (directory.join("/"), name.to_lowercase())
}

fn documentation(attributes: &[Attribute]) -> (String, Markers) {
    let mut text = Vec::new();
    let mut markers = Vec::new();
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"))
    {
        let syn::Meta::NameValue(pair) = &attribute.meta else {
            continue;
        };
        let syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(line),
            ..
        }) = &pair.value
        else {
            continue;
        };
        let line = line.value().trim().to_owned();
        match line.strip_prefix('+') {
            Some(marker) => {
                let (key, value) = marker.split_once('=').unwrap_or((marker, ""));
                markers.push((key.trim().to_owned(), value.trim().to_owned()));
            }
            None => text.push(line),
        }
    }
    // prost wraps bare links in angle brackets, and so hides the original's text.
    let text = text.join(" ").replace("<http", "http").replace("> ", " ");
    (
        text.trim().trim_end_matches('>').to_owned(),
        Markers(markers),
    )
}
