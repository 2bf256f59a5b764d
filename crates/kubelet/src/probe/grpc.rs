//! The gRPC health protocol, `grpc.health.v1.Health/Check`, spoken by hand: one message each way.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Outcome;
use super::tcp::{dial, join};

const SERVING: u64 = 1;

pub async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = join(host, port);
    match tokio::time::timeout(timeout, check(host, port, service, timeout)).await {
        Err(_) => Outcome::Failure(format!("timeout: health rpc did not complete within {}s", timeout.as_secs())),
        Ok(Err(error)) => {
            let seconds = timeout.as_secs();
            Outcome::Failure(format!("timeout: failed to connect service {address:?} within {seconds}s: {error}"))
        }
        Ok(Ok(outcome)) => outcome,
    }
}

async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<Outcome, String> {
    let stream = dial(host, port, timeout).await?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{}/grpc.health.v1.Health/Check", join(host, port)))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.35")
        .body(Full::new(Bytes::from(request_message(service))))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let early_status = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    driver.abort();
    let status = early_status.or_else(|| body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()));
    let code = status.and_then(|status| status.to_str().ok()?.parse::<u32>().ok()).unwrap_or(0);
    if code == 12 {
        return Ok(Outcome::Failure("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()));
    }
    if code != 0 {
        return Ok(Outcome::Failure(format!("error: health rpc probe failed: code = {code}")));
    }
    Ok(match serving_status(&body.to_bytes()) {
        Some(SERVING) => Outcome::Success,
        other => {
            let name = match other {
                Some(2) => "NOT_SERVING",
                Some(3) => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
    })
}

/// Uncompressed flag, length, then field 1 as a string.
fn request_message(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    framed.extend(message);
    framed
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Field 1 of the answer; absent means 0.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let message = framed.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(request_message(""), [0, 0, 0, 0, 0]);
        assert_eq!(request_message("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
    }
}
