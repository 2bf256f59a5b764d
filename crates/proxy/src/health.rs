//! HTTP servers by which load balancers learn whether this node has endpoints of a Service (`healthCheckNodePort`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::ObjectKey;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::run::HealthChanges;

/// Balancers ask every few seconds from a handful of addresses; more at once is somebody else.
const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct HealthServers {
    servers: HashMap<ObjectKey, Server>,
}

struct Server {
    port: u16,
    local_endpoints: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthServers {
    /// A port that cannot be listened on is tried again at the Service's next change.
    pub async fn update(&mut self, changes: HealthChanges) {
        for (service, wanted) in changes {
            let Some(wanted) = wanted else {
                self.servers.remove(&service);
                continue;
            };
            if let Some(server) = self.servers.get(&service)
                && server.port == wanted.port
            {
                server.local_endpoints.store(wanted.local_endpoints, Ordering::Relaxed);
                continue;
            }
            self.servers.remove(&service);
            match listen(wanted.port).await {
                Ok(listener) => {
                    let local_endpoints = Arc::new(AtomicUsize::new(wanted.local_endpoints));
                    let task = tokio::spawn(serve(listener, service.clone(), local_endpoints.clone()));
                    self.servers.insert(service, Server { port: wanted.port, local_endpoints, task });
                }
                Err(error) => {
                    tracing::warn!(%service, port = wanted.port, %error, "Failed to start healthcheck");
                }
            }
        }
    }
}

/// On every address of both families; of IPv4 alone where the host has no IPv6.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
    }
}

async fn serve(listener: TcpListener, service: ObjectKey, local_endpoints: Arc<AtomicUsize>) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors; accepting again at once would only spin.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (service, local_endpoints) = (service.clone(), local_endpoints.clone());
        tokio::spawn(async move {
            let answer = service_fn(|_request| {
                let response = respond(&service, local_endpoints.load(Ordering::Relaxed));
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            // A client that goes away in the middle is its own affair.
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            drop(slot);
        });
    }
}

fn respond(service: &ObjectKey, local_endpoints: usize) -> Response<Full<Bytes>> {
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {:?},\n\t\t\"name\": {:?}\n\t}},\n\t\"localEndpoints\": {},\n\t\"serviceProxyHealthy\": true\n}}",
        service.namespace, service.name, local_endpoints
    );
    let status = if local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .header(HeaderName::from_static("x-content-type-options"), "nosniff")
        .header(HeaderName::from_static("x-load-balancing-endpoint-weight"), local_endpoints)
        .body(Full::new(Bytes::from(body)))
        .expect("constant header names and a number")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn answers_as_the_original() {
        let response = respond(&ObjectKey::new("ns", "web"), 0);
        assert_eq!(response.status(), 503);
        let response = respond(&ObjectKey::new("ns", "web"), 2);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-load-balancing-endpoint-weight"], "2");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "service": {"namespace": "ns", "name": "web"},
                "localEndpoints": 2,
                "serviceProxyHealthy": true,
            })
        );
    }
}
