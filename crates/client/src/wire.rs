//! LIST and WATCH on the wire: URLs, pages and the line-delimited event stream, without decoding objects.
//!
//! Invariant: memory is bounded by one page of a LIST and one line of a WATCH.

use std::borrow::Cow;
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
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// What is read of every object before it is decoded, bookmarks included.
pub(crate) struct Versioned<'a> {
    pub resource_version: Cow<'a, str>,
    /// The object without its managed fields: half of its bytes, which nobody here reads and a decoder makes a tree of.
    pub json: Cow<'a, str>,
}

impl<'a> Versioned<'a> {
    pub fn read(json: &'a str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Object<'a> {
            #[serde(borrow, default)]
            metadata: Head<'a>,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Head<'a> {
            #[serde(borrow)]
            resource_version: Cow<'a, str>,
            #[serde(borrow)]
            managed_fields: Option<&'a RawValue>,
        }
        let Object { metadata } = serde_json::from_str(json)?;
        let json = match metadata.managed_fields.map(RawValue::get) {
            None => Cow::Borrowed(json),
            Some(managed) => {
                let start = managed.as_ptr() as usize - json.as_ptr() as usize;
                Cow::Owned([&json[..start], "null", &json[start + managed.len()..]].concat())
            }
        };
        Ok(Versioned { resource_version: metadata.resource_version, json })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, version: &str, expected: &str) {
        let read = Versioned::read(json).unwrap();
        assert_eq!((&*read.resource_version, &*read.json), (version, expected));
    }

    #[test]
    fn managed_fields_are_cut_out() {
        check(r#"{"metadata":{"resourceVersion":"7"}}"#, "7", r#"{"metadata":{"resourceVersion":"7"}}"#);
        check(
            r#"{"kind":"Pod","metadata":{"managedFields":[{"fieldsV1":{"f:a":{}}}],"resourceVersion":"7"},"spec":{"x":"managedFields"}}"#,
            "7",
            r#"{"kind":"Pod","metadata":{"managedFields":null,"resourceVersion":"7"},"spec":{"x":"managedFields"}}"#,
        );
        check(r#"{"metadata":{"name":"\"managedFields\":","managedFields":null}}"#, "", r#"{"metadata":{"name":"\"managedFields\":","managedFields":null}}"#);
        check("{}", "", "{}");
    }
}
