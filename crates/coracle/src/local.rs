//! The sockets in the run directory by which the command line reaches what runs: a node for images, a server for
//! snapshots.
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

use crate::snapshot;

const LINE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Image(ImageRequest),
    SaveSnapshot { path: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum ImageRequest {
    Import { path: PathBuf },
    Pull { name: String },
    List,
    Remove { name: String },
}

/// What can be asked about: a node has images, a server a store.
#[derive(Clone, Default)]
pub struct Subjects {
    pub images: Option<Arc<ImageStore>>,
    pub store: Option<Arc<snapshot::Source>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    pub error: Option<String>,
    pub names: Vec<String>,
    pub images: Vec<ImageLine>,
    pub snapshot: Option<snapshot::Header>,
}

impl Reply {
    pub fn checked(self) -> Result<Reply, String> {
        match self.error {
            Some(problem) => Err(problem),
            None => Ok(self),
        }
    }
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

/// Serves in the background until cancelled.
pub fn serve(socket: PathBuf, subjects: Subjects, cancel: &CancellationToken) {
    let cancel = cancel.clone();
    tokio::spawn(async move {
        if let Err(cause) = listen(&socket, subjects, cancel).await {
            tracing::error!(socket = %socket.display(), %cause, "the local socket is closed");
        }
    });
}

async fn listen(socket: &Path, subjects: Subjects, cancel: CancellationToken) -> io::Result<()> {
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
                let subjects = subjects.clone();
                tokio::spawn(async move {
                    if let Err(cause) = answer(stream, &subjects).await {
                        tracing::debug!(%cause, "local client left");
                    }
                });
            }
        }
    }
}

async fn answer(stream: UnixStream, subjects: &Subjects) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => handle(request, subjects).await,
        Err(cause) => Reply { error: Some(cause.to_string()), ..Reply::default() },
    };
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    stream.get_mut().write_all(&bytes).await
}

async fn handle(request: Request, subjects: &Subjects) -> Reply {
    let done = match (request, subjects) {
        (Request::Image(request), Subjects { images: Some(images), .. }) => return handle_image(request, images).await,
        (Request::Image(_), _) => Err("this is no node: it has no images".to_owned()),
        (Request::SaveSnapshot { path }, Subjects { store: Some(source), .. }) => source.save(&path).await,
        (Request::SaveSnapshot { .. }, _) => Err("this is no server: the store is elsewhere".to_owned()),
    };
    match done {
        Ok(header) => Reply { snapshot: Some(header), ..Reply::default() },
        Err(problem) => Reply { error: Some(problem), ..Reply::default() },
    }
}

/// Also called directly when no server runs.
pub async fn handle_image(request: ImageRequest, images: &Arc<ImageStore>) -> Reply {
    let done = match request {
        ImageRequest::Import { path } => images.import(path).await.map(|names| Reply { names, ..Reply::default() }),
        ImageRequest::Pull { name } => {
            images.pull_image(&name, &[]).await.map(|id| Reply { names: vec![id], ..Reply::default() })
        }
        ImageRequest::List => images.list_images().await.map(|list| Reply {
            images: list.into_iter().map(ImageLine::from).collect(),
            ..Reply::default()
        }),
        ImageRequest::Remove { name } => match images.image_status(&name).await {
            Ok(None) => Ok(Reply { error: Some(format!("image {name:?}: not found")), ..Reply::default() }),
            Ok(Some(_)) => images.remove_image(&name).await.map(|()| Reply { names: vec![name], ..Reply::default() }),
            Err(cause) => Err(cause),
        },
    };
    done.unwrap_or_else(|cause| Reply { error: Some(cause.to_string()), ..Reply::default() })
}

/// Asks the running server. The error is a sentence for the user.
pub async fn ask(socket: &Path, request: &Request) -> Result<Reply, String> {
    let asked = async {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        stream.get_mut().write_all(&bytes).await?;
        let mut line = String::new();
        (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
        serde_json::from_str::<Reply>(&line).map_err(io::Error::from)
    };
    asked.await.map_err(|cause| format!("{}: {cause}", socket.display()))?.checked()
}
