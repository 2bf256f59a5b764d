//! Files of ConfigMaps, Secrets, tokens and the downward API, replaced all at once.
//!
//! ```text
//! <volume>/key            -> ..data/key
//! <volume>/..data         -> ..2026_11_21_10_00_00.1
//! <volume>/..2026_11_21_10_00_00.1/key
//! ```
//!
//! Invariant: a reader that opens `..data` once sees one state, old or new; replacing is one `rename`. The layout
//! is Kubernetes' own: programs watch for the replacement of `..data`. Nothing is written when nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Owner, where a token is for one user alone.
    pub uid: Option<u32>,
}

/// Keys are paths relative to the volume. True when something was replaced.
pub fn write(volume: &Path, files: &BTreeMap<String, File>, gid: Option<u32>, stamp: &str) -> io::Result<bool> {
    fs::create_dir_all(volume)?;
    let link = volume.join("..data");
    let current = fs::read_link(&link).ok();
    let old_files = match &current {
        Some(current) => read_all(&volume.join(current))?,
        None => BTreeMap::new(),
    };
    let same = current.is_some()
        && old_files.len() == files.len()
        && files.iter().all(|(path, file)| old_files.get(path).is_some_and(|(data, mode)| *data == file.data && *mode == effective(file, gid)));
    if same {
        // The outer links may be missing if the agent was killed between the two steps.
        link_top_level(volume, files)?;
        return Ok(false);
    }

    let fresh = unused_directory(volume, stamp)?;
    for (path, file) in files {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.data)?;
        if file.uid.is_some() || gid.is_some() {
            chown(&target, file.uid, gid)?;
        }
        // After the owner: a change of owner clears bits.
        fs::set_permissions(&target, fs::Permissions::from_mode(effective(file, gid)))?;
    }
    own_directories(&fresh, gid)?;

    let name = fresh.file_name().map(PathBuf::from).unwrap_or_default();
    let pending = volume.join("..data_tmp");
    let _ = fs::remove_file(&pending);
    symlink(&name, &pending)?;
    fs::rename(&pending, &link)?;
    link_top_level(volume, files)?;
    remove_stale_links(volume, files)?;
    if let Some(current) = current {
        let _ = fs::remove_dir_all(volume.join(current));
    }
    Ok(true)
}

/// With a group of its own the volume is readable by that group, as the original's ownership pass leaves it.
fn effective(file: &File, gid: Option<u32>) -> u32 {
    match gid {
        Some(_) => (file.mode | 0o440) & 0o7777,
        None => file.mode & 0o7777,
    }
}

fn own_directories(fresh: &Path, gid: Option<u32>) -> io::Result<()> {
    let mode = if gid.is_some() { 0o2755 } else { 0o755 };
    let mut pending = vec![fresh.to_owned()];
    while let Some(directory) = pending.pop() {
        if let Some(gid) = gid {
            chown(&directory, None, Some(gid))?;
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(())
}

fn unused_directory(volume: &Path, stamp: &str) -> io::Result<PathBuf> {
    for number in 1..1000 {
        let path = volume.join(format!("..{stamp}.{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no unused name for a timestamped directory"))
}

fn top_level(files: &BTreeMap<String, File>) -> BTreeSet<&str> {
    files.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_top_level(volume: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    for name in top_level(files) {
        let link = volume.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    Ok(())
}

fn remove_stale_links(volume: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let wanted = top_level(files);
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && entry.file_type()?.is_symlink() && !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read_all(root: &Path) -> io::Result<BTreeMap<String, (Vec<u8>, u32)>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
            let relative = path.strip_prefix(root).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
            found.insert(relative, (fs::read(&path)?, mode));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, File> {
        list.iter().map(|(path, data)| ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o644, uid: None })).collect()
    }

    #[test]
    fn replaces_all_files_at_once() {
        let directory = std::env::temp_dir().join(format!("coracle-atomic-{}", uuid::Uuid::new_v4()));
        let read = |path: &str| fs::read_to_string(directory.join(path)).ok();

        assert!(write(&directory, &files(&[("a", "1"), ("d/b", "2")]), None, "t").expect("written"));
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        assert_eq!(fs::read_link(directory.join("a")).expect("a link"), Path::new("..data/a"));

        assert!(!write(&directory, &files(&[("a", "1"), ("d/b", "2")]), None, "t").expect("nothing to write"));

        assert!(write(&directory, &files(&[("a", "3"), ("c", "4")]), None, "t").expect("written"));
        assert_eq!((read("a").as_deref(), read("d/b"), read("c").as_deref()), (Some("3"), None, Some("4")));
        assert!(directory.join("d").symlink_metadata().is_err());
        let stamps = fs::read_dir(&directory).expect("listed").filter(|entry| {
            entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("..t"))
        });
        assert_eq!(stamps.count(), 1);
        fs::remove_dir_all(directory).expect("removed");
    }
}
