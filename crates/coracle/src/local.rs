//! The socket in the run directory by which the command line reaches a running server: images and status.
//!
//! One JSON line in, one out. Only root can reach it, by the directory's mode.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime::cri::{Image, ImageService};
use runtime::image::ImageStore;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

const LINE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    ImportImages { path: PathBuf },
    PullImage { name: String },
    ListImages,
    RemoveImage { name: String },
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    pub error: Option<String>,
    pub names: Vec<String>,
    pub images: Vec<ImageLine>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ImageLine {
    pub id: String,
    pub references: Vec<String>,
    pub bytes: u64,
    pub pinned: bool,
}

impl From<Image> for ImageLine {
    fn from(image: Image) -> ImageLine {
        let references = if image.repo_tags.is_empty() { image.repo_digests } else { image.repo_tags };
        ImageLine { id: image.id, references, bytes: image.size, pinned: image.pinned }
    }
}

/// Serves until cancelled.
pub async fn serve(socket: &Path, images: Arc<ImageStore>, cancel: CancellationToken) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let images = images.clone();
                tokio::spawn(async move {
                    if let Err(cause) = answer(stream, &images).await {
                        tracing::debug!(%cause, "local client left");
                    }
                });
            }
        }
    }
}

async fn answer(stream: UnixStream, images: &Arc<ImageStore>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => handle(request, images).await,
        Err(cause) => Reply { error: Some(cause.to_string()), ..Reply::default() },
    };
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    stream.get_mut().write_all(&bytes).await
}

/// Also called directly when no server runs.
pub async fn handle(request: Request, images: &Arc<ImageStore>) -> Reply {
    let done = match request {
        Request::ImportImages { path } => {
            images.import(path).await.map(|names| Reply { names, ..Reply::default() })
        }
        Request::PullImage { name } => {
            images.pull_image(&name, &[]).await.map(|id| Reply { names: vec![id], ..Reply::default() })
        }
        Request::ListImages => images.list_images().await.map(|list| Reply {
            images: list.into_iter().map(ImageLine::from).collect(),
            ..Reply::default()
        }),
        Request::RemoveImage { name } => match images.image_status(&name).await {
            Ok(None) => Ok(Reply { error: Some(format!("image {name:?}: not found")), ..Reply::default() }),
            Ok(Some(_)) => images.remove_image(&name).await.map(|()| Reply { names: vec![name], ..Reply::default() }),
            Err(cause) => Err(cause),
        },
    };
    done.unwrap_or_else(|cause| Reply { error: Some(cause.to_string()), ..Reply::default() })
}

/// Asks the running server.
pub async fn ask(socket: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    stream.get_mut().write_all(&bytes).await?;
    let mut line = String::new();
    (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
    serde_json::from_str(&line).map_err(io::Error::from)
}
