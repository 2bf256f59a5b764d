//! Imports images from archives: what `docker save` writes, and OCI image layouts (as tar or as a directory).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::layer::{Layers, decompressed};
use super::pull::{self, go_architecture};
use super::records::ImageRecord;

const DOCUMENT_BYTES_MAX: u64 = 8 << 20;
const IMAGES_MAX: usize = 1_000;

/// Unpacks every image of the archive for this machine's platform. Blocking.
///
/// Errors are sentences for the user, without the archive's name.
pub fn import(path: &Path, layers: &Layers) -> Result<Vec<ImageRecord>, String> {
    if fs::metadata(path).map_err(|cause| cause.to_string())?.is_dir() {
        return import_directory(path, layers);
    }
    let scratch = layers.ingest_path();
    let imported = extract(path, &scratch)
        .map_err(|cause| format!("not a readable image archive: {cause}"))
        .and_then(|()| import_directory(&scratch, layers));
    // Best effort: the next start clears the directory.
    let _ = fs::remove_dir_all(&scratch);
    imported
}

/// Only plain files and directories: an image archive needs nothing else (docker's links are to layer files).
fn extract(path: &Path, scratch: &Path) -> io::Result<()> {
    fs::create_dir_all(scratch)?;
    let mut archive = tar::Archive::new(decompressed(File::open(path)?)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if (kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) && !entry.unpack_in(scratch)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry leads out of the archive"));
        }
    }
    Ok(())
}

fn import_directory(root: &Path, layers: &Layers) -> Result<Vec<ImageRecord>, String> {
    if root.join("manifest.json").exists() {
        import_docker(root, layers)
    } else if root.join("index.json").exists() {
        import_layout(root, layers)
    } else {
        Err("neither manifest.json (docker save) nor index.json (OCI image layout) found".into())
    }
}

fn import_docker(root: &Path, layers: &Layers) -> Result<Vec<ImageRecord>, String> {
    let manifest = read_json(root, "manifest.json")?;
    let entries = manifest.as_array().ok_or("manifest.json is not a list")?;
    let mut records = Vec::new();
    for entry in entries.iter().take(IMAGES_MAX) {
        let config_path = entry["Config"].as_str().ok_or("manifest.json: an entry has no Config")?;
        let files: Vec<&str> = entry["Layers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let tags: Vec<&str> = entry["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let config = read_text(root, config_path)?;
        let mut record = unpack(root, &files, config, layers)?;
        record.tags.extend(tags.iter().filter_map(|tag| super::normalised(tag).ok()).map(|tag| tag.whole()));
        records.push(record);
    }
    Ok(records)
}

fn import_layout(root: &Path, layers: &Layers) -> Result<Vec<ImageRecord>, String> {
    let index = read_json(root, "index.json")?;
    let mut records = Vec::new();
    for entry in index["manifests"].as_array().into_iter().flatten().take(IMAGES_MAX) {
        let annotations = &entry["annotations"];
        let name = annotations["io.containerd.image.name"]
            .as_str()
            .or_else(|| annotations["org.opencontainers.image.ref.name"].as_str());
        let digest = entry["digest"].as_str().ok_or("index.json: an entry has no digest")?;
        let Some(manifest) = manifest_for_this_machine(root, digest)? else { continue };
        let config_digest = manifest["config"]["digest"].as_str().ok_or("a manifest has no config")?;
        let config = read_text(root, &blob(config_digest)?)?;
        let files = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|layer| layer["digest"].as_str())
            .map(blob)
            .collect::<Result<Vec<_>, _>>()?;
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let mut record = unpack(root, &files, config, layers)?;
        if let Some(reference) = name.and_then(|name| super::normalised(name).ok()) {
            record.digests.insert(format!("{}/{}@{digest}", reference.registry(), reference.repository()));
            record.tags.insert(reference.whole());
        }
        records.push(record);
    }
    match records.is_empty() {
        true => Err(format!("holds no image for linux/{}", go_architecture())),
        false => Ok(records),
    }
}

/// Follows one level of index to the manifest for this platform.
fn manifest_for_this_machine(root: &Path, digest: &str) -> Result<Option<Value>, String> {
    let found = read_json(root, &blob(digest)?)?;
    let Some(manifests) = found["manifests"].as_array() else { return Ok(Some(found)) };
    let fitting = manifests.iter().find(|entry| {
        let platform = &entry["platform"];
        platform.is_null() || (platform["os"] == "linux" && platform["architecture"] == go_architecture())
    });
    match fitting.and_then(|entry| entry["digest"].as_str()) {
        Some(digest) => read_json(root, &blob(digest)?).map(Some),
        None => Ok(None),
    }
}

fn unpack(root: &Path, files: &[&str], config: String, layers: &Layers) -> Result<ImageRecord, String> {
    let diff_ids = pull::diff_ids(&config).map_err(|cause| cause.to_string())?;
    if diff_ids.len() != files.len() {
        return Err(format!("{} layers but {} diff ids", files.len(), diff_ids.len()));
    }
    for (file, diff_id) in files.iter().zip(&diff_ids) {
        let archive = File::open(within(root, file)?).map_err(|cause| format!("{file}: {cause}"))?;
        layers.unpack(archive, diff_id).map_err(|cause| format!("{file}: {cause}"))?;
    }
    let id = pull::digest_of(&config);
    let mut record = pull::record(&id, config, diff_ids, layers).map_err(|cause| cause.to_string())?;
    record.pinned = true;
    Ok(record)
}

fn blob(digest: &str) -> Result<String, String> {
    let (algorithm, hash) = digest.split_once(':').ok_or_else(|| format!("bad digest {digest:?}"))?;
    Ok(format!("blobs/{algorithm}/{hash}"))
}

fn read_json(root: &Path, name: &str) -> Result<Value, String> {
    serde_json::from_str(&read_text(root, name)?).map_err(|cause| format!("{name}: {cause}"))
}

fn read_text(root: &Path, name: &str) -> Result<String, String> {
    let file = File::open(within(root, name)?).map_err(|cause| format!("{name}: {cause}"))?;
    let mut text = String::new();
    file.take(DOCUMENT_BYTES_MAX).read_to_string(&mut text).map_err(|cause| format!("{name}: {cause}"))?;
    Ok(text)
}

fn within(root: &Path, name: &str) -> Result<PathBuf, String> {
    match Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(root.join(name)),
        false => Err(format!("{name:?} leads out of the archive")),
    }
}
