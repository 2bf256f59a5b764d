//! Which kinds the API server serves, by plain discovery, for controllers that work on all of them.
//!
//! Invariant: each resource is listed once, in the version that its group prefers.

use client::Rest;
use serde::Deserialize;

use crate::failure::ignore_not_found;

/// One kind of object as it is reached over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Resource {
    pub group: String,
    pub version: String,
    /// The plural name.
    pub name: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Resource {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// The collection; of the whole cluster when `namespace` is `None`.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        match namespace {
            Some(namespace) if self.namespaced => format!("{root}/namespaces/{namespace}/{}", self.name),
            _ => format!("{root}/{}", self.name),
        }
    }

    /// `pods` or `deployments.apps`.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.name.clone() } else { format!("{}.{}", self.name, self.group) }
    }
}

/// What was found, and the group versions that did not answer.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub resources: Vec<Resource>,
    pub failures: Vec<(String, kube::Error)>,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(default)]
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Served>,
}

#[derive(Deserialize)]
struct Served {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

pub(crate) async fn discover(rest: &Rest) -> Result<Discovered, kube::Error> {
    let mut found = Discovered::default();
    let core: Resources = rest.get_at("/api/v1".into()).await?;
    found.add("", "v1", core);
    let groups: Groups = rest.get_at("/apis".into()).await?;
    for group in groups.groups {
        found.add_group(rest, group).await;
    }
    Ok(found)
}

/// What one group serves; nothing where there is no such group.
pub(crate) async fn discover_group(rest: &Rest, group: &str) -> Result<Vec<Resource>, kube::Error> {
    let mut found = Discovered::default();
    if group.is_empty() {
        found.add("", "v1", rest.get_at("/api/v1".into()).await?);
    } else if let Some(group) = ignore_not_found(rest.get_at(format!("/apis/{group}")).await)? {
        found.add_group(rest, group).await;
    }
    match found.failures.into_iter().next() {
        Some((_, error)) if found.resources.is_empty() => Err(error),
        _ => Ok(found.resources),
    }
}

impl Discovered {
    async fn add_group(&mut self, rest: &Rest, group: Group) {
        let preferred = group.preferred_version.as_ref().map(|version| version.version.clone());
        let mut versions = group.versions;
        versions.sort_by_key(|version| Some(&version.version) != preferred.as_ref());
        for version in versions {
            match rest.get_at::<Resources>(format!("/apis/{}", version.group_version)).await {
                Ok(resources) => self.add(&group.name, &version.version, resources),
                Err(error) => self.failures.push((version.group_version, error)),
            }
        }
    }

    fn add(&mut self, group: &str, version: &str, served: Resources) {
        for resource in served.resources {
            let known = self.resources.iter().any(|known| known.group == group && known.name == resource.name);
            if known || resource.name.contains('/') {
                continue;
            }
            self.resources.push(Resource {
                group: group.to_owned(),
                version: version.to_owned(),
                name: resource.name,
                kind: resource.kind,
                namespaced: resource.namespaced,
                verbs: resource.verbs,
            });
        }
    }
}
