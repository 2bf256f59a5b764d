//! What may stand in a kustomization file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::resource::Id;
use super::vars::Var;
use crate::error::{Error, Result};
use crate::fail;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Kustomization {
    api_version: String,
    pub kind: String,
    #[serde(rename = "metadata")]
    _metadata: Value,
    pub resources: Vec<String>,
    bases: Vec<String>,
    pub components: Vec<String>,
    pub namespace: String,
    pub name_prefix: String,
    pub name_suffix: String,
    pub common_labels: BTreeMap<String, String>,
    pub labels: Vec<Labels>,
    pub common_annotations: BTreeMap<String, String>,
    pub images: Vec<Image>,
    image_tags: Vec<Image>,
    pub replicas: Vec<Replicas>,
    pub config_map_generator: Vec<Generator>,
    pub secret_generator: Vec<Generator>,
    pub generator_options: GeneratorOptions,
    pub patches: Vec<Patch>,
    pub patches_strategic_merge: Vec<String>,
    pub patches_json6902: Vec<Patch>,
    pub replacements: Vec<Value>,
    pub vars: Vec<Var>,
    pub generators: Vec<String>,
    pub transformers: Vec<String>,
    pub sort_options: Option<SortOptions>,
}

/// What the original knows and this client does not: said by name rather than left out silently.
const REFUSED: &[&str] = &[
    "helmCharts", "helmGlobals", "helmChartInflationGenerator", "validators", "configurations", "crds",
    "openapi", "buildMetadata",
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Labels {
    pub pairs: BTreeMap<String, String>,
    pub include_selectors: bool,
    pub include_templates: bool,
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Field {
    pub path: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub create: bool,
}

impl Field {
    /// Whether the field is meant in a resource of that kind.
    pub fn is_in(&self, id: &Id) -> bool {
        let wanted = |own: &str, id: &str| own.is_empty() || own == id;
        wanted(&self.group, &id.group) && wanted(&self.version, &id.version) && wanted(&self.kind, &id.kind)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Image {
    pub name: String,
    pub new_name: String,
    pub new_tag: String,
    pub tag_suffix: String,
    pub digest: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replicas {
    pub name: String,
    pub count: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Generator {
    pub name: String,
    pub namespace: String,
    pub behavior: String,
    pub files: Vec<String>,
    pub literals: Vec<String>,
    pub envs: Vec<String>,
    pub env: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub options: GeneratorOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GeneratorOptions {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub disable_name_suffix_hash: bool,
    pub immutable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Patch {
    pub path: String,
    pub patch: String,
    pub target: Option<Selector>,
    pub options: BTreeMap<String, bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Selector {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
    pub label_selector: String,
    pub annotation_selector: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SortOptions {
    pub order: String,
    pub legacy_sort_options: Option<LegacyOrder>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LegacyOrder {
    pub order_first: Vec<String>,
    pub order_last: Vec<String>,
}

impl Kustomization {
    pub fn parse(content: &[u8], path: &Path) -> Result<Self> {
        let invalid = |why: &str| Error::Message(format!("invalid Kustomization: {why}"));
        let (mut value, _) = api::yaml::to_json(content).map_err(|error| invalid(&error.to_string()))?;
        if value.is_null() {
            fail!("kustomization.yaml is empty");
        }
        let mut refused = Vec::new();
        if let Some(fields) = value.as_object_mut() {
            // An empty field is a field left out.
            fields.retain(|_, value| !value.is_null());
            for name in REFUSED {
                if fields.remove(*name).is_some() {
                    refused.push(*name);
                }
            }
        }
        if let Some(name) = refused.first() {
            fail!("{}: the field {name:?} is not supported", path.display());
        }
        let mut kustomization: Kustomization = serde_json::from_value(value).map_err(|error| {
            let said = error.to_string();
            match said.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
                Some(name) => invalid(&format!("json: unknown field {name:?}")),
                None => invalid(&format!("json: {said}")),
            }
        })?;
        if kustomization.kind.is_empty() {
            kustomization.kind = "Kustomization".to_owned();
        }
        if kustomization.kind != "Kustomization" && kustomization.kind != "Component" {
            fail!("kind should be Kustomization or Component");
        }
        let expected = if kustomization.kind == "Component" { "kustomize.config.k8s.io/v1alpha1" } else { "kustomize.config.k8s.io/v1beta1" };
        if !kustomization.api_version.is_empty() && kustomization.api_version != expected {
            fail!("apiVersion for {} should be {expected}", kustomization.kind);
        }
        let bases = std::mem::take(&mut kustomization.bases);
        kustomization.resources.extend(bases);
        let tags = std::mem::take(&mut kustomization.image_tags);
        kustomization.images.extend(tags);
        Ok(kustomization)
    }

    /// Of the deprecated fields in use, the original's words.
    pub fn deprecations(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        if !self.common_labels.is_empty() {
            found.push("'commonLabels' is deprecated. Please use 'labels' instead.");
        }
        if !self.patches_json6902.is_empty() {
            found.push("'patchesJson6902' is deprecated. Please use 'patches' instead.");
        }
        if !self.patches_strategic_merge.is_empty() {
            found.push("'patchesStrategicMerge' is deprecated. Please use 'patches' instead.");
        }
        if !self.vars.is_empty() {
            found.push("'vars' is deprecated. Please use 'replacements' instead. [EXPERIMENTAL]");
        }
        found
    }
}
