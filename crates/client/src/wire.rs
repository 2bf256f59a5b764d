//! LIST and WATCH on the wire: URLs, pages and the line-delimited event stream, without decoding objects.
//!
//! Invariant: memory is bounded by one page of a LIST and one line of a WATCH.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::{Client, Error, Resource};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::rest::read_body;

/// Objects per page of a LIST; client-go's figure.
pub(crate) const PAGE_LIMIT: usize = 500;

/// An object is at most 3 MiB on the way in; escaping and the envelope may add to it.
const LINE_MAX_BYTES: usize = 32 << 20;

/// How much longer than `timeoutSeconds` the server may keep a watch open before it is taken for dead.
const WATCH_GRACE: Duration = Duration::from_secs(30);

/// `/api/v1/namespaces/x/pods` or, without namespace, `/api/v1/pods`.
pub fn path_of<K: Resource<DynamicType = ()>>(namespace: Option<&str>) -> String {
    K::url_path(&(), namespace)
}

/// What to list and watch.
#[derive(Clone, Debug)]
pub(crate) struct Collection {
    pub path: String,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// Ask for `PartialObjectMetadata` instead of whole objects.
    pub metadata_only: bool,
}

#[derive(Deserialize)]
pub(crate) struct Page<'a> {
    pub metadata: PageMetadata,
    #[serde(borrow, default)]
    pub items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PageMetadata {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub continue_token: String,
}

#[derive(Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(rename = "type")]
    pub kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// The one thing that every event's object has, bookmarks included.
#[derive(Deserialize)]
pub(crate) struct Versioned {
    #[serde(default)]
    pub metadata: PageMetadata,
}

impl Collection {
    /// One page of at most `PAGE_LIMIT` objects; parse it with `Page`.
    pub async fn list(&self, client: &Client, continue_token: &str) -> Result<Bytes, Error> {
        let mut query = format!("limit={PAGE_LIMIT}");
        if !continue_token.is_empty() {
            query.push_str("&continue=");
            query.push_str(&api::percent::encode(continue_token));
        }
        let accept = if self.metadata_only {
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
        } else {
            "application/json"
        };
        read_body(client.send(self.request(query, accept)?).await?).await
    }

    pub async fn watch(&self, client: &Client, resource_version: &str, timeout: Duration) -> Result<Lines, Error> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
            api::percent::encode(resource_version),
            timeout.as_secs()
        );
        let accept = if self.metadata_only {
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
        } else {
            "application/json"
        };
        let response = client.send(self.request(query, accept)?).await?;
        if !response.status().is_success() {
            return Err(read_body(response).await.expect_err("an unsuccessful answer is an error"));
        }
        let deadline = tokio::time::Instant::now() + timeout + WATCH_GRACE;
        Ok(Lines { body: response.into_body(), buffer: BytesMut::new(), scanned: 0, deadline })
    }

    fn request(&self, mut query: String, accept: &'static str) -> Result<Request<Body>, Error> {
        for (name, selector) in [("labelSelector", &self.label_selector), ("fieldSelector", &self.field_selector)] {
            if let Some(selector) = selector {
                query.push_str(&format!("&{name}={}", api::percent::encode(selector)));
            }
        }
        Request::get(format!("{}?{query}", self.path))
            .header(header::ACCEPT, accept)
            .body(Body::empty())
            .map_err(Error::HttpError)
    }
}

/// The lines of a watch's body.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no newline.
    scanned: usize,
    deadline: tokio::time::Instant,
}

impl Lines {
    /// The next line without its newline, or `None` at the regular end. An incomplete last line is dropped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.scanned + at).freeze();
                self.buffer.advance(1);
                self.scanned = 0;
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(Error::LinesCodecMaxLineLengthExceeded);
            }
            let frame = match tokio::time::timeout_at(self.deadline, self.body.frame()).await {
                Ok(frame) => frame,
                Err(_) => return Ok(None), // The connection is dead without saying so.
            };
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(Error::ReadEvents(std::io::Error::other(error))),
            }
        }
    }
}
