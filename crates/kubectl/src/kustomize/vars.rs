//! `vars`: `$(NAME)` in certain fields stands for a field of another resource.
//!
//! Invariant: they are written out last, so that a name comes with its prefixes and its hash. Deliberately absent:
//! further fields than the original looks into by default.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::references::PODS;
use super::resource::{Resource, each};
use crate::error::Result;
use crate::fail;
use crate::value::plain;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Var {
    name: String,
    objref: Object,
    fieldref: Field,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Object {
    api_version: String,
    group: String,
    version: String,
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Field {
    #[serde(alias = "fieldPath")]
    fieldpath: String,
}

impl Var {
    /// `{SERVICE Service.v1.[noGrp] {metadata.name}}`
    fn shown(&self) -> String {
        let (group, version) = self.group_version();
        let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        format!("{{{} {}.{}.{} {{{}}}}}", self.name, self.objref.kind, or(version, "[noVer]"), or(group, "[noGrp]"), self.path())
    }

    fn group_version(&self) -> (&str, &str) {
        match self.objref.api_version.split_once('/') {
            Some(both) => both,
            None if self.objref.api_version.is_empty() => (&self.objref.group, &self.objref.version),
            None => ("", &self.objref.api_version),
        }
    }

    fn path(&self) -> &str {
        if self.fieldref.fieldpath.is_empty() { "metadata.name" } else { &self.fieldref.fieldpath }
    }

    fn means(&self, resource: &Resource) -> bool {
        let (group, version) = self.group_version();
        let same = |wanted: &str, own: &str| wanted.is_empty() || wanted == own;
        resource.ids().any(|id| {
            id.kind == self.objref.kind && id.name == self.objref.name && same(group, &id.group) && same(version, &id.version) && same(&self.objref.namespace, &id.namespace)
        })
    }

    fn value(&self, resources: &[Resource]) -> Result<Value> {
        let Some(resource) = resources.iter().find(|resource| self.means(resource)) else {
            fail!("var '{}' cannot be mapped to a field in the set of known resources", self.shown());
        };
        let pointer = self.path().replace('[', ".").replace([']', '"'], "");
        let pointer: String = pointer.split('.').map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect();
        match resource.object.pointer(&pointer) {
            Some(value) if !value.is_object() && !value.is_array() => Ok(value.clone()),
            _ => fail!("field specified in var '{}' not found in corresponding resource", self.shown()),
        }
    }
}

/// Adds a layer's own to those of the layers below.
pub fn add(known: &mut Vec<Var>, own: &[Var]) -> Result {
    for var in own {
        if known.iter().any(|other| other.name == var.name) {
            fail!("var '{}' already encountered", var.name);
        }
        known.push(var.clone());
    }
    Ok(())
}

/// Within a pod's specification, for its containers of each sort.
const IN_CONTAINERS: &[&str] = &["args", "command", "env/value", "volumeMounts/mountPath"];
const ANYWHERE: &[&str] = &["metadata/labels", "metadata/annotations"];
const ELSEWHERE: &[(&str, &str)] = &[
    ("Ingress", "spec/rules/host"),
    ("Ingress", "spec/tls/hosts"),
    ("Ingress", "spec/tls/secretName"),
    ("Service", "spec/ports/port"),
    ("Service", "spec/ports/targetPort"),
];

pub fn write_out(vars: &[Var], resources: &mut [Resource]) -> Result {
    if vars.is_empty() {
        return Ok(());
    }
    let mut values = BTreeMap::new();
    for var in vars {
        values.insert(var.name.clone(), var.value(resources)?);
    }
    for resource in resources {
        let kind = resource.current().kind;
        let mut paths: Vec<String> = ANYWHERE.iter().map(|path| (*path).to_owned()).collect();
        for (_, base) in PODS.iter().filter(|(owner, _)| *owner == kind) {
            paths.extend(["containers", "initContainers"].iter().flat_map(|sort| IN_CONTAINERS.iter().map(move |path| format!("{base}/{sort}/{path}"))));
            paths.push(format!("{base}/volumes/nfs/server"));
        }
        paths.extend(ELSEWHERE.iter().filter(|(owner, _)| *owner == kind).map(|(_, path)| (*path).to_owned()));
        for path in paths {
            each(&mut resource.object, &path, false, &mut |place| match place {
                Value::Object(fields) => fields.values_mut().for_each(|value| expand(value, &values)),
                value => expand(value, &values),
            });
        }
    }
    Ok(())
}

/// `$(NAME)` becomes its value, of its own type where it stands alone; `$$` is `$`; an unknown name stays.
fn expand(place: &mut Value, values: &BTreeMap<String, Value>) {
    let Some(text) = place.as_str() else { return };
    if let Some(value) = text.strip_prefix("$(").and_then(|rest| rest.strip_suffix(')')).and_then(|name| values.get(name)) {
        *place = value.clone();
        return;
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let named = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        match named.and_then(|(name, after)| Some((values.get(name)?, after))) {
            Some((value, after)) => {
                out += &plain(value);
                rest = after;
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    *place = (out + rest).into();
}
