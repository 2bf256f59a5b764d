//! Which kinds the API server serves, by plain discovery, for controllers that work on all of them.
//!
//! Invariant: each resource is listed once, in the version that its group prefers.

use client::Rest;
use serde::Deserialize;

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
        let preferred = group.preferred_version.as_ref().map(|version| version.version.clone());
        let mut versions = group.versions;
        versions.sort_by_key(|version| Some(&version.version) != preferred.as_ref());
        for version in versions {
            match rest.get_at::<Resources>(format!("/apis/{}", version.group_version)).await {
                Ok(resources) => found.add(&group.name, &version.version, resources),
                Err(error) => found.failures.push((version.group_version, error)),
            }
        }
    }
    Ok(found)
}

impl Discovered {
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
