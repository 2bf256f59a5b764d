//! `/healthz`, `/livez`, `/readyz` and their single checks.

use std::sync::Arc;

use http::StatusCode;

use crate::error::RequestError;
use crate::http::query::Query;
use crate::http::reply::{Content, Reply};
use crate::server::ApiServer;

/// The checks, by the original's names. All but the store hold as soon as anything is answered at all.
const CHECKS: &[&str] = &[
    "ping",
    "log",
    "etcd",
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
];

pub async fn check(server: &Arc<ApiServer>, path: &str, query: &Query) -> Result<Reply, RequestError> {
    let path = path.trim_start_matches('/');
    let (root, single) = path.split_once('/').unwrap_or((path, ""));
    let mut checks: Vec<&str> = CHECKS.to_vec();
    if root == "readyz" {
        checks.extend(["informer-sync", "shutdown"]);
    }
    if !single.is_empty() && !checks.contains(&single) {
        return Err(RequestError::NoSuchPath);
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut text = String::new();
    let mut failed: Vec<&str> = Vec::new();
    for check in checks {
        if !single.is_empty() && single != check {
            continue;
        }
        if excluded.contains(&check) {
            text.push_str(&format!("[+]{check} excluded: ok\n"));
            continue;
        }
        let ok = match check {
            "etcd" => server.cache.store().current_revision().await.is_ok(),
            "shutdown" => !server.config.cancel.is_cancelled(),
            _ => true,
        };
        if ok {
            text.push_str(&format!("[+]{check} ok\n"));
        } else {
            text.push_str(&format!("[-]{check} failed: reason withheld\n"));
            failed.push(check);
        }
    }
    if !failed.is_empty() {
        text.push_str(&format!("{root} check failed\n"));
        let bytes = text.into();
        return Ok(Reply {
            code: StatusCode::INTERNAL_SERVER_ERROR,
            content: Content::Raw { content_type: "text/plain; charset=utf-8", bytes },
        });
    }
    if !single.is_empty() || !query.flag("verbose") {
        return Ok(Reply::text("ok"));
    }
    text.push_str(&format!("{root} check passed\n"));
    Ok(Reply::text(text))
}
