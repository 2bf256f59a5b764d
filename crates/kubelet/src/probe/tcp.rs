//! A TCP probe succeeds when the port accepts a connection.

use std::time::Duration;

use tokio::net::TcpStream;

use super::Outcome;

pub async fn probe(host: &str, port: u16, timeout: Duration) -> Outcome {
    match dial(host, port, timeout).await {
        Ok(_) => Outcome::Success,
        Err(message) => Outcome::Failure(message),
    }
}

/// Errors are worded as Go's dialer words them.
pub async fn dial(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let address = join(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect((host.trim_matches(['[', ']']), port))).await {
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        Ok(Err(error)) => Err(format!("dial tcp {address}: {}", wording(&error))),
        Ok(Ok(stream)) => Ok(stream),
    }
}

pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn wording(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connects_or_says_why_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        assert_eq!(probe("127.0.0.1", port, Duration::from_secs(1)).await, Outcome::Success);
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(probe("127.0.0.1", port, Duration::from_secs(1)).await, Outcome::Failure(refused));
    }
}
