//! Directories of the node that are volumes of the built-in provisioner, and their removal when it asks for it.
//!
//! Invariant: only a directory that this kubelet made is removed: each is written down before it is made, under the
//! last part of its path, which names the volume.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

fn note_of(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join("local-volumes").join(name)
}

/// To be called before `directory` is made.
pub fn note(data_dir: &Path, directory: &Path) -> io::Result<()> {
    let (Some(name), Some(path)) = (directory.file_name().and_then(|name| name.to_str()), directory.to_str()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not the name of a volume"));
    };
    let note = note_of(data_dir, name);
    fs::create_dir_all(data_dir.join("local-volumes"))?;
    // A half-written note would name another directory.
    let unfinished = note.with_file_name(format!(".{name}"));
    fs::write(&unfinished, path)?;
    fs::rename(unfinished, note)
}

/// False if there is no such volume on this node. May be repeated.
pub fn remove(data_dir: &Path, name: &str) -> io::Result<bool> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Ok(false);
    }
    let note = note_of(data_dir, name);
    let path = match fs::read_to_string(&note) {
        Ok(path) => PathBuf::from(path),
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(cause),
    };
    match fs::remove_dir_all(&path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
        _ => fs::remove_file(note)?,
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_noted_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().join("kubelet");
        let [own, other] = ["pvc-1_default_data", "pvc-2_default_data"].map(|name| directory.path().join("storage").join(name));
        note(&data_dir, &own).expect("is noted");
        for path in [&own, &other] {
            fs::create_dir_all(path).expect("is made");
            fs::write(path.join("file"), "x").expect("is written");
        }
        let remove = |name: &str| remove(&data_dir, name).expect("no problem");
        assert!(!remove("pvc-2_default_data") && !remove("../storage") && !remove("..") && !remove(""));
        assert!(remove("pvc-1_default_data"));
        assert!(!remove("pvc-1_default_data"), "it is gone already");
        assert!(!own.exists() && other.exists());
        // Killed between note and directory.
        note(&data_dir, &own).expect("is noted");
        assert!(remove("pvc-1_default_data"));
    }
}
