//! Server-side apply and the bookkeeping of who manages which field.
//!
//! Invariants: applying a configuration twice changes nothing the second time; no field or list
//! element is removed that somebody else owns; after a forced apply every field of the configuration is owned by
//! its manager and has its value.
//! Deliberately absent: conversion between versions of a kind. Fields that managers own in another version are
//! compared by the same names. What a kind resets (status, mostly) is for the caller to take out of a configuration.

mod compare;
mod entries;
mod merge;
mod set;
mod shape;

use std::fmt;

use jiff::Timestamp;
use serde_json::Value;

use crate::json;
use crate::schema::Definition;
use compare::compare;
use entries::{Entries, Owned, Owner};
use set::Set;
use shape::Shape;

/// The manager whose applies take over what `kubectl apply` on the client's side has set.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Owns what an object had before anybody applied to it, if nobody was recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, how and when.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    pub name: &'a str,
    /// `apps/v1`
    pub api_version: &'a str,
    /// `status`, `scale`, or empty.
    pub subresource: &'a str,
    pub now: Timestamp,
}

/// Why a configuration was not applied.
#[derive(Clone, Debug, PartialEq)]
pub enum ApplyError {
    /// Others own fields that would change: 409, reason Conflict.
    Conflicts(Vec<Conflict>),
    /// The configuration does not fit the schema.
    Invalid(String),
}

/// One field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// `"kubectl-client-side-apply" using apps/v1`
    pub manager: String,
    /// `.spec.replicas`
    pub field: String,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Invalid(problem) => out.write_str(problem),
            ApplyError::Conflicts(conflicts) => match conflicts.as_slice() {
                [Conflict { manager, field }] => write!(
                    out,
                    "Apply failed with 1 conflict: conflict with {manager}: {field}"
                ),
                all => {
                    write!(out, "Apply failed with {} conflicts: ", all.len())?;
                    for (at, Conflict { manager, field }) in all.iter().enumerate() {
                        if at == 0 || all[at - 1].manager != *manager {
                            write!(
                                out,
                                "{}conflicts with {manager}:",
                                if at > 0 { "\n" } else { "" }
                            )?;
                        }
                        write!(out, "\n- {field}")?;
                    }
                    Ok(())
                }
            },
        }
    }
}

impl std::error::Error for ApplyError {}

/// The object after `config` is applied to it, in normal form, with its managed fields. No `live` object: it is created.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
    definition: &'static Definition,
) -> Result<Value, ApplyError> {
    let shape = Shape::of(definition);
    check(config, shape)?;
    let mut entries = live.and_then(entries::read).unwrap_or_default();
    let blank = json::empty_element(&crate::schema::Type::Object(definition));
    let mut live = live.cloned().unwrap_or_else(|| blank.clone());
    entries::replace(&mut live, Vec::new());
    if entries.is_empty() && !compare(Some(&blank), Some(&live), shape).is_same() {
        own_all_before(&mut entries, &blank, &live, manager, shape);
    }
    let step = Step {
        live: &live,
        config,
        manager,
        shape,
        definition,
    };
    match step.run(entries.clone(), force) {
        Err(ApplyError::Conflicts(conflicts)) if manager.name == KUBECTL => {
            step.take_over(entries, conflicts)
        }
        other => other,
    }
}

/// Whether the configuration can be read by the schema at all.
fn check(config: &Value, shape: Shape) -> Result<(), ApplyError> {
    let mut problems = Vec::new();
    shape::problems(config, shape, None, "", &mut problems);
    if !entries::list(config).is_empty() {
        return Err(ApplyError::Invalid(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    if problems.is_empty() {
        return Ok(());
    }
    let text = |name: &str| {
        config
            .pointer(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let problems = if problems.len() == 1 {
        problems.remove(0)
    } else {
        format!("errors:\n  {}", problems.join("\n  "))
    };
    let (namespace, name, version, kind) = (
        text("/metadata/namespace"),
        text("/metadata/name"),
        text("/apiVersion"),
        text("/kind"),
    );
    Err(ApplyError::Invalid(format!(
        "failed to create typed patch object ({namespace}/{name}; {version}, Kind={kind}): {problems}"
    )))
}

fn own_all_before(
    entries: &mut Entries,
    blank: &Value,
    live: &Value,
    manager: &Manager,
    shape: Shape,
) {
    let mut changes = compare(Some(blank), Some(live), shape);
    changes.added.union(changes.modified);
    let mut set = changes.added;
    entries::strip(&mut set);
    if !set.is_empty() {
        let before = Manager {
            name: BEFORE_FIRST_APPLY,
            subresource: "",
            ..*manager
        };
        entries.insert(
            Owner::new(&before, false),
            Owned {
                set,
                api_version: manager.api_version.to_owned(),
                time: Some(manager.now),
            },
        );
    }
}

struct Step<'a> {
    live: &'a Value,
    config: &'a Value,
    manager: &'a Manager<'a>,
    shape: Shape,
    definition: &'static Definition,
}

impl Step<'_> {
    fn run(&self, mut entries: Entries, force: bool) -> Result<Value, ApplyError> {
        let owner = Owner::new(self.manager, true);
        let last = entries.get(&owner).cloned();
        let set = shape::owned_set(self.config, self.shape);
        let merged = merge::merge(self.live.clone(), self.config, self.shape);
        let owned = Owned {
            set,
            api_version: self.manager.api_version.to_owned(),
            time: Some(self.manager.now),
        };
        entries.insert(owner.clone(), owned);
        let mut new = match &last {
            Some(last) => self.prune(&merged, &entries, &last.set),
            None => merged,
        };
        if let Some(owned) = entries.get_mut(&owner) {
            entries::strip(&mut owned.set); // Not before: the name that was applied keeps metadata from being pruned.
        }
        json::normalise(&mut new, self.definition)
            .map_err(|error| ApplyError::Invalid(error.to_string()))?;
        let changes = compare(Some(self.live), Some(&new), self.shape);
        if !force {
            let mut touched = changes.added.clone();
            touched.union(changes.modified.clone());
            let conflicts = conflicts(&entries, &owner, &touched);
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
        }
        entries::take_from_others(&mut entries, &owner, &changes);
        if let (Some(last), Some(owned)) = (last, entries.get_mut(&owner))
            && changes.is_same()
            && last.set == owned.set
            && last.api_version == owned.api_version
        {
            owned.time = last.time; // Nothing happened.
        }
        self.update_last_applied(&mut new);
        entries::write(&mut new, entries);
        Ok(new)
    }

    /// Takes out what this manager applied last time and not now, unless somebody else owns it.
    fn prune(&self, merged: &Value, entries: &Entries, last: &Set) -> Value {
        let shape = self.shape;
        let named = |set: Set| set.with_fields_as_members(shape);
        let last = named(last.clone());
        let all = named(shape::owned_set(merged, shape));
        let without_last = merge::remove(merged, &last, shape);
        let mut kept = named(shape::owned_set(&without_last, shape));
        for owned in entries.values() {
            kept.union(named(owned.set.clone()));
        }
        let without_unowned = merge::remove(merged, &all.clone().minus(&kept), shape);
        let left = named(shape::owned_set(&without_unowned, shape));
        let mut pruned = merge::remove(merged, &all.minus(&left).intersection(&last), shape);
        restore_identity(&mut pruned, merged);
        pruned
    }

    /// kubectl may overrule what its own client-side apply has set and nobody has changed since.
    fn take_over(&self, entries: Entries, conflicts: Vec<Conflict>) -> Result<Value, ApplyError> {
        let Some(last_applied) = self
            .live
            .pointer("/metadata/annotations")
            .and_then(|annotations| annotations.get(LAST_APPLIED))
            .and_then(Value::as_str)
        else {
            return Err(ApplyError::Conflicts(conflicts));
        };
        let Ok(last_applied) = serde_json::from_str::<Value>(last_applied) else {
            return Err(ApplyError::Conflicts(conflicts));
        };
        let changes = compare(Some(&last_applied), Some(self.live), self.shape);
        let allowed = shape::owned_set(&last_applied, self.shape)
            .minus(&changes.modified)
            .minus(&changes.added)
            .minus(&changes.removed)
            .paths();
        let left: Vec<Conflict> = conflicts
            .into_iter()
            .filter(|conflict| !allowed.contains(&conflict.field))
            .collect();
        if left.is_empty() {
            self.run(entries, true)
        } else {
            Err(ApplyError::Conflicts(left))
        }
    }

    /// Keeps client-side apply possible where it was used before.
    fn update_last_applied(&self, new: &mut Value) {
        if self.manager.name != KUBECTL {
            return;
        }
        if let Some(annotation) = new
            .pointer_mut("/metadata/annotations")
            .and_then(|annotations| annotations.get_mut(LAST_APPLIED))
        {
            *annotation = format!("{}\n", self.config).into();
        }
    }
}

/// Puts back what names the object, should all of its metadata have gone.
fn restore_identity(pruned: &mut Value, merged: &Value) {
    let (Some(before), Some(pruned)) = (
        merged.get("metadata").and_then(Value::as_object),
        pruned.as_object_mut(),
    ) else {
        return;
    };
    let metadata = pruned
        .entry("metadata")
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    let Some(metadata) = metadata.as_object_mut() else {
        return;
    };
    for name in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "resourceVersion",
    ] {
        if let (Some(value), None) = (before.get(name), metadata.get(name)) {
            metadata.insert(name.to_owned(), value.clone());
        }
    }
}

fn conflicts(entries: &Entries, applier: &Owner, touched: &Set) -> Vec<Conflict> {
    let mut found = Vec::new();
    for (owner, owned) in entries.iter().filter(|(owner, _)| *owner != applier) {
        let fields = owned.set.intersection(touched).paths();
        found.extend(fields.into_iter().map(|field| Conflict {
            manager: owner.printed(),
            field,
        }));
    }
    found
}

/// Records a create, update or patch: what changed now belongs to this manager. Managed fields that the request
/// carries count as the ones to go on from, those of a subresource request do not.
pub fn record_update(
    old: Option<&Value>,
    new: &mut Value,
    manager: &Manager,
    definition: &'static Definition,
) {
    let shape = Shape::of(definition);
    let blank;
    let before = match old {
        Some(old) => old,
        None => {
            blank = json::empty_element(&crate::schema::Type::Object(definition));
            &blank
        }
    };
    if manager.subresource.is_empty() && entries::asks_for_reset(new) {
        // Nobody is tracked until the next apply.
        entries::replace(new, Vec::new());
        return;
    }
    let changes = compare_ignoring_server_fields(before, new, shape);
    let requested = entries::take(new);
    let kept = entries::list(before);
    let same = requested == kept;
    let usable = manager.subresource.is_empty()
        && !requested.is_empty()
        && (same || entries::are_readable(&requested));
    let list = if same || usable {
        requested
    } else {
        kept.to_vec()
    };
    let untracked = old.is_some() && list.is_empty();
    if untracked || same && changes.is_same() {
        entries::replace(new, list);
        return;
    }
    let list = entries::updated(list, manager, changes);
    let crowded = entries::has_too_many_updaters(&list);
    entries::replace(new, list);
    if crowded {
        let mut entries = entries::read(new).unwrap_or_default();
        entries::cap(&mut entries);
        entries::write(new, entries);
    }
}

/// The comparison without what nobody owns.
fn compare_ignoring_server_fields(old: &Value, new: &Value, shape: Shape) -> compare::Comparison {
    let mut changes = compare(Some(old), Some(new), shape);
    entries::strip(&mut changes.added);
    entries::strip(&mut changes.modified);
    entries::strip(&mut changes.removed);
    changes
}

#[cfg(test)]
mod tests;
