//! The kubeconfig: found, merged and narrowed down as the original does it.
//!
//! Invariant: the file named by `--kubeconfig` stands alone; else those of `$KUBECONFIG` are merged, the first that
//! sets a value winning; else `~/.kube/config`. Kept as JSON so that what is not understood survives rewriting.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::fail;
use crate::session::Environment;
use crate::value::{list, name_of, object_at, text};

/// Where the configuration comes from and goes to.
pub struct Files {
    pub paths: Vec<PathBuf>,
    explicit: bool,
    /// Paths stay as they are written, and a file need not exist.
    lenient: bool,
}

pub fn files(explicit: &str, environment: &Environment) -> Files {
    if !explicit.is_empty() {
        return Files { paths: vec![PathBuf::from(explicit)], explicit: true, lenient: false };
    }
    let listed = environment.var("KUBECONFIG").unwrap_or_default();
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in listed.split(':').filter(|path| !path.is_empty()).map(PathBuf::from) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        paths.push(environment.home().join(".kube/config"));
    }
    Files { paths, explicit: false, lenient: false }
}

pub fn empty() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "contexts": [], "current-context": "", "users": []})
}

impl Files {
    /// As `config` looks at a file that was named.
    pub fn as_written(self) -> Files {
        Files { lenient: self.explicit, ..self }
    }

    /// One file as it stands; `None` when there is no such file.
    pub fn read(path: &Path) -> Result<Option<Value>> {
        let content = match std::fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => fail!("error loading config file {:?}: open {}: {}", path.display().to_string(), path.display(), go_io(&error)),
        };
        if content.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(empty()));
        }
        let (mut value, _) = api::yaml::to_json(&content).map_err(|error| {
            Error::Message(format!("error loading config file {:?}: {}", path.display().to_string(), crate::files::go_yaml(&error.to_string())))
        })?;
        if !value.is_object() {
            fail!("error loading config file {:?}: couldn't get version/kind; json parse error", path.display().to_string());
        }
        for field in ["clusters", "contexts", "users"] {
            if !value[field].is_array() {
                value[field] = json!([]);
            }
        }
        if !value["current-context"].is_string() {
            value["current-context"] = "".into();
        }
        Ok(Some(value))
    }

    /// All files merged, relative paths made absolute.
    pub fn merged(&self) -> Result<Value> {
        let mut merged = empty();
        for path in &self.paths {
            let Some(mut one) = Self::read(path)? else {
                if self.explicit && !self.lenient {
                    fail!("stat {}: no such file or directory", path.display());
                }
                continue;
            };
            let base = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
            if !self.lenient {
                resolve_paths(&mut one, &base);
            }
            if text(&merged, "/current-context").is_empty() {
                merged["current-context"] = one["current-context"].take();
            }
            for field in ["clusters", "contexts", "users"] {
                let known: Vec<String> = list(&merged, &format!("/{field}")).iter().map(|entry| name_of(entry).to_owned()).collect();
                let new = list(&one, &format!("/{field}")).iter().filter(|entry| !known.iter().any(|name| name == name_of(entry))).cloned();
                let new: Vec<Value> = new.collect();
                merged[field].as_array_mut().expect("made an array above").extend(new);
            }
        }
        for field in ["clusters", "contexts", "users"] {
            merged[field].as_array_mut().expect("made an array above").sort_by(|a, b| name_of(a).cmp(name_of(b)));
        }
        Ok(merged)
    }

    /// The file that a new value goes to.
    pub fn default_file(&self) -> &Path {
        let existing = self.paths.iter().find(|path| path.exists());
        existing.unwrap_or_else(|| self.paths.last().expect("there is always a path"))
    }

    /// The file that holds the named entry of `field`, or the one a new entry goes to.
    pub fn file_of(&self, field: &str, name: &str) -> PathBuf {
        let holds = |path: &&PathBuf| {
            let found = Self::read(path).ok().flatten();
            found.is_some_and(|value| list(&value, &format!("/{field}")).iter().any(|entry| name_of(entry) == name))
        };
        self.paths.iter().find(holds).map_or_else(|| self.default_file().to_owned(), Clone::clone)
    }
}

/// Written through a new file beside the old, readable by its owner alone.
pub fn write(path: &Path, config: &Value) -> Result {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut config = config.clone();
    for field in ["clusters", "contexts", "users"] {
        if let Some(entries) = config[field].as_array_mut() {
            entries.sort_by(|a, b| name_of(a).cmp(name_of(b)));
            if entries.is_empty() {
                config[field] = Value::Null;
            }
        }
    }
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let new = target.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    std::io::Write::write_all(&mut file, api::yaml::to_yaml(&config).as_bytes())?;
    std::fs::rename(&new, &target)?;
    Ok(())
}

fn resolve_paths(config: &mut Value, base: &Path) {
    let mut resolve = |field: &str, inner: &str, names: &[&str]| {
        for entry in config[field].as_array_mut().into_iter().flatten() {
            for name in names {
                let Some(path) = entry.pointer(&format!("/{inner}/{name}")).and_then(Value::as_str) else { continue };
                if !path.is_empty() && Path::new(path).is_relative() {
                    let absolute = base.join(path).display().to_string();
                    object_at(entry, &[inner]).insert((*name).to_owned(), absolute.into());
                }
            }
        }
    };
    resolve("clusters", "cluster", &["certificate-authority"]);
    resolve("users", "user", &["client-certificate", "client-key", "tokenFile"]);
}

/// The entry of that name, its inner object.
pub fn entry<'a>(config: &'a Value, field: &str, inner: &str, name: &str) -> Option<&'a Value> {
    let found = list(config, &format!("/{field}")).iter().find(|entry| name_of(entry) == name)?;
    Some(found.get(inner).unwrap_or(&Value::Null))
}

/// What Go says of an I/O error.
pub fn go_io(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => {
            let shown = error.to_string();
            shown.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
    }
}
