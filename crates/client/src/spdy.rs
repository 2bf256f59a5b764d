//! SPDY/3.1 as far as remote commands and port forwarding use it, on any byte stream.
//!
//! ```text
//! control: 1|version 3 (15)|type (16)   data: 0|stream (31)
//!          flags (8)|length (24)              flags (8)|length (24)
//! ```
//!
//! Invariant: one task reads, one writes; queues between them and the streams are bounded, so a stream that nobody
//! reads holds up its connection instead of filling memory.
//! Deliberately absent: flow-control windows (neither kubectl's library nor the original's keeps any), server
//! push, priorities, settings.
//!
//! Headers are compressed with zlib and SPDY's dictionary. The reader primes a raw inflater by feeding it the
//! dictionary as a stored block; the writer refers to the dictionary but never back into it, which is valid zlib.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Frames that wait for the peer, for one stream's reader, and streams that wait to be taken up.
const OUTGOING_LIMIT: usize = 64;
const STREAM_LIMIT: usize = 32;
const NEW_STREAMS_LIMIT: usize = 64;
/// A frame longer than this is an attack or a mistake.
const FRAME_MAX: usize = 16 * 1024 * 1024 - 1;
const HEADERS_MAX: usize = 256 * 1024;
/// Data is cut into frames of this size, so that streams take turns.
const CHUNK: usize = 32 * 1024;

const FLAG_FIN: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream { id: u32, fin: bool, headers: Vec<(String, String)> },
    SynReply { id: u32, headers: Vec<(String, String)> },
    Reset { id: u32, status: u32 },
    Ping { id: u32 },
    GoAway { last: u32 },
    Data { id: u32, fin: bool, data: Bytes },
    /// A kind that is of no interest here.
    Other,
}

/// Reads frames; holds the inflater, whose state spans the connection.
pub struct FrameReader<R> {
    input: R,
    inflater: Inflater,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(input: R) -> FrameReader<R> {
        FrameReader { input, inflater: Inflater::new() }
    }

    /// None at the end of the connection.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 8];
        match self.input.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            answer => answer?,
        };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if length > FRAME_MAX {
            return Err(bad("frame too long"));
        }
        let mut body = BytesMut::zeroed(length);
        self.input.read_exact(&mut body).await?;
        let mut body = body.freeze();
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { id: first, fin: flags & FLAG_FIN != 0, data: body }));
        }
        let need = |body: &Bytes, count: usize| if body.len() < count { Err(bad("frame too short")) } else { Ok(()) };
        let kind = first & 0xffff;
        Ok(Some(match kind {
            1 => {
                need(&body, 10)?;
                let id = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                Frame::SynStream { id, fin: flags & FLAG_FIN != 0, headers: self.inflater.headers(&body)? }
            }
            2 => {
                need(&body, 4)?;
                let id = body.get_u32() & 0x7fff_ffff;
                Frame::SynReply { id, headers: self.inflater.headers(&body)? }
            }
            3 => {
                need(&body, 8)?;
                Frame::Reset { id: body.get_u32() & 0x7fff_ffff, status: body.get_u32() }
            }
            6 => {
                need(&body, 4)?;
                Frame::Ping { id: body.get_u32() }
            }
            7 => {
                need(&body, 4)?;
                Frame::GoAway { last: body.get_u32() & 0x7fff_ffff }
            }
            8 => {
                need(&body, 4)?;
                body.advance(4);
                // Of no use, but it moves the inflater's state on.
                self.inflater.headers(&body)?;
                Frame::Other
            }
            _ => Frame::Other,
        }))
    }
}

/// Writes frames; holds the deflater, whose state spans the connection.
pub struct FrameWriter {
    deflater: Deflater,
}

impl FrameWriter {
    pub fn new() -> FrameWriter {
        FrameWriter { deflater: Deflater::new() }
    }

    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> io::Result<()> {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let block = self.deflater.headers(headers)?;
                control(out, 1, u8::from(*fin), 10 + block.len());
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { id, headers } => {
                let block = self.deflater.headers(headers)?;
                control(out, 2, 0, 4 + block.len());
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::Reset { id, status } => {
                control(out, 3, 0, 8);
                out.put_u32(*id);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                control(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last } => {
                control(out, 7, 0, 8);
                out.put_u32(*last);
                out.put_u32(0);
            }
            Frame::Data { id, fin, data } => {
                out.put_u32(*id);
                out.put_u32(u32::from(u8::from(*fin)) << 24 | u32::try_from(data.len()).map_err(|_| bad("frame too long"))?);
                out.put_slice(data);
            }
            Frame::Other => {}
        }
        Ok(())
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | u32::try_from(length & 0x00ff_ffff).unwrap_or(0));
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {text}"))
}

struct Inflater {
    raw: Decompress,
    /// Bytes of the zlib header that are still to come: two, and four more when a dictionary is named.
    header: Vec<u8>,
    primed: bool,
}

impl Inflater {
    fn new() -> Inflater {
        Inflater { raw: Decompress::new(false), header: Vec::new(), primed: false }
    }

    fn headers(&mut self, mut block: &[u8]) -> io::Result<Vec<(String, String)>> {
        while !self.primed && !block.is_empty() {
            self.header.push(block[0]);
            block = &block[1..];
            let with_dictionary = self.header.len() >= 2 && self.header[1] & 0x20 != 0;
            if self.header.len() == if with_dictionary { 6 } else { 2 } {
                if with_dictionary {
                    self.prime()?;
                }
                self.primed = true;
            }
        }
        let plain = self.inflate(block)?;
        decode_headers(&plain)
    }

    /// A stored block puts the dictionary into the window; what it yields is thrown away.
    fn prime(&mut self) -> io::Result<()> {
        let length = u16::try_from(dictionary().len()).map_err(|_| bad("dictionary"))?;
        let mut block = vec![0];
        block.extend_from_slice(&length.to_le_bytes());
        block.extend_from_slice(&(!length).to_le_bytes());
        block.extend_from_slice(dictionary());
        self.inflate(&block).map(drop)
    }

    fn inflate(&mut self, mut input: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(1024);
        loop {
            if out.len() > HEADERS_MAX {
                return Err(bad("headers too long"));
            }
            out.reserve(1024);
            let before = (self.raw.total_in(), out.len());
            let status = self.raw.decompress_vec(input, &mut out, FlushDecompress::Sync).map_err(|error| bad(&error.to_string()))?;
            let consumed = usize::try_from(self.raw.total_in() - before.0).unwrap_or(0);
            input = &input[consumed..];
            let stuck = consumed == 0 && out.len() == before.1;
            if status == Status::StreamEnd || (stuck && (input.is_empty() || out.len() < out.capacity())) {
                return Ok(out);
            }
        }
    }
}

fn decode_headers(mut plain: &[u8]) -> io::Result<Vec<(String, String)>> {
    let number = |plain: &mut &[u8]| -> io::Result<usize> {
        if plain.len() < 4 {
            return Err(bad("headers too short"));
        }
        Ok(plain.get_u32() as usize)
    };
    let count = number(&mut plain)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let mut text = || -> io::Result<String> {
            let length = number(&mut plain)?;
            if plain.len() < length {
                return Err(bad("headers too short"));
            }
            let text = String::from_utf8_lossy(&plain[..length]).into_owned();
            plain.advance(length);
            Ok(text)
        };
        headers.push((text()?.to_lowercase(), text()?));
    }
    Ok(headers)
}

struct Deflater {
    raw: Compress,
    begun: bool,
}

impl Deflater {
    fn new() -> Deflater {
        Deflater { raw: Compress::new(Compression::fast(), false), begun: false }
    }

    fn headers(&mut self, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(0);
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(0));
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(length(text));
                plain.put_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&zlib_header());
        }
        let mut input = plain.as_slice();
        loop {
            out.reserve(256);
            let before = self.raw.total_in();
            self.raw.compress_vec(input, &mut out, FlushCompress::Sync).map_err(|error| bad(&error.to_string()))?;
            input = &input[usize::try_from(self.raw.total_in() - before).unwrap_or(0)..];
            if input.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
        }
    }
}

/// Deflate with a 32 KiB window and a preset dictionary, and which one.
fn zlib_header() -> Vec<u8> {
    let mut header = vec![0x78, 0x20];
    header[1] += (31 - (u16::from(header[0]) * 256 + u16::from(header[1])) % 31) as u8;
    header.extend_from_slice(&adler32(dictionary()).to_be_bytes());
    header
}

fn adler32(data: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in data {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    b << 16 | a
}

/// One stream of a connection.
pub struct Stream {
    pub id: u32,
    headers: Vec<(String, String)>,
    /// Closed when the peer has said all.
    pub data: mpsc::Receiver<Bytes>,
    pub sink: Sink,
}

impl Stream {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The sending half of a stream.
#[derive(Clone)]
pub struct Sink {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl Sink {
    /// False once the connection is gone.
    pub async fn write(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            if self.frames.send(Frame::Data { id: self.id, fin: false, data: chunk }).await.is_err() {
                return false;
            }
        }
        true
    }

    pub async fn finish(&self) {
        let _ = self.frames.send(Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await;
    }

    pub async fn reset(&self) {
        let _ = self.frames.send(Frame::Reset { id: self.id, status: 5 }).await;
    }
}

/// The streams that the peer may still send to.
type Open = Arc<Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>;

/// A connection: streams that the peer opens come out of `streams`. Dropping it ends the connection.
pub struct Connection {
    pub streams: mpsc::Receiver<Stream>,
    open: Open,
    next_id: AtomicU32,
    gone: CancellationToken,
    frames: mpsc::Sender<Frame>,
    reader: tokio::task::JoinHandle<()>,
    writer: tokio::task::JoinHandle<()>,
}

impl Connection {
    /// The side that was called.
    pub fn accept<T: AsyncRead + AsyncWrite + Send + 'static>(transport: T) -> Connection {
        Connection::begin(transport, 2)
    }

    /// The side that calls.
    pub fn connect<T: AsyncRead + AsyncWrite + Send + 'static>(transport: T) -> Connection {
        Connection::begin(transport, 1)
    }

    fn begin<T: AsyncRead + AsyncWrite + Send + 'static>(transport: T, first_id: u32) -> Connection {
        let (input, output) = tokio::io::split(transport);
        let (frames, outgoing) = mpsc::channel(OUTGOING_LIMIT);
        let (accepted, streams) = mpsc::channel(NEW_STREAMS_LIMIT);
        let writer = tokio::spawn(async move {
            if let Err(error) = write_frames(output, outgoing).await {
                tracing::debug!(%error, "writing to a SPDY connection");
            }
        });
        let answering = frames.clone();
        let gone = CancellationToken::new();
        let reader_gone = gone.clone();
        let open = Open::default();
        let reader_open = open.clone();
        let reader = tokio::spawn(async move {
            if let Err(error) = read_frames(input, first_id, &answering, &accepted, &reader_open).await {
                tracing::debug!(%error, "reading from a SPDY connection");
            }
            // Whoever waits for more on any stream has read the last of it.
            reader_open.lock().clear();
            reader_gone.cancel();
        });
        Connection { streams, open, next_id: AtomicU32::new(first_id), gone, frames, reader, writer }
    }

    /// A new stream of this side's; None once the connection is gone.
    pub async fn open(&self, headers: Vec<(String, String)>) -> Option<Stream> {
        let id = self.next_id.fetch_add(2, Ordering::Relaxed);
        let (sender, data) = mpsc::channel(STREAM_LIMIT);
        self.open.lock().insert(id, sender);
        if self.gone.is_cancelled() {
            return None;
        }
        let frame = Frame::SynStream { id, fin: false, headers: headers.clone() };
        self.frames.send(frame).await.ok()?;
        Some(Stream { id, headers, data, sink: Sink { id, frames: self.frames.clone() } })
    }

    /// Cancelled when the peer has gone.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Sends what is queued, says goodbye and closes.
    pub async fn close(self) {
        let _ = self.frames.send(Frame::GoAway { last: 0 }).await;
        let Connection { frames, reader, writer, streams, open, .. } = self;
        drop((frames, streams, open));
        reader.abort();
        let _ = reader.await;
        let _ = writer.await;
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(mut output: W, mut outgoing: mpsc::Receiver<Frame>) -> io::Result<()> {
    let mut encoder = FrameWriter::new();
    let mut buffer = BytesMut::new();
    while let Some(frame) = outgoing.recv().await {
        encoder.encode(&frame, &mut buffer)?;
        // What waits goes out with it.
        while buffer.len() < CHUNK {
            match outgoing.try_recv() {
                Ok(frame) => encoder.encode(&frame, &mut buffer)?,
                Err(_) => break,
            }
        }
        output.write_all_buf(&mut buffer).await?;
        output.flush().await?;
    }
    output.shutdown().await
}

async fn read_frames<R: AsyncRead + Unpin>(
    input: R,
    first_id: u32,
    frames: &mpsc::Sender<Frame>,
    accepted: &mpsc::Sender<Stream>,
    open: &Open,
) -> io::Result<()> {
    let mut reader = FrameReader::new(input);
    while let Some(frame) = reader.next().await? {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let (sender, data) = mpsc::channel(STREAM_LIMIT);
                if !fin {
                    open.lock().insert(id, sender);
                }
                let _ = frames.send(Frame::SynReply { id, headers: Vec::new() }).await;
                let sink = Sink { id, frames: frames.clone() };
                if accepted.send(Stream { id, headers, data, sink }).await.is_err() {
                    return Ok(());
                }
            }
            Frame::Data { id, fin, data } => {
                let sender = open.lock().get(&id).cloned();
                if !data.is_empty()
                    && let Some(sender) = sender
                {
                    // A reader that has gone away loses the rest, no more.
                    let _ = sender.send(data).await;
                }
                if fin {
                    open.lock().remove(&id);
                }
            }
            Frame::Reset { id, .. } => drop(open.lock().remove(&id)),
            // The peer's own pings, not the answers to ours.
            Frame::Ping { id } if id % 2 != first_id % 2 => drop(frames.send(Frame::Ping { id }).await),
            Frame::GoAway { .. } => {}
            _ => {}
        }
    }
    Ok(())
}

/// The specification's dictionary (SPDY/3, section 2.6.10.1): words with their lengths, then running text.
fn dictionary() -> &'static [u8] {
    static DICTIONARY: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut bytes = Vec::new();
        for word in DICTIONARY_WORDS.split(' ') {
            let word = word.replace('_', " ");
            bytes.put_u32(u32::try_from(word.len()).unwrap_or(0));
            bytes.put_slice(word.as_bytes());
        }
        bytes.put_slice(DICTIONARY_TEXT.as_bytes());
        bytes
    })
}

/// An underscore stands for a space.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age \
     allow authorization cache-control connection content-base content-encoding content-language content-length \
     content-location content-md5 content-range content-type date etag expect expires from host if-match if-\
     modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-\
     authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-\
     agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-\
     alive origin";
const DICTIONARY_TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
     203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
     403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
     Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
     chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
     text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_specification_s() {
        assert_eq!(dictionary().len(), 1423);
        assert_eq!(adler32(dictionary()), 0xe3c6_a7c2);
    }

    #[tokio::test]
    async fn frames_survive_the_round_trip() {
        let headers = |count: usize| (0..count).map(|index| (format!("streamtype{index}"), "stdin".repeat(index))).collect::<Vec<_>>();
        let frames = [
            Frame::SynStream { id: 1, fin: false, headers: headers(3) },
            Frame::SynStream { id: 3, fin: true, headers: headers(40) },
            Frame::SynReply { id: 1, headers: Vec::new() },
            Frame::Data { id: 1, fin: true, data: Bytes::from_static(b"hello") },
            Frame::Reset { id: 3, status: 5 },
            Frame::Ping { id: 7 },
            Frame::GoAway { last: 3 },
        ];
        let mut writer = FrameWriter::new();
        let mut bytes = BytesMut::new();
        for frame in &frames {
            writer.encode(frame, &mut bytes).expect("encoded");
        }
        let mut reader = FrameReader::new(io::Cursor::new(bytes.freeze()));
        for frame in &frames {
            assert_eq!(reader.next().await.expect("read").as_ref(), Some(frame));
        }
        assert_eq!(reader.next().await.expect("the end"), None);
    }

    /// What a client sends that does refer back into the dictionary: made with zlib, level 9.
    #[test]
    fn reads_headers_compressed_against_the_dictionary() {
        let mut inflater = Inflater::new();
        let blocks = [
            ("78f9e3c6a7c202e50e703a2b294a4dcc851625aca9a080c65a52311a00000000ffff", "error"),
            ("c2aea3b804988b70e800000000ffff", "stdin"),
        ];
        for (block, kind) in blocks {
            let headers = inflater.headers(&hex(block)).expect("headers");
            assert_eq!(headers, [("streamtype".to_owned(), kind.to_owned()), ("content-length".to_owned(), "0".to_owned())]);
        }
    }

    #[tokio::test]
    async fn both_sides_open_streams() {
        let (near, far) = tokio::io::duplex(1024);
        let (caller, mut called) = (Connection::connect(near), Connection::accept(far));
        let mut mine = caller.open(vec![("port".to_owned(), "80".to_owned())]).await.expect("a stream");
        let mut theirs = called.streams.recv().await.expect("a stream");
        assert_eq!((theirs.id, theirs.header("port")), (1, Some("80")));
        assert!(mine.sink.write(Bytes::from_static(b"ping")).await && theirs.sink.write(Bytes::from_static(b"pong")).await);
        assert_eq!(theirs.data.recv().await.as_deref(), Some(&b"ping"[..]));
        assert_eq!(mine.data.recv().await.as_deref(), Some(&b"pong"[..]));
        theirs.sink.finish().await;
        assert_eq!(mine.data.recv().await, None, "half closed");
        assert!(mine.sink.write(Bytes::from_static(b"more")).await);
        assert_eq!(theirs.data.recv().await.as_deref(), Some(&b"more"[..]));
        // A sink that is held would hold up the goodbye.
        drop(theirs);
        called.close().await;
        caller.gone().cancelled().await;
        assert!(caller.open(Vec::new()).await.is_none());
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }
}
