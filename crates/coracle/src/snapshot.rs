//! Snapshots of the embedded store: what is needed to bring a cluster back, in one file.
//!
//! Lines of JSON: a header with the cluster's keys, a line for each key of the store, and a last line that counts and
//! hashes what came before. Invariants: a file under its final name is whole; a restored store stands so far ahead of
//! the old one that nobody takes an old resource version for a new one; what is replaced is kept beside it. It holds all
//! Secrets and the keys of the cluster, so its owner alone may read it. Deliberately absent: snapshots of an etcd, which
//! has its own.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use api::clock::Clock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use store::{KeyRange, KeyValue, RangeRequest, Revision, SharedStore};

use crate::datastore::{self, Files};
use crate::instance::Instance;

const FORMAT: &str = "coracle-snapshot/1";
/// What a restored store is ahead of its snapshot: more than could have been written since (as etcd advises).
const AHEAD: Revision = 1_000_000_000;
/// The longest key and value that the API takes, as base64, with room.
const LINE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    pub format: String,
    pub taken_at: Timestamp,
    /// The store's.
    pub revision: Revision,
    pub keys: u64,
    /// PEM files of `server/tls`, by name.
    files: Files,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(rename = "k")]
    key: &'a str,
    #[serde(rename = "v")]
    value: &'a str,
    #[serde(rename = "c")]
    create_revision: Revision,
    #[serde(rename = "m")]
    mod_revision: Revision,
    #[serde(rename = "n")]
    version: i64,
}

#[derive(Serialize, Deserialize)]
struct End {
    keys: u64,
    /// Of all lines before, in hexadecimal digits.
    sha256: String,
}

/// What a running server takes snapshots of.
pub struct Source {
    pub store: SharedStore,
    pub tls: PathBuf,
    pub clock: Clock,
}

impl Source {
    /// Writes a snapshot to `path`, where nothing may be.
    pub async fn save(&self, path: &Path) -> Result<Header, String> {
        if self.store.is_shared() {
            return Err("the datastore is an etcd: etcdctl snapshot save takes its snapshots".to_owned());
        }
        let failed = named(path);
        if path.exists() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let found = self.store.range(RangeRequest::newest(KeyRange::prefix(""))).await.map_err(|cause| cause.to_string())?;
        let header = Header {
            format: FORMAT.to_owned(),
            taken_at: self.clock.now(),
            revision: found.revision,
            keys: found.kvs.len() as u64,
            files: datastore::read_shared(&self.tls)?,
        };
        let target = path.to_owned();
        let written = tokio::task::spawn_blocking(move || write(&target, &header, &found.kvs).map(|()| header));
        written.await.map_err(|cause| cause.to_string())?.map_err(failed)
    }
}

/// What a snapshot's first line says.
pub fn header(path: &Path) -> Result<Header, String> {
    let file = File::open(path).map_err(named(path))?;
    first_line(path, &mut Lines::new(file))
}

/// Makes the snapshot the store of an installation whose server does not run, and returns where the old one was put.
pub fn restore(path: &Path, instance: &Instance, now: Timestamp) -> Result<(Header, Option<PathBuf>), String> {
    let (header, kvs) = read(path)?;
    datastore::take_over(&instance.tls(), &header.files)?;
    let store = instance.store();
    let beside = |what: &str| store.with_extension(what);
    let new = beside("new");
    remove_if_there(&new)?;
    if let Some(parent) = store.parent() {
        fs::create_dir_all(parent).map_err(named(parent))?;
    }
    store::embedded::restore(&new, header.revision + AHEAD, kvs).map_err(|cause| format!("{}: {cause}", new.display()))?;
    let old = beside(&format!("before-{}", now.strftime("%Y%m%d-%H%M%S")));
    let old = store.exists().then_some(old);
    if let Some(old) = &old {
        fs::rename(&store, old).map_err(named(&store))?;
    }
    fs::rename(&new, &store).map_err(named(&new))?;
    Ok((header, old))
}

fn write(path: &Path, header: &Header, kvs: &[KeyValue]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let mut out = Hashing { out: BufWriter::new(file), hash: Context::new(&SHA256) };
    let written = (|| {
        out.line(header)?;
        for kv in kvs {
            let (key, value) = (STANDARD.encode(&kv.key), STANDARD.encode(&kv.value));
            let &KeyValue { create_revision, mod_revision, version, .. } = kv;
            out.line(&Line { key: &key, value: &value, create_revision, mod_revision, version })?;
        }
        let sha256 = hexadecimal(out.hash.clone());
        out.line(&End { keys: kvs.len() as u64, sha256 })?;
        out.out.flush()?;
        out.out.get_ref().sync_all()?;
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new); // It may be what fills the disk.
    }
    written
}

struct Hashing {
    out: BufWriter<File>,
    hash: Context,
}

impl Hashing {
    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.out.write_all(&line)
    }
}

struct Lines {
    file: BufReader<File>,
    hash: Context,
    line: Vec<u8>,
}

impl Lines {
    fn new(file: File) -> Lines {
        Lines { file: BufReader::new(file), hash: Context::new(&SHA256), line: Vec::new() }
    }

    /// The next line, whole, or None where the file ends before.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        (&mut self.file).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line)?;
        Ok(self.line.ends_with(b"\n").then_some(&self.line[..]))
    }
}

fn first_line(path: &Path, lines: &mut Lines) -> Result<Header, String> {
    let line = lines.next().map_err(named(path))?;
    let header: Option<Header> = line.and_then(|line| serde_json::from_slice(line).ok());
    let header = header.filter(|header| header.format == FORMAT);
    lines.hash.update(&lines.line);
    header.ok_or_else(|| format!("{}: not a snapshot of Coracle", path.display()))
}

fn read(path: &Path) -> Result<(Header, Vec<KeyValue>), String> {
    let damaged = || format!("{}: the snapshot is damaged", path.display());
    let mut lines = Lines::new(File::open(path).map_err(named(path))?);
    let header = first_line(path, &mut lines)?;
    let mut kvs = Vec::new();
    for _ in 0..header.keys {
        let line = lines.next().map_err(named(path))?.ok_or_else(damaged)?;
        kvs.push(key_value(line).ok_or_else(damaged)?);
        lines.hash.update(&lines.line);
    }
    let sha256 = hexadecimal(lines.hash.clone());
    let end: End = lines.next().map_err(named(path))?.and_then(|line| serde_json::from_slice(line).ok()).ok_or_else(damaged)?;
    if end.sha256 != sha256 || end.keys != header.keys {
        return Err(damaged());
    }
    Ok((header, kvs))
}

fn key_value(line: &[u8]) -> Option<KeyValue> {
    let Line { key, value, create_revision, mod_revision, version } = serde_json::from_slice(line).ok()?;
    let bytes = |text: &str| STANDARD.decode(text).ok().map(Bytes::from);
    Some(KeyValue { key: bytes(key)?, value: bytes(value)?, create_revision, mod_revision, version })
}

fn hexadecimal(hash: Context) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn remove_if_there(directory: &Path) -> Result<(), String> {
    match fs::remove_dir_all(directory) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(named(directory)(cause)),
        _ => Ok(()),
    }
}

fn named(path: &Path) -> impl Fn(io::Error) -> String {
    let path = path.display().to_string();
    move |cause| format!("{path}: {cause}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::embedded::EmbeddedStore;
    use store::{Store, Transaction, Write as Put};

    use super::*;

    /// An installation with a few keys and a snapshot of it.
    async fn snapshot(scratch: &Path) -> (Instance, PathBuf) {
        let instance = Instance::of(&scratch.join("first"));
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let pki = apiserver::pki::Pki::open(&instance.tls(), now).expect("opens");
        pki.service_account_key().expect("makes");
        let store = Arc::new(EmbeddedStore::open(instance.store()).expect("opens"));
        for (key, value) in [("/registry/a", "one"), ("/registry/b", "two"), ("/registry/a", "three")] {
            let put = Put::Put { key: Bytes::from(key), value: Bytes::from(value) };
            store.commit(Transaction { compares: Vec::new(), writes: vec![put] }).await.expect("is written");
        }
        let source = Source { store, tls: instance.tls(), clock: Clock::starting_at(now) };
        let path = scratch.join("snapshots/one");
        let header = source.save(&path).await.expect("is saved");
        assert_eq!((header.keys, header.revision), (2, 4));
        assert!(source.save(&path).await.expect_err("is there").contains("exists"));
        (instance, path)
    }

    #[tokio::test]
    async fn a_snapshot_makes_the_cluster_again_elsewhere_and_in_place() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (first, path) = snapshot(scratch.path()).await;
        let now = "2026-02-01T00:00:00Z".parse().expect("a time");
        let second = Instance::of(&scratch.path().join("second"));
        for (instance, replaces) in [(&second, false), (&first, true), (&second, true)] {
            let (header, old) = restore(&path, instance, now).expect("is restored");
            assert_eq!((header.keys, old.is_some_and(|old| old.exists())), (2, replaces));
            fs::remove_dir_all(instance.store().with_extension("before-20260201-000000")).ok();
            let store = EmbeddedStore::open(instance.store()).expect("opens");
            let found = store.range(RangeRequest::newest(KeyRange::prefix("/"))).await.expect("reads");
            let values: Vec<&[u8]> = found.kvs.iter().map(|kv| &kv.value[..]).collect();
            assert_eq!((values, found.revision), (vec![&b"three"[..], b"two"], 4 + AHEAD));
        }
        for name in ["ca.crt", "ca.key", "sa.key"] {
            let of = |instance: &Instance| fs::read(instance.tls().join(name)).expect("is there");
            assert_eq!(of(&first), of(&second), "{name}");
        }
    }

    #[tokio::test]
    async fn another_clusters_machine_and_damaged_files_are_refused() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (_, path) = snapshot(scratch.path()).await;
        let now: Timestamp = "2026-02-01T00:00:00Z".parse().expect("a time");
        let stranger = Instance::of(&scratch.path().join("stranger"));
        apiserver::pki::Pki::open(&stranger.tls(), now).expect("opens");
        let problem = restore(&path, &stranger, now).map(|_| ()).expect_err("is refused");
        assert!(problem.contains("another cluster") && !stranger.store().exists(), "{problem}");

        let whole = fs::read_to_string(&path).expect("reads");
        let (cut, flipped) = (scratch.path().join("cut"), scratch.path().join("flipped"));
        fs::write(&cut, &whole[..whole.len() - 20]).expect("writes");
        fs::write(&flipped, whole.replacen("\"n\":2", "\"n\":3", 1)).expect("writes");
        let other = scratch.path().join("other");
        fs::write(&other, "{}\n").expect("writes");
        let empty = Instance::of(&scratch.path().join("empty"));
        for (path, expected) in [(cut, "damaged"), (flipped, "damaged"), (other, "not a snapshot")] {
            let problem = restore(&path, &empty, now).map(|_| ()).expect_err("is refused");
            assert!(problem.contains(expected) && !empty.store().exists() && !empty.tls().exists(), "{problem}");
        }
    }
}
