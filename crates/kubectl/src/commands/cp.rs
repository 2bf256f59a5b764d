//! `kubectl cp`: files to and from containers, as a tar archive over the streams of a command run there.
//!
//! Invariant: nothing that a container sends is written outside the destination. Deliberately absent: symbolic links
//! out of containers, which the original leaves out for the same reason.

use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use tokio_util::io::SyncIoBridge;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::kubeconfig::go_io;
use crate::remote::{Ends, Sink, pipe};
use crate::rest::Url;
use crate::session::Session;
use crate::value::text;

pub static CP: Command = Command {
    name: "cp",
    about: "Copy files and directories to and from containers. The container needs a tar program.",
    usage: "<file-spec-src> <file-spec-dest> [options]",
    examples: "
# Into a pod of the namespace, and into one of another
kubectl cp notes.txt web:/tmp/notes.txt
kubectl cp site other/web:/usr/share -c main

# Out of a pod
kubectl cp web:/var/log/app.log app.log",
    flags: &[FLAGS],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("container", "The container; the pod's default one if left out.").short('c'),
    Flag::switch("no-preserve", "Do not keep ownership and permissions in the container."),
    Flag::int("retries", "0", "How often to go on after a broken copy out of a container; negative means without limit."),
];

/// What waits between the archive and the connection.
const PIPE: usize = 64 * 1024;

/// `[[namespace/]pod:]file/path`
#[derive(Debug, PartialEq, Eq)]
struct FileSpec {
    namespace: String,
    pod: String,
    file: String,
}

impl FileSpec {
    fn parse(word: &str) -> Result<Self> {
        let Some((place, file)) = word.split_once(':') else {
            return Ok(FileSpec { namespace: String::new(), pod: String::new(), file: word.to_owned() });
        };
        let (namespace, pod) = match place.split('/').collect::<Vec<_>>().as_slice() {
            [""] => fail!("filespec must match the canonical format: [[namespace/]pod:]file/path"),
            [pod] => (String::new(), (*pod).to_owned()),
            [namespace, pod] => ((*namespace).to_owned(), (*pod).to_owned()),
            _ => fail!("filespec must match the canonical format: [[namespace/]pod:]file/path"),
        };
        Ok(FileSpec { namespace, pod, file: file.to_owned() })
    }
}

async fn run(session: &Session, args: &Parsed) -> Result {
    let [source, destination] = args.args.as_slice() else {
        fail!("source and destination are required");
    };
    let (source, destination) = (FileSpec::parse(source)?, FileSpec::parse(destination)?);
    if !source.pod.is_empty() && !destination.pod.is_empty() {
        fail!("one of src or dest must be a local file specification");
    }
    if source.file.is_empty() || destination.file.is_empty() {
        fail!("filepath can not be empty");
    }
    if !source.pod.is_empty() {
        from_pod(session, args, &source, &destination.file).await
    } else if !destination.pod.is_empty() {
        to_pod(session, args, &source.file, &destination).await
    } else {
        fail!("one of src or dest must be a remote file specification")
    }
}

/// The container that commands are run in.
struct Container {
    url: String,
    name: String,
}

impl Container {
    async fn find(session: &Session, args: &Parsed, spec: &FileSpec) -> Result<Self> {
        let namespace = if spec.namespace.is_empty() { session.namespace()?.to_owned() } else { spec.namespace.clone() };
        let url = format!("/api/v1/namespaces/{namespace}/pods/{}", spec.pod);
        let pod: Value = session.get(Url::new(url.clone())).await?;
        let phase = text(&pod, "/status/phase");
        if phase == "Succeeded" || phase == "Failed" {
            fail!("cannot exec into a container in a completed pod; current phase is {phase}");
        }
        Ok(Container { url, name: super::exec::container(session, args, &pod)? })
    }

    fn exec(&self, command: &[&str], stdin: bool) -> Url {
        let mut url = Url::new(format!("{}/exec", self.url));
        for word in command {
            url = url.with("command", word);
        }
        url = url.with("container", &self.name);
        if stdin {
            url = url.with("stdin", "true");
        }
        url.with("stdout", "true").with("stderr", "true")
    }
}

async fn to_pod(session: &Session, args: &Parsed, source: &str, destination: &FileSpec) -> Result {
    if fs::metadata(source).is_err() {
        fail!("{source} doesn't exist in local filesystem");
    }
    let container = Container::find(session, args, destination).await?;
    let local = without_trailing_slash(source);
    let base = base(local);
    let mut target = clean(&destination.file);
    let nowhere = || Sink::To(Box::new(tokio::io::sink()));
    let asked = container.exec(&["test", "-d", &target], false);
    if pipe(session, &asked, Ends { input: None, out: nowhere(), err: nowhere(), resizes: None }).await.is_ok() {
        target = clean(&format!("{target}/{base}"));
    }
    let (directory, name) = match target.rsplit_once('/') {
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((directory, name)) => (directory.to_owned(), name.to_owned()),
        None => (".".to_owned(), target.clone()),
    };
    let mut command = vec!["tar"];
    if args.is_set("no-preserve") {
        command.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    command.extend(["-xmf", "-", "-C", &directory]);
    let (near, far) = tokio::io::duplex(PIPE);
    let (path, writer) = (PathBuf::from(local), SyncIoBridge::new(far));
    let packing = tokio::task::spawn_blocking(move || pack(&path, &name, writer));
    let ends = Ends { input: Some(Box::new(near)), out: Sink::Out(session), err: Sink::Err(session), resizes: None };
    let outcome = pipe(session, &container.exec(&command, true), ends).await;
    outcome?;
    match packing.await {
        Ok(packed) => packed,
        Err(_) => fail!("the archive could not be made"),
    }
}

/// The file or directory at `path`, named `name` in the archive.
fn pack(path: &Path, name: &str, mut writer: SyncIoBridge<tokio::io::DuplexStream>) -> Result {
    let mut archive = tar::Builder::new(&mut writer);
    archive.follow_symlinks(false);
    let packed = add(&mut archive, path, name).and_then(|()| archive.finish().or_else(ignore_closed));
    drop(archive);
    let _ = writer.shutdown();
    packed
}

/// The other end tells by its exit code why it stopped reading.
fn ignore_closed(error: std::io::Error) -> Result {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error.into()) }
}

fn add<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &Path, name: &str) -> Result {
    let about = fs::symlink_metadata(path).map_err(|error| opened(path, &error))?;
    if about.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).map_err(|error| opened(path, &error))?.filter_map(std::result::Result::ok).collect();
        if entries.is_empty() {
            return archive.append_path_with_name(path, name).or_else(ignore_closed);
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            add(archive, &entry.path(), &format!("{name}/{}", entry.file_name().to_string_lossy()))?;
        }
        return Ok(());
    }
    if about.is_file() {
        fs::File::open(path).map_err(|error| opened(path, &error))?;
    }
    archive.append_path_with_name(path, name).or_else(ignore_closed)
}

fn opened(path: &Path, error: &std::io::Error) -> Error {
    Error::Message(format!("open {}: {}", path.display(), go_io(error)))
}

async fn from_pod(session: &Session, args: &Parsed, source: &FileSpec, destination: &str) -> Result {
    let container = Container::find(session, args, source).await?;
    let file = without_trailing_slash(&source.file).replace('\\', "/");
    let prefix = without_shortcuts(&clean(file.trim_matches('/')));
    let namespace = if source.namespace.is_empty() { session.namespace()?.to_owned() } else { source.namespace.clone() };
    let unpack = Unpack {
        prefix,
        destination: PathBuf::from(clean(destination)),
        hint: format!("kubectl exec -n {namespace:?} {:?} -- tar cf - {file:?} | tar xf -", source.pod),
    };
    let (near, mut far) = tokio::io::duplex(PIPE);
    let reader = SyncIoBridge::new(near);
    let (warn, mut warnings) = tokio::sync::mpsc::channel::<String>(16);
    let unpacking = tokio::task::spawn_blocking(move || unpack.run(reader, &warn));
    let fetching = async {
        let fetched = fetch(session, args, &container, &file, &mut far).await;
        // However it ended, the reader gets no more.
        drop(far);
        fetched
    };
    let (fetched, ()) = tokio::join!(fetching, async {
        while let Some(warning) = warnings.recv().await {
            session.complain(warning);
        }
    });
    let unpacked = unpacking.await.unwrap_or_else(|_| fail!("the archive could not be read"));
    fetched?;
    unpacked
}

/// The archive's bytes into `into`; a broken copy goes on where it broke as often as `--retries` says.
async fn fetch(session: &Session, args: &Parsed, container: &Container, file: &str, into: &mut tokio::io::DuplexStream) -> Result {
    let retries = args.int("retries");
    let (mut had, mut tries) = (0_u64, 0_i64);
    loop {
        let resumed = format!("tar cf - {file} | tail -c+{}", had + 1);
        let command: Vec<&str> = if retries == 0 { vec!["tar", "cf", "-", file] } else { vec!["sh", "-c", &resumed] };
        let counted = Counted { into: &mut *into, count: &mut had };
        let ends = Ends { input: None, out: Sink::To(Box::new(counted)), err: Sink::Err(session), resizes: None };
        let outcome = pipe(session, &container.exec(&command, false), ends).await;
        match outcome {
            // The reader stopped early: it has said why.
            Err(Error::Io(_)) | Ok(()) => {
                let _ = tokio::io::AsyncWriteExt::shutdown(into).await;
                return Ok(());
            }
            Err(Error::Message(_)) if retries != 0 => {
                tries += 1;
                if retries > 0 && tries > retries {
                    session.complain(format!("Dropping out copy after {retries} retries"));
                    return outcome;
                }
                let shown = if retries > 0 { retries.to_string() } else { "infinite".to_owned() };
                session.complain(format!("Resuming copy at {had} bytes, retry {tries}/{shown}"));
            }
            error => return error,
        }
    }
}

/// Counts what passes, and keeps the writer open for the next try.
struct Counted<'a> {
    into: &'a mut tokio::io::DuplexStream,
    count: &'a mut u64,
}

impl tokio::io::AsyncWrite for Counted<'_> {
    fn poll_write(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>, bytes: &[u8]) -> std::task::Poll<std::io::Result<usize>> {
        let written = std::pin::Pin::new(&mut *self.into).poll_write(context, bytes);
        if let std::task::Poll::Ready(Ok(count)) = &written {
            *self.count += *count as u64;
        }
        written
    }
    fn poll_flush(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut *self.into).poll_flush(context)
    }
    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

struct Unpack {
    /// What the names in the archive begin with.
    prefix: String,
    destination: PathBuf,
    hint: String,
}

impl Unpack {
    fn run(&self, reader: impl Read, warn: &tokio::sync::mpsc::Sender<String>) -> Result {
        let mut archive = tar::Archive::new(reader);
        let mut hinted = false;
        let broken = |error: std::io::Error| Error::Message(if error.kind() == std::io::ErrorKind::UnexpectedEof { "unexpected EOF".to_owned() } else { error.to_string() });
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let Some(rest) = name.strip_prefix(&self.prefix) else { fail!("tar contents corrupted") };
            let Some(path) = self.within(rest) else {
                let shown = clean(&format!("{}/{rest}", self.destination.display()));
                let _ = warn.blocking_send(format!("warning: file {shown:?} is outside target destination, skipping"));
                continue;
            };
            let kind = entry.header().entry_type();
            let directory = if kind.is_dir() { Some(path.as_path()) } else { path.parent() };
            if let Some(directory) = directory.filter(|directory| !directory.as_os_str().is_empty()) {
                fs::create_dir_all(directory).map_err(|error| Error::Message(format!("mkdir {}: {}", directory.display(), go_io(&error))))?;
            }
            if kind.is_dir() {
                continue;
            }
            if kind.is_symlink() {
                let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned()).unwrap_or_default();
                let hint = if hinted { String::new() } else { format!(" (consider using \"{}\")", self.hint) };
                hinted = true;
                let _ = warn.blocking_send(format!("warning: skipping symlink: {:?} -> {link:?}{hint}", path.display().to_string()));
                continue;
            }
            let mut file = fs::File::create(&path).map_err(|error| opened(&path, &error))?;
            std::io::copy(&mut entry, &mut file).map_err(broken)?;
        }
        // The padding behind the archive, so that the sender need not be cut off.
        let _ = std::io::copy(&mut archive.into_inner(), &mut std::io::sink());
        Ok(())
    }

    /// The destination's path for a name of the archive; None for one that leads out of it.
    fn within(&self, name: &str) -> Option<PathBuf> {
        let mut depth = 0_i32;
        for part in Path::new(name).components() {
            match part {
                Component::ParentDir => depth -= 1,
                Component::Normal(_) => depth += 1,
                _ => {}
            }
            if depth < 0 {
                return None;
            }
        }
        let name = clean(name.trim_start_matches('/'));
        Some(if name == "." { self.destination.clone() } else { self.destination.join(name) })
    }
}

fn without_trailing_slash(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => path,
        trimmed => trimmed,
    }
}

fn base(path: &str) -> String {
    let cleaned = clean(path);
    cleaned.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Go's `path.Clean`
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

fn without_shortcuts(path: &str) -> String {
    let mut rest = path;
    while let Some(shorter) = rest.strip_prefix("../") {
        rest = shorter;
    }
    if rest == "." || rest == ".." { String::new() } else { rest.trim_start_matches('/').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_specifications() {
        let check = |word: &str, expected: &str| {
            let shown = FileSpec::parse(word).map_or_else(|error| error.bare(), |spec| format!("{}|{}|{}", spec.namespace, spec.pod, spec.file));
            assert_eq!(shown, expected);
        };
        check("a/b", "||a/b");
        check("pod:/x", "|pod|/x");
        check("ns/pod:/x:y", "ns|pod|/x:y");
        check(":/x", "filespec must match the canonical format: [[namespace/]pod:]file/path");
        check("a/b/c:/x", "filespec must match the canonical format: [[namespace/]pod:]file/path");
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, expected) in [("/a/../b/", "/b"), ("", "."), ("../../x", "../../x"), ("/..", "/"), ("a//./b", "a/b")] {
            assert_eq!(clean(path), expected);
        }
        assert_eq!(without_shortcuts("../../etc"), "etc");
    }

    #[test]
    fn an_archive_cannot_write_outside() {
        let directory = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut put = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_mode(0o644);
            header.set_cksum();
            archive.append(&header, content).unwrap();
        };
        put("tmp/x/good", b"1");
        put("tmp/x/../../../evil", b"2");
        let bytes = archive.into_inner().unwrap();
        let unpack = Unpack { prefix: "tmp/x".to_owned(), destination: directory.path().join("out"), hint: String::new() };
        let (warn, mut warnings) = tokio::sync::mpsc::channel(4);
        unpack.run(bytes.as_slice(), &warn).unwrap();
        assert_eq!(fs::read(directory.path().join("out/good")).unwrap(), b"1");
        assert!(warnings.try_recv().unwrap().ends_with("is outside target destination, skipping"));
        let corrupted = Unpack { prefix: "other".to_owned(), ..unpack };
        assert_eq!(corrupted.run(bytes.as_slice(), &warn).unwrap_err().bare(), "tar contents corrupted");
    }
}
