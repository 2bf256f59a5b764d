//! Layers on disk: a tar stream unpacked once per diff-id, as an overlayfs lower directory.
//!
//! Invariant: `layers/<diff-id>/` exists only when it is whole and its content has that digest. A crash leaves
//! rubbish in `ingest/` alone, which the next start removes.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const READ_BUFFER_BYTES: usize = 256 * 1024;

/// What a layer costs, kept beside it as `usage.json`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct LayerUsage {
    pub bytes: u64,
    pub inodes: u64,
}

/// The unpacked layers of an image store.
#[derive(Clone, Debug)]
pub struct Layers {
    layers: PathBuf,
    ingest: PathBuf,
}

impl Layers {
    pub fn open(root: &Path) -> io::Result<Layers> {
        let layers = Layers { layers: root.join("layers"), ingest: root.join("ingest") };
        fs::create_dir_all(&layers.layers)?;
        if layers.ingest.exists() {
            fs::remove_dir_all(&layers.ingest)?;
        }
        fs::create_dir_all(&layers.ingest)?;
        Ok(layers)
    }

    /// The overlayfs lower directory of a layer.
    pub fn path(&self, diff_id: &str) -> PathBuf {
        self.home(diff_id).join("fs")
    }

    pub fn contains(&self, diff_id: &str) -> bool {
        self.home(diff_id).exists()
    }

    pub fn usage(&self, diff_id: &str) -> LayerUsage {
        fs::read(self.home(diff_id).join("usage.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    pub fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.layers)?
            .map(|entry| Ok(format!("sha256:{}", entry?.file_name().to_string_lossy())))
            .collect()
    }

    pub fn remove(&self, diff_id: &str) -> io::Result<()> {
        // Renamed away first: a half-removed layer must not look whole.
        let doomed = self.ingest.join(format!("doomed-{}", uuid::Uuid::new_v4()));
        match fs::rename(self.home(diff_id), &doomed) {
            Ok(()) => fs::remove_dir_all(doomed),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(cause),
        }
    }

    /// A new file for a download; the caller removes it.
    pub fn ingest_path(&self) -> PathBuf {
        self.ingest.join(uuid::Uuid::new_v4().to_string())
    }

    /// Unpacks a (compressed) layer whose uncompressed content must have the digest `diff_id`.
    pub fn unpack(&self, archive: File, diff_id: &str) -> io::Result<()> {
        if self.contains(diff_id) {
            return Ok(());
        }
        let scratch = self.ingest_path();
        let result = self.unpack_into(archive, diff_id, &scratch);
        if result.is_err() {
            // The first error is the one that matters.
            let _ = fs::remove_dir_all(&scratch);
        }
        result
    }

    fn unpack_into(&self, archive: File, diff_id: &str, scratch: &Path) -> io::Result<()> {
        let target = scratch.join("fs");
        fs::create_dir_all(&target)?;
        let mut stream = HashingReader { inner: decompressed(archive)?, hash: Sha256::new() };
        let usage = unpack_tar(&mut stream, &target)?;
        io::copy(&mut stream, &mut io::sink())?; // Padding behind the archive's end counts for the digest.
        let found = format!("sha256:{}", hex(&stream.hash.finalize()));
        if found != diff_id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("wrong diff id calculated on extraction {found:?}, expected {diff_id:?}"),
            ));
        }
        fs::write(scratch.join("usage.json"), serde_json::to_vec(&usage)?)?;
        nix::unistd::syncfs(File::open(scratch)?)?;
        match fs::rename(scratch, self.home(diff_id)) {
            // Somebody else unpacked it meanwhile.
            Err(_) if self.contains(diff_id) => fs::remove_dir_all(scratch),
            other => other,
        }
    }

    fn home(&self, diff_id: &str) -> PathBuf {
        self.layers.join(diff_id.strip_prefix("sha256:").unwrap_or(diff_id).replace('/', "_"))
    }
}

/// Looks at the first bytes: gzip, zstd, or plain.
pub fn decompressed(mut archive: File) -> io::Result<Box<dyn Read>> {
    use std::io::Seek;
    let mut magic = [0u8; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match archive.read(&mut magic[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    archive.rewind()?;
    let buffered = BufReader::with_capacity(READ_BUFFER_BYTES, archive);
    Ok(match magic {
        [0x1f, 0x8b, _, _] => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(buffered)?),
        _ => Box::new(buffered),
    })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unpack_tar(stream: &mut impl Read, target: &Path) -> io::Result<LayerUsage> {
    let mut usage = LayerUsage::default();
    let mut archive = tar::Archive::new(stream);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    // A directory's mode is set last, so that read-only directories can be filled.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        usage.inodes += 1;
        usage.bytes += entry.size();
        if unpack_whiteout(target, &path)? || unpack_device(&entry, target, &path)? {
            continue;
        }
        if entry.header().entry_type().is_dir() {
            directories.push((path.clone(), entry.header().mode()?));
        }
        if !entry.unpack_in(target)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("layer entry {:?} leads out of the root", path.display()),
            ));
        }
    }
    for (path, mode) in directories.iter().rev() {
        if let Some(path) = inside(target, path)
            && fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir())
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode & 0o7777))?;
        }
    }
    Ok(usage)
}

/// OCI whiteouts become overlayfs whiteouts: a character device 0:0, or an attribute on an opaque directory.
fn unpack_whiteout(target: &Path, path: &Path) -> io::Result<bool> {
    const PREFIX: &str = ".wh.";
    const OPAQUE: &str = ".wh..wh..opq";
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(false) };
    if !name.starts_with(PREFIX) {
        return Ok(false);
    }
    let Some(directory) = path.parent().and_then(|parent| inside(target, parent)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("bad whiteout {:?}", path.display())));
    };
    fs::create_dir_all(&directory)?;
    if name == OPAQUE {
        xattr::set(&directory, "trusted.overlay.opaque", b"y")?;
        return Ok(true);
    }
    let hidden = directory.join(&name[PREFIX.len()..]);
    match fs::symlink_metadata(&hidden) {
        Ok(found) if found.rdev() == 0 && !found.is_file() && !found.is_dir() && !found.is_symlink() => {}
        Ok(_) => {} // The same layer both removes and adds it: what it adds wins.
        Err(_) => mknod(&hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?,
    }
    Ok(true)
}

fn unpack_device<R: Read>(entry: &tar::Entry<'_, R>, target: &Path, path: &Path) -> io::Result<bool> {
    let header = entry.header();
    let kind = match header.entry_type() {
        tar::EntryType::Char => SFlag::S_IFCHR,
        tar::EntryType::Block => SFlag::S_IFBLK,
        tar::EntryType::Fifo => SFlag::S_IFIFO,
        _ => return Ok(false),
    };
    let Some(path) = inside(target, path) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("bad device {:?}", path.display())));
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    mknod(&path, kind, Mode::from_bits_truncate(header.mode()?), makedev(major.into(), minor.into()))?;
    std::os::unix::fs::lchown(&path, Some(header.uid()? as u32), Some(header.gid()? as u32))?;
    Ok(true)
}

/// `target/path` without following a symlink out of `target`; None when the path climbs or a parent is a link.
fn inside(target: &Path, path: &Path) -> Option<PathBuf> {
    let mut found = target.to_path_buf();
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                if fs::symlink_metadata(&found).is_ok_and(|it| it.is_symlink()) {
                    return None;
                }
                found.push(name);
            }
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(found)
}

struct HashingReader<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn archive(entries: &[(&str, &str)]) -> (File, String) {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(nix::unistd::getuid().as_raw().into());
            header.set_gid(nix::unistd::getgid().as_raw().into());
            header.set_size(content.len() as u64);
            header.set_entry_type(tar::EntryType::Regular);
            // Written by hand: the builder refuses climbing paths, which is what a hostile layer has.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).expect("appends");
        }
        let bytes = builder.into_inner().expect("finishes");
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        let mut file = tempfile::tempfile().expect("a file");
        let mut encoder = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
        encoder.write_all(&bytes).expect("writes");
        encoder.finish().expect("finishes");
        file.rewind().expect("rewinds");
        (file, digest)
    }

    #[test]
    fn a_layer_is_whole_or_absent() {
        let root = tempfile::tempdir().expect("a directory");
        let layers = Layers::open(root.path()).expect("opens");
        let (file, digest) = archive(&[("a/b", "hello")]);
        layers.unpack(file, &digest).expect("unpacks");
        assert_eq!(fs::read_to_string(layers.path(&digest).join("a/b")).expect("reads"), "hello");
        assert_eq!(layers.usage(&digest), LayerUsage { bytes: 5, inodes: 1 });

        let (file, _) = archive(&[("a", "x")]);
        let wrong = format!("sha256:{}", "0".repeat(64));
        let problem = layers.unpack(file, &wrong).expect_err("the digest is wrong").to_string();
        assert!(problem.starts_with("wrong diff id calculated on extraction"), "{problem}");
        assert!(!layers.contains(&wrong));
        assert_eq!(fs::read_dir(root.path().join("ingest")).expect("lists").count(), 0);
    }

    #[test]
    fn a_climbing_path_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let layers = Layers::open(root.path()).expect("opens");
        for path in ["../evil", "../../.wh.evil"] {
            let (file, digest) = archive(&[(path, "x")]);
            assert!(layers.unpack(file, &digest).is_err(), "{path}");
        }
        assert!(!root.path().join("evil").exists());
    }

    #[test]
    fn whiteouts_become_overlayfs_whiteouts() {
        if !nix::unistd::getuid().is_root() {
            return; // mknod needs root; the node tier runs as root.
        }
        let root = tempfile::tempdir().expect("a directory");
        let layers = Layers::open(root.path()).expect("opens");
        let (file, digest) = archive(&[("d/.wh.gone", ""), ("o/.wh..wh..opq", ""), ("o/new", "n")]);
        layers.unpack(file, &digest).expect("unpacks");
        let path = layers.path(&digest);
        let gone = fs::symlink_metadata(path.join("d/gone")).expect("is there");
        assert_eq!((gone.rdev(), gone.mode() & 0o170000), (0, 0o020000));
        assert_eq!(xattr::get(path.join("o"), "trusted.overlay.opaque").expect("reads").as_deref(), Some(&b"y"[..]));
    }
}
