//! Which images there are: one small JSON file each, so that a crash can lose at most the image being written.
//!
//! Invariant: a reference names at most one image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// An image with its layers unpacked.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct ImageRecord {
    /// `sha256:<digest of the config>`.
    pub id: String,
    /// `docker.io/library/nginx:1.16`
    pub tags: BTreeSet<String>,
    /// `docker.io/library/nginx@sha256:...`
    pub digests: BTreeSet<String>,
    /// Lowest layer first.
    pub diff_ids: Vec<String>,
    pub bytes: u64,
    pub inodes: u64,
    pub user: String,
    /// Imported by hand: garbage collection never takes it.
    pub pinned: bool,
    /// The OCI image configuration, as it came.
    pub config: String,
}

#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    by_id: BTreeMap<String, ImageRecord>,
}

impl Records {
    /// A file that cannot be read is skipped with a warning: the image can be pulled again.
    pub fn open(root: &Path) -> io::Result<Records> {
        let directory = root.join("images");
        fs::create_dir_all(&directory)?;
        let mut by_id = BTreeMap::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            match fs::read(&path).map_err(|it| it.to_string()).and_then(|bytes| {
                serde_json::from_slice::<ImageRecord>(&bytes).map_err(|cause| cause.to_string())
            }) {
                Ok(record) => {
                    by_id.insert(record.id.clone(), record);
                }
                Err(cause) => tracing::warn!(path = %path.display(), %cause, "skipped an unreadable image record"),
            }
        }
        Ok(Records { directory, by_id })
    }

    pub fn list(&self) -> impl Iterator<Item = &ImageRecord> {
        self.by_id.values()
    }

    pub fn get(&self, id: &str) -> Option<&ImageRecord> {
        self.by_id.get(id)
    }

    /// By full tag or digest reference.
    pub fn by_reference(&self, reference: &str) -> Option<&ImageRecord> {
        self.by_id.values().find(|record| record.tags.contains(reference) || record.digests.contains(reference))
    }

    /// By ID, or a prefix of one that fits a single image.
    pub fn by_id_prefix(&self, prefix: &str) -> Option<&ImageRecord> {
        let prefix = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        if prefix.len() < 6 || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut fitting = self.by_id.values().filter(|record| record.id["sha256:".len()..].starts_with(prefix));
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first)
    }

    /// Adds an image, or names and pins to one that is there; its tags leave other images.
    pub fn put(&mut self, mut record: ImageRecord) -> io::Result<()> {
        let moved: Vec<ImageRecord> = self
            .by_id
            .values()
            .filter(|other| other.id != record.id && !other.tags.is_disjoint(&record.tags))
            .cloned()
            .collect();
        for mut other in moved {
            other.tags.retain(|tag| !record.tags.contains(tag));
            self.write(other)?;
        }
        if let Some(present) = self.by_id.get(&record.id) {
            record.tags.extend(present.tags.iter().cloned());
            record.digests.extend(present.digests.iter().cloned());
            record.pinned |= present.pinned;
        }
        self.write(record)
    }

    pub fn remove(&mut self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        self.by_id.remove(id);
        Ok(())
    }

    fn write(&mut self, record: ImageRecord) -> io::Result<()> {
        let path = self.path(&record.id);
        let new = path.with_extension("new");
        let file = fs::File::create(&new)?;
        serde_json::to_writer(&file, &record)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        self.by_id.insert(record.id.clone(), record);
        Ok(())
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{}.json", id.strip_prefix("sha256:").unwrap_or(id).replace('/', "_")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(digit: char, tags: &str) -> ImageRecord {
        ImageRecord {
            id: format!("sha256:{}", String::from(digit).repeat(64)),
            tags: tags.split_whitespace().map(String::from).collect(),
            ..ImageRecord::default()
        }
    }

    #[test]
    fn a_tag_names_one_image_also_after_a_restart() {
        let root = tempfile::tempdir().expect("a directory");
        let mut records = Records::open(root.path()).expect("opens");
        records.put(record('a', "nginx:1 nginx:latest")).expect("writes");
        records.put(record('b', "nginx:latest")).expect("writes");
        records.put(ImageRecord { pinned: true, ..record('b', "") }).expect("writes");
        for records in [records, Records::open(root.path()).expect("opens again")] {
            assert_eq!(records.by_reference("nginx:1").expect("is there").id, record('a', "").id);
            let latest = records.by_reference("nginx:latest").expect("is there");
            assert_eq!((latest.id.as_str(), latest.pinned), (record('b', "").id.as_str(), true));
            assert!(records.by_id_prefix("aaaaaa").is_some());
            assert!(records.by_id_prefix("aaa").is_none());
        }
    }
}
