//! Makes container images from Debian packages, as an OCI layout that a registry can serve.
//!
//! All tags of nginx hold the same server; each says in its page and in the header `X-Image` which tag answers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Shared by all images with a C library.
const BASE: &[&str] = &[
    "libc6", "libtinfo6", "libacl1", "libattr1", "libgmp10", "libselinux1", "libpcre2-8-0", "libcrypt1", "libssl3",
    "zlib1g", "libgcc-s1", "bash", "coreutils", "grep",
];
const NGINX: &[&str] = &["nginx", "nginx-common"];
const REDIS: &[&str] = &[
    "redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1", "libsystemd0", "libcap2", "libgcrypt20",
    "libgpg-error0", "liblz4-1", "liblzma5", "libzstd1", "libstdc++6",
];
/// Tags that the tutorials, the tests and the demo use.
pub const NGINX_TAGS: &[&str] = &["latest", "1.7.9", "1.9.1", "1.14.2", "1.16", "1.16.1", "1.27"];
const BUSYBOX_TAGS: &[&str] = &["latest", "1.28", "1.35"];
const REDIS_TAGS: &[&str] = &["latest", "7"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n\
redis:x:999:999::/var/lib/redis:/bin/false\nnobody:x:65534:65534::/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nredis:x:999:\nnogroup:x:65534:\n";

/// Builds every image into `layout` (a registry root, see [`crate::registry`]); Debian packages are kept in `cache`.
/// Does nothing when the layout is already there. Prints what it does through `progress`.
pub fn build_all(layout: &Path, cache: &Path, progress: &dyn Fn(&str)) -> io::Result<()> {
    if layout.join("complete").exists() {
        return test_server(layout, cache);
    }
    fs::create_dir_all(layout.join("blobs"))?;
    let packages: BTreeSet<&str> = BASE.iter().chain(NGINX).chain(REDIS).chain(&["busybox-static"]).copied().collect();
    progress(&format!("fetching {} Debian packages", packages.len()));
    download(cache, &packages)?;

    progress("busybox");
    let busybox = Layer::build(layout, |tree| {
        tree.package(cache, "busybox-static")?;
        for applet in busybox_applets()? {
            tree.symlink(&format!("usr/bin/{applet}"), "/usr/bin/busybox")?;
        }
        tree.identity()
    })?;
    for tag in BUSYBOX_TAGS {
        let config = json!({"Cmd": ["sh"], "Env": [PATH]});
        publish(layout, "library/busybox", tag, &[&busybox], config)?;
    }

    progress("nginx");
    let base = Layer::build(layout, |tree| {
        BASE.iter().try_for_each(|package| tree.package(cache, package))?;
        tree.symlink("usr/bin/sh", "bash")?;
        tree.identity()
    })?;
    let nginx = Layer::build(layout, |tree| {
        NGINX.iter().try_for_each(|package| tree.package(cache, package))?;
        for directory in ["var/log/nginx", "var/lib/nginx", "run"] {
            tree.directory(directory)?;
        }
        tree.symlink("var/log/nginx/access.log", "/dev/stdout")?;
        tree.symlink("var/log/nginx/error.log", "/dev/stderr")
    })?;
    for tag in NGINX_TAGS {
        let page = Layer::build(layout, |tree| {
            tree.file("usr/share/nginx/html/index.html", nginx_page(tag).as_bytes())?;
            tree.file("etc/nginx/nginx.conf", nginx_configuration(tag).as_bytes())
        })?;
        let config = json!({
            "Entrypoint": ["/usr/sbin/nginx"], "Cmd": ["-g", "daemon off;"], "Env": [PATH],
            "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT",
        });
        publish(layout, "library/nginx", tag, &[&base, &nginx, &page], config)?;
    }

    progress("redis");
    let redis = Layer::build(layout, |tree| {
        REDIS.iter().try_for_each(|package| tree.package(cache, package))?;
        tree.directory("data")
    })?;
    for tag in REDIS_TAGS {
        let config = json!({
            "Entrypoint": ["/usr/bin/redis-server"], "Cmd": ["--protected-mode", "no", "--save", ""], "Env": [PATH],
            "ExposedPorts": {"6379/tcp": {}}, "WorkingDir": "/data",
        });
        publish(layout, "library/redis", tag, &[&base, &redis], config)?;
    }
    test_server(layout, cache)?;
    File::create(layout.join("complete"))?.sync_all()
}

/// The project's own server, which is built anew more often than packages change.
fn test_server(layout: &Path, cache: &Path) -> io::Result<()> {
    let binary = std::env::current_exe()?.with_file_name("testserver");
    let binary = match fs::read(&binary) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()), // Not built: its tests say so.
        read => read?,
    };
    let mark = layout.join("testserver");
    let digest = digest_of(&binary);
    if fs::read_to_string(&mark).is_ok_and(|known| known == digest) {
        return Ok(());
    }
    let base = Layer::build(layout, |tree| {
        ["libc6", "libgcc-s1", "busybox-static"].iter().try_for_each(|package| tree.package(cache, package))?;
        tree.symlink("usr/bin/sh", "busybox")?;
        tree.identity()
    })?;
    let server = Layer::build(layout, |tree| tree.program("usr/bin/testserver", &binary))?;
    let config = json!({
        "Entrypoint": ["/usr/bin/testserver"], "Cmd": ["serve"], "Env": [PATH], "ExposedPorts": {"8080/tcp": {}},
    });
    publish(layout, "library/testserver", "latest", &[&base, &server], config)?;
    let config = json!({"Entrypoint": ["/usr/bin/testserver", "say"], "Cmd": ["default", "arguments"], "Env": [PATH]});
    publish(layout, "library/testserver", "entrypoint", &[&base, &server], config)?;
    fs::write(mark, digest)
}

/// Writes one image of the layout as an archive that `coracle image import` takes (an OCI image layout in a tar).
pub fn export(layout: &Path, repository: &str, tag: &str, archive: &Path) -> io::Result<()> {
    let manifest_digest = fs::read_to_string(layout.join("tags").join(repository).join(tag))?;
    let blob = |digest: &str| layout.join("blobs").join(digest.trim_start_matches("sha256:"));
    let manifest: Value = serde_json::from_slice(&fs::read(blob(&manifest_digest))?)?;
    let mut builder = tar::Builder::new(File::create(archive)?);
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest_digest,
        "size": fs::metadata(blob(&manifest_digest))?.len(),
        "annotations": {"io.containerd.image.name": format!("docker.io/{repository}:{tag}")},
    }]});
    add("index.json", index.to_string().as_bytes())?;
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let parts = [&manifest["config"]].into_iter().chain(layers).filter_map(|part| part["digest"].as_str());
    for digest in [manifest_digest.as_str()].into_iter().chain(parts) {
        add(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), &fs::read(blob(digest))?)?;
    }
    builder.finish()
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn nginx_page(tag: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html>\n<head><title>Welcome to nginx!</title></head>\n\
         <body><h1>Welcome to nginx!</h1><p>nginx:{tag}</p></body>\n</html>\n"
    )
}

fn nginx_configuration(tag: &str) -> String {
    format!(
        "worker_processes 1;\nerror_log /dev/stderr notice;\npid /run/nginx.pid;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n  include /etc/nginx/mime.types;\n  access_log /dev/stdout;\n  \
         server {{\n    listen 80;\n    root /usr/share/nginx/html;\n    add_header X-Image nginx:{tag} always;\n  }}\n}}\n"
    )
}

fn busybox_applets() -> io::Result<Vec<String>> {
    let output = Command::new("/bin/busybox").arg("--list").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter(|name| *name != "busybox").map(String::from).collect())
}

fn download(cache: &Path, packages: &BTreeSet<&str>) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let missing: Vec<&&str> = packages.iter().filter(|name| archive_of(cache, name).is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if apt_get(cache, "download", &missing)? {
        return Ok(());
    }
    // A fresh machine knows no packages yet, an old one outdated addresses.
    apt_get(cache, "update", &[])?;
    match apt_get(cache, "download", &missing)? {
        true => Ok(()),
        false => Err(io::Error::other(format!("apt-get download {missing:?} failed"))),
    }
}

fn apt_get(directory: &Path, action: &str, packages: &[&&str]) -> io::Result<bool> {
    let status = Command::new("apt-get")
        .arg(action)
        .args(packages)
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(status.success())
}

fn archive_of(cache: &Path, package: &str) -> io::Result<PathBuf> {
    let prefix = format!("{package}_");
    fs::read_dir(cache)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no archive of package {package}")))
}

/// A layer that is stored as a blob.
struct Layer {
    digest: String,
    diff_id: String,
    size: u64,
}

impl Layer {
    fn build(layout: &Path, fill: impl FnOnce(&mut Tree) -> io::Result<()>) -> io::Result<Layer> {
        let mut tree = Tree { builder: tar::Builder::new(Vec::new()), seen: BTreeSet::new() };
        fill(&mut tree)?;
        let plain = tree.builder.into_inner()?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain)?;
        let packed = encoder.finish()?;
        let digest = write_blob(layout, &packed)?;
        Ok(Layer { digest, diff_id: digest_of(&plain), size: packed.len() as u64 })
    }
}

/// A layer under construction; the first to add a path wins. Paths are merged into /usr as in Debian 12.
struct Tree {
    builder: tar::Builder<Vec<u8>>,
    seen: BTreeSet<String>,
}

impl Tree {
    fn package(&mut self, cache: &Path, package: &str) -> io::Result<()> {
        let mut child = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(archive_of(cache, package)?)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("dpkg-deb has no output"))?;
        let mut archive = tar::Archive::new(stdout);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = merged(&entry.path()?.to_string_lossy());
            if path.is_empty() || is_documentation(&path) || !self.is_new(&path) {
                continue;
            }
            let mut header = entry.header().clone();
            header.set_mtime(0);
            match entry.link_name()?.map(|link| link.to_string_lossy().into_owned()) {
                Some(target) if header.entry_type().is_hard_link() => {
                    self.builder.append_link(&mut header, &path, merged(&target))?;
                }
                Some(target) => self.builder.append_link(&mut header, &path, target)?,
                None => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    self.builder.append_data(&mut header, &path, &content[..])?;
                }
            }
        }
        match child.wait()?.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("dpkg-deb failed for {package}"))),
        }
    }

    /// The top-level directories, the merged-/usr links, users and groups.
    fn identity(&mut self) -> io::Result<()> {
        for directory in ["dev", "proc", "sys", "etc", "run", "tmp", "root", "var", "var/tmp", "usr", "usr/bin", "usr/sbin"] {
            self.directory(directory)?;
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            self.symlink(name, &format!("usr/{name}"))?;
        }
        self.file("etc/passwd", PASSWD.as_bytes())?;
        self.file("etc/group", GROUP.as_bytes())
    }

    fn directory(&mut self, path: &str) -> io::Result<()> {
        if !self.is_new(path) {
            return Ok(());
        }
        let mode = if path.ends_with("tmp") { 0o1777 } else { 0o755 };
        let mut header = header(tar::EntryType::Directory, mode, 0);
        self.builder.append_data(&mut header, format!("{path}/"), io::empty())
    }

    fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        if !self.is_new(path) {
            return Ok(());
        }
        let mut header = header(tar::EntryType::Regular, 0o644, content.len() as u64);
        self.builder.append_data(&mut header, path, content)
    }

    fn program(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o755, content.len() as u64);
        self.builder.append_data(&mut header, path, content)
    }

    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        if !self.is_new(path) {
            return Ok(());
        }
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.builder.append_link(&mut header, path, target)
    }

    fn is_new(&mut self, path: &str) -> bool {
        self.seen.insert(path.trim_end_matches('/').to_string())
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn merged(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    let top = path.split('/').next().unwrap_or_default();
    match top {
        "bin" | "sbin" | "lib" | "lib64" if path.trim_end_matches('/') != top => format!("usr/{path}"),
        "bin" | "sbin" | "lib" | "lib64" => String::new(), // The link is made by `identity`.
        _ => path.to_string(),
    }
}

fn is_documentation(path: &str) -> bool {
    ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/info", "usr/share/bug"]
        .iter()
        .any(|prefix| path.starts_with(prefix))
}

fn publish(layout: &Path, repository: &str, tag: &str, layers: &[&Layer], config: Value) -> io::Result<()> {
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>()},
    })
    .to_string();
    let config_digest = write_blob(layout, config.as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len(),
        },
        "layers": layers.iter().map(|layer| json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size,
        })).collect::<Vec<_>>(),
    })
    .to_string();
    let digest = write_blob(layout, manifest.as_bytes())?;
    let tags = layout.join("tags").join(repository);
    fs::create_dir_all(&tags)?;
    fs::write(tags.join(tag), digest)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn write_blob(layout: &Path, bytes: &[u8]) -> io::Result<String> {
    let digest = digest_of(bytes);
    fs::write(layout.join("blobs").join(digest.trim_start_matches("sha256:")), bytes)?;
    Ok(digest)
}

fn digest_of(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
