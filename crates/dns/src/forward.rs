//! Asks other servers about names of other zones.
//!
//! Invariant: an answer or a refusal within `TOTAL_TIMEOUT`, and never more than `UNDER_WAY_MAX` questions under way.
//! Deliberately absent: recursion of our own, DNS over TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::Name;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cache::{Cache, Question};

const TRY_TIMEOUT: Duration = Duration::from_millis(1500);
/// Clients give up after five seconds.
const TOTAL_TIMEOUT: Duration = Duration::from_millis(4500);
const UNDER_WAY_MAX: usize = 1024;
/// What we tell servers that they may send by UDP: no fragments on any usual network.
const UDP_PAYLOAD_BYTES: u16 = 1232;
/// The list of servers is looked at again when a question comes this long after the last look.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const SERVERS_MAX: usize = 5;

/// Which servers to ask.
#[derive(Clone, Debug)]
pub enum Upstreams {
    Fixed(Vec<SocketAddr>),
    /// The `nameserver` lines of a file like /etc/resolv.conf, read again when it changes.
    ResolvConf(PathBuf),
}

/// A domain that servers of its own know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StubDomain {
    pub domain: Name,
    pub servers: Vec<SocketAddr>,
}

pub struct Forwarder {
    upstreams: Upstreams,
    stub_domains: Vec<StubDomain>,
    /// Asking ourselves would go round in circles.
    own_addresses: Vec<SocketAddr>,
    listed: Mutex<Listed>,
    cache: Mutex<Cache>,
    under_way: Semaphore,
}

#[derive(Default)]
struct Listed {
    servers: Vec<SocketAddr>,
    search_domains: Vec<Name>,
    looked: Option<Instant>,
    modified: Option<SystemTime>,
}

impl Forwarder {
    pub fn new(upstreams: Upstreams, stub_domains: Vec<StubDomain>, own_addresses: Vec<SocketAddr>) -> Self {
        Forwarder {
            upstreams,
            stub_domains,
            own_addresses,
            listed: Mutex::default(),
            cache: Mutex::default(),
            under_way: Semaphore::new(UNDER_WAY_MAX),
        }
    }

    /// What is remembered of an earlier answer.
    pub fn remembered(&self, query: &Query, dnssec: bool) -> Option<Message> {
        self.cache.lock().get(&question(query, dnssec), Instant::now())
    }

    /// The answer of the first server that gives one; `None` if none does in time.
    pub async fn ask(&self, query: &Query, dnssec: bool) -> Option<Message> {
        if let Some(answer) = self.remembered(query, dnssec) {
            return Some(answer);
        }
        // With everybody waiting for servers that do not answer, the next one gets told at once.
        let _permit = self.under_way.try_acquire().ok()?;
        let answer = tokio::time::timeout(TOTAL_TIMEOUT, self.ask_all(query, dnssec)).await.ok()??;
        self.cache.lock().put(question(query, dnssec), &answer, Instant::now());
        Some(answer)
    }

    async fn ask_all(&self, query: &Query, dnssec: bool) -> Option<Message> {
        let servers = self.servers_for(query.name());
        for round in 0..2 {
            for server in &servers {
                match ask_one(*server, query, dnssec).await {
                    Ok(answer) => return Some(answer),
                    Err(cause) => tracing::debug!(%server, %query, round, %cause, "no answer from a name server"),
                }
            }
        }
        None
    }

    /// The host's, which end the search paths of pods.
    pub fn search_domains(&self) -> Vec<Name> {
        match &self.upstreams {
            Upstreams::Fixed(_) => Vec::new(),
            Upstreams::ResolvConf(path) => self.listed(path, |listed| listed.search_domains.clone()),
        }
    }

    fn servers_for(&self, name: &Name) -> Vec<SocketAddr> {
        let stubs = self.stub_domains.iter().filter(|stub| stub.domain.zone_of(name));
        match stubs.max_by_key(|stub| stub.domain.num_labels()) {
            Some(stub) => stub.servers.clone(),
            None => self.servers(),
        }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let listed = match &self.upstreams {
            Upstreams::Fixed(servers) => servers.clone(),
            Upstreams::ResolvConf(path) => self.listed(path, |listed| listed.servers.clone()),
        };
        listed.into_iter().filter(|server| !self.own_addresses.contains(server)).take(SERVERS_MAX).collect()
    }

    /// What the file says, looked at anew when it is time to.
    fn listed<T>(&self, path: &Path, get: impl FnOnce(&Listed) -> T) -> T {
        let mut listed = self.listed.lock();
        let now = Instant::now();
        if listed.looked.is_none_or(|looked| now - looked >= LOOK_INTERVAL) {
            listed.looked = Some(now);
            let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
            if modified.is_none() || modified != listed.modified {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                listed.modified = modified;
                listed.servers = name_servers(&text);
                listed.search_domains = search_domains(&text);
            }
        }
        get(&listed)
    }
}

fn question(query: &Query, dnssec: bool) -> Question {
    (query.name().to_lowercase(), query.query_type(), query.query_class(), dnssec)
}

async fn ask_one(server: SocketAddr, query: &Query, dnssec: bool) -> io::Result<Message> {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_BYTES);
    edns.set_dnssec_ok(dnssec);
    message.set_edns(edns);
    let asked = message.to_vec().map_err(io::Error::other)?;
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    let answer = tokio::time::timeout(TRY_TIMEOUT, ask_udp(server, &asked, &message)).await.map_err(timed_out)??;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    tokio::time::timeout(TRY_TIMEOUT, ask_tcp(server, &asked, &message)).await.map_err(timed_out)?
}

async fn ask_udp(server: SocketAddr, asked: &[u8], message: &Message) -> io::Result<Message> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    // A socket of its own for each question: a port that cannot be guessed, and errors that belong to it.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; 65535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && belongs(&answer, message)
        {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, asked: &[u8], message: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), asked].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if belongs(&answer, message) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn belongs(answer: &Message, asked: &Message) -> bool {
    answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && (answer.queries == asked.queries || answer.queries.is_empty())
}

pub fn name_servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        address.parse::<IpAddr>().ok()
    });
    addresses.map(|address| SocketAddr::new(address, 53)).collect()
}

/// Of several `search` lines the last counts.
fn search_domains(text: &str) -> Vec<Name> {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let last = lines.filter(|words| matches!(words.first(), Some(&"search" | &"domain"))).last().unwrap_or_default();
    let names = last.iter().skip(1).filter_map(|word| Name::from_ascii(word).ok()).filter(|name| !name.is_root());
    names.map(|name| if name.is_fqdn() { name } else { name.append_domain(&Name::root()).unwrap_or_else(|_| Name::root()) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text = "# a comment\nsearch example.com\nnameserver 1.1.1.1\n nameserver\t2606:4700::1111 \nnameserver bad\noptions ndots:5\n";
        let servers: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["1.1.1.1:53", "[2606:4700::1111]:53"]);
        let domains: Vec<String> = search_domains(text).iter().map(ToString::to_string).collect();
        assert_eq!(domains, ["example.com."]);
        assert_eq!(search_domains("search a.example\nsearch b.example. .\n").len(), 1);
    }

    #[test]
    fn the_longest_stub_domain_is_asked() {
        let stub = |domain: &str, server: &str| StubDomain { domain: Name::from_ascii(domain).unwrap(), servers: vec![server.parse().unwrap()] };
        let stubs = vec![stub("corp.example.", "10.0.0.1:53"), stub("lab.corp.example.", "10.0.0.2:5353")];
        let forwarder = Forwarder::new(Upstreams::Fixed(vec!["1.1.1.1:53".parse().unwrap()]), stubs, Vec::new());
        for (name, server) in [
            ("www.corp.example.", "10.0.0.1:53"),
            ("CORP.example.", "10.0.0.1:53"),
            ("a.lab.corp.example.", "10.0.0.2:5353"),
            ("corp.example.com.", "1.1.1.1:53"),
            ("mycorp.example.", "1.1.1.1:53"),
        ] {
            assert_eq!(forwarder.servers_for(&Name::from_ascii(name).unwrap()), [server.parse().unwrap()], "{name}");
        }
    }

    #[tokio::test]
    async fn notices_a_changed_file_and_never_asks_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.43.0.10\nnameserver 1.1.1.1\n").unwrap();
        let forwarder = Forwarder::new(Upstreams::ResolvConf(path.clone()), Vec::new(), vec!["10.43.0.10:53".parse().unwrap()]);
        assert_eq!(forwarder.servers(), ["1.1.1.1:53".parse().unwrap()]);
        std::fs::write(&path, "nameserver 8.8.8.8\n").unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        forwarder.listed.lock().looked = None;
        assert_eq!(forwarder.servers(), ["8.8.8.8:53".parse().unwrap()]);
    }
}
