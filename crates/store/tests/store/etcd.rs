//! What only etcd can do: be away, come back, be shared, ask who you are.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use store::etcd::{EtcdStore, Settings};
use store::{KeyRange, RangeRequest, Store, StoreError, WatchMessage};
use tempfile::TempDir;

use crate::rules::{delete, next, put, transaction};

/// An etcd of one member on loopback, ended with the value.
pub struct Etcd {
    child: Child,
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
    arguments: Vec<String>,
    scheme: &'static str,
}

impl Etcd {
    /// None: etcd is not installed.
    pub fn start() -> Option<Etcd> {
        Etcd::start_with("http", |_| Vec::new())
    }

    fn start_with(scheme: &'static str, arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<Etcd> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("skipped: etcd is not installed (package etcd-server)");
            return None;
        }
        // Its fsyncs are not what is tested.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client_port, peer_port) = (free(), free());
        let arguments = arguments(directory.path());
        let child = spawn(directory.path(), client_port, peer_port, scheme, &arguments);
        let etcd = Etcd { child, directory, client_port, peer_port, arguments, scheme };
        etcd.wait();
        Some(etcd)
    }

    /// Until somebody listens; calls wait for the leader by themselves.
    fn wait(&self) {
        for _ in 0..300 {
            if std::net::TcpStream::connect(("127.0.0.1", self.client_port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("etcd does not listen");
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.directory.path(), self.client_port, self.peer_port, self.scheme, &self.arguments);
        self.wait();
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client_port)
    }

    /// Needs a tokio runtime.
    pub fn store(&self) -> EtcdStore {
        EtcdStore::new(Settings { compact_every: None, ..Settings::new(&self.endpoint()) }).unwrap()
    }
}

fn spawn(directory: &Path, client_port: u16, peer_port: u16, scheme: &str, arguments: &[String]) -> Child {
    let client = format!("{scheme}://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    Command::new("etcd")
        .args(["--name", "test", "--logger", "zap", "--log-level", "error"])
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}"), "--heartbeat-interval", "50", "--election-timeout", "500"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn write(store: &EtcdStore, key: &str, value: &str) -> Result<i64, StoreError> {
    Ok(store.commit(transaction([put(key, value)])).await?.revision)
}

#[tokio::test]
async fn a_watch_outlives_an_etcd_that_dies_and_comes_back() {
    let Some(mut etcd) = Etcd::start() else { return };
    let store = etcd.store();
    let mut watch = store.watch(KeyRange::prefix("/"), 0).await.unwrap();
    assert_eq!(write(&store, "/a", "1").await.unwrap(), 2);
    assert_eq!(next(&mut watch).await, "+/a@2");

    etcd.kill();
    let _ = write(&store, "/a", "2").await.unwrap_err(); // Finds out that the connection is gone.
    let refused = write(&store, "/a", "2").await.unwrap_err().to_string();
    assert!(refused.starts_with("etcd: rpc error: code = Unavailable desc = 127.0.0.1:"), "{refused}");
    assert!(store.current_revision().await.is_err());

    etcd.start_again();
    let mut tries = 0;
    while write(&store, "/b", "1").await.is_err() {
        tries += 1;
        assert!(tries < 100, "etcd is back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(next(&mut watch).await, "+/b@3");
}

#[tokio::test]
async fn one_of_several_endpoints_is_enough() {
    let Some(etcd) = Etcd::start() else { return };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoints = format!("http://127.0.0.1:{closed},{}", etcd.endpoint());
    let store = EtcdStore::new(Settings::new(&endpoints)).unwrap();
    assert_eq!(write(&store, "/a", "1").await.unwrap(), 2);
}

/// Whoever waits for a revision that was of a key outside of a watch's range is not left waiting.
#[tokio::test]
async fn a_watch_says_that_other_keys_revisions_have_passed() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    let mut watch = store.watch(KeyRange::prefix("/registry/"), 0).await.unwrap();
    write(&store, "/registry/a", "1").await.unwrap();
    write(&store, "elsewhere", "1").await.unwrap();
    assert_eq!(next(&mut watch).await, "+/registry/a@2");
    assert_eq!(store.current_revision().await.unwrap(), 3);
    assert_eq!(next(&mut watch).await, "Some(Progress(3))");
}

#[tokio::test]
async fn a_large_range_is_read_in_pages_of_one_state() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    for batch in 0..50 {
        let writes: Vec<_> = (0..100).map(|n| put(&format!("/{:05}", batch * 100 + n), "x")).collect();
        store.commit(transaction(writes)).await.unwrap();
    }
    let answer = store.range(RangeRequest::newest(KeyRange::prefix("/"))).await.unwrap();
    assert_eq!((answer.kvs.len(), answer.count, answer.more, answer.revision), (5000, 5000, false, 51));
    assert!(answer.kvs.is_sorted_by(|a, b| a.key < b.key));
    let answer = store.range(RangeRequest { limit: 4500, ..RangeRequest::newest(KeyRange::prefix("/")) }).await.unwrap();
    assert_eq!((answer.kvs.len(), answer.count, answer.more), (4500, 5000, true));
}

#[tokio::test]
async fn short_lived_keys_go_by_themselves() {
    let Some(etcd) = Etcd::start() else { return };
    let short_lived = vec![(Bytes::from_static(b"/events/"), Duration::from_secs(1))];
    let store = EtcdStore::new(Settings { short_lived, ..Settings::new(&etcd.endpoint()) }).unwrap();
    let mut watch = store.watch(KeyRange::prefix("/events/"), 0).await.unwrap();
    write(&store, "/events/a", "1").await.unwrap();
    write(&store, "/other", "1").await.unwrap();
    assert_eq!(next(&mut watch).await, "+/events/a@2");
    assert_eq!(next(&mut watch).await, "-/events/a@4");
    assert_eq!(store.range(RangeRequest::newest(KeyRange::prefix("/"))).await.unwrap().count, 1);
}

#[tokio::test]
async fn two_servers_compact_what_is_older_than_a_period() {
    let Some(etcd) = Etcd::start() else { return };
    let settings = Settings { compact_every: Some(Duration::from_millis(400)), ..Settings::new(&etcd.endpoint()) };
    let (one, other) = (EtcdStore::new(settings.clone()).unwrap(), EtcdStore::new(settings).unwrap());
    let mut watch = other.watch(KeyRange::prefix("/"), 0).await.unwrap();
    let mut old = 0;
    for value in 0..30 {
        let revision = write(&one, "/a", &value.to_string()).await.unwrap();
        old = if value == 0 { revision } else { old };
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let refused = one.range(RangeRequest { revision: old, ..RangeRequest::newest(KeyRange::prefix("/")) }).await.unwrap_err();
    assert!(matches!(refused, StoreError::Compacted { oldest } if oldest > old), "{refused:?}");
    // What is younger than a period is there, and who follows notices nothing.
    let newest = one.current_revision().await.unwrap();
    assert!(one.range(RangeRequest { revision: newest, ..RangeRequest::newest(KeyRange::prefix("/")) }).await.is_ok());
    let mut seen = 0;
    while let Ok(message) = watch.try_recv() {
        match message {
            WatchMessage::Events(events) => seen += events.len(),
            WatchMessage::Progress(_) => {}
            WatchMessage::Compacted(revision) => panic!("sent away at {revision}"),
        }
    }
    assert!(seen >= 29, "{seen}");
}

#[tokio::test]
async fn certificates_say_who_is_who() {
    let pem = |directory: &Path, name: &str, text: &str| -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&params, &authority_key);
    let leaf = |names: &[&str]| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let (server, client) = (leaf(&["127.0.0.1", "localhost"]), leaf(&["client"]));
    let etcd = Etcd::start_with("https", |directory| {
        let path = |name: &str, text: &str| pem(directory, name, text).display().to_string();
        vec![
            "--cert-file".into(), path("server.crt", &server.0), "--key-file".into(), path("server.key", &server.1),
            "--client-cert-auth".into(), "--trusted-ca-file".into(), path("ca.crt", &authority.pem()),
        ]
    });
    let Some(etcd) = etcd else { return };
    let settings = Settings {
        authority_pem: authority.pem(),
        certificate_pem: client.0,
        key_pem: client.1,
        compact_every: None,
        ..Settings::new(&etcd.endpoint())
    };
    let store = EtcdStore::new(settings.clone()).unwrap();
    assert_eq!(write(&store, "/a", "1").await.unwrap(), 2);
    let nobody = Settings { certificate_pem: String::new(), ..settings.clone() };
    let refused = EtcdStore::new(nobody).unwrap().current_revision().await.unwrap_err();
    assert!(refused.to_string().starts_with("etcd: "), "{refused}");
    let stranger = Settings { authority_pem: leaf(&["x"]).0, ..settings };
    let refused = EtcdStore::new(stranger).unwrap().current_revision().await.unwrap_err().to_string();
    assert!(refused.contains("TLS: "), "{refused}");
}

#[tokio::test]
async fn passwords_say_who_is_who() {
    let Some(etcd) = Etcd::start() else { return };
    let control = |arguments: &[&str]| {
        let status = Command::new("etcdctl").args(["--endpoints", &etcd.endpoint()]).args(arguments).env("ETCDCTL_API", "3")
            .stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    etcd.store().current_revision().await.unwrap(); // There is a leader.
    if !control(&["user", "add", "root:secret"]) {
        eprintln!("skipped: etcdctl is not installed (package etcd-client)");
        return;
    }
    assert!(control(&["auth", "enable"]));
    let refused = etcd.store().current_revision().await.unwrap_err().to_string();
    assert_eq!(refused, "etcd: etcdserver: user name is empty");
    let at = |user: &str| {
        let endpoint = etcd.endpoint().replace("://", &format!("://{user}@"));
        EtcdStore::new(Settings { compact_every: None, ..Settings::new(&endpoint) }).unwrap()
    };
    let refused = at("root:wrong").current_revision().await.unwrap_err().to_string();
    assert!(refused.contains("authentication failed"), "{refused}");
    let store = at("root:secret");
    let mut watch = store.watch(KeyRange::prefix("/"), 0).await.unwrap();
    let revision = write(&store, "/a", "1").await.unwrap();
    assert_eq!(next(&mut watch).await, format!("+/a@{revision}"));
}

/// etcd would begin such a watch after the compaction, without the deletion that compaction has taken away.
#[tokio::test]
async fn a_watch_that_compaction_overtakes_before_it_is_open_misses_nothing_unsaid() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    for _ in 0..20 {
        write(&store, "/a", "1").await.unwrap();
        let deleted = store.commit(transaction([delete("/a")])).await.unwrap().revision;
        let mut watch = store.watch(KeyRange::prefix("/"), deleted).await.unwrap();
        store.compact(deleted).await.unwrap();
        let seen = next(&mut watch).await;
        assert!(seen == format!("-/a@{deleted}") || seen == format!("Some(Compacted({deleted}))"), "{seen}");
    }
}
