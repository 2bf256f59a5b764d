//! `patches`, `patchesStrategicMerge`, `patchesJson6902`.
//!
//! Invariant: a strategic merge patch without a target names its resource itself; one with a target, and every JSON
//! patch, goes to all resources that the target's patterns match.

use regex::Regex;
use serde_json::Value;

use super::Loader;
use super::document::{Kustomization, Patch, Selector};
use super::resource::{Id, Resource};
use crate::error::{Error, Result};
use crate::fail;
use crate::value::{set, text};

pub fn run(kustomization: &Kustomization, loader: &Loader, resources: &mut Vec<Resource>) -> Result {
    for source in &kustomization.patches_strategic_merge {
        // A file, or the patch itself.
        let content = if source.contains('\n') { source.as_bytes().to_vec() } else { loader.read(source)? };
        for patch in merges(&content)? {
            by_itself(&patch, false, false, resources)?;
        }
    }
    for patch in kustomization.patches.iter().chain(&kustomization.patches_json6902) {
        one(patch, loader, resources)?;
    }
    Ok(())
}

fn one(patch: &Patch, loader: &Loader, resources: &mut Vec<Resource>) -> Result {
    let content = match (patch.path.is_empty(), patch.patch.is_empty()) {
        (true, true) => fail!("must specify one of patch and path in\n{patch:?}"),
        (false, false) => fail!("patch and path can't be set at the same time\n{patch:?}"),
        (false, true) => loader.read(&patch.path).map_err(|error| Error::Message(format!("failed to get the patch file from path({}): {}", patch.path, error.bare())))?,
        (true, false) => patch.patch.as_bytes().to_vec(),
    };
    let allowed = |option: &str| patch.options.get(option).copied().unwrap_or(false);
    if let Some(operations) = operations(&content) {
        let Some(target) = &patch.target else { fail!("must specify a target for JSON patch [patch: {:?}]", String::from_utf8_lossy(&content).trim_end()) };
        for resource in matching(target, resources)? {
            let (id, past) = (resource.current(), resource.object.clone());
            resource.remember();
            resource.object = api::patch::json_patch(&past, &operations).map_err(|error| Error::Message(format!("failed to apply json patch '{}': {error}", String::from_utf8_lossy(&content).trim())))?;
            if resource.object.pointer("/metadata/name").is_none() {
                fail!("the patch removes the name of {id}");
            }
        }
        return Ok(());
    }
    let patches = merges(&content)?;
    let Some(target) = &patch.target else {
        for patch in patches {
            by_itself(&patch, allowed("allowNameChange"), allowed("allowKindChange"), resources)?;
        }
        return Ok(());
    };
    let [content] = patches.as_slice() else { fail!("Multiple Strategic-Merge Patches in one `patches` entry is not allowed to set `patches.target` field: {}", patch.path) };
    let mut gone = Vec::new();
    for resource in matching(target, resources)? {
        let id = resource.current();
        if !merge(resource, content, allowed("allowNameChange"), allowed("allowKindChange"))? {
            gone.push(id);
        }
    }
    resources.retain(|resource| !gone.contains(&resource.current()));
    Ok(())
}

/// A JSON patch's operations; None for a patch of another kind.
fn operations(content: &[u8]) -> Option<Value> {
    let (value, _) = api::yaml::to_json(content).ok()?;
    let items = value.as_array()?;
    items.iter().all(|item| item.get("op").is_some()).then_some(value)
}

fn merges(content: &[u8]) -> Result<Vec<Value>> {
    let unreadable = || Error::Message(format!("unable to parse SM or JSON patch from [{}]", String::from_utf8_lossy(content).trim()));
    let mut found = Vec::new();
    for piece in api::yaml::documents(content) {
        let (value, _) = api::yaml::to_json(piece.as_bytes()).map_err(|_| unreadable())?;
        match value {
            Value::Null => {}
            Value::Object(_) => found.push(value),
            _ => return Err(unreadable()),
        }
    }
    Ok(found)
}

fn by_itself(patch: &Value, rename: bool, rekind: bool, resources: &mut Vec<Resource>) -> Result {
    let wanted = Id::of(patch);
    let matches = |id: &Id| id.same_kind(&wanted) && id.name == wanted.name && (wanted.namespace.is_empty() || id.same_namespace(&wanted));
    let found: Vec<usize> = resources.iter().enumerate().filter(|(_, resource)| resource.ids().any(|id| matches(&id))).map(|(at, _)| at).collect();
    match found.as_slice() {
        [] => fail!("no resource matches strategic merge patch {:?}: no matches for Id {wanted}; failed to find unique target for patch {wanted}", wanted.to_string()),
        [at] => {
            if !merge(&mut resources[*at], patch, rename, rekind)? {
                resources.remove(*at);
            }
            Ok(())
        }
        _ => fail!("multiple matches for Id {wanted}; failed to find unique target for patch {wanted}"),
    }
}

/// False when the patch deletes the resource.
fn merge(resource: &mut Resource, patch: &Value, rename: bool, rekind: bool) -> Result<bool> {
    if text(patch, "/$patch") == "delete" {
        return Ok(false);
    }
    let id = resource.current();
    let mut patch = patch.clone();
    let definition = api::schema::definition_of_kind(text(&resource.object, "/apiVersion"), &id.kind);
    // What identifies the resource is no change, unless it is meant to be one.
    if !rekind {
        for field in ["apiVersion", "kind"] {
            patch[field] = resource.object[field].clone();
        }
    }
    let name = if rename { text(&patch, "/metadata/name").to_owned() } else { id.name.clone() };
    if patch["metadata"].is_object() {
        set(&mut patch, &["metadata", "name"], name.clone().into());
        if !id.namespace.is_empty() {
            set(&mut patch, &["metadata", "namespace"], id.namespace.clone().into());
        }
    }
    resource.remember();
    resource.object = match definition {
        Some(definition) => api::patch::strategic_merge_patch(&resource.object, &patch, definition).map_err(|error| Error::Message(error.to_string()))?,
        None => api::patch::merge_patch(&resource.object, &patch),
    };
    Ok(true)
}

pub fn matching<'a>(target: &Selector, resources: &'a mut [Resource]) -> Result<Vec<&'a mut Resource>> {
    let whole = |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).map_err(|error| Error::Message(format!("error parsing regexp: {error}")));
    let (name, namespace) = (whole(&target.name)?, whole(&target.namespace)?);
    let (group, version, kind) = (whole(&target.group)?, whole(&target.version)?, whole(&target.kind)?);
    let selector = |text: &str| api::selector::LabelSelector::parse(text).map_err(|error| Error::Message(error.to_string()));
    let (labels, annotations) = (selector(&target.label_selector)?, selector(&target.annotation_selector)?);
    let any_or = |pattern: &str, regex: &Regex, text: &str| pattern.is_empty() || regex.is_match(text);
    let fits = |id: &Id| {
        any_or(&target.name, &name, &id.name)
            && any_or(&target.namespace, &namespace, &id.namespace)
            && any_or(&target.group, &group, &id.group)
            && any_or(&target.version, &version, &id.version)
            && any_or(&target.kind, &kind, &id.kind)
    };
    let has = |object: &Value, field: &str, wanted: &api::selector::LabelSelector| {
        wanted.matches_with(|key| object["metadata"].get(field).and_then(|fields| fields.get(key)).and_then(Value::as_str))
    };
    Ok(resources
        .iter_mut()
        .filter(|resource| resource.ids().any(|id| fits(&id)))
        .filter(|resource| target.label_selector.is_empty() || has(&resource.object, "labels", &labels))
        .filter(|resource| target.annotation_selector.is_empty() || has(&resource.object, "annotations", &annotations))
        .collect())
}
