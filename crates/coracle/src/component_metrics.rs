//! `/metrics` and `/healthz` of a component that runs alone, at the original's port.
//!
//! Invariant: on the loopback address only, because nobody is asked who they are; where the port is taken, the
//! component works without.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub const CONTROLLER_MANAGER: u16 = 10257;
pub const SCHEDULER: u16 = 10259;

const HEADERS: Duration = Duration::from_secs(10);

/// Serves in the background until cancelled.
pub fn serve(port: u16, cancel: &CancellationToken) {
    let cancel = cancel.clone();
    tokio::spawn(async move {
        match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
            Ok(listener) => accept(listener, cancel).await,
            Err(cause) => tracing::warn!(port, %cause, "no metrics are served"),
        }
    });
}

async fn accept(listener: TcpListener, cancel: CancellationToken) {
    loop {
        let stream = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(cause) => {
                    tracing::warn!(%cause, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let cancel = cancel.clone();
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .serve_connection(TokioIo::new(stream), service_fn(async |request| Ok::<_, Infallible>(answer(&request))));
            tokio::select! {
                () = cancel.cancelled() => {}
                _ = connection => {} // Whoever asked may leave as they like.
            }
        });
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (code, text) = match request.uri().path() {
        "/metrics" => {
            let mut out = String::new();
            client::metrics::print(&mut out);
            (StatusCode::OK, out)
        }
        "/healthz" | "/livez" | "/readyz" => (StatusCode::OK, "ok".to_owned()),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn it_tells_until_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(accept(listener, cancel.clone()));
        for (path, code, part) in [
            ("/metrics", "200 OK", "# TYPE workqueue_depth gauge"),
            ("/healthz", "200 OK", "ok"),
            ("/else", "404 Not Found", "404 page not found"),
        ] {
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("an answer");
            assert!(text.starts_with(&format!("HTTP/1.1 {code}")) && text.contains(part), "{text}");
        }
        cancel.cancel();
        serving.await.expect("ends");
    }
}
