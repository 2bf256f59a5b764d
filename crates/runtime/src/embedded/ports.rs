//! Connections into a pod's network, for port-forwarding.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::cri::{CriError, CriResult, Duplex};
use crate::sys::process;

const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Connects to `localhost:port`; inside `netns`, or with the host's network.
pub async fn connect(netns: Option<PathBuf>, port: u16) -> CriResult<Box<dyn Duplex>> {
    let (sender, receiver) = oneshot::channel();
    // A thread of its own: it enters another namespace, and so must not be used again.
    let work = move || {
        let _ = sender.send(connect_inside(netns.as_deref(), port));
    };
    std::thread::Builder::new()
        .name("port-forward".to_string())
        .spawn(work)
        .map_err(|cause| CriError::Internal(format!("port-forward: {cause}")))?;
    let failed = |problem: String| CriError::Internal(format!("failed to execute portforward in network namespace: {problem}"));
    let stream = receiver.await.unwrap_or_else(|_| Err("the connecting thread ended".to_string())).map_err(failed)?;
    let register = |stream: TcpStream| -> io::Result<tokio::net::TcpStream> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        tokio::net::TcpStream::from_std(stream)
    };
    Ok(Box::new(register(stream).map_err(|cause| failed(cause.to_string()))?))
}

fn connect_inside(netns: Option<&Path>, port: u16) -> Result<TcpStream, String> {
    if let Some(netns) = netns {
        let enter = || process::enter_network(File::open(netns)?.as_fd());
        enter().map_err(|cause: io::Error| format!("{}: {cause}", netns.display()))?;
    }
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&v4, CONNECT_MAX).or_else(|first| {
        TcpStream::connect_timeout(&v6, CONNECT_MAX).map_err(|second| {
            let place = netns.map_or_else(|| "host".to_string(), |it| it.display().to_string());
            format!("failed to connect to localhost:{port} inside namespace {place:?}, IPv4: {first} IPv6 {second}")
        })
    })
}
