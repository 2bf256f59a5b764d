//! The way from one component to the API server: a tower service that delays, loses and refuses as the faults say.
//!
//! Invariant: once a component is dead not one further request of it reaches the server, whatever of its tasks are
//! still about. A request that has reached the server is carried out even if nobody waits for the answer any more.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use apiserver::ApiServer;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use crate::answers::Asked;
use crate::faults::{Fate, Faults, Journey, Sort, WatchFate};
use crate::leaders::Leaders;

/// How soon a cut connection is noticed.
const NOTICED_AFTER: Duration = Duration::from_millis(500);

/// Of a whole run; a mixed workload sends some ten thousand.
const REQUESTS_MAX: u64 = 150_000;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// The API server as all links see it: there, or just being restarted.
#[derive(Clone)]
pub(crate) struct Network {
    pub faults: Faults,
    pub leaders: Arc<Leaders>,
    server: Arc<Mutex<Option<Running>>>,
    traffic: Arc<Traffic>,
    extensions: Arc<Mutex<BTreeMap<String, Extension>>>,
}

/// Answers for an API group in the place of an extension API server; `None` is not found.
pub type Extension = Arc<dyn Fn(&str) -> Option<Value> + Send + Sync>;

#[derive(Default)]
struct Traffic {
    requests: AtomicU64,
    /// The first that was too much.
    broken: Mutex<Option<String>>,
}

#[derive(Clone)]
struct Running {
    server: Arc<ApiServer>,
    stop: CancellationToken,
}

impl Network {
    pub fn new(faults: Faults, leaders: Arc<Leaders>) -> Network {
        Network { faults, leaders, server: Arc::default(), traffic: Arc::default(), extensions: Arc::default() }
    }

    pub fn extend(&self, group: &str, extension: Extension) {
        self.extensions.lock().insert(group.to_owned(), extension);
    }

    /// What the group's extension server has to say to this request, if there is one.
    fn extended(&self, request: &Request<Body>) -> Option<Answer> {
        let asked = request.uri().path_and_query()?.as_str();
        let group = asked.strip_prefix("/apis/")?.split(['/', '?']).next()?;
        let extension = self.extensions.lock().get(group)?.clone();
        Some(match extension(asked) {
            Some(found) => answer(StatusCode::OK, &found),
            None => refusal(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource"),
        })
    }

    pub fn take_broken(&self) -> Option<String> {
        self.traffic.broken.lock().take()
    }

    /// Whether somebody asks without end and without pause, which would never let time pass: nobody is answered then.
    fn is_overrun(&self, speaker: &Speaker, request: &Request<Body>) -> bool {
        if self.traffic.requests.fetch_add(1, Ordering::Relaxed) < REQUESTS_MAX {
            return false;
        }
        let sentence = || format!("no end of requests: {REQUESTS_MAX} were sent, then {} sends {} {}", speaker.user, request.method(), request.uri());
        self.traffic.broken.lock().get_or_insert_with(sentence);
        true
    }

    pub fn connect(&self, server: Arc<ApiServer>, stop: CancellationToken) {
        *self.server.lock() = Some(Running { server, stop });
    }

    /// Ends the server as a crash would.
    pub fn disconnect(&self) {
        if let Some(running) = self.server.lock().take() {
            running.stop.cancel();
        }
    }
}

/// Who a link speaks for.
#[derive(Clone)]
pub(crate) struct Speaker {
    pub user: String,
    pub groups: Vec<&'static str>,
    /// Its name in elections, of a component that writes only while it leads.
    pub identity: Option<String>,
    /// Whether faults may kill it.
    pub mortal: bool,
    /// Whether faults pass it by: who sets the stage.
    pub spared: bool,
}

/// One life of one component.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    network: Network,
    speaker: Speaker,
    dead: CancellationToken,
    cut: AtomicBool,
}

impl Link {
    pub(crate) fn new(network: &Network, speaker: Speaker) -> Link {
        let inner = Inner { network: network.clone(), speaker, dead: CancellationToken::new(), cut: AtomicBool::new(false) };
        Link(Arc::new(inner))
    }

    pub fn client(&self, user_agent: &'static str) -> kube::Client {
        client::in_process_as(self.clone(), user_agent)
    }

    /// Ends this life.
    pub fn kill(&self) {
        self.0.dead.cancel();
    }

    /// Returns when this life has ended.
    pub async fn died(&self) {
        self.0.dead.cancelled().await;
    }

    /// Parts it from the server, or joins it again.
    pub fn set_cut(&self, cut: bool) {
        self.0.cut.store(cut, Ordering::Relaxed);
    }

    fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::Relaxed)
    }

    /// The dead wait for ever.
    async fn rest_in_peace(&self) {
        if self.0.dead.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    async fn carry(self, request: Request<Body>) -> Result<Answer, BoxError> {
        let Inner { network, speaker, dead, .. } = &*self.0;
        if network.is_overrun(speaker, &request) {
            return std::future::pending().await;
        }
        let sort = Sort::of(&request);
        let journey = if speaker.spared { Journey::SMOOTH } else { network.faults.journey(sort, speaker.mortal) };
        pause(journey.there).await;
        self.rest_in_peace().await;
        if self.is_cut() {
            pause(NOTICED_AFTER).await;
            return Err("connection timed out".into());
        }
        match journey.fate {
            Fate::LostRequest => {
                pause(NOTICED_AFTER).await;
                return Err("connection reset by peer".into());
            }
            Fate::Conflict => return Ok(refusal(StatusCode::CONFLICT, "Conflict", "the object has been modified; please apply your changes to the latest version and try again")),
            Fate::Unavailable => return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the server is currently unable to handle the request")),
            Fate::Expired => return Ok(refusal(StatusCode::GONE, "Expired", "too old resource version")),
            Fate::DeathBefore => {
                dead.cancel();
                self.rest_in_peace().await;
            }
            Fate::Answered | Fate::LostAnswer | Fate::DeathAfter => {}
        }
        if let Some(answer) = network.extended(&request) {
            return Ok(answer);
        }
        let Some(running) = network.server.lock().clone() else {
            pause(NOTICED_AFTER).await;
            return Err("connection refused".into());
        };
        if let Some(identity) = &speaker.identity
            && matches!(sort, Sort::Write | Sort::Replace)
        {
            network.leaders.writes(identity, &request);
        }
        let groups: Vec<&str> = speaker.groups.to_vec();
        let mut service = running.server.in_process(&speaker.user, &groups);
        let stop = running.stop.clone();
        let asked = Asked::new();
        // In a task of its own: the server goes on when the component dies, and ends when the server does.
        let answering = tokio::spawn(asked.during(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(BoxError::from("connection reset by peer")),
                answer = service.call(request) => answer,
            }
        }));
        let answer = answering.await?;
        match journey.fate {
            Fate::DeathAfter => dead.cancel(),
            Fate::LostAnswer => {
                pause(NOTICED_AFTER).await;
                return Err("connection reset by peer".into());
            }
            _ => {}
        }
        pause(journey.back).await;
        if dead.is_cancelled() {
            drop(asked);
            return std::future::pending().await;
        }
        let answer = answer?;
        if self.is_cut() {
            pause(NOTICED_AFTER).await;
            return Err("connection timed out".into());
        }
        asked.has_arrived();
        Ok(match sort {
            Sort::Watch => {
                let fate = if speaker.spared { WatchFate::default() } else { network.faults.watch() };
                answer.map(|body| self.watched(body, fate, running.stop))
            }
            _ => answer.map(BodyExt::boxed_unsync),
        })
    }

    /// A watch that ends, stalls or falls silent.
    fn watched(&self, body: apiserver::http::body::Body, fate: WatchFate, stop: CancellationToken) -> UnsyncBoxBody<Bytes, BoxError> {
        let opened = Instant::now();
        let watch = Watch {
            body: Box::pin(body),
            link: self.clone(),
            stop,
            cut_at: fate.cut_after.map(|after| opened + after),
            stall: fate.stall.map(|(after, lasts)| (opened + after, opened + after + lasts)),
        };
        let frames = futures::stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) });
        BodyExt::boxed_unsync(StreamBody::new(frames))
    }
}

struct Watch {
    body: Pin<Box<apiserver::http::body::Body>>,
    link: Link,
    stop: CancellationToken,
    cut_at: Option<Instant>,
    stall: Option<(Instant, Instant)>,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        let cut = async {
            match self.cut_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            biased;
            () = self.link.0.dead.cancelled() => std::future::pending().await,
            () = self.stop.cancelled() => return Some(Err("connection reset by peer".into())),
            () = cut => return None,
            frame = std::future::poll_fn(|context| self.body.as_mut().poll_frame(context)) => frame,
        };
        if let Some((from, until)) = self.stall
            && Instant::now() >= from
        {
            tokio::time::sleep_until(until).await;
            self.stall = None;
        }
        while self.link.is_cut() {
            pause(NOTICED_AFTER).await;
            if !self.link.is_cut() {
                return Some(Err("connection reset by peer".into()));
            }
        }
        frame
    }
}

impl Service<Request<Body>> for Link {
    type Response = Answer;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().carry(request))
    }
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn refusal(code: StatusCode, reason: &str, message: &str) -> Answer {
    answer(code, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16()}))
}

fn answer(code: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never: Infallible| match never {});
    Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, "application/json")
        .body(BodyExt::boxed_unsync(body))
        .expect("a status and a content type make an answer")
}
