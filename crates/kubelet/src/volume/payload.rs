//! What stands in a ConfigMap's, Secret's, downward API's or projected volume: a pure function of the objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use super::atomic_writer::File;
use crate::container::fields::{self, Facts};
use crate::pod::spec;

pub type Files = BTreeMap<String, File>;

pub const DEFAULT_MODE: i32 = 0o644;

pub fn config_map(object: Option<&Arc<ConfigMap>>, name: &str, items: Option<&Vec<KeyToPath>>, optional: bool, mode: i32) -> Result<Files, String> {
    let Some(object) = object else {
        return if optional { Ok(Files::new()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    let mut data: BTreeMap<String, Vec<u8>> =
        object.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes())).collect();
    data.extend(object.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())));
    pick(data, items, optional, mode, "references non-existent config key")
}

pub fn secret(object: Option<&Arc<Secret>>, name: &str, items: Option<&Vec<KeyToPath>>, optional: bool, mode: i32) -> Result<Files, String> {
    let Some(object) = object else {
        return if optional { Ok(Files::new()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    let data = object.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    pick(data, items, optional, mode, "references non-existent secret key")
}

fn pick(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    mode: i32,
    missing_key: &str,
) -> Result<Files, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, data)| (key, file(data, mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(content) => {
                files.insert(clean(&item.path), file(content.clone(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(format!("{missing_key}: {}", item.key)),
        }
    }
    Ok(files)
}

pub fn downward_api(pod: &Pod, items: Option<&Vec<DownwardAPIVolumeFile>>, mode: i32, facts: &Facts) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items.into_iter().flatten() {
        let text = if let Some(reference) = &item.field_ref {
            fields::field(pod, &reference.field_path, facts)?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            let (_, container) = spec::container(pod, name).ok_or_else(|| format!("container {name} not found"))?;
            fields::resource(&container, selector, facts)?
        } else {
            continue;
        };
        files.insert(clean(&item.path), file(text.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(files)
}

pub fn file(data: Vec<u8>, mode: i32) -> File {
    File { data, mode: u32::try_from(mode).unwrap_or(0o644), uid: None }
}

/// `a//b/./c` as `a/b/c`. Paths with `..` never get this far: validation refuses them, and so does this.
pub fn clean(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != "." && *part != "..").collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(items: serde_json::Value, optional: bool, expected: &str) {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1"}, "binaryData": {"b": "Mg=="}})).expect("a map");
        let items: Option<Vec<KeyToPath>> = serde_json::from_value(items).expect("items");
        let text = match config_map(Some(&Arc::new(map)), "m", items.as_ref(), optional, 0o644) {
            Ok(files) => files
                .iter()
                .map(|(path, file)| format!("{path}={}:{:o}", String::from_utf8_lossy(&file.data), file.mode))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error,
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn config_maps() {
        check(json!(null), false, "a=1:644 b=2:644");
        check(json!([{"key": "a", "path": "x/y", "mode": 0o400}]), false, "x/y=1:400");
        check(json!([{"key": "a", "path": "x"}, {"key": "a", "path": "y"}]), false, "x=1:644 y=1:644");
        check(json!([{"key": "no", "path": "x"}]), false, "references non-existent config key: no");
        check(json!([{"key": "no", "path": "x"}]), true, "");
        assert_eq!(config_map(None, "m", None, false, 0o644), Err("configmap \"m\" not found".to_owned()));
        assert_eq!(secret(None, "m", None, true, 0o644), Ok(Files::new()));
        assert_eq!(clean("a//../b"), "a/b");
    }
}
