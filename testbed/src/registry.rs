//! A registry for tests: serves a directory of blobs and tags on loopback, and misbehaves on request.
//!
//! `blobs/<sha256>` and `tags/<repository>/<tag>` (holding the manifest's digest). Repositories below `private/`
//! want the credentials `user:secret`; a repository `broken/<name>` serves `<name>` with its layers corrupted.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub struct Registry {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Registry {
    /// Serves until it is dropped.
    pub async fn start(root: &Path, listen: SocketAddr) -> io::Result<Registry> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let root: Arc<Path> = root.into();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let root = root.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = answer(&root, request.method(), request.uri().path(), request.headers());
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    // A client that hangs up is no concern of a test registry.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Registry { address, task })
    }

    /// Waits for ever: for a registry that runs as a process of its own.
    pub async fn wait(mut self) {
        // Aborted or panicked: either way it serves no more.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(root: &Path, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let Some(rest) = path.strip_prefix("/v2/") else { return plain(StatusCode::NOT_FOUND) };
    if rest.is_empty() {
        // Clients learn here how to authenticate, also for what is public.
        return if authorized(headers) { plain(StatusCode::OK) } else { challenge() };
    }
    let found = rest.split_once("/manifests/").map(|(name, what)| (name, what, true));
    let found = found.or_else(|| rest.split_once("/blobs/").map(|(name, what)| (name, what, false)));
    let Some((name, what, is_manifest)) = found else { return plain(StatusCode::NOT_FOUND) };
    if name.contains("..") || what.contains('/') {
        return plain(StatusCode::BAD_REQUEST);
    }
    if name.starts_with("private/") && !authorized(headers) {
        return challenge();
    }
    let stored = name.trim_start_matches("private/").trim_start_matches("broken/");
    let digest = match what.starts_with("sha256:") {
        true => Ok(what.to_string()),
        false => std::fs::read_to_string(root.join("tags").join(stored).join(what)),
    };
    let blob = digest.and_then(|digest| Ok((std::fs::read(blob_path(root, &digest))?, digest)));
    let Ok((mut bytes, digest)) = blob else {
        let code = if is_manifest { "MANIFEST_UNKNOWN" } else { "BLOB_UNKNOWN" };
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"unknown","detail":"{what}"}}]}}"#);
        let mut response = plain(StatusCode::NOT_FOUND);
        *response.body_mut() = Full::new(body.into());
        return response;
    };
    if name.starts_with("broken/") && !is_manifest && bytes.starts_with(&[0x1f, 0x8b]) {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
    }
    let kind = match is_manifest {
        true => "application/vnd.oci.image.manifest.v1+json",
        false => "application/octet-stream",
    };
    let builder = Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, bytes.len())
        .header("Docker-Content-Digest", digest);
    let body = if method == Method::HEAD { Bytes::new() } else { bytes.into() };
    builder.body(Full::new(body)).unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR))
}

fn blob_path(root: &Path, digest: &str) -> PathBuf {
    root.join("blobs").join(digest.trim_start_matches("sha256:"))
}

fn authorized(headers: &HeaderMap) -> bool {
    let wanted = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("user:secret"));
    headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes() == wanted.as_bytes())
}

fn challenge() -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::UNAUTHORIZED);
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic realm=\"testbed\""));
    response
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
