//! What the API server can do: its groups, versions and resources, and how users name them.
//!
//! Invariant: the cache on disk has the original's layout (`discovery/<host>/servergroups.json` and
//! `<group>/<version>/serverresources.json`) and its age limit, so both programs can share it. A name that the cache
//! does not know is asked for once more at the server before it is refused.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::fail;
use crate::rest::Url;
use crate::session::Session;
use crate::value::{flag, list, text};

/// As long as the original trusts its cache.
const FRESH: Duration = Duration::from_secs(6 * 60 * 60);
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub kind: String,
    /// Plural: `deployments`
    pub name: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    /// `scale`, `status`, ...
    pub subresources: Vec<String>,
}

impl Resource {
    /// `apps/v1`, `v1`
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As the original's errors have it: `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`
    pub fn group_version_kind(&self) -> String {
        format!("{}/{}, Kind={}", self.group, self.version, self.kind)
    }

    /// `deployments.apps`, `pods`
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.name.clone() } else { format!("{}.{}", self.name, self.group) }
    }

    /// `deployment.apps`, `pod`: as `deployment.apps/web created` has it.
    pub fn singular_qualified(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    pub fn base(&self) -> String {
        if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) }
    }

    /// The collection, of one namespace or of all.
    pub fn collection(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}/namespaces/{namespace}/{}", self.base(), self.name)
        } else {
            format!("{}/{}", self.base(), self.name)
        }
    }

    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(namespace), api::percent::encode(name))
    }

    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

pub struct Discovery {
    /// In the order of preference.
    pub resources: Vec<Rc<Resource>>,
    /// `apps/v1`, in the server's order.
    pub versions: Vec<String>,
    /// Preferred version of every group.
    pub preferred: Vec<(String, String)>,
    fresh: bool,
}

impl Discovery {
    pub async fn load(session: &Session) -> Result<Self> {
        if let Some(dir) = cache_of(session)?
            && let Some(found) = read_cache(&dir)
        {
            return Ok(found);
        }
        Self::fetch(session).await
    }

    /// Asks the server and rewrites the cache.
    pub async fn fetch(session: &Session) -> Result<Self> {
        let (core, groups) = futures::join!(
            session.call(Method::GET, Url::new("/api"), AGGREGATED, "", Vec::new()),
            session.call(Method::GET, Url::new("/apis"), AGGREGATED, "", Vec::new()),
        );
        let (core, groups) = (core?, groups?);
        let documents = if text(&groups, "/kind") == "APIGroupDiscoveryList" {
            from_aggregated(&core, &groups)
        } else {
            fetch_one_by_one(session, &core, &groups).await?
        };
        if let Some(dir) = cache_of(session)? {
            // A cache that cannot be written costs only time.
            let _ = write_cache(&dir, &documents);
        }
        Ok(Discovery { fresh: true, ..from_documents(&documents) })
    }

    /// The resource of that kind; `api_version` is `apps/v1`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<Rc<Resource>> {
        self.resources.iter().find(|found| found.kind == kind && found.api_version() == api_version).cloned()
    }

    /// What a user calls `pods`, `po`, `pod`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    pub fn by_name(&self, name: &str) -> Option<Rc<Resource>> {
        let wanted = name.to_lowercase();
        let named = |found: &Resource, name: &str| found.name == name || found.singular == name || found.kind.to_lowercase() == name;
        let exact = self.resources.iter().find(|found| named(found, &wanted) && self.is_preferred(found));
        let short = || self.resources.iter().find(|found| found.short_names.contains(&wanted) && self.is_preferred(found));
        let exact = exact.or_else(short).or_else(|| self.resources.iter().find(|found| named(found, &wanted)));
        if exact.is_some() {
            return exact.cloned();
        }
        let (resource, group) = wanted.split_once('.')?;
        let named = |found: &Resource| named(found, resource) || found.short_names.iter().any(|short| short == resource);
        if let Some((version, group)) = group.split_once('.')
            && let Some(found) = self.resources.iter().find(|found| named(found) && found.version == version && found.group == group)
        {
            return Some(found.clone());
        }
        let of_group = |found: &&Rc<Resource>| named(found) && (found.group == group || found.group.starts_with(&format!("{group}.")));
        let preferred = self.resources.iter().find(|found| of_group(found) && self.is_preferred(found));
        let by_version = || self.resources.iter().find(|found| named(found) && found.group.is_empty() && found.version == group);
        preferred.or_else(by_version).or_else(|| self.resources.iter().find(of_group)).cloned()
    }

    /// Kinds that belong to a category, such as `all`.
    pub fn category(&self, name: &str) -> Vec<Rc<Resource>> {
        let member = |found: &&Rc<Resource>| found.categories.iter().any(|category| category == name) && self.is_preferred(found);
        self.resources.iter().filter(member).cloned().collect()
    }

    pub fn is_preferred(&self, resource: &Resource) -> bool {
        let version = self.preferred.iter().find(|(group, _)| *group == resource.group).map(|(_, version)| version.as_str());
        version == Some(&resource.version) || {
            // The group's preferred version need not have every resource.
            let same = |other: &&Rc<Resource>| other.group == resource.group && other.name == resource.name;
            self.resources.iter().find(same).is_some_and(|first| {
                first.version == resource.version && !self.resources.iter().filter(same).any(|other| Some(other.version.as_str()) == version)
            })
        }
    }
}

impl Session {
    pub async fn resource(&self, name: &str) -> Result<Rc<Resource>> {
        match self.find_resource(|discovery| discovery.by_name(name)).await? {
            Some(found) => Ok(found),
            None => fail!("the server doesn't have a resource type {:?}", name.split('.').next().unwrap_or(name)),
        }
    }

    pub async fn resource_of_kind(&self, api_version: &str, kind: &str) -> Result<Rc<Resource>> {
        match self.find_resource(|discovery| discovery.by_kind(api_version, kind)).await? {
            Some(found) => Ok(found),
            None => fail!("no matches for kind {kind:?} in version {api_version:?}"),
        }
    }

    /// Looks in the cache, then once at the server.
    pub async fn find_resource(&self, find: impl Fn(&Discovery) -> Option<Rc<Resource>>) -> Result<Option<Rc<Resource>>> {
        let known = self.discovery().await?;
        if let Some(found) = find(known) {
            return Ok(Some(found));
        }
        if known.fresh {
            return Ok(None);
        }
        Ok(find(&Discovery::fetch(self).await?))
    }
}

/// One group and version: `(group, version, APIResourceList)`, and the list of groups.
struct Documents {
    groups: Value,
    lists: Vec<(String, String, Value)>,
}

fn from_aggregated(core: &Value, groups: &Value) -> Documents {
    let mut listed = Vec::new();
    let mut lists = Vec::new();
    for group in list(core, "/items").iter().chain(list(groups, "/items")) {
        let name = text(group, "/metadata/name");
        let mut versions = Vec::new();
        for version in list(group, "/versions") {
            let number = text(version, "/version");
            let group_version = if name.is_empty() { number.to_owned() } else { format!("{name}/{number}") };
            versions.push(json!({"groupVersion": group_version, "version": number}));
            let mut resources = Vec::new();
            for resource in list(version, "/resources") {
                let plural = text(resource, "/resource");
                let namespaced = text(resource, "/scope") == "Namespaced";
                resources.push(json!({
                    "name": plural, "singularName": text(resource, "/singularResource"), "namespaced": namespaced,
                    "kind": text(resource, "/responseKind/kind"), "verbs": resource["verbs"],
                    "shortNames": resource["shortNames"], "categories": resource["categories"],
                }));
                for sub in list(resource, "/subresources") {
                    resources.push(json!({
                        "name": format!("{plural}/{}", text(sub, "/subresource")), "singularName": "", "namespaced": namespaced,
                        "kind": text(sub, "/responseKind/kind"), "verbs": sub["verbs"],
                        "group": text(sub, "/responseKind/group"), "version": text(sub, "/responseKind/version"),
                    }));
                }
            }
            for resource in &mut resources {
                resource.as_object_mut().expect("made just above").retain(|_, value| !value.is_null());
            }
            lists.push((name.to_owned(), number.to_owned(), json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})));
        }
        let preferred = versions.first().cloned().unwrap_or(Value::Null);
        listed.push(json!({"name": name, "versions": versions, "preferredVersion": preferred}));
    }
    Documents { groups: json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}), lists }
}

/// For servers without aggregated discovery.
async fn fetch_one_by_one(session: &Session, core: &Value, groups: &Value) -> Result<Documents> {
    let versions: Vec<Value> = list(core, "/versions").iter().map(|version| json!({"groupVersion": version, "version": version})).collect();
    let mut all = vec![json!({"name": "", "preferredVersion": versions.first(), "versions": versions})];
    all.extend(list(groups, "/groups").iter().cloned());
    let mut wanted = Vec::new();
    for group in &all {
        for version in list(group, "/versions") {
            let (name, number) = (text(group, "/name").to_owned(), text(version, "/version").to_owned());
            let path = if name.is_empty() { format!("/api/{number}") } else { format!("/apis/{name}/{number}") };
            wanted.push((name, number, path));
        }
    }
    let answers = futures::future::join_all(wanted.iter().map(|(_, _, path)| session.get(Url::new(path.clone())))).await;
    let mut lists = Vec::new();
    for ((name, number, _), answer) in wanted.into_iter().zip(answers) {
        // A group whose server is away is left out, as the original does.
        if let Ok(document) = answer {
            lists.push((name, number, document));
        }
    }
    Ok(Documents { groups: json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all}), lists })
}

fn from_documents(documents: &Documents) -> Discovery {
    let mut resources: Vec<Rc<Resource>> = Vec::new();
    let strings = |value: &Value, pointer: &str| -> Vec<String> {
        list(value, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for (group, version, document) in &documents.lists {
        let entries = list(document, "/resources");
        for entry in entries.iter().filter(|entry| !text(entry, "/name").contains('/')) {
            let name = text(entry, "/name").to_owned();
            let prefix = format!("{name}/");
            let subresources = entries.iter().filter_map(|sub| text(sub, "/name").strip_prefix(&prefix)).map(str::to_owned).collect();
            let kind = text(entry, "/kind").to_owned();
            let singular = text(entry, "/singularName");
            resources.push(Rc::new(Resource {
                group: group.clone(),
                version: version.clone(),
                singular: if singular.is_empty() { kind.to_lowercase() } else { singular.to_owned() },
                kind,
                name,
                short_names: strings(entry, "/shortNames"),
                categories: strings(entry, "/categories"),
                namespaced: flag(entry, "/namespaced"),
                verbs: strings(entry, "/verbs"),
                subresources,
            }));
        }
    }
    let mut versions = Vec::new();
    let mut preferred = Vec::new();
    for group in list(&documents.groups, "/groups") {
        preferred.push((text(group, "/name").to_owned(), text(group, "/preferredVersion/version").to_owned()));
        versions.extend(list(group, "/versions").iter().map(|version| text(version, "/groupVersion").to_owned()));
    }
    Discovery { resources, versions, preferred, fresh: false }
}

fn cache_of(session: &Session) -> Result<Option<PathBuf>> {
    let selected = session.selected()?;
    let host = selected.server.split_once("://").map_or(selected.server.as_str(), |(_, host)| host);
    let safe: String = host.chars().map(|c| if c.is_ascii_alphanumeric() || "_/.".contains(c) { c } else { '_' }).collect();
    Ok(session.cache_dir().map(|dir| dir.join("discovery").join(safe)))
}

fn read_fresh(path: &Path) -> Option<Value> {
    let age = std::fs::metadata(path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
    if age > FRESH {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn read_cache(dir: &Path) -> Option<Discovery> {
    let groups = read_fresh(&dir.join("servergroups.json"))?;
    let mut lists = Vec::new();
    for group in list(&groups, "/groups") {
        for version in list(group, "/versions") {
            let (name, number) = (text(group, "/name").to_owned(), text(version, "/version").to_owned());
            let document = read_fresh(&dir.join(&name).join(&number).join("serverresources.json"))?;
            lists.push((name, number, document));
        }
    }
    Some(from_documents(&Documents { groups, lists }))
}

fn write_cache(dir: &Path, documents: &Documents) -> std::io::Result<()> {
    let write = |path: PathBuf, value: &Value| -> std::io::Result<()> {
        let parent = path.parent().expect("every file of the cache lies in a directory");
        std::fs::create_dir_all(parent)?;
        // Renamed into place: a reader never sees half a file.
        let new = parent.join(format!(".{}.{}", path.file_name().unwrap_or_default().to_string_lossy(), std::process::id()));
        std::fs::write(&new, value.to_string())?;
        std::fs::rename(&new, &path)
    };
    for (group, version, document) in &documents.lists {
        write(dir.join(group).join(version).join("serverresources.json"), document)?;
    }
    write(dir.join("servergroups.json"), &documents.groups)
}

/// `error: no matches for kind ...` while reading a manifest.
pub fn no_match(source: &str, name: &str, namespace: &str, error: Error) -> Error {
    let Error::Message(message) = error else { return error };
    if message.starts_with("no matches for kind") {
        return Error::Message(format!(
            "resource mapping not found for name: {name:?} namespace: {namespace:?} from {source:?}: {message}\nensure CRDs are installed first"
        ));
    }
    Error::Message(message)
}
