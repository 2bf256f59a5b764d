//! The agent's end of a shim's socket.
//!
//! Invariant: frames are sent whole by one task, so that a caller who goes away breaks nothing; each request is
//! answered once, at the latest when the shim is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::cri::CriError;
use crate::shim::protocol::{Decoder, Failure, Message, Operation, Reply, Request, encode};
use crate::spec::ExitRecord;
use crate::sys::socket;

/// A start may wait for a slow volume; the kubelet itself gives up after two minutes.
const CALL_MAX: Duration = Duration::from_secs(110);
/// Requests that wait to be written.
const QUEUE_MAX: usize = 64;

/// What a shim tells without being asked.
#[derive(Debug)]
pub enum ShimEvent {
    Started { container: String, pid: i32, started_at: i64 },
    Exited { container: String, exit: ExitRecord },
    /// Its process is gone, or no longer understood.
    Gone,
}

#[derive(Debug)]
pub enum CallError {
    NotFound(String),
    /// The shim could not do it.
    Failed(String),
    Gone,
    TimedOut,
}

impl From<CallError> for CriError {
    fn from(error: CallError) -> CriError {
        match error {
            CallError::NotFound(text) => CriError::NotFound(text),
            CallError::Failed(text) => CriError::Internal(text),
            CallError::Gone => CriError::Unavailable("the pod's shim is gone: ttrpc: closed".to_string()),
            CallError::TimedOut => CriError::Unavailable("the pod's shim does not answer: context deadline exceeded".to_string()),
        }
    }
}

type Answer = Result<(Reply, Vec<OwnedFd>), CallError>;

#[derive(Default)]
struct Waiting {
    gone: bool,
    greeting: Option<oneshot::Sender<Result<(), String>>>,
    calls: HashMap<u64, oneshot::Sender<Answer>>,
    execs: HashMap<String, oneshot::Sender<i32>>,
}

pub struct ShimClient {
    outgoing: mpsc::Sender<(Vec<u8>, Vec<OwnedFd>)>,
    waiting: Arc<Mutex<Waiting>>,
    next_id: AtomicU64,
}

impl ShimClient {
    /// `on_event` is called in order, from one task. `greeting` is for a shim that was just spawned.
    pub fn new(
        stream: std::os::unix::net::UnixStream,
        greeting: Option<oneshot::Sender<Result<(), String>>>,
        on_event: impl Fn(ShimEvent) + Send + Sync + 'static,
    ) -> io::Result<Arc<ShimClient>> {
        stream.set_nonblocking(true)?;
        let stream = Arc::new(UnixStream::from_std(stream)?);
        let (outgoing, queue) = mpsc::channel(QUEUE_MAX);
        let waiting = Arc::new(Mutex::new(Waiting { greeting, ..Waiting::default() }));
        tokio::spawn(write(stream.clone(), queue));
        tokio::spawn(read(stream, waiting.clone(), on_event));
        Ok(Arc::new(ShimClient { outgoing, waiting, next_id: AtomicU64::new(1) }))
    }

    pub async fn call(&self, operation: Operation, descriptors: Vec<OwnedFd>) -> Answer {
        self.call_within(CALL_MAX, operation, descriptors).await
    }

    pub async fn call_within(&self, limit: Duration, operation: Operation, descriptors: Vec<OwnedFd>) -> Answer {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let bytes = encode(&Request { id, operation }, descriptors.len()).map_err(|cause| CallError::Failed(cause.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.gone {
                return Err(CallError::Gone);
            }
            waiting.calls.insert(id, sender);
        }
        let exchange = async {
            self.outgoing.send((bytes, descriptors)).await.map_err(|_| CallError::Gone)?;
            receiver.await.unwrap_or(Err(CallError::Gone))
        };
        let answer = tokio::time::timeout(limit, exchange).await.unwrap_or(Err(CallError::TimedOut));
        self.waiting.lock().calls.remove(&id);
        answer
    }

    pub fn is_gone(&self) -> bool {
        self.waiting.lock().gone
    }

    /// The exit code of an exec that is about to be asked for.
    pub fn exec_exit(&self, exec: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().execs.insert(exec.to_string(), sender);
        receiver
    }

    pub fn forget_exec(&self, exec: &str) {
        self.waiting.lock().execs.remove(exec);
    }
}

async fn write(stream: Arc<UnixStream>, mut queue: mpsc::Receiver<(Vec<u8>, Vec<OwnedFd>)>) {
    while let Some((bytes, mut descriptors)) = queue.recv().await {
        let mut sent = 0;
        while sent < bytes.len() {
            if stream.writable().await.is_err() {
                return;
            }
            match stream.try_io(Interest::WRITABLE, || socket::send(&*stream, &bytes[sent..], &descriptors)) {
                Ok(count) => {
                    sent += count;
                    descriptors.clear();
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return, // The reader sees the end as well.
            }
        }
    }
    // Nobody can ask any more: the reader shall end, too.
    let _ = nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&*stream), nix::sys::socket::Shutdown::Both);
}

async fn read(stream: Arc<UnixStream>, waiting: Arc<Mutex<Waiting>>, on_event: impl Fn(ShimEvent)) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 16 << 10];
    'stream: while stream.readable().await.is_ok() {
        let mut descriptors = Vec::new();
        let received =
            stream.try_io(Interest::READABLE, || socket::receive(&*stream, &mut buffer, &mut descriptors));
        match received {
            Ok(0) => break,
            Ok(count) => decoder.push(&buffer[..count], descriptors),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        }
        loop {
            match decoder.next::<Message>() {
                Ok(Some((message, descriptors))) => deliver(message, descriptors, &waiting, &on_event),
                Ok(None) => break,
                Err(cause) => {
                    tracing::warn!(%cause, "a shim is not understood");
                    break 'stream;
                }
            }
        }
    }
    {
        let mut waiting = waiting.lock();
        // Whoever waits finds its sender dropped.
        *waiting = Waiting { gone: true, ..Waiting::default() };
    }
    on_event(ShimEvent::Gone);
}

fn deliver(message: Message, descriptors: Vec<OwnedFd>, waiting: &Mutex<Waiting>, on_event: &impl Fn(ShimEvent)) {
    match message {
        Message::Sandbox(result) => {
            if let Some(greeting) = waiting.lock().greeting.take() {
                let _ = greeting.send(result);
            }
        }
        Message::Reply { id, result } => {
            let answer = result.map(|reply| (reply, descriptors)).map_err(|failure| match failure {
                Failure::NotFound(text) => CallError::NotFound(text),
                Failure::Failed(text) => CallError::Failed(text),
            });
            if let Some(call) = waiting.lock().calls.remove(&id) {
                let _ = call.send(answer);
            }
        }
        Message::Started { container, pid, started_at } => on_event(ShimEvent::Started { container, pid, started_at }),
        Message::Exited { container, exit } => on_event(ShimEvent::Exited { container, exit }),
        Message::ExecExited { exec, exit_code } => {
            if let Some(sender) = waiting.lock().execs.remove(&exec) {
                let _ = sender.send(exit_code);
            }
        }
    }
}
