//! What a path and a method ask for, by the original's rules.
//!
//! Invariant: it says what the authorizer is asked, whether or not such a resource exists.

use api::percent::decode;
use http::Method;

use super::query::Query;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    /// As it came, without the query.
    pub path: String,
    /// `get`, `list`, `watch`, ...; the lower-case method for what is no resource.
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource, without a leading slash: `proxy/<tail>`.
    pub tail: String,
}

impl RequestInfo {
    pub fn parse(method: &Method, path: &str, query: &Query) -> RequestInfo {
        let mut info = RequestInfo { path: path.to_owned(), verb: lower(method), ..RequestInfo::default() };
        let trimmed = path.trim_start_matches('/');
        let mut rest = trimmed;
        let mut next = || {
            let (part, after) = rest.split_once('/').unwrap_or((rest, ""));
            rest = after;
            part
        };
        match next() {
            "api" => {}
            "apis" => info.group = decode(next()),
            _ => return info,
        }
        info.version = decode(next());
        if rest.is_empty() || info.version.is_empty() {
            return RequestInfo { path: path.to_owned(), verb: lower(method), ..RequestInfo::default() };
        }
        info.is_resource = true;
        info.verb = match *method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let mut legacy_watch = false;
        if let Some(after) = rest.strip_prefix("watch/") {
            rest = after;
            legacy_watch = true;
        }
        let parts: Vec<&str> = rest.split('/').collect();
        let mut parts = parts.as_slice();
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = decode(parts[1]);
            // `namespaces/x/status` is of the namespace itself.
            if parts.len() > 2 && !matches!(parts[2], "status" | "finalize") && !parts[2].is_empty() {
                parts = &parts[2..];
            }
        }
        let part = |at: usize| parts.get(at).map(|part| decode(part)).unwrap_or_default();
        info.resource = part(0);
        info.name = part(1);
        info.subresource = part(2);
        if parts.len() > 3 {
            info.tail = parts[3..].join("/");
        }
        if legacy_watch {
            info.verb = "watch";
        }
        if info.name.is_empty() {
            match info.verb {
                "get" => info.verb = if query.flag("watch") { "watch" } else { "list" },
                "delete" => info.verb = "deletecollection",
                _ => {}
            }
        } else if info.verb == "get" && info.subresource.is_empty() && query.flag("watch") {
            info.verb = "watch";
        }
        // One object watched or listed by name counts as that object.
        if matches!(info.verb, "list" | "watch" | "deletecollection")
            && info.name.is_empty()
            && let Some(selector) = query.get("fieldSelector")
        {
            let name = selector.split(',').find_map(|part| {
                part.trim().strip_prefix("metadata.name=").map(|name| name.trim_start_matches('='))
            });
            if let Some(name) = name
                && !name.is_empty()
                && name != "."
                && name != ".."
                && !name.contains(['/', '%'])
            {
                info.name = name.to_owned();
            }
        }
        info
    }

    /// Watches, logs, exec and the like: not bounded by the timeout of short requests.
    pub fn is_long_running(&self, query: &Query) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
            || (self.subresource == "log" && query.flag("follow"))
    }
}

fn lower(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::HEAD => "head",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        #[track_caller]
        fn check(request: &str, expected: &str) {
            let (method, uri) = request.split_once(' ').expect("method and path");
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let method: Method = method.parse().expect("a method");
            let info = RequestInfo::parse(&method, path, &Query::parse(query));
            let slash = |text: &str| if text.is_empty() { String::new() } else { format!("/{text}") };
            let actual = if info.is_resource {
                format!(
                    "{} {}/{} ns={} {}{}{}{}",
                    info.verb,
                    info.group,
                    info.version,
                    info.namespace,
                    info.resource,
                    slash(&info.name),
                    slash(&info.subresource),
                    slash(&info.tail)
                )
            } else {
                info.verb.to_owned()
            };
            assert_eq!(actual, expected, "{request}");
        }
        check("GET /healthz", "get");
        check("GET /api/v1", "get");
        check("GET /apis/apps/v1", "get");
        check("GET /api/v1/pods", "list /v1 ns= pods");
        check("GET /api/v1/namespaces", "list /v1 ns= namespaces");
        check("GET /api/v1/namespaces/a", "get /v1 ns=a namespaces/a");
        check("PUT /api/v1/namespaces/a/finalize", "update /v1 ns=a namespaces/a/finalize");
        check("GET /api/v1/namespaces/a/pods?watch=1", "watch /v1 ns=a pods");
        check("GET /api/v1/watch/namespaces/a/pods/x", "watch /v1 ns=a pods/x");
        check("GET /api/v1/pods?watch=0&fieldSelector=metadata.name%3Dx", "list /v1 ns= pods/x");
        check("POST /api/v1/namespaces/a/pods/x/exec", "create /v1 ns=a pods/x/exec");
        check("GET /api/v1/nodes/n/proxy/logs/a", "get /v1 ns= nodes/n/proxy/logs/a");
        check("DELETE /apis/apps/v1/namespaces/a/deployments", "deletecollection apps/v1 ns=a deployments");
        check("PATCH /apis/apps/v1/namespaces/a/deployments/d/scale", "patch apps/v1 ns=a deployments/d/scale");
        check("GET /api/v1/namespaces/a/services/http:web:80/proxy/", "get /v1 ns=a services/http:web:80/proxy");
    }
}
