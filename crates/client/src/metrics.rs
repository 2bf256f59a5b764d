//! What the process asks of API servers, and what its queues do, under client-go's names.
//!
//! Invariant: label values come from the program: names of queues, hosts of kubeconfigs, methods. A queue that is gone
//! is told of no more.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use api::histogram::{Histogram, head};
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use tower::{Layer, Service};

/// Upper bounds in seconds; client-go's.
static QUEUE_BUCKETS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];
static REQUEST_BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// What a queue has done since it was made.
#[derive(Clone)]
pub(crate) struct Done {
    pub adds: u64,
    pub retries: u64,
    /// From being added to being taken.
    pub waited: Histogram<{ QUEUE_BUCKETS.len() }>,
    pub worked: Histogram<{ QUEUE_BUCKETS.len() }>,
}

impl Default for Done {
    fn default() -> Self {
        Done { adds: 0, retries: 0, waited: Histogram::new(&QUEUE_BUCKETS), worked: Histogram::new(&QUEUE_BUCKETS) }
    }
}

/// That, and what it is at.
pub(crate) struct QueueNumbers {
    pub depth: usize,
    /// Seconds that all items under way have taken so far, and those of the longest.
    pub unfinished: f64,
    pub longest: f64,
    pub done: Done,
}

/// None: the queue is gone.
type Ask = Box<dyn Fn() -> Option<QueueNumbers> + Send>;

/// By name. Of two by one name (a turn that ends, a cluster beside), the later is told of: nothing is kept for each of
/// the many clusters that a simulation starts.
static QUEUES: Mutex<BTreeMap<&'static str, Ask>> = Mutex::new(BTreeMap::new());
static HOSTS: Mutex<BTreeMap<String, Arc<Host>>> = Mutex::new(BTreeMap::new());

pub(crate) fn tell_of(name: &'static str, ask: Ask) {
    QUEUES.lock().insert(name, ask);
}

/// Everything here, as Prometheus reads it.
pub fn print(out: &mut String) {
    print_queues(out).and_then(|()| print_requests(out)).expect("writing to a String cannot fail");
}

fn print_queues(out: &mut String) -> std::fmt::Result {
    let mut all: BTreeMap<&'static str, QueueNumbers> = BTreeMap::new();
    for (name, ask) in QUEUES.lock().iter() {
        if let Some(numbers) = ask() {
            all.insert(name, numbers);
        }
    }
    type Line = (&'static str, &'static str, &'static str, fn(&QueueNumbers) -> f64);
    let lines: [Line; 5] = [
        ("workqueue_adds_total", "counter", "[ALPHA] Total number of adds handled by workqueue", |it| it.done.adds as f64),
        ("workqueue_depth", "gauge", "[ALPHA] Current depth of workqueue", |it| it.depth as f64),
        (
            "workqueue_longest_running_processor_seconds",
            "gauge",
            "[ALPHA] How many seconds has the longest running processor for workqueue been running.",
            |it| it.longest,
        ),
        ("workqueue_retries_total", "counter", "[ALPHA] Total number of retries handled by workqueue", |it| it.done.retries as f64),
        (
            "workqueue_unfinished_work_seconds",
            "gauge",
            "[ALPHA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
            |it| it.unfinished,
        ),
    ];
    for (metric, kind, help, value) in lines {
        head(out, metric, kind, help)?;
        for (name, numbers) in &all {
            writeln!(out, "{metric}{{name=\"{name}\"}} {}", value(numbers))?;
        }
    }
    const WAITED: &str = "workqueue_queue_duration_seconds";
    head(out, WAITED, "histogram", "[ALPHA] How long in seconds an item stays in workqueue before being requested.")?;
    for (name, numbers) in &all {
        numbers.done.waited.print(out, WAITED, &format!("name=\"{name}\""))?;
    }
    const WORKED: &str = "workqueue_work_duration_seconds";
    head(out, WORKED, "histogram", "[ALPHA] How long in seconds processing an item from workqueue takes.")?;
    for (name, numbers) in &all {
        numbers.done.worked.print(out, WORKED, &format!("name=\"{name}\""))?;
    }
    Ok(())
}

fn print_requests(out: &mut String) -> std::fmt::Result {
    const TIMES: &str = "rest_client_request_duration_seconds";
    const CODES: &str = "rest_client_requests_total";
    let hosts = HOSTS.lock();
    head(out, TIMES, "histogram", "[ALPHA] Request latency in seconds. Broken down by verb, and host.")?;
    for (host, counts) in hosts.iter() {
        for (verb, times) in &counts.asked.lock().times {
            times.print(out, TIMES, &format!("host=\"{host}\",verb=\"{verb}\""))?;
        }
    }
    head(out, CODES, "counter", "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.")?;
    for (host, counts) in hosts.iter() {
        for ((method, code), count) in &counts.asked.lock().codes {
            let code = if *code == 0 { "<error>".to_owned() } else { code.to_string() };
            writeln!(out, "{CODES}{{code=\"{code}\",host=\"{host}\",method=\"{method}\"}} {count}")?;
        }
    }
    Ok(())
}

/// What was asked of one API server.
#[derive(Default)]
struct Host {
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    /// By method and status, 0 where there was no answer.
    codes: BTreeMap<(&'static str, u16), u64>,
    times: BTreeMap<&'static str, Histogram<{ REQUEST_BUCKETS.len() }>>,
}

impl Host {
    fn observe(&self, method: &'static str, code: u16, took: Option<Duration>) {
        let mut asked = self.asked.lock();
        *asked.codes.entry((method, code)).or_default() += 1;
        if let Some(took) = took {
            asked.times.entry(method).or_insert_with(|| Histogram::new(&REQUEST_BUCKETS)).observe(took.as_secs_f64());
        }
    }
}

fn method_name(method: &Method) -> &'static str {
    const KNOWN: [&str; 6] = ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("OTHER")
}

/// Counts what goes to a host.
#[derive(Clone)]
pub(crate) struct Counting {
    host: Arc<Host>,
}

impl Counting {
    pub fn of(host: &str) -> Self {
        Counting { host: HOSTS.lock().entry(host.to_owned()).or_default().clone() }
    }
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, host: self.host.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    host: Arc<Host>,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = method_name(request.method());
        // client-go times no watches.
        let timed = !request.uri().query().is_some_and(|query| query.split('&').any(|part| matches!(part, "watch=true" | "watch=1")));
        let (host, start) = (self.host.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            host.observe(method, code, timed.then(|| start.elapsed()));
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkQueue;

    #[tokio::test(start_paused = true)]
    async fn queues_are_told_of() {
        let queue = WorkQueue::new().named("test_queue");
        queue.add("a");
        queue.add("a");
        queue.add("b");
        tokio::time::advance(Duration::from_secs(5)).await;
        let first = queue.get().await.expect("an item");
        tokio::time::advance(Duration::from_secs(20)).await;
        queue.add_after("c", Duration::from_secs(1));
        let mut out = String::new();
        print(&mut out);
        for line in [
            "workqueue_depth{name=\"test_queue\"} 1",
            "workqueue_adds_total{name=\"test_queue\"} 2",
            "workqueue_retries_total{name=\"test_queue\"} 1",
            "workqueue_unfinished_work_seconds{name=\"test_queue\"} 20",
            "workqueue_longest_running_processor_seconds{name=\"test_queue\"} 20",
            "workqueue_queue_duration_seconds_bucket{name=\"test_queue\",le=\"1\"} 0",
            "workqueue_queue_duration_seconds_bucket{name=\"test_queue\",le=\"10\"} 1",
        ] {
            assert!(out.lines().any(|known| known == line), "{line} is not in\n{out}");
        }
        queue.done(&first);
        let mut out = String::new();
        print(&mut out);
        assert!(out.contains("workqueue_work_duration_seconds_sum{name=\"test_queue\"} 20\n"), "{out}");
        drop(queue);
        let mut out = String::new();
        print(&mut out);
        assert!(!out.contains("test_queue"), "{out}");
    }

    #[tokio::test]
    async fn requests_are_told_of() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            match request.uri().path() {
                "/gone" => Err("no answer".to_owned()),
                _ => Ok(Response::builder().status(404).body(Body::empty()).expect("an answer")),
            }
        });
        let mut counted = Counting::of("test.example:1").layer(service);
        for path in ["/a", "/a?watch=true", "/gone"] {
            let _ = counted.call(Request::get(path).body(Body::empty()).expect("a request")).await;
        }
        let mut out = String::new();
        print(&mut out);
        for line in [
            "rest_client_requests_total{code=\"404\",host=\"test.example:1\",method=\"GET\"} 2",
            "rest_client_requests_total{code=\"<error>\",host=\"test.example:1\",method=\"GET\"} 1",
            "rest_client_request_duration_seconds_count{host=\"test.example:1\",verb=\"GET\"} 2",
        ] {
            assert!(out.lines().any(|known| known == line), "{line} is not in\n{out}");
        }
    }
}
