//! `generators` and `transformers`: the original's own, written out as configuration.
//!
//! Invariant: each does what the field of a kustomization of the same name does, where its `fieldSpecs` say.
//! Deliberately absent: programs and containers as plugins.

use serde_json::{Value, json};

use super::document::{Field, Kustomization};
use super::resource::{Resource, each};
use super::transform::{KEEP_THEIR_NAME, add_all};
use super::{Loader, generate, patches, replacements, transform};
use crate::error::{Error, Result};
use crate::fail;
use crate::value::text;

pub fn generate(kustomization: &Kustomization, loader: &Loader, resources: &mut Vec<Resource>) -> Result {
    for mut configuration in configurations(&kustomization.generators, loader)? {
        let field = match text(&configuration, "/kind") {
            "ConfigMapGenerator" => "configMapGenerator",
            "SecretGenerator" => "secretGenerator",
            other => return Err(unknown(other)),
        };
        let Some(fields) = configuration.as_object_mut() else { continue };
        for name in ["name", "namespace"] {
            if let Some(value) = fields.get("metadata").and_then(|metadata| metadata.get(name)).cloned() {
                fields.insert(name.to_owned(), value);
            }
        }
        fields.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
        generate::run(&alone(field, json!([configuration]))?, loader, resources)?;
    }
    Ok(())
}

pub fn transform(kustomization: &Kustomization, loader: &Loader, resources: &mut Vec<Resource>) -> Result {
    for configuration in configurations(&kustomization.transformers, loader)? {
        let whole = |field: &str| configuration.get(field).cloned().unwrap_or_default();
        match text(&configuration, "/kind") {
            "LabelTransformer" => pairs(&configuration, "labels", resources)?,
            "AnnotationsTransformer" => pairs(&configuration, "annotations", resources)?,
            "PrefixTransformer" => affix(&configuration, resources)?,
            "SuffixTransformer" => affix(&configuration, resources)?,
            "PrefixSuffixTransformer" => affix(&configuration, resources)?,
            "NamespaceTransformer" => transform::run(&alone("namespace", configuration["metadata"]["namespace"].clone())?, resources)?,
            "ImageTagTransformer" => transform::run(&alone("images", json!([whole("imageTag")]))?, resources)?,
            "ReplicaCountTransformer" => transform::run(&alone("replicas", json!([whole("replica")]))?, resources)?,
            "ReplacementTransformer" => replacements::run(&alone("replacements", whole("replacements"))?, loader, resources)?,
            "PatchTransformer" => patches::run(&alone("patches", json!([fields(&configuration, &["path", "patch", "target", "options"])]))?, loader, resources)?,
            "PatchJson6902Transformer" => {
                let mut patch = fields(&configuration, &["path", "target"]);
                if let Some(operations) = configuration.get("jsonOp") {
                    patch["patch"] = operations.clone();
                }
                patches::run(&alone("patchesJson6902", json!([patch]))?, loader, resources)?;
            }
            "PatchStrategicMergeTransformer" => {
                let mut sources = crate::value::list(&configuration, "/paths").to_vec();
                sources.extend(configuration.get("patches").filter(|patches| patches.is_string()).map(|patches| json!(format!("{}\n", crate::value::plain(patches)))));
                patches::run(&alone("patchesStrategicMerge", sources.into())?, loader, resources)?;
            }
            other => return Err(unknown(other)),
        }
    }
    Ok(())
}

/// Files of configurations, or the configurations themselves.
fn configurations(entries: &[String], loader: &Loader) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for entry in entries {
        let content = if entry.contains('\n') { entry.as_bytes().to_vec() } else { loader.read(entry)? };
        for configuration in super::parse_objects(&content)? {
            if text(&configuration, "/apiVersion") != "builtin" {
                return Err(unknown(text(&configuration, "/kind")));
            }
            found.push(configuration);
        }
    }
    Ok(found)
}

fn unknown(kind: &str) -> Error {
    Error::Message(format!("external plugins disabled; unable to load external plugin '{kind}'"))
}

/// A kustomization of one field.
fn alone(field: &str, value: Value) -> Result<Kustomization> {
    serde_json::from_value(json!({field: value})).map_err(|error| Error::Message(format!("invalid configuration: {field}: {error}")))
}

fn fields(configuration: &Value, names: &[&str]) -> Value {
    names.iter().filter_map(|name| Some(((*name).to_owned(), configuration.get(*name)?.clone()))).collect::<serde_json::Map<_, _>>().into()
}

fn places(configuration: &Value) -> Result<Vec<Field>> {
    let places = configuration.get("fieldSpecs").cloned().unwrap_or_else(|| json!([]));
    serde_json::from_value(places).map_err(|error| Error::Message(format!("invalid configuration: fieldSpecs: {error}")))
}

fn pairs(configuration: &Value, field: &str, resources: &mut [Resource]) -> Result {
    let pairs = serde_json::from_value(configuration.get(field).cloned().unwrap_or_else(|| json!({})))
        .map_err(|error| Error::Message(format!("invalid configuration: {field}: {error}")))?;
    for place in places(configuration)? {
        for resource in resources.iter_mut().filter(|resource| place.is_in(&resource.current())) {
            add_all(resource, &place.path, place.create, &pairs);
        }
    }
    Ok(())
}

fn affix(configuration: &Value, resources: &mut [Resource]) -> Result {
    let (prefix, suffix) = (text(configuration, "/prefix"), text(configuration, "/suffix"));
    for place in places(configuration)? {
        for resource in resources.iter_mut() {
            let id = resource.current();
            if !place.is_in(&id) || KEEP_THEIR_NAME.contains(&id.kind.as_str()) {
                continue;
            }
            if place.path == "metadata/name" {
                resource.rename(format!("{prefix}{}{suffix}", id.name));
                continue;
            }
            let mut wrong = false;
            each(&mut resource.object, &place.path, false, &mut |value| match value.as_str() {
                Some(word) => *value = format!("{prefix}{word}{suffix}").into(),
                None => wrong = true,
            });
            if wrong {
                fail!("{}: {id} has no text there", place.path);
            }
        }
    }
    Ok(())
}
