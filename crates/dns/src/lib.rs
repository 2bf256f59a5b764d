//! The cluster's DNS server.
//!
//! Invariants: names under the cluster domain are answered from what the informers know, at once and whether or not
//! the API server is there; everything else is asked of the machine's own name servers. Every question gets an answer
//! or is dropped; no packet can make the server fail.
//!
//! The first question of a search path (`ndots:5`) is answered as its last would be, so that one round trip is enough.
//!
//! Deliberately absent: zone files, DNS over TLS or HTTPS, and hickory's server, whose per-question tasks are not
//! bounded.

mod cache;
pub mod forward;
pub mod observe;
pub mod resolve;
pub mod zone;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::{Change, Informers};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::forward::Forwarder;
pub use crate::forward::{StubDomain, Upstreams};
pub use hickory_proto::rr::Name;
use crate::resolve::{First, Resolver, Transport};
use crate::zone::Zone;

/// Connections that may be open at once.
const CONNECTIONS_MAX: usize = 256;
/// A connection without a question for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

pub struct DnsConfig {
    /// Addresses to answer at, by UDP and TCP. Port 0 stands for any.
    pub listen: Vec<SocketAddr>,
    /// For example `cluster.local`.
    pub domain: String,
    pub upstreams: Upstreams,
    /// Domains that other servers are asked for.
    pub stub_domains: Vec<StubDomain>,
}

pub struct DnsServer {
    config: DnsConfig,
    informers: Arc<Informers>,
}

/// A server whose sockets are open.
pub struct Bound {
    sockets: Vec<(Arc<UdpSocket>, TcpListener)>,
    resolver: Arc<Resolver>,
    informers: Arc<Informers>,
}

impl DnsServer {
    pub fn new(config: DnsConfig, informers: Arc<Informers>) -> Self {
        DnsServer { config, informers }
    }

    /// Binds and serves until `cancel`; an error means that an address could not be bound.
    pub async fn run(self, cancel: CancellationToken) -> io::Result<()> {
        self.bind().await?.serve(cancel).await;
        Ok(())
    }

    pub async fn bind(self) -> io::Result<Bound> {
        let mut sockets = Vec::new();
        for address in &self.config.listen {
            let udp = UdpSocket::bind(address).await?;
            // With port 0 both take the one that UDP got.
            let tcp = TcpListener::bind(udp.local_addr()?).await?;
            sockets.push((Arc::new(udp), tcp));
        }
        let own: Vec<SocketAddr> = sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect();
        let zone = Zone::new(&self.config.domain, own.iter().map(SocketAddr::ip).collect());
        let forwarder = Forwarder::new(self.config.upstreams, self.config.stub_domains, own);
        let resolver = Arc::new(Resolver { zone: RwLock::new(zone), forwarder });
        Ok(Bound { sockets, resolver, informers: self.informers })
    }
}

impl Bound {
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect()
    }

    /// Serves until `cancel`.
    pub async fn serve(self, cancel: CancellationToken) {
        subscribe(&self.informers, &self.resolver);
        let turns = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = tokio::task::JoinSet::new();
        for (udp, tcp) in self.sockets {
            tasks.spawn(serve_udp(udp, self.resolver.clone(), turns.clone()));
            tasks.spawn(serve_tcp(tcp, self.resolver.clone(), turns.clone(), connections.clone()));
        }
        cancel.cancelled().await; // The tasks end with the set.
    }
}

/// Fills the zone, and keeps it so. Answers are given from the first moment; what is not known yet does not exist yet.
fn subscribe(informers: &Informers, resolver: &Arc<Resolver>) {
    let zone = resolver.clone();
    informers.of::<Namespace>().subscribe(move |change| {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        zone.zone.write().set_namespace(&name, !matches!(change, Change::Deleted(_)));
    });
    let zone = resolver.clone();
    informers.of::<EndpointSlice>().subscribe(move |change| {
        let slice = change.object();
        let name = slice.metadata.name.clone().unwrap_or_default();
        let zone = &mut zone.zone.write();
        let before = change.old().and_then(|old| observe::service_of(old));
        let now = observe::service_of(slice);
        if let Some(before) = before.filter(|before| Some(before) != now.as_ref()) {
            zone.set_slice(before, &name, None);
        }
        if let Some(service) = now {
            let content = (!matches!(change, Change::Deleted(_))).then(|| observe::slice(slice));
            zone.set_slice(service, &name, content);
        }
    });
    let zone = resolver.clone();
    informers.of::<Service>().subscribe(move |change| {
        let service = change.object();
        let metadata = &service.metadata;
        let key = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        let content = (!matches!(change, Change::Deleted(_))).then(|| observe::service(service));
        zone.zone.write().set_service(key, content);
    });
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>, turns: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 65535];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(cause) => {
                // An earlier answer was not wanted, for instance. Never spin on whatever it is.
                tracing::debug!(%cause, "cannot receive");
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        match resolver.start(&buffer[..length], Transport::Udp, turns.fetch_add(1, Ordering::Relaxed)) {
            First::Silence => {}
            First::Reply(reply) => drop(socket.send_to(&reply, from).await), // A client that is gone asks no more.
            First::Pending(pending) => {
                // Bounded by the forwarder, which refuses at once what is too much.
                let (socket, resolver) = (socket.clone(), resolver.clone());
                tokio::spawn(async move {
                    let reply = resolver.finish(*pending).await;
                    drop(socket.send_to(&reply, from).await);
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>, turns: Arc<AtomicUsize>, connections: Arc<Semaphore>) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (resolver, turns) = (resolver.clone(), turns.clone());
                open.spawn(async move {
                    // However it ends, the client closes or asks again.
                    drop(serve_connection(stream, &resolver, &turns).await);
                    drop(permit);
                });
            }
            Err(cause) => {
                tracing::debug!(%cause, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, resolver: &Resolver, turns: &AtomicUsize) -> io::Result<()> {
    loop {
        let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
        let read = async {
            let length = stream.read_u16().await?;
            let mut packet = vec![0; usize::from(length)];
            stream.read_exact(&mut packet).await?;
            io::Result::Ok(packet)
        };
        let packet = tokio::time::timeout(IDLE_TIMEOUT, read).await.map_err(timed_out)??;
        let reply = match resolver.start(&packet, Transport::Tcp, turns.fetch_add(1, Ordering::Relaxed)) {
            First::Silence => return Ok(()),
            First::Reply(reply) => reply,
            First::Pending(pending) => resolver.finish(*pending).await,
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let write = async {
            stream.write_all(&[&length.to_be_bytes(), &reply[..]].concat()).await
        };
        tokio::time::timeout(IDLE_TIMEOUT, write).await.map_err(timed_out)??;
    }
}
