//! `kubectl apply --prune --applyset`: an object, the set's parent, keeps which kinds in which namespaces belong together.
//!
//! Invariant: before anything is applied, the parent names all kinds and namespaces that were and that will be; what
//! has left the set is found by the members' label there. An apply that breaks off loses track of nothing. Words and
//! keys are those of the original's specification (KEP-3659). Deliberately absent: sets of other tools.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use base64::Engine;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::create::validation;
use super::prune::{Visited, delete_pruned};
use crate::discovery::Resource;
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::Parsed;
use crate::output::DryRun;
use crate::rest::{APPLY_PATCH, Url};
use crate::selection::{Info, items, list_all};
use crate::session::Session;
use crate::value::{object_at, text};

const TOOLING: &str = "applyset.kubernetes.io/tooling";
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
const ID: &str = "applyset.kubernetes.io/id";
const PART_OF: &str = "applyset.kubernetes.io/part-of";
const PARENT_TYPE: &str = "applyset.kubernetes.io/is-parent-type";
const TOOL: &str = "kubectl";

pub struct ApplySet {
    parent: Rc<Resource>,
    namespace: String,
    name: String,
    id: String,
    was: Members,
    becomes: Members,
}

/// Kinds as `Deployment.apps`, each with its resource, and namespaces.
#[derive(Clone, Default)]
struct Members {
    kinds: BTreeMap<String, Rc<Resource>>,
    namespaces: BTreeSet<String>,
}

/// Whether the flag is known at all.
pub fn enabled(session: &Session) -> bool {
    session.environment.var("KUBECTL_APPLYSET") == Some("true")
}

impl ApplySet {
    /// The set that `--applyset` names, if any.
    pub async fn of(session: &Session, args: &Parsed) -> Result<Option<ApplySet>> {
        let reference = args.text("applyset");
        if reference.is_empty() {
            return Ok(None);
        }
        let (kind, name) = reference.split_once('/').unwrap_or(("secrets", reference));
        let invalid = |why: String| Error::Message(format!("invalid parent reference {reference:?}: {why}"));
        if name.is_empty() {
            return Err(invalid("name cannot be blank".to_owned()));
        }
        let found = session.find_resource(|discovery| discovery.by_name(kind)).await?;
        let (bare, group) = kind.split_once('.').unwrap_or((kind, ""));
        let parent = found.ok_or_else(|| invalid(format!("no matches for {group}/, Resource={bare}")))?;
        let selected = session.selected()?;
        let namespace = if parent.namespaced && selected.namespace_given { selected.namespace.clone() } else { String::new() };
        let id = id(&parent, &namespace, name);
        Ok(Some(ApplySet { name: name.to_owned(), namespace, id, was: Members::default(), becomes: Members::default(), parent }))
    }

    /// What the flags and the parent's kind must be like.
    pub async fn validate(&self, session: &Session, args: &Parsed) -> Result {
        if !args.is_set("prune") {
            fail!("--applyset requires --prune");
        }
        if self.parent.namespaced && self.namespace.is_empty() {
            fail!("namespace is required to use namespace-scoped ApplySet");
        }
        if !self.is_builtin() {
            let url = Url::new("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").with("labelSelector", PARENT_TYPE);
            let definitions = list_all(session, url, 500).await.map_err(|error| {
                Error::Message(format!("identifying allowed custom resource parent types: {}", error.bare()))
            })?;
            let allowed = crate::value::list(&definitions, "/items").iter().any(|one| crate::value::name(one) == self.parent.qualified());
            if !allowed {
                fail!(
                    "resource \"{}/{}, Resource={}\" is not permitted as an ApplySet parent",
                    self.parent.group, self.parent.version, self.parent.name
                );
            }
        }
        for (flag, set) in [("all", args.is_set("all")), ("selector", args.changed("selector")), ("prune-allowlist", args.changed("prune-allowlist"))] {
            if set {
                fail!("--{flag} is incompatible with --applyset");
            }
        }
        Ok(())
    }

    fn is_builtin(&self) -> bool {
        self.parent.group.is_empty() && matches!(self.parent.name.as_str(), "secrets" | "configmaps")
    }

    /// Marks the objects as members.
    pub fn label(&self, infos: &mut [Info]) -> Result {
        for info in infos {
            let labels = object_at(&mut info.object, &["metadata", "labels"]);
            if labels.insert(PART_OF.to_owned(), self.id.clone().into()).is_some() {
                fail!("ApplySet label {PART_OF:?} already set in input data");
            }
        }
        Ok(())
    }

    /// Makes the parent name what was and what will be.
    pub async fn before(&mut self, session: &Session, args: &Parsed, infos: &[Info], dry_run: DryRun) -> Result {
        self.fetch(session).await?;
        for info in infos {
            self.becomes.kinds.insert(group_kind(&info.resource), info.resource.clone());
            if info.resource.namespaced {
                self.becomes.namespaces.insert(info.namespace.clone());
            }
        }
        let mut all = self.was.clone();
        all.kinds.extend(self.becomes.kinds.clone());
        all.namespaces.extend(self.becomes.namespaces.clone());
        self.update(session, args, &all, dry_run).await
    }

    /// Deletes what has left the set, then makes the parent name what is left.
    pub async fn prune(&self, session: &Session, args: &Parsed, visited: &Visited, dry_run: DryRun) -> Result {
        let mut gone = Vec::new();
        for resource in self.was.kinds.values() {
            let everywhere = BTreeSet::from([String::new()]);
            for namespace in if resource.namespaced { &self.was.namespaces } else { &everywhere } {
                let url = Url::new(resource.collection(namespace)).with("labelSelector", &format!("{PART_OF}={}", self.id));
                let mut listed = list_all(session, url, 500).await.map_err(|error| {
                    Error::Message(format!("listing {} objects for pruning: {}", resource.group_version_kind(), error.bare()))
                })?;
                gone.extend(items(resource, &mut listed).into_iter().filter(|info| !visited.uids.contains(text(&info.object, "/metadata/uid"))));
            }
        }
        for info in gone {
            let place = if info.namespace.is_empty() { info.name.clone() } else { format!("{}/{}", info.namespace, info.name) };
            let shown = format!("{} {place}", group_kind(&info.resource));
            delete_pruned(session, args, &info, dry_run).await.map_err(|error| Error::Message(format!("pruning {shown}: {}", error.bare())))?;
        }
        self.update(session, args, &self.becomes, dry_run).await.map_err(|error| {
            Error::Message(format!("apply and prune succeeded, but ApplySet update failed: {}", error.bare()))
        })
    }

    /// `secrets./mine`
    fn shown(&self) -> String {
        format!("{}.{}/{}", self.parent.name, self.parent.group, self.name)
    }

    fn url(&self) -> Url {
        Url::new(self.parent.object(&self.namespace, &self.name))
    }

    async fn fetch(&mut self, session: &Session) -> Result {
        let shown = self.shown();
        let parent = match session.get(self.url()).await {
            Ok(parent) => parent,
            Err(error) if error.is_not_found() && self.is_builtin() => return Ok(()),
            Err(error) if error.is_not_found() => fail!("custom resource ApplySet parents cannot be created automatically"),
            Err(error) => fail!("failed to fetch ApplySet parent object {shown:?}: {}", error.bare()),
        };
        let noted = |field: &str, key: &str| parent["metadata"][field][key].as_str();
        let Some(tooling) = noted("annotations", TOOLING) else {
            fail!("ApplySet parent object {shown:?} already exists and is missing required annotation {TOOLING:?}");
        };
        let tool = tooling.rsplit_once('/').map_or(tooling, |(tool, _)| tool);
        if tool != TOOL {
            fail!("ApplySet parent object {shown:?} already exists and is managed by tooling {tool:?} instead of {TOOL:?}");
        }
        let Some(id) = noted("labels", ID) else { fail!("ApplySet parent object {shown:?} exists and does not have required label {ID}") };
        if id != self.id {
            fail!("ApplySet parent object {shown:?} exists and has incorrect value for label {ID:?} (got: {id}, want: {})", self.id);
        }
        let Some(kinds) = noted("annotations", KINDS) else {
            fail!("parsing ApplySet annotation on {shown:?}: kubectl requires the {KINDS:?} annotation to be set on all ApplySet parent objects");
        };
        for word in kinds.split(',').filter(|word| !word.is_empty()) {
            let found = session.find_resource(|discovery| {
                let same = |one: &&Rc<Resource>| group_kind(one) == word && discovery.is_preferred(one);
                discovery.resources.iter().find(same).cloned()
            });
            let Some(resource) = found.await? else {
                fail!("parsing ApplySet annotation on {shown:?}: could not find mapping for kind in {KINDS:?} annotation: no matches for kind {word:?}");
            };
            self.was.kinds.insert(word.to_owned(), resource);
        }
        let namespaces = noted("annotations", NAMESPACES).unwrap_or_default().split(',');
        self.was.namespaces = namespaces.filter(|one| !one.is_empty()).map(str::to_owned).collect();
        if self.parent.namespaced {
            self.was.namespaces.insert(self.namespace.clone());
        }
        Ok(())
    }

    async fn update(&self, session: &Session, args: &Parsed, members: &Members, dry_run: DryRun) -> Result {
        if dry_run == DryRun::Client {
            return Ok(());
        }
        let kinds: Vec<&str> = members.kinds.keys().map(String::as_str).collect();
        let namespaces: Vec<&str> = members.namespaces.iter().map(String::as_str).filter(|one| *one != self.namespace).collect();
        let mut metadata = json!({
            "name": self.name,
            "annotations": {
                TOOLING: format!("{TOOL}/{}", super::cluster::CLIENT), KINDS: kinds.join(","), NAMESPACES: namespaces.join(","),
            },
            "labels": {ID: self.id},
        });
        if self.parent.namespaced {
            metadata["namespace"] = self.namespace.clone().into();
        }
        let patch = json!({"apiVersion": self.parent.api_version(), "kind": self.parent.kind, "metadata": metadata});
        let url = self.url().with_filled("dryRun", dry_run.query()).with("fieldManager", "kubectl-applyset").with("fieldValidation", validation(args)?);
        let mut outcome = session.patch(url.clone().with("force", "false"), APPLY_PATCH, &patch).await;
        if outcome.as_ref().is_err_and(|error| error.is_reason("Conflict")) {
            outcome = session.patch(url.with("force", "true"), APPLY_PATCH, &patch).await;
        }
        outcome.map(|_| ()).map_err(|error| Error::Message(format!("failed to update ApplySet: {}", error.bare())))
    }
}

/// `Deployment.apps`, `ConfigMap`
fn group_kind(resource: &Resource) -> String {
    if resource.group.is_empty() { resource.kind.clone() } else { format!("{}.{}", resource.kind, resource.group) }
}

fn id(parent: &Resource, namespace: &str, name: &str) -> String {
    let hash = Sha256::digest(format!("{name}.{namespace}.{}.{}", parent.kind, parent.group));
    format!("applyset-{}-v1", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_known_by_its_parent() {
        let secrets = Resource {
            group: String::new(), version: "v1".into(), kind: "Secret".into(), name: "secrets".into(), singular: "secret".into(),
            short_names: Vec::new(), categories: Vec::new(), namespaced: true, verbs: Vec::new(), subresources: Vec::new(),
        };
        assert_eq!(id(&secrets, "default", "mine"), "applyset-ys5EGYi_BUuUvnOWurgroZiPpCfcP_mpZ8wXIg4nomo-v1");
    }
}
