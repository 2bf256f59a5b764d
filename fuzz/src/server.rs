//! The HTTP router and the authenticator, over a server in memory.
//!
//! Invariant: whatever is asked, the answer comes (in virtual time), is no larger than the cap, and is no 5xx unless
//! the original answers so as well. Deliberately absent: requests that would open connections to addresses that the
//! input chose.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use api::clock::Clock;
use apiserver::http::service::{Caller, handle};
use apiserver::user::User;
use apiserver::{ApiServer, Config, StaticToken};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use store::memory::MemoryStore;

use crate::OUTPUT_MAX;

/// Inputs that share a server: what they create must not pile up.
const INPUTS_PER_SERVER: usize = 2_000;
/// Frames read of an answer that does not end by itself.
const FRAMES_MAX: usize = 64;

/// Sentences that the original answers with code 500 to what is the client's doing.
const INTERNAL_UPSTREAM: &[&str] = &[
    "resourceVersion should not be set on objects to be created",
    "requested impersonation of a uid, groups or extra without impersonating a user",
    "no corresponding type for", // server-side apply of what does not fit the schema
    "failed to create manager for existing fields",
    "failed to create typed patch object",
    "failed to create typed live object",
    "failed to convert new object",
];

const STATIC_TOKEN: &str = "static-token";
const STATIC_TOKEN_IN_BASE64: &str = "c3RhdGljLXRva2Vu";

struct Server {
    runtime: tokio::runtime::Runtime,
    server: Arc<ApiServer>,
    /// A token that holds.
    token: String,
    inputs: usize,
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

fn with_server<T>(work: impl FnOnce(&Server) -> T) -> T {
    SERVER.with_borrow_mut(|slot| {
        if slot.as_ref().is_some_and(|server| server.inputs >= INPUTS_PER_SERVER) {
            *slot = None;
        }
        let server = slot.get_or_insert_with(Server::start);
        server.inputs += 1;
        work(server)
    })
}

/// A token of the server that the next inputs meet, for seeds.
pub(crate) fn valid_token() -> String {
    with_server(|server| server.token.clone())
}

impl Server {
    fn start() -> Server {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let clock = Clock::starting_at("2026-01-01T00:00:00Z".parse().expect("a valid time"));
        let server = runtime.block_on(async {
            let config = Config::new(Arc::new(MemoryStore::new()), clock, key());
            let groups = vec!["system:masters".into()];
            let static_tokens =
                vec![StaticToken { token: STATIC_TOKEN.into(), user: "static".into(), uid: String::new(), groups }];
            ApiServer::new(Config { seed: Some(1), static_tokens, ..config }).await.expect("starts")
        });
        let mut server = Server { runtime, server, token: String::new(), inputs: 0 };
        server.fill();
        server
    }

    /// Objects for requests to find.
    fn fill(&mut self) {
        let create = |path: &str, object: Value| {
            let bytes = object.to_string();
            let (code, answer) = self.ask(request("POST", path, bytes.as_bytes()), admin());
            assert_eq!(code, 201, "{path}: {}", String::from_utf8_lossy(&answer));
            answer
        };
        create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}}));
        create("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a", "labels": {"app": "web"}}, "data": {"x": "y"}}));
        create("/api/v1/namespaces/default/services", json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}));
        let containers = json!([{"name": "main", "image": "nginx:1"}]);
        create("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "a"}, "spec": {"containers": containers}}));
        create("/apis/apps/v1/namespaces/default/deployments", json!({
            "metadata": {"name": "a"},
            "spec": {
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": containers}},
            },
        }));
        let answer = create("/api/v1/namespaces/default/serviceaccounts/default/token", json!({"spec": {"expirationSeconds": 3600}}));
        let answer: Value = serde_json::from_slice(&answer).expect("a TokenRequest");
        self.token = answer["status"]["token"].as_str().expect("a token").to_owned();
    }

    fn ask(&self, request: Request<Full<Bytes>>, caller: Caller) -> (u16, Vec<u8>) {
        self.runtime.block_on(async {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let response = handle(self.server.clone(), request, caller).await;
            let code = response.status().as_u16();
            let mut body = response.into_body();
            let mut bytes = Vec::new();
            for _ in 0..FRAMES_MAX {
                let Some(Ok(frame)) = body.frame().await else { break };
                let Ok(data) = frame.into_data() else { continue };
                bytes.extend_from_slice(&data);
                assert!(bytes.len() <= OUTPUT_MAX, "the answer is larger than {OUTPUT_MAX} bytes");
            }
            (code, bytes)
        })
    }
}

fn admin() -> Caller {
    Caller::Known(Arc::new(User::authenticated("admin", &["system:masters"])))
}

fn request(method: &str, uri: &str, body: &[u8]) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
    request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request")
}

/// `METHOD URI`, header lines, an empty line, the body.
fn read_request(data: &[u8]) -> Option<Request<Full<Bytes>>> {
    let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
    *request.method_mut() = Method::from_bytes(&first[..space]).ok()?;
    *request.uri_mut() = Uri::try_from(&first[space + 1..]).ok()?;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(request)
}

/// Whether answering would mean to talk to somebody else.
fn leads_elsewhere(path: &str) -> bool {
    ["proxy", "log", "exec", "attach", "portforward"].iter().any(|part| path.contains(part)) || path.contains('%')
}

/// A whole request of an administrator, whom nothing but its meaning stops.
pub fn router(data: &[u8]) {
    let Some(request) = read_request(data) else { return };
    if leads_elsewhere(request.uri().path()) {
        return;
    }
    with_server(|server| {
        let (code, answer) = server.ask(request, admin());
        check_code(code, &answer);
    });
}

fn check_code(code: u16, answer: &[u8]) {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(4096)]);
    let as_upstream = match code {
        500 => INTERNAL_UPSTREAM.iter().any(|known| text.contains(known)),
        // A revision that is still to come is waited for, also one that never comes.
        504 => text.contains("ResourceVersionTooLarge"),
        _ => false,
    };
    assert!(code < 500 || as_upstream, "{code}: {text}");
}

/// Credentials in all their forms: who shows none that hold is refused, and nobody becomes somebody else.
pub fn token(data: &[u8]) {
    let _ = apiserver::authn::x509::user(data);
    let text = String::from_utf8_lossy(data);
    let _ = apiserver::authn::static_tokens::parse(&text);
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    with_server(|server| {
        let mut bearer = b"Bearer ".to_vec();
        bearer.extend_from_slice(data);
        let holds = [server.token.as_str(), STATIC_TOKEN, STATIC_TOKEN_IN_BASE64].iter().any(|token| text.contains(token));
        let bearer = HeaderValue::from_bytes(&bearer).expect("a header value with a word before it");
        for (name, value) in [("authorization", bearer), ("authorization", value.clone()), ("sec-websocket-protocol", value)] {
            let mut request = request("GET", "/api/v1/namespaces/default", b"");
            request.headers_mut().insert(name, value);
            let (code, answer) = server.ask(request, Caller::Connection { peer: [127, 0, 0, 1].into(), certificate: None });
            check_code(code, &answer);
            // 403: nobody in particular, or a service account without rights.
            assert!(holds || matches!(code, 401 | 403), "{code} for {name} {text:?}");
        }
    });
}

/// One key for all servers of a process, so that tokens that were seeds keep their meaning.
fn key() -> String {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| rcgen::KeyPair::generate().expect("a key").serialize_pem()).clone()
}
