//! Which form a client wants its answer in, and which form its body has.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};

use super::query::Query;
use crate::error::RequestError;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Media {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

impl Media {
    pub fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What of an object is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum View {
    #[default]
    Whole,
    Table,
    /// PartialObjectMetadata, PartialObjectMetadataList.
    Partial,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Output {
    pub media: Media,
    pub view: View,
    pub pretty: bool,
}

pub const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// `views`: whether Table and PartialObjectMetadata are on offer (get, list, watch and the answers to writes).
pub fn output(headers: &HeaderMap, query: &Query, views: bool) -> Result<Output, RequestError> {
    let pretty = wants_pretty(headers, query);
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.trim().is_empty() || accept == "application/json" {
        return Ok(Output { pretty, ..Output::default() });
    }
    let mut clauses: Vec<(f32, Output)> = Vec::new();
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = match parts.next().unwrap_or("") {
            "application/json" | "*/*" | "application/*" => Media::Json,
            "application/yaml" => Media::Yaml,
            "application/vnd.kubernetes.protobuf" => Media::Protobuf,
            _ => continue,
        };
        let (mut quality, mut wanted, mut version, mut group) = (1.0, "", "", "");
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("q", value)) => quality = value.parse().unwrap_or(1.0),
                Some(("as", value)) => wanted = value,
                Some(("v", value)) => version = value,
                Some(("g", value)) => group = value,
                _ => {}
            }
        }
        let view = match wanted {
            "" => View::Whole,
            _ if !views || group != "meta.k8s.io" || !matches!(version, "v1" | "v1beta1") => continue,
            "Table" => View::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" => View::Partial,
            _ => continue,
        };
        clauses.push((quality, Output { media, view, pretty }));
    }
    // The first of the best.
    let mut best: Option<(f32, Output)> = None;
    for (quality, output) in clauses {
        if best.is_none_or(|(top, _)| quality > top) {
            best = Some((quality, output));
        }
    }
    best.map(|(_, output)| output).ok_or_else(not_acceptable)
}

pub fn not_acceptable() -> RequestError {
    RequestError::NotAcceptable(format!("only the following media types are accepted: {ACCEPTED}"))
}

/// Somebody looks at it in a terminal.
fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.contains("pretty") {
        return query.flag("pretty");
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    agent.starts_with("curl") || agent.starts_with("Wget") || agent.starts_with("Mozilla/5.0")
}

/// The form of a request's body; JSON where nothing is said.
pub fn body_media(headers: &HeaderMap) -> Result<Media, RequestError> {
    match content_type(headers) {
        "" | "application/json" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Media::Protobuf),
        _ => Err(unsupported(ACCEPTED)),
    }
}

pub fn unsupported(accepted: &str) -> RequestError {
    RequestError::UnsupportedMediaType(format!(
        "the body of the request was in an unknown format - accepted media types include: {accepted}"
    ))
}

/// Without parameters.
pub fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept() {
        #[track_caller]
        fn check(accept: &str, expected: Option<(Media, View)>) {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header value"));
            let actual = output(&headers, &Query::default(), true).ok().map(|output| (output.media, output.view));
            assert_eq!(actual, expected, "{accept}");
        }
        check("", Some((Media::Json, View::Whole)));
        check("*/*", Some((Media::Json, View::Whole)));
        check("application/vnd.kubernetes.protobuf,application/json", Some((Media::Protobuf, View::Whole)));
        check("application/json;q=0.5, application/yaml", Some((Media::Yaml, View::Whole)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Media::Json, View::Table)),
        );
        check("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", Some((Media::Json, View::Whole)));
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Some((Media::Protobuf, View::Partial)),
        );
        check("text/plain", None);
    }
}
