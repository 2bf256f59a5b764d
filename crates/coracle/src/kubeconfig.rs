//! Merges the admin's context into the user's kubeconfig, and takes it out again.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

const SECTIONS: [&str; 3] = ["clusters", "users", "contexts"];

/// Adds cluster, user and context `name` from the admin kubeconfig and makes the context current.
/// Returns the file that was written: the first of `$KUBECONFIG`, else `~/.kube/config`.
pub fn merge(admin: &Path, name: &str) -> Result<PathBuf, String> {
    let target = user_file()?;
    let admin = read(admin)?.ok_or_else(|| format!("{}: not found", admin.display()))?;
    let merged = merged(read(&target)?.unwrap_or_else(empty), &admin, name);
    write(&target, &merged)?;
    Ok(target)
}

/// Takes cluster, user and context `name` out of the user's kubeconfig.
pub fn remove(name: &str) -> Result<(), String> {
    let target = user_file()?;
    match read(&target)? {
        Some(present) => write(&target, &without(present, name)),
        None => Ok(()),
    }
}

/// Writes a kubeconfig that its owner alone may read.
pub fn write(path: &Path, config: &Value) -> Result<(), String> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|cause| format!("{}: {cause}", directory.display()))?;
    }
    apiserver::pki::write_private(path, &api::yaml::to_yaml(config)).map_err(|cause| cause.to_string())
}

fn user_file() -> Result<PathBuf, String> {
    if let Some(list) = std::env::var_os("KUBECONFIG")
        && let Some(first) = std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty())
    {
        return Ok(first);
    }
    let home = std::env::var_os("HOME").ok_or("neither KUBECONFIG nor HOME is set")?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

fn read(path: &Path) -> Result<Option<Value>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => {
            let config: Value =
                serde_saphyr::from_str(&text).map_err(|cause| format!("{}: {cause}", path.display()))?;
            match config.is_object() {
                true => Ok(Some(config)),
                false => Err(format!("{}: not a kubeconfig", path.display())),
            }
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(format!("{}: {cause}", path.display())),
    }
}

fn empty() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "preferences": {}})
}

fn merged(present: Value, admin: &Value, name: &str) -> Value {
    let mut merged = without(present, name);
    let parts = [
        ("clusters", "cluster", admin["clusters"][0]["cluster"].clone()),
        ("users", "user", admin["users"][0]["user"].clone()),
        ("contexts", "context", json!({"cluster": name, "user": name})),
    ];
    for (section, key, content) in parts {
        let mut entry = Map::new();
        entry.insert("name".into(), name.into());
        entry.insert(key.into(), content);
        match merged[section].as_array_mut() {
            Some(list) => list.push(entry.into()),
            None => merged[section] = vec![Value::from(entry)].into(),
        }
    }
    merged["current-context"] = name.into();
    merged
}

fn without(mut config: Value, name: &str) -> Value {
    for section in SECTIONS {
        if let Some(list) = config[section].as_array_mut() {
            list.retain(|entry| entry["name"] != name);
        }
    }
    if config["current-context"] == name {
        config["current-context"] = "".into();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_contexts_stay_as_they_are() {
        let admin = json!({"clusters": [{"name": "x", "cluster": {"server": "https://a"}}],
            "users": [{"name": "x", "user": {"token": "t"}}]});
        let before = json!({"apiVersion": "v1", "kind": "Config", "current-context": "other",
            "contexts": [{"name": "other", "context": {"cluster": "c", "user": "u"}}], "users": null});
        let once = merged(before.clone(), &admin, "coracle");
        assert_eq!(once["current-context"], "coracle");
        assert_eq!(once["contexts"].as_array().expect("a list").len(), 2);
        assert_eq!(once, merged(once.clone(), &admin, "coracle"), "merging twice changes nothing");
        let after = without(once, "coracle");
        assert_eq!(after["contexts"], before["contexts"]);
        assert_eq!(after["current-context"], "");
    }
}
