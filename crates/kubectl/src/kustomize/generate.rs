//! `configMapGenerator` and `secretGenerator`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Loader;
use super::document::{Generator, GeneratorOptions, Kustomization};
use super::resource::Resource;
use crate::commands::create::configmap::base64;
use crate::error::{Error, Result};
use crate::fail;
use crate::value::object_at;

/// Of one line of base64 in a generated secret.
const LINE: usize = 70;

pub fn run(kustomization: &Kustomization, loader: &Loader, resources: &mut Vec<Resource>) -> Result {
    for (generators, kind) in [(&kustomization.config_map_generator, "ConfigMap"), (&kustomization.secret_generator, "Secret")] {
        for generator in generators {
            let made = make(generator, &kustomization.generator_options, kind, loader)?;
            place(made, &generator.behavior, resources)?;
        }
    }
    Ok(())
}

fn make(generator: &Generator, common: &GeneratorOptions, kind: &str, loader: &Loader) -> Result<Resource> {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": generator.name}});
    if !generator.namespace.is_empty() {
        object["metadata"]["namespace"] = generator.namespace.clone().into();
    }
    for (key, value) in pairs(generator, loader)? {
        if kind == "Secret" {
            object_at(&mut object, &["data"]).insert(key, wrapped(&base64(&value)).into());
            continue;
        }
        match String::from_utf8(value) {
            Ok(text) => object_at(&mut object, &["data"]).insert(key, text.into()),
            Err(binary) => object_at(&mut object, &["binaryData"]).insert(key, wrapped(&base64(binary.as_bytes())).into()),
        };
    }
    if kind == "Secret" {
        object["type"] = if generator.kind.is_empty() { "Opaque".into() } else { generator.kind.clone().into() };
    }
    for (field, common, own) in [
        ("labels", &common.labels, &generator.options.labels),
        ("annotations", &common.annotations, &generator.options.annotations),
    ] {
        let both: Map<String, Value> = common.iter().chain(own).map(|(key, value)| (key.clone(), value.clone().into())).collect();
        if !both.is_empty() {
            object["metadata"][field] = Value::Object(both);
        }
    }
    if common.immutable || generator.options.immutable {
        object["immutable"] = true.into();
    }
    let hashed = !(common.disable_name_suffix_hash || generator.options.disable_name_suffix_hash);
    let mut resource = Resource::new(object);
    resource.hashed = hashed;
    Ok(resource)
}

/// Long values are folded, as the original writes them.
fn wrapped(text: &str) -> String {
    if text.len() <= LINE {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + text.len() / LINE + 1);
    for (index, c) in text.chars().enumerate() {
        if index > 0 && index % LINE == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push('\n');
    out
}

fn pairs(generator: &Generator, loader: &Loader) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    let envs = generator.envs.iter().chain(Some(&generator.env).filter(|env| !env.is_empty()));
    for path in envs {
        let content = loader.read(path).map_err(|error| Error::Message(format!("loading KV pairs: env source files: [{path}]: {}", error.bare())))?;
        found.extend(lines(&content, path)?);
    }
    for literal in &generator.literals {
        let Some((key, value)) = literal.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            fail!("loading KV pairs: literal sources [{}]: invalid literal source {literal}, expected key=value", generator.literals.join(" "));
        };
        found.push((key.to_owned(), value.trim_matches(['"', '\'']).as_bytes().to_vec()));
    }
    for file in &generator.files {
        let (key, path) = match file.split_once('=') {
            Some((key, path)) => (key, path),
            None => (file.rsplit('/').next().unwrap_or(file), file.as_str()),
        };
        let content = loader.read(path).map_err(|error| Error::Message(format!("loading KV pairs: file sources: [{}]: {}", generator.files.join(" "), error.bare())))?;
        found.push((key.to_owned(), content));
    }
    let mut data = BTreeMap::new();
    for (key, value) in found {
        if !api::names::config_map_key(&key).is_empty() {
            fail!("{key:?} is not a valid key name");
        }
        if data.insert(key.clone(), value).is_some() {
            fail!("configmap {} illegally repeats the key `{key}`", generator.name);
        }
    }
    Ok(data)
}

fn lines(content: &[u8], path: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let Ok(text) = std::str::from_utf8(content) else { fail!("env file {path} contains invalid utf-8 bytes") };
    let mut found = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((key, value)) => found.push((key.to_owned(), value.as_bytes().to_vec())),
            // Without a value it is the environment's.
            None => found.push((line.to_owned(), std::env::var(line).unwrap_or_default().into_bytes())),
        }
    }
    Ok(found)
}

fn place(made: Resource, behavior: &str, resources: &mut Vec<Resource>) -> Result {
    let id = made.current();
    let known = resources.iter_mut().find(|known| known.ids().any(|old| old.same_kind(&id) && old.name == id.name && old.same_namespace(&id)));
    match (behavior, known) {
        ("" | "create", Some(_)) => fail!("merging from generator: id {id} exists; behavior must be merge or replace"),
        ("" | "create", None) => resources.push(made),
        ("merge" | "replace", None) => fail!("id {id} does not exist; cannot merge or replace"),
        ("merge", Some(known)) => {
            for field in ["data", "binaryData"] {
                if let Some(new) = made.object.get(field).and_then(Value::as_object) {
                    object_at(&mut known.object, &[field]).extend(new.clone());
                }
            }
            inherit(known, &made, true);
        }
        ("replace", Some(known)) => {
            for field in ["data", "binaryData"] {
                match made.object.get(field) {
                    Some(new) => known.object[field] = new.clone(),
                    None => drop(known.object.as_object_mut().and_then(|fields| fields.remove(field))),
                }
            }
            inherit(known, &made, false);
        }
        (other, _) => fail!("unknown behavior {other:?}: must be create, merge or replace"),
    }
    Ok(())
}

fn inherit(known: &mut Resource, made: &Resource, immutable_too: bool) {
    for field in ["labels", "annotations"] {
        if let Some(new) = made.object["metadata"].get(field).and_then(Value::as_object) {
            object_at(&mut known.object, &["metadata", field]).extend(new.clone());
        }
    }
    if immutable_too && made.object.get("immutable").is_some() {
        known.object["immutable"] = true.into();
    }
    known.hashed = made.hashed;
}
