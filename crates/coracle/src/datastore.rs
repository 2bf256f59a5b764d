//! The store: on this machine's disk, or an etcd that several servers share; and how those come to be one cluster.
//!
//! Servers of one cluster need the same authority and the same key for service-account tokens. The first one puts
//! its own into etcd, sealed with a key that follows from `--token`; the others take them from there. Invariant: what
//! lies in etcd says nothing to who does not know the token, and a machine that has an authority of its own never
//! exchanges it for another. Deliberately absent: a change of the token.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apiserver::pki::Pki;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use store::embedded::{self, EmbeddedStore};
use store::etcd::{self, EtcdStore};
use store::{Compare, KeyRange, RangeRequest, SharedStore, StoreError, Transaction, Write};

use crate::config::Config;
use crate::instance::Instance;

/// How long a server that starts waits for etcd.
const ETCD_WAIT: Duration = Duration::from_secs(60);
const ETCD_RETRY: Duration = Duration::from_secs(1);
/// As the original's leases for events.
const EVENT_LIFE: Duration = Duration::from_secs(3600);
/// Keys that change all the time and whose past nobody asks for.
const LEASES: &[u8] = b"/registry/leases/";
const EVENTS: &[u8] = b"/registry/events/";

const BOOTSTRAP: &[u8] = b"/coracle/bootstrap";
/// What servers share, by file name.
const SHARED: &[&str] = &["ca.crt", "ca.key", "sa.key", "sa.pub"];
/// Work to guess one token.
const ROUNDS: u32 = 600_000;
const SALT_LEN: usize = 16;
const TOKEN_LEN: usize = 24;

/// Where etcd is, if it is the store.
#[derive(Clone, Debug, Default)]
pub struct Datastore {
    /// Empty: the embedded store.
    pub endpoint: String,
    pub cafile: String,
    pub certfile: String,
    pub keyfile: String,
}

impl Datastore {
    /// From the settings; `one` gives a setting's text.
    pub fn of<'a>(one: impl Fn(&str) -> &'a str) -> Result<Self, String> {
        let text = |name: &str| one(name).to_owned();
        let datastore = Datastore {
            endpoint: text("datastore-endpoint"),
            cafile: text("datastore-cafile"),
            certfile: text("datastore-certfile"),
            keyfile: text("datastore-keyfile"),
        };
        if datastore.certfile.is_empty() != datastore.keyfile.is_empty() {
            return Err("--datastore-certfile and --datastore-keyfile go together".to_owned());
        }
        let bad = |text: &str| !text.starts_with("http://") && !text.starts_with("https://");
        match datastore.endpoint.split(',').map(str::trim).find(|text| bad(text)) {
            Some(text) if !datastore.endpoint.is_empty() => {
                Err(format!("--datastore-endpoint {text:?}: expected the URL of an etcd, http(s)://HOST:2379"))
            }
            _ => Ok(datastore),
        }
    }

    pub fn is_shared(&self) -> bool {
        !self.endpoint.is_empty()
    }

    async fn etcd(&self) -> Result<SharedStore, String> {
        let read = |path: &str| match path {
            "" => Ok(String::new()),
            path => std::fs::read_to_string(path).map_err(|cause| format!("{path}: {cause}")),
        };
        let settings = etcd::Settings {
            authority_pem: read(&self.cafile)?,
            certificate_pem: read(&self.certfile)?,
            key_pem: read(&self.keyfile)?,
            short_lived: vec![(Bytes::from_static(EVENTS), EVENT_LIFE)],
            ..etcd::Settings::new(&self.endpoint)
        };
        let store = EtcdStore::new(settings).map_err(|cause| format!("--datastore-endpoint: {cause}"))?;
        let deadline = tokio::time::Instant::now() + ETCD_WAIT;
        while let Err(cause) = store::Store::current_revision(&store).await {
            if tokio::time::Instant::now() >= deadline {
                return Err(cause.to_string());
            }
            tracing::warn!("waiting for {cause}");
            tokio::time::sleep(ETCD_RETRY).await;
        }
        Ok(Arc::new(store))
    }
}

pub async fn open(config: &Config, instance: &Instance) -> Result<SharedStore, String> {
    if config.datastore.is_shared() {
        return config.datastore.etcd().await;
    }
    let settings = embedded::Settings {
        ephemeral_prefixes: vec![Bytes::from_static(LEASES), Bytes::from_static(EVENTS)],
        ..embedded::Settings::default()
    };
    let directory = instance.store();
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open_with(&directory, settings))
        .await
        .map_err(|cause| cause.to_string())?
        .map_err(|cause| format!("{}: {cause}", instance.store().display()))?;
    Ok(Arc::new(store))
}

/// The cluster's certificates and keys: this machine's, or those that the servers of a shared store agree on.
pub async fn pki(config: &Config, instance: &Instance, store: &SharedStore, now: Timestamp) -> Result<Pki, String> {
    let directory = instance.tls();
    if !config.datastore.is_shared() {
        return Pki::open(&directory, now).map_err(|cause| cause.to_string());
    }
    let token = token(&config.token, &instance.server_token())?;
    // The second time the key is there, ours or another's.
    for _ in 0..2 {
        if let Some(sealed) = stored(store).await.map_err(|cause| cause.to_string())? {
            let files = unseal(&sealed, &token)?;
            take_over(&directory, &files)?;
            return Pki::open(&directory, now).map_err(|cause| cause.to_string());
        }
        let made = std::path::absolute(&directory).map_err(|cause| cause.to_string())?;
        let fresh = !made.join("ca.crt").exists();
        let pki = Pki::open(&directory, now).map_err(|cause| cause.to_string())?;
        pki.service_account_key().map_err(|cause| cause.to_string())?;
        let value = seal(&read_shared(&directory)?, &token)?;
        let transaction = Transaction {
            compares: vec![Compare::ModRevision { key: Bytes::from_static(BOOTSTRAP), equals: 0 }],
            writes: vec![Write::Put { key: Bytes::from_static(BOOTSTRAP), value: value.into() }],
        };
        if store.commit(transaction).await.map_err(|cause| cause.to_string())?.succeeded {
            return Ok(pki);
        }
        if fresh {
            // Another server was first, and nobody has seen what was made here.
            for name in SHARED {
                remove(&directory.join(name))?;
            }
        }
    }
    Err("the servers' shared keys appear in etcd and vanish".to_owned())
}

/// The secret of the servers: as given, else as kept, else made and kept.
fn token(given: &str, file: &Path) -> Result<String, String> {
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            let mut random = [0; TOKEN_LEN];
            SystemRandom::new().fill(&mut random).map_err(|_| "no random numbers".to_owned())?;
            let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            write_private(file, &format!("{token}\n"))?;
            tracing::info!("further servers of this datastore need --token as in {}", file.display());
            Ok(token)
        }
        Err(cause) => Err(format!("{}: {cause}", file.display())),
    }
}

async fn stored(store: &SharedStore) -> Result<Option<Bytes>, StoreError> {
    let answer = store.range(RangeRequest::newest(KeyRange::key(BOOTSTRAP))).await?;
    Ok(answer.kvs.into_iter().next().map(|kv| kv.value))
}

pub type Files = BTreeMap<String, String>;

pub fn read_shared(directory: &Path) -> Result<Files, String> {
    SHARED
        .iter()
        .map(|name| {
            let path = directory.join(name);
            let text = std::fs::read_to_string(&path).map_err(|cause| format!("{}: {cause}", path.display()))?;
            Ok(((*name).to_owned(), text))
        })
        .collect()
}

/// Writes what is missing; what is there must be the same.
pub fn take_over(directory: &Path, files: &Files) -> Result<(), String> {
    for name in SHARED {
        let Some(wanted) = files.get(*name) else { return Err(format!("the servers' shared keys lack {name}")) };
        let path = directory.join(name);
        match std::fs::read_to_string(&path) {
            Ok(own) if own == *wanted => {}
            Ok(_) => {
                return Err(format!(
                    "{} is not that of the cluster in the datastore: this machine has been a server of another cluster \
                     (coracle down --purge forgets it)",
                    path.display()
                ));
            }
            Err(_) => write_private(&path, wanted)?,
        }
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> Result<(), String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |cause: std::io::Error| format!("{}: {cause}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {cause}", path.display())),
        _ => Ok(()),
    }
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    /// PBKDF2-HMAC-SHA256 of the token, so many rounds.
    rounds: u32,
    salt: String,
    /// AES-256-GCM.
    nonce: String,
    data: String,
}

fn seal(files: &Files, token: &str) -> Result<Vec<u8>, String> {
    let random = SystemRandom::new();
    let (mut salt, mut nonce) = ([0; SALT_LEN], [0; NONCE_LEN]);
    random.fill(&mut salt).and_then(|()| random.fill(&mut nonce)).map_err(|_| "no random numbers".to_owned())?;
    let mut data = serde_json::to_vec(files).expect("texts can be written");
    key(token, &salt, ROUNDS)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut data)
        .map_err(|_| "sealing the servers' shared keys".to_owned())?;
    let sealed =
        Sealed { rounds: ROUNDS, salt: STANDARD.encode(salt), nonce: STANDARD.encode(nonce), data: STANDARD.encode(data) };
    Ok(serde_json::to_vec(&sealed).expect("texts can be written"))
}

fn unseal(sealed: &[u8], token: &str) -> Result<Files, String> {
    let damaged = || "the servers' shared keys in the datastore are damaged".to_owned();
    let sealed: Sealed = serde_json::from_slice(sealed).map_err(|_| damaged())?;
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| damaged());
    let nonce = Nonce::try_assume_unique_for_key(&bytes(&sealed.nonce)?).map_err(|_| damaged())?;
    let mut data = bytes(&sealed.data)?;
    let opened = key(token, &bytes(&sealed.salt)?, sealed.rounds)?.open_in_place(nonce, Aad::empty(), &mut data);
    let opened = opened.map_err(|_| {
        "--token is not that of the servers of this datastore (on the first one it is kept in server/token)".to_owned()
    })?;
    serde_json::from_slice(opened).map_err(|_| damaged())
}

fn key(token: &str, salt: &[u8], rounds: u32) -> Result<LessSafeKey, String> {
    let rounds = NonZeroU32::new(rounds).ok_or("the servers' shared keys in the datastore are damaged")?;
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, token.as_bytes(), &mut key);
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("a key of 32 bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens_what_is_sealed() {
        let files = Files::from([("ca.crt".to_owned(), "one".to_owned())]);
        let sealed = seal(&files, "secret").expect("seals");
        assert_eq!(unseal(&sealed, "secret"), Ok(files));
        assert!(unseal(&sealed, "other").expect_err("refused").starts_with("--token is not that"));
        assert!(unseal(b"{}", "secret").expect_err("refused").contains("damaged"));
    }

    #[test]
    fn an_authority_is_not_exchanged() {
        let directory = tempfile::tempdir().expect("a directory");
        let files: Files = SHARED.iter().map(|name| ((*name).to_owned(), "theirs".to_owned())).collect();
        take_over(directory.path(), &files).expect("nothing was there");
        take_over(directory.path(), &files).expect("the same");
        std::fs::write(directory.path().join("ca.key"), "ours").expect("written");
        assert!(take_over(directory.path(), &files).expect_err("refused").contains("another cluster"));
    }

    #[test]
    fn settings_are_checked() {
        #[track_caller]
        fn check(settings: &[(&str, &str)], expected: Result<bool, &str>) {
            let one = |name: &str| settings.iter().find(|(own, _)| *own == name).map_or("", |(_, text)| *text);
            let found = Datastore::of(one).map(|datastore| datastore.is_shared());
            match expected {
                Ok(shared) => assert_eq!(found, Ok(shared)),
                Err(part) => assert!(found.expect_err("refused").contains(part)),
            }
        }
        check(&[], Ok(false));
        check(&[("datastore-endpoint", "http://a:2379,https://b:2379")], Ok(true));
        check(&[("datastore-endpoint", "mysql://a")], Err("expected the URL of an etcd"));
        check(&[("datastore-certfile", "x")], Err("go together"));
    }
}
