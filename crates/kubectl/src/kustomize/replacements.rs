//! `replacements`: values copied from fields of one resource into fields of others.

use serde::Deserialize;
use serde_json::Value;

use super::Loader;
use super::document::{Kustomization, Selector};
use super::resource::{Id, Resource};
use crate::error::{Error, Result};
use crate::fail;
use crate::value::plain;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Replacement {
    path: String,
    source: Option<Source>,
    source_value: Option<String>,
    targets: Vec<Target>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Source {
    group: String,
    version: String,
    kind: String,
    name: String,
    namespace: String,
    field_path: String,
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Target {
    select: Selector,
    reject: Vec<Selector>,
    field_paths: Vec<String>,
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Options {
    delimiter: String,
    index: i64,
    create: bool,
    encoding: String,
}

pub fn run(kustomization: &Kustomization, loader: &Loader, resources: &mut [Resource]) -> Result {
    for entry in &kustomization.replacements {
        let one = read(entry)?;
        if one.path.is_empty() {
            replace(&one, resources)?;
            continue;
        }
        let (value, _) = api::yaml::to_json(&loader.read(&one.path)?).map_err(|error| Error::Message(error.to_string()))?;
        let many = if let Value::Array(items) = value { items } else { vec![value] };
        for entry in many {
            replace(&read(&entry)?, resources)?;
        }
    }
    Ok(())
}

fn read(entry: &Value) -> Result<Replacement> {
    serde_json::from_value(entry.clone()).map_err(|error| Error::Message(format!("invalid Kustomization: replacements: {error}")))
}

fn wanted(own: &str, id: &str) -> bool {
    own.is_empty() || own == id
}

fn replace(replacement: &Replacement, resources: &mut [Resource]) -> Result {
    let value = match (&replacement.source, &replacement.source_value) {
        (Some(source), None) => source_value(source, resources)?,
        (None, Some(value)) => Value::String(value.clone()),
        _ => fail!("replacements must specify a source and at least one target"),
    };
    for target in &replacement.targets {
        let fits = |selector: &Selector, id: &Id| {
            wanted(&selector.group, &id.group) && wanted(&selector.version, &id.version) && wanted(&selector.kind, &id.kind)
                && wanted(&selector.name, &id.name) && wanted(&selector.namespace, &id.namespace)
        };
        for resource in resources.iter_mut() {
            let chosen = resource.ids().any(|id| fits(&target.select, &id));
            if !chosen || resource.ids().any(|id| target.reject.iter().any(|reject| fits(reject, &id))) {
                continue;
            }
            for path in &target.field_paths {
                let shown = path.clone();
                let mut reached = false;
                let mut problem = None;
                at(&mut resource.object, &parts(path), target.options.create, &mut |place| {
                    reached = true;
                    match put(place, &value, &target.options) {
                        Ok(()) => {}
                        Err(error) => problem = Some(error),
                    }
                });
                if let Some(error) = problem {
                    return Err(error);
                }
                if !reached {
                    fail!("unable to find field {shown:?} in replacement target");
                }
            }
        }
    }
    Ok(())
}

fn source_value(source: &Source, resources: &mut [Resource]) -> Result<Value> {
    let fits = |id: &Id| {
        wanted(&source.group, &id.group) && wanted(&source.version, &id.version) && wanted(&source.kind, &id.kind)
            && wanted(&source.name, &id.name) && wanted(&source.namespace, &id.namespace)
    };
    let mut found: Vec<&mut Resource> = resources.iter_mut().filter(|resource| resource.ids().any(|id| fits(&id))).collect();
    let resource = match found.as_mut_slice() {
        [one] => one,
        [] => fail!("nothing selected by {}.{}.{}/{}.{}", source.kind, source.version, source.group, source.name, source.namespace),
        _ => fail!("multiple matches for selector {}.{}.{}/{}.{}", source.kind, source.version, source.group, source.name, source.namespace),
    };
    let path = if source.field_path.is_empty() { "metadata.name" } else { &source.field_path };
    let mut value = None;
    at(&mut resource.object.clone(), &parts(path), false, &mut |place| value = Some(place.clone()));
    let Some(value) = value else { fail!("fieldPath `{path}` is missing for replacement source {}", resource.current()) };
    if source.options.delimiter.is_empty() {
        return Ok(value);
    }
    let text = plain(&value);
    let piece = usize::try_from(source.options.index).ok().and_then(|index| text.split(&source.options.delimiter).nth(index));
    match piece {
        Some(piece) => Ok(Value::String(piece.to_owned())),
        None => fail!("options.index {} is out of bounds for value {text}", source.options.index),
    }
}

fn put(place: &mut Value, value: &Value, options: &Options) -> Result {
    if options.encoding == "base64" {
        *place = crate::commands::create::configmap::base64(plain(value).as_bytes()).into();
        return Ok(());
    }
    if options.delimiter.is_empty() {
        *place = value.clone();
        return Ok(());
    }
    let text = plain(place);
    let mut pieces: Vec<String> = text.split(&options.delimiter).map(str::to_owned).collect();
    match usize::try_from(options.index) {
        // Before the first, behind the last.
        Err(_) => pieces.insert(0, plain(value)),
        Ok(index) if index >= pieces.len() => pieces.push(plain(value)),
        Ok(index) => pieces[index] = plain(value),
    }
    *place = pieces.join(&options.delimiter).into();
    Ok(())
}

/// `spec.template.spec.containers.[name=web].image`, where a backslash hides a dot.
fn parts(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut escaped, mut within) = (false, false);
    for c in path.chars() {
        let last = parts.last_mut().expect("there is always a part");
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '[' => {
                within = true;
                last.push(c);
            }
            ']' => {
                within = false;
                last.push(c);
            }
            '.' if !escaped && !within => parts.push(String::new()),
            c => last.push(c),
        }
        escaped = false;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn at(value: &mut Value, parts: &[String], create: bool, change: &mut dyn FnMut(&mut Value)) {
    let Some((first, rest)) = parts.split_first() else { return change(value) };
    if let Some((key, wanted)) = first.strip_prefix('[').and_then(|part| part.strip_suffix(']')).and_then(|part| part.split_once('=')) {
        for item in value.as_array_mut().into_iter().flatten() {
            if item.get(key).is_some_and(|found| plain(found) == wanted) {
                at(item, rest, create, change);
            }
        }
        return;
    }
    match value {
        Value::Array(items) if first == "*" => items.iter_mut().for_each(|item| at(item, rest, create, change)),
        Value::Array(items) => {
            if let Some(item) = first.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                at(item, rest, create, change);
            }
        }
        Value::Object(fields) => {
            if create {
                let entry = fields.entry(first.clone()).or_insert(Value::Null);
                if entry.is_null() && !rest.is_empty() {
                    *entry = serde_json::json!({});
                }
                at(entry, rest, create, change);
            } else if let Some(entry) = fields.get_mut(first) {
                at(entry, rest, create, change);
            }
        }
        _ => {}
    }
}
