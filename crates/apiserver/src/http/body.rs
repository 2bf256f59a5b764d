//! Bodies of answers.
//!
//! Invariant: a list is copied out in pieces of bounded size. As JSON it is made while it is read, so that memory does
//! not grow with its length; protobuf tells lengths before content, so there it is made first.

use std::any::Any;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::cache::{Entry, Shape};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One piece of a list.
const CHUNK_BYTES: usize = 128 << 10;

pub enum Body {
    Full(Option<Bytes>),
    List(Box<ListBody>),
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>),
    /// With something that is dropped when the answer has been sent, or given up.
    Holding(Box<Body>, Box<dyn Any + Send>),
}

impl Body {
    pub fn empty() -> Body {
        Body::Full(None)
    }

    pub fn full(bytes: impl Into<Bytes>) -> Body {
        Body::Full(Some(bytes.into()))
    }

    /// The same, with something that lives as long as it does.
    pub fn holding(self, what: impl Any + Send) -> Body {
        Body::Holding(Box::new(self), Box::new(what))
    }

    /// A stream of pieces.
    pub fn stream<S>(stream: S) -> Body
    where
        S: futures::Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
    {
        use futures::StreamExt;
        Body::Stream(Box::pin(http_body_util::StreamBody::new(stream.map(|piece| piece.map(Frame::data)))))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Body::Full(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Body::List(list) => Poll::Ready(list.next_chunk().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Stream(stream) => stream.as_mut().poll_frame(context),
            Body::Holding(body, _) => Pin::new(&mut **body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Body::List(list) => list.done,
            Body::Stream(stream) => stream.is_end_stream(),
            Body::Holding(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Holding(body, _) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// A list of stored objects, copied out as it is read.
pub struct ListBody {
    source: Source,
    done: bool,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

enum Source {
    Json { head: Bytes, entries: std::vec::IntoIter<Arc<Entry>>, shape: Shape, started: bool },
    Pieces(std::vec::IntoIter<Bytes>),
}

impl ListBody {
    /// JSON. `head` ends with `"items":[`.
    pub fn new(head: Bytes, entries: Vec<Arc<Entry>>, shape: Shape, gzip: bool) -> ListBody {
        Self::of(Source::Json { head, entries: entries.into_iter(), shape, started: false }, gzip)
    }

    /// What has been made already.
    pub fn of_pieces(pieces: Vec<Bytes>, gzip: bool) -> ListBody {
        Self::of(Source::Pieces(pieces.into_iter()), gzip)
    }

    fn of(source: Source, gzip: bool) -> ListBody {
        let gzip = gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        ListBody { source, done: false, gzip }
    }

    /// Whether its bytes are gzip's.
    pub fn is_packed(&self) -> bool {
        self.gzip.is_some()
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        while !self.done {
            let chunk = self.plain_chunk();
            let Some(gzip) = &mut self.gzip else { return Some(chunk) };
            gzip.write_all(&chunk).expect("writing to memory cannot fail");
            if self.done {
                return self.gzip.take().map(|gzip| gzip.finish().expect("writing to memory cannot fail").into());
            }
            let packed = std::mem::take(gzip.get_mut());
            if !packed.is_empty() {
                return Some(packed.into());
            }
        }
        None
    }

    fn plain_chunk(&mut self) -> Bytes {
        match &mut self.source {
            Source::Pieces(pieces) => {
                let piece = pieces.next().unwrap_or_default();
                self.done = pieces.as_slice().is_empty();
                piece
            }
            Source::Json { head, entries, shape, started } => {
                let mut out = BytesMut::with_capacity(capacity(head, entries.as_slice()));
                let mut first = !*started;
                if !std::mem::replace(started, true) {
                    out.extend_from_slice(head);
                }
                while out.len() < CHUNK_BYTES {
                    let Some(entry) = entries.next() else {
                        out.put_slice(b"]}\n");
                        self.done = true;
                        break;
                    };
                    if !std::mem::take(&mut first) {
                        out.put_u8(b',');
                    }
                    shape.write_item(&mut out, &entry);
                }
                out.freeze()
            }
        }
    }
}

/// Room for one piece, so that it need not grow.
fn capacity(head: &[u8], entries: &[Arc<Entry>]) -> usize {
    let mut bytes = head.len() + 8;
    for entry in entries {
        bytes += entry.served_len();
        if bytes >= CHUNK_BYTES {
            break;
        }
    }
    bytes
}
