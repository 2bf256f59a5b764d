//! LIST and WATCH, with the documented meaning of resourceVersion.

use std::time::Duration;

use api::selector::{FieldSelector, LabelSelector};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use store::{Revision, StoreError};

use super::options::{refuse, unsupported};
use super::{Call, Content, Filter, Reply, RequestError, Start, Watch};
use crate::cache::Selected;
use crate::http::query::Query;
use crate::http::reply::List;
use crate::kinds::{Kind, Problem, ProblemReason};

/// A watch without `timeoutSeconds` ends after this much, and up to as much again.
const WATCH_SECONDS_MIN: u64 = 1800;
/// A watch may not ask for more.
const WATCH_SECONDS_MAX: u64 = 24 * 3600;

const TOKEN_TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

#[derive(Serialize, Deserialize)]
struct ContinueToken {
    v: String,
    /// -1: go on with whatever is there now.
    rv: i64,
    start: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Unset,
    Exact,
    NotOlderThan,
}

pub fn filter(call: &Call) -> Result<Filter, RequestError> {
    let fields = |fields: FieldSelector| in_storage(call.kind, fields);
    filter_with(call.store_kind, call.namespace(), &call.query, fields)
}

/// What the selectors of a query pick from a kind.
pub fn filter_of(kind: &'static Kind, namespace: &str, query: &Query) -> Result<Filter, RequestError> {
    filter_with(kind, namespace, query, Ok)
}

/// `stored`: what the stored version calls the fields.
fn filter_with(
    kind: &'static Kind,
    namespace: &str,
    query: &Query,
    stored: impl Fn(FieldSelector) -> Result<FieldSelector, RequestError>,
) -> Result<Filter, RequestError> {
    let bad = |text: String| RequestError::BadRequest(text);
    let labels = query
        .get("labelSelector")
        .map(LabelSelector::parse)
        .transpose()
        .map_err(|cause| bad(cause.to_string()))?;
    let fields = query
        .get("fieldSelector")
        .map(FieldSelector::parse)
        .transpose()
        .map_err(|cause| bad(cause.to_string()))?;
    let fields = fields.map(stored).transpose()?;
    Filter::new(kind, namespace, labels, fields.as_ref()).map_err(|field| {
        bad(if kind.selectable_fields.is_empty() {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        } else {
            format!("field label not supported: {field}")
        })
    })
}

/// Fields as the stored version calls them; those that this version does not have are unknown.
fn in_storage(kind: &Kind, mut fields: FieldSelector) -> Result<FieldSelector, RequestError> {
    let Some(conversion) = &kind.conversion else { return Ok(fields) };
    for requirement in &mut fields.requirements {
        let field = requirement.field.as_str();
        if matches!(field, "metadata.name" | "metadata.namespace") {
            continue;
        }
        if !kind.selectable_fields.contains(&field) {
            return Err(RequestError::BadRequest(format!("field label not supported: {field}")));
        }
        requirement.field = (conversion.stored_field)(field);
    }
    Ok(fields)
}

fn parse_revision(text: &str) -> Result<Revision, RequestError> {
    text.parse::<u64>().ok().and_then(|revision| Revision::try_from(revision).ok()).ok_or_else(|| {
        RequestError::BadRequest(format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// Waits until a read with this resourceVersion may be answered from the cache.
pub async fn reach_for_read(call: &Call, asked: Option<&str>) -> Result<(), RequestError> {
    match asked {
        None => call.server.cache.fresh().await,
        Some("0") => Ok(()),
        Some(text) => call.server.cache.reach(parse_revision(text)?).await,
    }
}

fn version_match(query: &Query, watch: bool) -> Result<Match, RequestError> {
    let forbidden = |field: &str, why: String| Problem {
        reason: ProblemReason::Forbidden,
        field: field.into(),
        detail: format!("Forbidden: {why}"),
    };
    let revision = query.get("resourceVersion");
    let mut problems = Vec::new();
    let found = match query.get("resourceVersionMatch") {
        None => Match::Unset,
        Some("Exact") => Match::Exact,
        Some("NotOlderThan") => Match::NotOlderThan,
        Some(other) => {
            problems.push(unsupported("resourceVersionMatch", other, "\"Exact\", \"NotOlderThan\", \"\""));
            Match::Unset
        }
    };
    let initial_events = query.contains("sendInitialEvents");
    if watch {
        if initial_events && found != Match::NotOlderThan {
            problems.push(forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan".into(),
            ));
        } else if !initial_events && query.contains("resourceVersionMatch") {
            problems.push(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided".into(),
            ));
        }
    } else {
        if initial_events {
            problems.push(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list".into()));
        }
        if found != Match::Unset && query.get("continue").is_some() {
            problems.push(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided".into(),
            ));
        } else if found != Match::Unset && revision.is_none() {
            problems.push(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided".into(),
            ));
        }
        if found == Match::Exact && revision == Some("0") {
            problems.push(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"".into(),
            ));
        }
    }
    refuse("ListOptions", problems)?;
    Ok(found)
}

pub async fn list(call: &Call) -> Result<Reply, RequestError> {
    let query = &call.query;
    let filter = filter(call)?;
    let found = version_match(query, false)?;
    let revision = query.get("resourceVersion");
    let limit = match query.get("limit") {
        None => 0,
        Some(text) => text.parse::<i64>().map(|limit| limit.max(0) as usize).map_err(|_| {
            RequestError::BadRequest(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
        })?,
    };
    if call.kind.storage.is_empty() {
        return Ok(Reply::ok(Content::List(List {
            kind: call.kind,
            entries: Vec::new(),
            revision: call.server.cache.applied(),
            continue_token: String::new(),
            remaining: None,
        })));
    }
    let selected = if let Some(token) = query.get("continue") {
        if revision.is_some_and(|revision| revision != "0") {
            return Err(RequestError::BadRequest(
                "specifying resource version is not allowed when using continue".into(),
            ));
        }
        continued(call, &filter, token, limit).await?
    } else {
        match revision {
            Some("0") => call.server.cache.select(call.kind, &filter, None, 0),
            Some(text) if found == Match::Exact || (found == Match::Unset && limit > 0) => {
                exact(call, &filter, limit, parse_revision(text)?).await?
            }
            other => {
                reach_for_read(call, other).await?;
                call.server.cache.select(call.kind, &filter, None, limit)
            }
        }
    };
    let continue_token = match selected.entries.last() {
        Some(last) if selected.more => token_after(&filter, call.kind, &last.key, selected.revision),
        _ => String::new(),
    };
    Ok(Reply::ok(Content::List(List {
        kind: call.kind,
        entries: selected.entries,
        revision: selected.revision,
        continue_token,
        remaining: selected.remaining,
    })))
}

async fn exact(call: &Call, filter: &Filter, limit: usize, revision: Revision) -> Result<Selected, RequestError> {
    call.server.cache.reach(revision).await?;
    let now = call.server.cache.select(call.kind, filter, None, limit);
    if now.changed <= revision {
        return Ok(Selected { revision, ..now });
    }
    Ok(call.server.cache.select_at(call.kind, filter, None, limit, revision).await?)
}

async fn continued(call: &Call, filter: &Filter, token: &str, limit: usize) -> Result<Selected, RequestError> {
    let invalid = |why: &str| RequestError::BadRequest(format!("continue key is not valid: {why}"));
    let text = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .or_else(|_| STANDARD.decode(token))
        .map_err(|cause| invalid(&cause.to_string()))?;
    let token: ContinueToken = serde_json::from_slice(&text).map_err(|cause| invalid(&cause.to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(invalid(&format!("server does not recognize this encoded version {:?}", token.v)));
    }
    if token.rv == 0 || token.start.is_empty() {
        return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    let start = token.start.trim_start_matches('/').trim_end_matches('\0');
    let after = if filter.namespace.is_empty() { start.to_owned() } else { format!("{}/{start}", filter.namespace) };
    if token.rv > 0 {
        call.server.cache.reach(token.rv).await?;
    }
    let now = call.server.cache.select(call.kind, filter, Some(&after), limit);
    if token.rv < 0 {
        return Ok(now);
    }
    if now.changed <= token.rv {
        return Ok(Selected { revision: token.rv, ..now });
    }
    match call.server.cache.select_at(call.kind, filter, Some(&after), limit, token.rv).await {
        Ok(selected) => Ok(selected),
        Err(StoreError::Compacted { .. }) => Err(RequestError::ExpiredContinue {
            message: TOKEN_TOO_OLD.into(),
            token: token_after(filter, call.kind, &after, -1),
        }),
        Err(cause) => Err(cause.into()),
    }
}

/// As the original encodes it: the key relative to what is listed, and a zero byte after it.
fn token_after(filter: &Filter, kind: &Kind, key: &str, revision: Revision) -> String {
    let relative = if filter.namespace.is_empty() || !kind.namespaced {
        key
    } else {
        key.strip_prefix(filter.namespace.as_str()).and_then(|key| key.strip_prefix('/')).unwrap_or(key)
    };
    let token = ContinueToken { v: "meta.k8s.io/v1".into(), rv: revision, start: format!("{relative}\0") };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("texts and numbers can be written"))
}

pub async fn watch(call: &Call) -> Result<Reply, RequestError> {
    let query = &call.query;
    let filter = match call.info.path.contains("/watch/") && !call.info.name.is_empty() {
        true => Filter::one(call.namespace(), call.name()),
        false => filter(call)?,
    };
    version_match(query, true)?;
    if call.kind.storage.is_empty() {
        return Err(call.method_not_allowed());
    }
    let asked = query.get("resourceVersion");
    let bookmarks = query.flag("allowWatchBookmarks");
    let start = match (asked, query.contains("sendInitialEvents").then(|| query.flag("sendInitialEvents"))) {
        (_, Some(true)) => {
            reach_for_read(call, asked).await?;
            Start::State { mark: bookmarks }
        }
        (None | Some("0"), None) => {
            reach_for_read(call, asked).await?;
            Start::State { mark: false }
        }
        (None | Some("0"), Some(false)) => {
            reach_for_read(call, asked).await?;
            Start::After(call.server.cache.applied())
        }
        (Some(text), _) => Start::After(parse_revision(text)?),
    };
    let seconds = match query.get("timeoutSeconds").and_then(|text| text.parse::<u64>().ok()) {
        Some(seconds) if seconds > 0 => seconds.min(WATCH_SECONDS_MAX),
        _ => WATCH_SECONDS_MIN + call.server.random_below(WATCH_SECONDS_MIN),
    };
    let cache = &call.server.cache;
    let watch = Watch::new(
        cache.clone(),
        cache.shelf(call.kind).clone(),
        filter,
        start,
        bookmarks,
        Duration::from_secs(seconds),
        call.server.config.cancel.clone(),
    );
    Ok(Reply::ok(Content::Watch { watch: Box::new(watch), kind: call.kind }))
}
