//! Answers, in the form that the client asked for.
//!
//! Invariant: JSON of whole stored objects is never parsed on the way out. Everything else is parsed and printed anew.

use std::io::Write;
use std::sync::Arc;

use api::schema::{self, Definition};
use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures::stream;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WARNING,
};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::Revision;

use super::body::{Body, BoxError, ListBody};
use super::negotiate::{Media, Output, View, not_acceptable};
use crate::cache::{Entry, EventType, Shape, Watch, WatchItem, api_version, set_revision};
use crate::error::RequestError;
use crate::kinds::Kind;
use crate::views::{self, Include};

/// Answers above this are packed for clients that can unpack them.
const GZIP_FROM_BYTES: usize = 128 << 10;
/// Frames that are ready together are sent together, up to about this much.
const WATCH_PIECE_BYTES: usize = 64 << 10;

/// What a handler found, before it has a form.
pub enum Content {
    /// One object, JSON as it is served.
    Object { kind: &'static Kind, definition: &'static str, json: Bytes },
    /// The same as a tree.
    Value { kind: &'static Kind, definition: &'static str, value: Value },
    List(List),
    Watch { watch: Box<Watch>, kind: &'static Kind },
    /// In no negotiated form.
    Raw { content_type: &'static str, bytes: Bytes },
    /// A whole response: proxied streams.
    Response(Response<Body>),
}

/// A list, or a page of one.
pub struct List {
    pub kind: &'static Kind,
    pub entries: Vec<Arc<Entry>>,
    pub revision: Revision,
    pub continue_token: String,
    pub remaining: Option<usize>,
}

pub struct Reply {
    pub code: StatusCode,
    pub content: Content,
}

impl Reply {
    pub fn ok(content: Content) -> Reply {
        Reply { code: StatusCode::OK, content }
    }

    /// A `Status` or another tree of meta/v1.
    pub fn status(code: StatusCode, status: Value) -> Reply {
        Reply { code, content: status_content(status) }
    }

    pub fn json(bytes: impl Into<Bytes>) -> Reply {
        Reply::ok(Content::Raw { content_type: "application/json", bytes: bytes.into() })
    }

    pub fn text(text: impl Into<Bytes>) -> Reply {
        Reply::ok(Content::Raw { content_type: "text/plain; charset=utf-8", bytes: text.into() })
    }
}

fn status_content(status: Value) -> Content {
    Content::Value {
        kind: views::plain_kind(),
        definition: "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
        value: status,
    }
}

/// Whole objects, as client-go asks for them.
const PROTOBUF: Output = Output { media: Media::Protobuf, view: View::Whole, pretty: false };

/// How an answer is to be made.
#[derive(Clone, Default)]
pub struct Form {
    pub output: Output,
    pub gzip: bool,
    pub include: Include,
    pub now: Timestamp,
    pub warnings: Vec<String>,
}

pub fn respond(result: Result<Reply, RequestError>, mut form: Form) -> Response<Body> {
    let warnings = std::mem::take(&mut form.warnings);
    let mut response = match result {
        Ok(reply) => render(reply, &form).unwrap_or_else(|error| refuse(&error, &form)),
        Err(error) => refuse(&error, &form),
    };
    for text in warnings {
        if let Ok(value) = HeaderValue::from_str(&warning(&text)) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

/// `299 - "..."`, on one line and of bounded length.
fn warning(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(4096).collect();
    format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// An error as a `Status`; in JSON when the form asked for is impossible.
pub fn refuse(error: &RequestError, form: &Form) -> Response<Body> {
    let status = error.status();
    let code = error.code_and_reason().0;
    let output = Output { view: View::Whole, ..form.output };
    let form = Form { output, ..form.clone() };
    let mut response = match render(Reply::status(code, status.clone()), &form) {
        Ok(response) => response,
        Err(_) => with_body(code, "application/json", status.to_string().into(), &form),
    };
    if let Some(seconds) = error.retry_seconds() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn render(reply: Reply, form: &Form) -> Result<Response<Body>, RequestError> {
    let Reply { code, content } = reply;
    let output = form.output;
    match content {
        Content::Response(response) => Ok(response),
        Content::Raw { content_type, bytes } => Ok(with_body(code, content_type, bytes, form)),
        Content::Object { json, .. } if output == Output::default() => {
            let mut bytes = BytesMut::from(json); // In place: the bytes were made for this answer.
            bytes.extend_from_slice(b"\n");
            Ok(with_body(code, "application/json", bytes.freeze(), form))
        }
        Content::Object { kind, definition, json } if output == PROTOBUF && definition == kind.definition => {
            let text = api::json::text(&json);
            let bytes = api::protobuf::encode_text(&api_version(kind), kind.kind, &text, find(definition)?);
            Ok(with_body(code, output.media.content_type(), bytes.into(), form))
        }
        Content::Object { kind, definition, json } => {
            let value = serde_json::from_slice(&json).map_err(RequestError::internal)?;
            render_value(code, kind, definition, value, form)
        }
        Content::Value { kind, definition, value } => render_value(code, kind, definition, value, form),
        Content::List(list) => render_list(code, list, form),
        Content::Watch { watch, kind } => render_watch(*watch, kind, form),
    }
}

fn render_value(
    code: StatusCode,
    kind: &'static Kind,
    definition: &'static str,
    value: Value,
    form: &Form,
) -> Result<Response<Body>, RequestError> {
    let is_status = value.get("kind").is_some_and(|kind| kind == "Status");
    let (value, definition) = match form.output.view {
        View::Table if !is_status => {
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            (views::table(kind, [value], metadata, form.include, true, form.now), "Table")
        }
        View::Partial if !is_status => {
            (views::partial(value), "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata")
        }
        _ => (value, definition),
    };
    Ok(with_body(code, form.output.media.content_type(), print(&value, definition, form.output)?, form))
}

/// A tree as bytes.
fn print(value: &Value, definition: &str, output: Output) -> Result<Bytes, RequestError> {
    let mut bytes = match output.media {
        Media::Json if output.pretty => serde_json::to_vec_pretty(value).map_err(RequestError::internal)?,
        Media::Json => serde_json::to_vec(value).map_err(RequestError::internal)?,
        Media::Yaml => return Ok(api::yaml::to_yaml(value).into()),
        Media::Protobuf => {
            let definition = find(definition)?;
            return Ok(api::protobuf::encode(value, definition).into());
        }
    };
    bytes.push(b'\n');
    Ok(bytes.into())
}

/// What has no protobuf form cannot be had in it.
fn find(definition: &str) -> Result<&'static Definition, RequestError> {
    schema::definition(definition).ok_or_else(not_acceptable)
}

pub fn list_metadata(list: &List) -> Value {
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if !list.continue_token.is_empty() {
        metadata["continue"] = list.continue_token.as_str().into();
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// The object in the version that was asked for.
pub fn served_value(kind: &Kind, entry: &Entry, revision: Revision) -> Value {
    let value = entry.value_at(revision);
    match &kind.conversion {
        Some(conversion) => (conversion.from_storage)(value),
        None => value,
    }
}

fn render_list(code: StatusCode, list: List, form: &Form) -> Result<Response<Body>, RequestError> {
    let kind = list.kind;
    let metadata = list_metadata(&list);
    if let Some(shape) = shape(kind, form.output) {
        return Ok(render_list_from_bytes(code, list, metadata, shape, form));
    }
    let values = || list.entries.iter().map(|entry| served_value(kind, entry, entry.revision));
    let list_kind = format!("{}List", kind.kind);
    let (value, definition) = match form.output.view {
        View::Table => (views::table(kind, values(), metadata, form.include, true, form.now), "Table".to_owned()),
        View::Partial => (
            views::partial_list(values(), metadata),
            "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList".to_owned(),
        ),
        View::Whole => {
            let items: Vec<Value> = values()
                .map(|mut item| {
                    if let Some(map) = item.as_object_mut() {
                        map.remove("kind");
                        map.remove("apiVersion");
                    }
                    item
                })
                .collect();
            let value =
                json!({"kind": list_kind, "apiVersion": api_version(kind), "metadata": metadata, "items": items});
            (value, format!("{}List", kind.definition))
        }
    };
    let bytes = print(&value, &definition, form.output)?;
    Ok(with_body(code, form.output.media.content_type(), bytes, form))
}

/// How objects are written from their bytes; None: they must become trees.
fn shape(kind: &Kind, output: Output) -> Option<Shape> {
    let protobuf = match output.media {
        Media::Json if !output.pretty => false,
        Media::Protobuf => true,
        _ => return None,
    };
    (output.view != View::Table && kind.conversion.is_none())
        .then_some(Shape { protobuf, partial: output.view == View::Partial })
}

fn render_list_from_bytes(code: StatusCode, list: List, metadata: Value, shape: Shape, form: &Form) -> Response<Body> {
    let kind = list.kind;
    let gzip = form.gzip && list.entries.iter().map(|entry| entry.served_len()).sum::<usize>() > GZIP_FROM_BYTES;
    let body = if shape.protobuf {
        let entries = list.entries.iter().map(|entry| &**entry);
        ListBody::of_pieces(shape.list_message(kind, entries, &metadata), gzip)
    } else {
        let (version, list_kind) = shape.list_type(kind);
        let head = format!("{{\"kind\":\"{list_kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[");
        ListBody::new(head.into(), list.entries, shape, gzip)
    };
    let mut response = start(code, form.output.media.content_type(), Body::List(Box::new(body)));
    if gzip {
        mark_gzip(&mut response);
    }
    response
}

fn render_watch(mut watch: Watch, kind: &'static Kind, form: &Form) -> Result<Response<Body>, RequestError> {
    let content_type = match form.output.media {
        Media::Json => "application/json",
        Media::Protobuf if form.output.view != View::Table => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => return Err(not_acceptable()),
    };
    let output = Output { pretty: false, ..form.output };
    let shape = shape(kind, output);
    if let Some(shape) = shape {
        watch.share(shape);
    }
    let encoder = FrameEncoder {
        kind,
        output,
        shape,
        include: form.include,
        now: form.now,
        columns_told: false,
    };
    let frames = stream::unfold(Some((watch, encoder)), |state| async move {
        let (mut watch, mut encoder) = state?;
        let first = watch.next().await?;
        let mut ended = matches!(first, WatchItem::TooOld { .. });
        let mut frames = vec![encoder.encode(first)];
        let mut len = frames[0].len();
        while !ended && len < WATCH_PIECE_BYTES {
            let Some(item) = watch.try_next() else { break };
            ended = matches!(item, WatchItem::TooOld { .. });
            let frame = encoder.encode(item);
            len += frame.len();
            frames.push(frame);
        }
        let bytes = if frames.len() > 1 { Bytes::from(frames.concat()) } else { frames.swap_remove(0) };
        Some((Ok::<_, BoxError>(bytes), (!ended).then_some((watch, encoder))))
    });
    Ok(start(StatusCode::OK, content_type, Body::stream(frames)))
}

/// Watch events as frames.
struct FrameEncoder {
    kind: &'static Kind,
    output: Output,
    /// Where frames are made from bytes.
    shape: Option<Shape>,
    include: Include,
    now: Timestamp,
    columns_told: bool,
}

impl FrameEncoder {
    fn encode(&mut self, item: WatchItem) -> Bytes {
        match (item, self.shape) {
            (WatchItem::Frames(frames), _) => frames,
            (WatchItem::Initial(entry), Some(shape)) => {
                shape.watch_frame(self.kind, EventType::Added, &entry, entry.revision)
            }
            (WatchItem::Event { event_type, event }, Some(shape)) => event.frame(shape, self.kind, event_type),
            (item, _) => self.encode_tree(item),
        }
    }

    fn encode_tree(&mut self, item: WatchItem) -> Bytes {
        match item {
            WatchItem::Frames(frames) => frames,
            WatchItem::Initial(entry) => self.object("ADDED", &entry, entry.revision),
            WatchItem::Event { event_type, event } => {
                let (entry, revision) = match event_type {
                    EventType::Deleted => (&event.old, event.revision),
                    _ => (&event.new, event.revision),
                };
                match entry {
                    Some(entry) => self.object(event_type.name(), entry, revision),
                    None => Bytes::new(),
                }
            }
            WatchItem::Bookmark { revision, initial_end } => {
                let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
                if initial_end {
                    metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                }
                let object =
                    json!({"kind": self.kind.kind, "apiVersion": api_version(self.kind), "metadata": metadata});
                self.value("BOOKMARK", object)
            }
            WatchItem::TooOld { asked, oldest } => {
                let error = RequestError::Expired(format!("too old resource version: {asked} ({oldest})"));
                self.frame("ERROR", &error.status(), "io.k8s.apimachinery.pkg.apis.meta.v1.Status")
            }
        }
    }

    fn object(&mut self, event_type: &str, entry: &Entry, revision: Revision) -> Bytes {
        let mut value = served_value(self.kind, entry, revision);
        set_revision(&mut value, revision);
        self.value(event_type, value)
    }

    fn value(&mut self, event_type: &str, object: Value) -> Bytes {
        match self.output.view {
            View::Whole => self.frame(event_type, &object, self.kind.definition),
            View::Partial => self.frame(
                event_type,
                &views::partial(object),
                "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
            ),
            View::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let columns = !std::mem::replace(&mut self.columns_told, true);
                let table = views::table(self.kind, [object], metadata, self.include, columns, self.now);
                self.frame(event_type, &table, "Table")
            }
        }
    }

    fn frame(&self, event_type: &str, object: &Value, definition: &str) -> Bytes {
        if self.output.media == Media::Protobuf
            && let Some(definition) = schema::definition(definition)
        {
            return api::protobuf::encode_watch_event(event_type, &api::protobuf::encode(object, definition)).into();
        }
        let mut bytes = format!("{{\"type\":\"{event_type}\",\"object\":").into_bytes();
        serde_json::to_writer(&mut bytes, object).expect("writing to memory cannot fail");
        bytes.extend_from_slice(b"}\n");
        bytes.into()
    }
}

fn with_body(code: StatusCode, content_type: &'static str, bytes: Bytes, form: &Form) -> Response<Body> {
    if form.gzip && bytes.len() > GZIP_FROM_BYTES {
        let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
        encoder.write_all(&bytes).expect("writing to memory cannot fail");
        let packed = encoder.finish().expect("writing to memory cannot fail");
        let mut response = start(code, content_type, Body::full(packed));
        mark_gzip(&mut response);
        return response;
    }
    start(code, content_type, Body::full(bytes))
}

fn start(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn mark_gzip(response: &mut Response<Body>) {
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
}

