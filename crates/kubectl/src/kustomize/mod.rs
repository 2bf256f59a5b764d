//! Kustomizations: `kubectl kustomize` and `-k`.
//!
//! ```text
//! kustomization.yaml -> resources and bases -> generators -> components -> transformers -> references
//!                                       the outermost alone: -> hashes -> references -> vars -> order
//! ```
//!
//! Invariant: every resource remembers all names it ever had, so that patches and references find it by any of them.
//! A reference follows the resource that its own layer means. Deliberately absent: resources from the network,
//! plugins, functions, helm charts, and configurations of the transformers: each is refused by name.

mod builtin;
mod document;
mod generate;
mod images;
mod order;
mod patches;
mod references;
mod replacements;
mod resource;
mod transform;
mod vars;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::fail;
use crate::files::Manifest;
use crate::kubeconfig::go_io;
use crate::session::Session;
use crate::value::text;
use document::Kustomization;
use resource::Resource;

const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// Directories within directories; a cycle is found before.
const DEPTH_MAX: usize = 64;

/// Whether files may lie outside the directory of the kustomization that names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loading {
    RootOnly,
    Anywhere,
}

/// The objects of `-k DIRECTORY`.
pub fn build(session: &Session, directory: &Path) -> Result<Vec<Manifest>> {
    let source = directory.display().to_string();
    let objects = objects(session, directory, Loading::RootOnly)?;
    Ok(objects.into_iter().map(|object| Manifest { source: source.clone(), object }).collect())
}

/// What a kustomization makes, in the original's order.
pub fn objects(session: &Session, directory: &Path, loading: Loading) -> Result<Vec<Value>> {
    let shown = directory.display().to_string();
    if shown.contains("://") || shown.starts_with("git@") || shown.starts_with("github.com/") {
        fail!("{shown}: kustomizations from the network are not supported; fetch it first");
    }
    let root = std::fs::canonicalize(directory).map_err(|_| not_found(&shown))?;
    if !root.is_dir() {
        return Err(not_found(&shown));
    }
    let build = Build { session, loading, vars: RefCell::default() };
    let (mut resources, kustomization) = build.layer(&root, Vec::new(), &mut Vec::new())?;
    for resource in &mut resources {
        resource.append_hash();
    }
    references::update(&mut resources);
    vars::write_out(&build.vars.borrow(), &mut resources)?;
    let order = kustomization.sort_options.map_or_else(|| order::Order::legacy(), |options| order::Order::of(&options))?;
    order.sort(&mut resources);
    Ok(resources.into_iter().map(|resource| resource.object).collect())
}

fn not_found(directory: &str) -> Error {
    let whole = std::path::absolute(directory).unwrap_or_else(|_| PathBuf::from(directory));
    Error::Message(format!("must build at directory: not a valid directory: evalsymlink failure on '{directory}' : lstat {}: no such file or directory", whole.display()))
}

struct Build<'a> {
    session: &'a Session,
    loading: Loading,
    /// Those of all layers.
    vars: RefCell<Vec<vars::Var>>,
}

impl Build<'_> {
    /// The resources of one kustomization on top of those it is given, which only a component is.
    fn layer(&self, directory: &Path, given: Vec<Resource>, within: &mut Vec<PathBuf>) -> Result<(Vec<Resource>, Kustomization)> {
        if within.iter().any(|outer| outer == directory) || within.len() > DEPTH_MAX {
            fail!("cycle detected: candidate root '{}' contains visited root '{}'", directory.display(), directory.display());
        }
        within.push(directory.to_owned());
        let kustomization = self.read(directory)?;
        let mut resources = given;
        for entry in &kustomization.resources {
            let added = self.resource(directory, entry, within).map_err(|error| recursed(directory, entry, error))?;
            add(&mut resources, added, directory, entry)?;
        }
        let loader = Loader { directory, loading: self.loading };
        generate::run(&kustomization, &loader, &mut resources)?;
        builtin::generate(&kustomization, &loader, &mut resources)?;
        vars::add(&mut self.vars.borrow_mut(), &kustomization.vars)?;
        for entry in &kustomization.components {
            let place = self.directory(directory, entry)?;
            let (changed, component) = self.layer(&place, resources, within)?;
            if component.kind != "Component" {
                fail!("accumulating components: accumulateDirectory: \"expected kind 'Component' for path '{}' but got 'Kustomization'\"", place.display());
            }
            resources = changed;
        }
        patches::run(&kustomization, &loader, &mut resources)?;
        transform::run(&kustomization, &mut resources)?;
        replacements::run(&kustomization, &loader, &mut resources)?;
        builtin::transform(&kustomization, &loader, &mut resources)?;
        references::update(&mut resources);
        within.pop();
        Ok((resources, kustomization))
    }

    fn read(&self, directory: &Path) -> Result<Kustomization> {
        let found: Vec<PathBuf> = NAMES.iter().map(|name| directory.join(name)).filter(|path| path.is_file()).collect();
        match found.as_slice() {
            [] => fail!("unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{}'", directory.display()),
            [path] => {
                let content = std::fs::read(path).map_err(|error| Error::Message(format!("open {}: {}", path.display(), go_io(&error))))?;
                let kustomization = Kustomization::parse(&content, path)?;
                for warning in kustomization.deprecations() {
                    self.session.complain(format!(
                        "# Warning: {warning} Run 'kustomize edit fix' to update your Kustomization automatically."
                    ));
                }
                Ok(kustomization)
            }
            _ => fail!("Found multiple kustomization files under: {}", directory.display()),
        }
    }

    fn directory(&self, base: &Path, entry: &str) -> Result<PathBuf> {
        let path = base.join(entry);
        match std::fs::canonicalize(&path) {
            Ok(found) if found.is_dir() => Ok(found),
            _ => fail!("accumulating components: accumulateDirectory: \"couldn't make target for path '{}': unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{}'\"", path.display(), path.display()),
        }
    }

    /// A file of objects, or a directory that is a kustomization itself.
    fn resource(&self, base: &Path, entry: &str, within: &mut Vec<PathBuf>) -> Result<Vec<Resource>> {
        if entry.contains("://") || entry.contains("?ref=") || entry.starts_with("github.com/") || entry.starts_with("git@") {
            fail!("accumulating resources: {entry}: resources from the network are not supported");
        }
        let path = base.join(entry);
        if path.is_dir() {
            let place = std::fs::canonicalize(&path)?;
            let (resources, inner) = self.layer(&place, Vec::new(), within)?;
            if inner.kind == "Component" {
                fail!("accumulating resources: accumulation err='accumulating resources from '{entry}': '{}' must resolve to a file': recursed accumulation of path '{}': expected kind != 'Component' for path '{entry}'", place.display(), place.display());
            }
            return Ok(resources);
        }
        let loader = Loader { directory: base, loading: self.loading };
        let content = loader.read(entry).map_err(|error| {
            if path.exists() {
                return Error::Message(format!("accumulating resources: accumulation err='accumulating resources from '{entry}': {}'", error.bare()));
            }
            let missing = format!("evalsymlink failure on '{0}' : lstat {0}: no such file or directory", path.display());
            Error::Message(format!(
                "accumulating resources: accumulation err='accumulating resources from '{entry}': {missing}': must build at directory: not a valid directory: {missing}"
            ))
        })?;
        let objects = parse_objects(&content).map_err(|error| {
            Error::Message(format!("accumulating resources: accumulation err='accumulating resources from '{entry}': {}'", error.bare()))
        })?;
        Ok(objects.into_iter().map(Resource::new).collect())
    }
}

/// Reads files that a kustomization names.
struct Loader<'a> {
    directory: &'a Path,
    loading: Loading,
}

impl Loader<'_> {
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(name);
        let found = std::fs::canonicalize(&path).map_err(|error| Error::Message(format!("open {}: {}", path.display(), go_io(&error))))?;
        if self.loading == Loading::RootOnly && !found.starts_with(self.directory) {
            fail!("security; file '{}' is not in or below '{}'", found.display(), self.directory.display());
        }
        std::fs::read(&found).map_err(|error| Error::Message(format!("read {}: {}", found.display(), go_io(&error))))
    }
}

/// The objects of a file; lists are taken apart.
fn parse_objects(content: &[u8]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for piece in api::yaml::documents(content) {
        let (value, _) = api::yaml::to_json(piece.as_bytes()).map_err(|error| Error::Message(format!("MalformedYAMLError: {error}")))?;
        match value {
            Value::Null => {}
            Value::Object(ref fields) if text(&value, "/kind").ends_with("List") && fields.get("items").is_some_and(Value::is_array) => {
                objects.extend(crate::value::list(&value, "/items").iter().cloned());
            }
            Value::Object(_) => objects.push(value),
            _ => fail!("invalid file: expected objects"),
        }
    }
    for object in &objects {
        if text(object, "/kind").is_empty() {
            fail!("missing metadata.name or kind in object {}", crate::output::go_json(object));
        }
        if text(object, "/metadata/name").is_empty() {
            fail!("missing metadata.name in object {{{{{} {}}} {{{{ }} map[] map[]}}}}", text(object, "/apiVersion"), text(object, "/kind"));
        }
    }
    Ok(objects)
}

/// What goes wrong within a directory is told with the way there.
fn recursed(base: &Path, entry: &str, error: Error) -> Error {
    let place = base.join(entry);
    if !place.is_dir() {
        return error;
    }
    let place = std::fs::canonicalize(&place).unwrap_or(place);
    Error::Message(format!(
        "accumulating resources: accumulation err='accumulating resources from '{entry}': '{}' must resolve to a file': {}",
        place.display(), error.bare()
    ))
}

fn add(resources: &mut Vec<Resource>, added: Vec<Resource>, base: &Path, from: &str) -> Result {
    for resource in added {
        if resources.iter().any(|known| known.current() == resource.current()) {
            let twice = format!("may not add resource with an already registered id: {}", resource.current());
            let place = base.join(from);
            if place.is_dir() {
                let place = std::fs::canonicalize(&place).unwrap_or(place);
                let twice = Error::Message(format!("recursed merging from path '{}': {twice}", place.display()));
                return Err(recursed(base, from, twice));
            }
            fail!("accumulating resources: accumulation err='merging resources from '{from}': {twice}'");
        }
        resources.push(resource);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
