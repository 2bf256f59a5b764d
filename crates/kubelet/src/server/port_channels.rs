//! Port forwarding over plain WebSocket: of the ports named in the request, the first has channel 0 for data and 1 for
//! its error, the second 2 and 3, and so on. Each channel begins with the port's number, little-endian.

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use runtime::cri::RuntimeService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::port_forward::{Outlet, refusal, relay};
use super::websocket::{decode, encode};

/// The subprotocols, best first; the second carries text.
pub const PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
const MESSAGES_MAX: usize = 64;
/// More would not fit into a byte of channels.
const PORTS_MAX: usize = 128;

/// The ports of the query, each value one or several with commas. The error is the original's sentence.
pub fn ports(values: &[impl AsRef<str>]) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for text in values.iter().flat_map(|value| value.as_ref().split(',')) {
        match text.parse::<u16>() {
            Ok(0) => return Err("port must be > 0".to_owned()),
            Ok(port) => ports.push(port),
            Err(_) => return Err(format!("unable to parse \"{text}\" as a port")),
        }
    }
    match ports.len() {
        0 => Err("query parameter \"port\" is required".to_owned()),
        count if count > PORTS_MAX => Err(format!("at most {PORTS_MAX} ports can be forwarded at once")),
        _ => Ok(ports),
    }
}

struct Channel {
    number: u8,
    messages: mpsc::Sender<(u8, Bytes)>,
}

impl Outlet for Channel {
    async fn pass(&self, bytes: Bytes) -> bool {
        self.messages.send((self.number, bytes)).await.is_ok()
    }
}

/// Serves until every port's connection has ended, or the client has gone.
pub async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    transport: T,
    protocol: &str,
    ports: Vec<u16>,
    runtime: Arc<dyn RuntimeService>,
    sandbox_id: String,
    pod: String,
) {
    let base64 = protocol.contains("base64");
    let socket = WebSocketStream::from_raw_socket(transport, Role::Server, None).await;
    let (mut output, mut input) = socket.split();
    let (messages, mut outgoing) = mpsc::channel::<(u8, Bytes)>(MESSAGES_MAX);
    let mut forwards = tokio::task::JoinSet::new();
    let mut from_client = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let (sender, mut received) = mpsc::channel::<Bytes>(MESSAGES_MAX);
        from_client.push(sender);
        let data = u8::try_from(index * 2).expect("at most PORTS_MAX ports");
        let (messages, runtime, sandbox_id, pod) = (messages.clone(), runtime.clone(), sandbox_id.clone(), pod.clone());
        forwards.spawn(async move {
            let data = Channel { number: data, messages: messages.clone() };
            let error = Channel { number: data.number + 1, messages };
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            if !(data.pass(number.clone()).await && error.pass(number).await) {
                return;
            }
            match runtime.port_forward(&sandbox_id, port).await {
                Ok(target) => relay(target, &mut received, &data).await,
                Err(problem) => drop(error.pass(refusal(port, &pod, &problem).into()).await),
            }
        });
    }
    drop(messages);
    let write = async {
        while let Some((channel, bytes)) = outgoing.recv().await {
            if output.send(encode(channel, &bytes, base64)).await.is_err() {
                return;
            }
        }
        // Who has gone needs no farewell.
        let _ = output.send(Message::Close(None)).await;
        let _ = output.close().await;
    };
    let read = async {
        while let Some(Ok(message)) = input.next().await {
            let Some((channel, bytes)) = decode(message, base64) else { continue };
            // Nobody writes to the channels of errors. A pod that reads no more loses the rest.
            if channel % 2 == 0
                && let Some(sender) = from_client.get(usize::from(channel / 2))
            {
                let _ = sender.send(bytes).await;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    forwards.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[&str], expected: &str) {
        let told = ports(values).map(|ports| format!("{ports:?}"));
        assert_eq!(told.unwrap_or_else(|problem| problem), expected);
    }

    #[test]
    fn ports_of_a_query() {
        check(&["80", "8080,443"], "[80, 8080, 443]");
        check(&[], "query parameter \"port\" is required");
        check(&["http"], "unable to parse \"http\" as a port");
        check(&["0"], "port must be > 0");
    }
}
