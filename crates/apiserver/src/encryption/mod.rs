//! Encryption at rest: a store whose values of chosen resources are sealed before they reach the real one.
//!
//! Invariant: what is stored is what the original would store (`k8s:enc:<cipher>:v1:<key>:` and the sealed bytes, with
//! the object's key authenticated where the cipher can), so that either may read what the other wrote. The first
//! provider of a resource writes; all of them read. What none of them can read is an error, never left out.
//! Deliberately absent: KMS providers, which need a process outside.

mod cipher;
mod config;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use store::{
    Event, KeyRange, KeyValue, RangeRequest, RangeResponse, Revision, SharedStore, Store, StoreError, Transaction,
    TransactionResponse, WatchMessage, Write,
};
use tokio::sync::mpsc;

use cipher::Provider;
pub use config::EncryptionConfiguration;

/// Watch messages on their way; as the stores' own channels, small.
const CHANNEL: usize = 64;

pub struct EncryptedStore {
    inner: SharedStore,
    rules: Arc<Rules>,
}

/// Providers by storage prefix, e.g. `/registry/secrets/`.
struct Rules(Vec<(String, Vec<Provider>)>);

impl EncryptedStore {
    pub fn over(inner: SharedStore, configuration: EncryptionConfiguration) -> SharedStore {
        Arc::new(EncryptedStore { inner, rules: Arc::new(Rules(configuration.by_prefix())) })
    }
}

impl Rules {
    fn providers(&self, key: &[u8]) -> Option<&[Provider]> {
        self.0.iter().find(|(prefix, _)| key.starts_with(prefix.as_bytes())).map(|(_, providers)| providers.as_slice())
    }

    fn seal(&self, key: &Bytes, value: Bytes) -> Result<Bytes, StoreError> {
        match self.providers(key).and_then(<[_]>::first) {
            Some(provider) => provider.seal(key, value).map_err(|cause| StoreError::Io(std::io::Error::other(cause))),
            None => Ok(value),
        }
    }

    fn open(&self, key: &[u8], value: Bytes) -> Result<Bytes, StoreError> {
        let Some(providers) = self.providers(key) else { return Ok(value) };
        for provider in providers {
            match provider.open(key, &value) {
                Ok(Some(opened)) => return Ok(opened),
                Ok(None) => {}
                Err(cause) => return Err(unreadable(key, &cause)),
            }
        }
        Err(unreadable(key, "no matching prefix found"))
    }

    fn open_kv(&self, mut kv: KeyValue) -> Result<KeyValue, StoreError> {
        kv.value = self.open(&kv.key, kv.value)?;
        Ok(kv)
    }

    fn open_event(&self, mut event: Event) -> Result<Event, StoreError> {
        if event.kind == store::EventKind::Put {
            event.kv = self.open_kv(event.kv)?;
        }
        event.previous = event.previous.map(|kv| self.open_kv(kv)).transpose()?;
        Ok(event)
    }

    fn open_message(&self, message: WatchMessage) -> Result<WatchMessage, StoreError> {
        Ok(match message {
            WatchMessage::Events(list) => {
                WatchMessage::Events(list.into_iter().map(|event| self.open_event(event)).collect::<Result<_, _>>()?)
            }
            other => other,
        })
    }
}

fn unreadable(key: &[u8], cause: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "unable to transform key {:?}: {cause}; check --encryption-provider-config",
        String::from_utf8_lossy(key)
    ))
}

#[async_trait]
impl Store for EncryptedStore {
    async fn commit(&self, mut transaction: Transaction) -> Result<TransactionResponse, StoreError> {
        for write in &mut transaction.writes {
            if let Write::Put { key, value } = write {
                *value = self.rules.seal(key, std::mem::take(value))?;
            }
        }
        let mut response = self.inner.commit(transaction).await?;
        for kv in response.current.iter_mut().flatten() {
            kv.value = self.rules.open(&kv.key, std::mem::take(&mut kv.value))?;
        }
        Ok(response)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let counted = request.count_only;
        let mut response = self.inner.range(request).await?;
        if !counted {
            response.kvs = response.kvs.into_iter().map(|kv| self.rules.open_kv(kv)).collect::<Result<_, _>>()?;
        }
        Ok(response)
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<mpsc::Receiver<WatchMessage>, StoreError> {
        let mut sealed = self.inner.watch(range, from).await?;
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let rules = self.rules.clone();
        tokio::spawn(async move {
            while let Some(message) = sealed.recv().await {
                match rules.open_message(message) {
                    Ok(message) => {
                        if sender.send(message).await.is_err() {
                            return;
                        }
                    }
                    Err(cause) => {
                        // The reader sees the watch end, and the same error when it reads again.
                        tracing::error!("{cause}");
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}

#[cfg(test)]
mod tests {
    use store::memory::MemoryStore;

    use super::*;

    const SECRET: &[u8] = br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#;
    /// Thirty-two bytes each.
    const KEY_1: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const KEY_2: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

    fn configuration(resources: &str, providers: &str) -> EncryptionConfiguration {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [{resources}], providers: [{providers}]}}]"
        );
        EncryptionConfiguration::parse(text.as_bytes()).expect("valid")
    }

    fn keys(cipher: &str, names: &[(&str, &str)]) -> String {
        let keys: Vec<String> = names.iter().map(|(name, secret)| format!("{{name: {name}, secret: {secret:?}}}")).collect();
        format!("{{{cipher}: {{keys: [{}]}}}}", keys.join(", "))
    }

    async fn put(store: &SharedStore, key: &'static str, value: &'static [u8]) {
        let write = Write::Put { key: key.into(), value: value.into() };
        store.commit(Transaction { compares: Vec::new(), writes: vec![write] }).await.expect("is written");
    }

    async fn read(store: &SharedStore, key: &'static str) -> Result<Vec<u8>, StoreError> {
        let response = store.range(RangeRequest::newest(KeyRange::key(key))).await?;
        Ok(response.kvs[0].value.to_vec())
    }

    #[tokio::test]
    async fn sealed_below_and_plain_above() {
        for cipher in ["aescbc", "aesgcm", "secretbox"] {
            let inner: SharedStore = Arc::new(MemoryStore::new());
            let providers = format!("{}, {{identity: {{}}}}", keys(cipher, &[("key1", KEY_1)]));
            put(&inner, "/registry/secrets/default/old", SECRET).await;
            let store = EncryptedStore::over(inner.clone(), configuration("secrets", &providers));
            let mut watch = store.watch(KeyRange::prefix("/registry/"), 0).await.expect("watches");
            put(&store, "/registry/secrets/default/a", SECRET).await;
            put(&store, "/registry/configmaps/default/a", SECRET).await;

            let below = read(&inner, "/registry/secrets/default/a").await.expect("is there");
            assert!(below.starts_with(format!("k8s:enc:{cipher}:v1:key1:").as_bytes()));
            assert!(!below.windows(6).any(|window| window == b"Secret"), "{cipher}");
            assert_eq!(read(&inner, "/registry/configmaps/default/a").await.expect("is there"), SECRET);
            for key in ["/registry/secrets/default/a", "/registry/secrets/default/old"] {
                assert_eq!(read(&store, key).await.expect("is there"), SECRET, "{cipher} {key}");
            }
            match watch.recv().await {
                Some(WatchMessage::Events(events)) => assert_eq!(&events[0].kv.value[..], SECRET),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn keys_are_rotated() {
        let inner: SharedStore = Arc::new(MemoryStore::new());
        let old = EncryptedStore::over(inner.clone(), configuration("secrets", &keys("aesgcm", &[("key1", KEY_1)])));
        put(&old, "/registry/secrets/a/b", SECRET).await;
        let both = keys("aesgcm", &[("key2", KEY_2), ("key1", KEY_1)]);
        let new = EncryptedStore::over(inner.clone(), configuration("secrets", &both));
        assert_eq!(read(&new, "/registry/secrets/a/b").await.expect("old key"), SECRET);
        put(&new, "/registry/secrets/a/b", SECRET).await;
        assert!(read(&inner, "/registry/secrets/a/b").await.expect("is there").starts_with(b"k8s:enc:aesgcm:v1:key2:"));

        let missing = EncryptedStore::over(inner, configuration("secrets", &keys("aesgcm", &[("key1", KEY_1)])));
        let error = read(&missing, "/registry/secrets/a/b").await.expect_err("no key").to_string();
        assert!(error.contains("/registry/secrets/a/b") && error.contains("no matching prefix found"), "{error}");
    }

    #[tokio::test]
    async fn a_value_moved_to_another_key_is_refused() {
        let inner: SharedStore = Arc::new(MemoryStore::new());
        let store = EncryptedStore::over(inner.clone(), configuration("secrets", &keys("aesgcm", &[("key1", KEY_1)])));
        put(&store, "/registry/secrets/a/b", SECRET).await;
        let value: Bytes = read(&inner, "/registry/secrets/a/b").await.expect("is there").into();
        let write = Write::Put { key: "/registry/secrets/a/c".into(), value };
        inner.commit(Transaction { compares: Vec::new(), writes: vec![write] }).await.expect("is written");
        assert!(read(&store, "/registry/secrets/a/c").await.is_err());
    }
}
