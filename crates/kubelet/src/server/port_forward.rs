//! Port forwarding: pairs of SPDY streams, one for data and one for the error, each to a port inside the pod.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use runtime::cri::{CriError, RuntimeService};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::spdy::{Connection, Sink, Stream};

pub const PROTOCOL: &str = "portforward.k8s.io";
/// The subprotocol under which SPDY travels inside WebSocket.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Pairs of which only one stream has come.
const HALF_PAIRS_MAX: usize = 64;
const CHUNK: usize = 32 * 1024;

#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
}

/// Serves until the client closes the connection.
pub async fn serve(mut connection: Connection, runtime: Arc<dyn RuntimeService>, sandbox_id: String, pod: String) {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut forwards = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connection.streams.recv() => stream,
            Some(_) = forwards.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        // Old clients send no request ID: the data stream is the one after its error stream.
        let kind = stream.header("streamtype").unwrap_or_default().to_owned();
        let fallback = if kind == "data" { stream.id.saturating_sub(2) } else { stream.id };
        let request = stream.header("requestid").map_or_else(|| fallback.to_string(), str::to_owned);
        if pairs.len() >= HALF_PAIRS_MAX {
            stream.sink.reset().await;
            continue;
        }
        let pair = pairs.entry(request.clone()).or_default();
        match kind.as_str() {
            "data" => pair.data = Some(stream),
            "error" => pair.error = Some(stream),
            _ => stream.sink.reset().await,
        }
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some(Pair { data: Some(data), error: Some(error) }) = pairs.remove(&request)
        {
            forwards.spawn(forward(data, error.sink, runtime.clone(), sandbox_id.clone(), pod.clone()));
        }
    }
    forwards.shutdown().await;
    connection.close().await;
}

async fn forward(data: Stream, error: Sink, runtime: Arc<dyn RuntimeService>, sandbox_id: String, pod: String) {
    let text = data.header("port").unwrap_or_default().to_owned();
    let Stream { data: mut from_client, sink, .. } = data;
    let problem = match text.parse::<u16>() {
        Err(_) => Some(format!("unable to parse \"{text}\" as a port")),
        Ok(port) => match runtime.port_forward(&sandbox_id, port).await {
            Err(problem) => Some(refusal(port, &pod, &problem)),
            Ok(target) => {
                relay(target, &mut from_client, &sink).await;
                None
            }
        },
    };
    if let Some(problem) = problem {
        error.write(Bytes::from(problem)).await;
    }
    sink.finish().await;
    error.finish().await;
}

pub fn refusal(port: u16, pod: &str, problem: &CriError) -> String {
    format!("error forwarding port {port} to pod {pod}, uid : {problem}")
}

/// Where a pod's bytes go.
pub trait Outlet: Sync {
    /// False once nobody listens.
    fn pass(&self, bytes: Bytes) -> impl Future<Output = bool> + Send;
}

impl Outlet for Sink {
    async fn pass(&self, bytes: Bytes) -> bool {
        self.write(bytes).await
    }
}

/// Passes bytes both ways until the pod's side has said all; what the client still says then is of no use to it.
pub async fn relay<T: AsyncRead + AsyncWrite>(target: T, from_client: &mut mpsc::Receiver<Bytes>, outlet: &impl Outlet) {
    let (mut output, mut input) = tokio::io::split(target);
    let up = async {
        while let Some(bytes) = from_client.recv().await {
            if input.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = input.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match output.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if !outlet.pass(Bytes::copy_from_slice(&buffer[..count])).await {
                        return;
                    }
                }
            }
        }
    };
    tokio::pin!(up, down);
    tokio::select! {
        _ = &mut down => {}
        _ = &mut up => down.await,
    }
}
