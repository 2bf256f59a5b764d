//! The objects that an informer has seen, with indexes and subscribers.
//!
//! Invariant: an object never goes back in time. What a component itself wrote (`observe`) is visible at
//! once and is not undone by older news from the watch, so that a stale cache never makes a controller act
//! twice. This rests on resource versions of one kind being comparable integers, as Kubernetes documents
//! since 1.35; others are taken in the order in which they arrive.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;

use crate::key::ObjectKey;

/// What an informer must know of an object in order to keep it.
pub trait Cached: DeserializeOwned + Send + Sync + 'static {
    fn key(&self) -> ObjectKey;
    fn uid(&self) -> &str;
    fn resource_version(&self) -> &str;
    /// The uid of the owner that has `controller: true`.
    fn controller_uid(&self) -> Option<&str>;
    /// Drops what nobody reads, before the object is kept.
    fn trim(&mut self) {}
}

impl<K: kube::Resource + DeserializeOwned + Send + Sync + 'static> Cached for K {
    fn key(&self) -> ObjectKey {
        ObjectKey::of(self.meta())
    }

    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    fn resource_version(&self) -> &str {
        self.meta().resource_version.as_deref().unwrap_or_default()
    }

    fn controller_uid(&self) -> Option<&str> {
        let owners = self.meta().owner_references.as_ref()?;
        owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
    }

    fn trim(&mut self) {
        // Often half of an object; a PUT without it leaves the stored one as it is.
        self.meta_mut().managed_fields = None;
        crate::compact::metadata(self.meta_mut());
        crate::compact::compact(self);
    }
}

/// What a subscriber is told.
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    /// The last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object after the change, or the last state of a deleted one.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) => object,
            Change::Updated { new, .. } => new,
        }
    }

    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Updated { old, .. } => Some(old),
            _ => None,
        }
    }
}

type Subscriber<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type IndexFunction<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    function: IndexFunction<K>,
    entries: HashMap<String, BTreeMap<ObjectKey, Arc<K>>>,
}

struct Objects<K> {
    by_key: BTreeMap<ObjectKey, Arc<K>>,
    indexes: Vec<(&'static str, Index<K>)>,
}

struct Writer<K> {
    subscribers: Vec<Subscriber<K>>,
    /// How far the list and watch have come.
    seen: Option<u64>,
}

/// The index that every cache has.
const BY_CONTROLLER: &str = "controller";

pub(crate) struct Cache<K> {
    objects: RwLock<Objects<K>>,
    /// Held while a change is applied and told, which keeps the subscribers' order.
    writer: Mutex<Writer<K>>,
}

impl<K: Cached> Cache<K> {
    pub fn new() -> Self {
        let by_controller = Index {
            function: Box::new(|object: &K| object.controller_uid().map(str::to_owned).into_iter().collect()),
            entries: HashMap::new(),
        };
        Cache {
            objects: RwLock::new(Objects { by_key: BTreeMap::new(), indexes: vec![(BY_CONTROLLER, by_controller)] }),
            writer: Mutex::new(Writer { subscribers: Vec::new(), seen: None }),
        }
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.read().by_key.get(key).cloned()
    }

    pub fn len(&self) -> usize {
        self.objects.read().by_key.len()
    }

    /// In the order of namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.read().by_key.values().cloned().collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        objects
            .by_key
            .range((Bound::Included(ObjectKey::new(namespace, "")), Bound::Unbounded))
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.indexed(BY_CONTROLLER, uid)
    }

    pub fn indexed(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read();
        let (_, index) = objects
            .indexes
            .iter()
            .find(|(name, _)| *name == index)
            .expect("an index is declared before it is read");
        index.entries.get(value).map(|entries| entries.values().cloned().collect()).unwrap_or_default()
    }

    pub fn index_by(&self, name: &'static str, function: IndexFunction<K>) {
        let mut objects = self.objects.write();
        if objects.indexes.iter().any(|(known, _)| *known == name) {
            return;
        }
        let mut index = Index { function, entries: HashMap::new() };
        for (key, object) in &objects.by_key {
            index.insert(key, object);
        }
        objects.indexes.push((name, index));
    }

    pub fn subscribe(&self, subscriber: Subscriber<K>) {
        let mut writer = self.writer.lock();
        for object in self.list() {
            subscriber(&Change::Added(object));
        }
        writer.subscribers.push(subscriber);
    }

    /// The watch says that this object was added or changed.
    pub fn upsert(&self, object: K) {
        let mut writer = self.writer.lock();
        writer.advance(object.resource_version());
        self.put(&writer, object);
    }

    /// The watch says that this object, in its last state, is gone.
    pub fn remove(&self, object: K) {
        let mut writer = self.writer.lock();
        writer.advance(object.resource_version());
        let key = object.key();
        let Some(held) = self.get(&key) else { return };
        if is_newer(held.resource_version(), object.resource_version()) {
            return; // Deleted and made anew, and the new one is here already.
        }
        self.take(&key);
        writer.tell(&Change::Deleted(Arc::new(object)));
    }

    /// The watch has come as far as this without news.
    pub fn bookmark(&self, resource_version: &str) {
        self.writer.lock().advance(resource_version);
    }

    /// A complete list as of `resource_version` takes the place of what was known.
    pub fn replace(&self, listed: Vec<K>, resource_version: &str) {
        let mut writer = self.writer.lock();
        let listed_at = resource_version.parse::<u64>().ok();
        // A store restored from a backup counts from lower again; then the list is the whole truth.
        let went_back = matches!((listed_at, writer.seen), (Some(now), Some(before)) if now < before);
        writer.seen = listed_at.or(writer.seen);

        let mut gone: BTreeMap<ObjectKey, Arc<K>> = self.objects.read().by_key.clone();
        for object in listed {
            let key = object.key();
            let held = gone.remove(&key);
            if went_back
                && held.is_some_and(|held| held.resource_version() != object.resource_version())
                && let Some(held) = self.take(&key)
            {
                writer.tell(&Change::Deleted(held));
            }
            self.put(&writer, object);
        }
        for (key, held) in gone {
            if !went_back && is_newer(held.resource_version(), resource_version) {
                continue; // Written by this very process after the list was taken.
            }
            self.take(&key);
            writer.tell(&Change::Deleted(held));
        }
    }

    /// The answer to a write of this process: known at once, unless the watch has been past it already.
    pub fn observe(&self, object: K) {
        let writer = self.writer.lock();
        let Ok(version) = object.resource_version().parse::<u64>() else { return };
        if writer.seen.is_some_and(|seen| version > seen) {
            self.put(&writer, object);
        }
    }

    /// This process saw the object deleted for good.
    pub fn observe_gone(&self, key: &ObjectKey, uid: &str) {
        let writer = self.writer.lock();
        if self.get(key).is_some_and(|held| held.uid() == uid)
            && let Some(held) = self.take(key)
        {
            writer.tell(&Change::Deleted(held));
        }
    }

    fn put(&self, writer: &Writer<K>, mut object: K) {
        object.trim();
        let key = object.key();
        let old = self.get(&key);
        if let Some(old) = &old
            && (old.resource_version() == object.resource_version()
                || is_newer(old.resource_version(), object.resource_version()))
        {
            return;
        }
        let new = Arc::new(object);
        self.objects.write().put(key, new.clone());
        match old {
            None => writer.tell(&Change::Added(new)),
            Some(old) if old.uid() == new.uid() => writer.tell(&Change::Updated { old, new }),
            Some(old) => {
                writer.tell(&Change::Deleted(old));
                writer.tell(&Change::Added(new));
            }
        }
    }

    fn take(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.write().take(key)
    }
}

impl<K> Writer<K> {
    fn tell(&self, change: &Change<K>) {
        for subscriber in &self.subscribers {
            subscriber(change);
        }
    }

    fn advance(&mut self, resource_version: &str) {
        if let Ok(version) = resource_version.parse::<u64>() {
            self.seen = self.seen.max(Some(version));
        }
    }
}

impl<K> Objects<K> {
    fn put(&mut self, key: ObjectKey, object: Arc<K>) {
        let Some(held) = self.by_key.get_mut(&key) else {
            for (_, index) in &mut self.indexes {
                index.insert(&key, &object);
            }
            self.by_key.insert(key, object);
            return;
        };
        let old = std::mem::replace(held, object.clone());
        for (_, index) in &mut self.indexes {
            index.replace(&key, &old, &object);
        }
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let object = self.by_key.remove(key)?;
        for (_, index) in &mut self.indexes {
            index.remove(key, &object);
        }
        Some(object)
    }
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &Arc<K>) {
        for value in (self.function)(object) {
            self.entries.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    /// Where the object stands, it mostly stays.
    fn replace(&mut self, key: &ObjectKey, old: &Arc<K>, new: &Arc<K>) {
        let values = (self.function)(new);
        if (self.function)(old) != values {
            self.remove(key, old);
            return self.insert(key, new);
        }
        for value in &values {
            if let Some(held) = self.entries.get_mut(value).and_then(|entries| entries.get_mut(key)) {
                *held = new.clone();
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &Arc<K>) {
        for value in (self.function)(object) {
            if let Some(entries) = self.entries.get_mut(&value) {
                entries.remove(key);
                if entries.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

/// Whether version `a` is surely later than `b`.
fn is_newer(a: &str, b: &str) -> bool {
    matches!((a.parse::<u64>(), b.parse::<u64>()), (Ok(a), Ok(b)) if a > b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    /// `name@version`, with `~uid` where it matters.
    fn object(text: &str) -> ConfigMap {
        let (text, uid) = text.split_once('~').unwrap_or((text, "u"));
        let (name, version) = text.split_once('@').unwrap();
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("ns".into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.into());
        object
    }

    /// Runs a script and compares what a subscriber was told.
    #[track_caller]
    fn check(script: &str, expected: &str) {
        let cache = Cache::<ConfigMap>::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        cache.subscribe(Box::new(move |change| {
            let (sign, object) = match change {
                Change::Added(object) => ('+', object),
                Change::Updated { new, .. } => ('~', new),
                Change::Deleted(object) => ('-', object),
            };
            log.lock().push(format!("{sign}{}@{}", object.key().name, object.resource_version()));
        }));
        for step in script.split(';') {
            let mut words = step.split_whitespace();
            let verb = words.next().unwrap();
            match verb {
                "list" => {
                    let at = words.next().unwrap();
                    cache.replace(words.map(object).collect(), at);
                }
                "watch" => cache.upsert(object(words.next().unwrap())),
                "gone" => cache.remove(object(words.next().unwrap())),
                "wrote" => cache.observe(object(words.next().unwrap())),
                "mark" => cache.bookmark(words.next().unwrap()),
                _ => panic!("{verb}"),
            }
        }
        let told = told.lock().join(" ");
        assert_eq!(told, expected, "{script}");
    }

    #[test]
    fn tells_each_change_once_and_in_order() {
        check("list 5 a@1 b@2; watch c@6; gone a@7", "+a@1 +b@2 +c@6 -a@7");
        check("list 5 a@1; watch a@6; watch a@6", "+a@1 ~a@6");
        check("list 5 a@1 b@2; list 9 b@8", "+a@1 +b@2 ~b@8 -a@1"); // What a relist misses is gone.
        check("list 5 a@1~x; watch a@8~y", "+a@1 -a@1 +a@8"); // A namesake is another object.
    }

    #[test]
    fn own_writes_are_seen_at_once_and_never_undone() {
        check("list 5 a@1; wrote a@9; watch a@7; watch a@9", "+a@1 ~a@9");
        check("list 5; wrote a@6; watch a@6; gone a@7", "+a@6 -a@7");
        check("list 5; watch a@6; gone a@7; wrote a@6", "+a@6 -a@7"); // The answer came after the news.
        check("list 5; mark 9; wrote a@6", "");
        check("list 5; wrote a@8; list 7", "+a@8"); // The list is older than the write.
        check("list 5; wrote a@8; list 9", "+a@8 -a@8");
        check("wrote a@8", ""); // Nothing is known yet: the list will tell.
    }

    #[test]
    fn a_restored_store_is_believed() {
        check("list 50 a@40 b@41; list 10 a@3", "+a@40 +b@41 -a@40 +a@3 -b@41");
    }

    #[test]
    fn indexes_follow_changes() {
        let cache = Cache::<ConfigMap>::new();
        cache.index_by("uid", Box::new(|object| vec![object.uid().to_owned()]));
        cache.replace(vec![object("a@1~x"), object("b@1~y")], "1");
        cache.upsert(object("a@2~y"));
        assert_eq!(cache.indexed("uid", "x").len(), 0);
        assert_eq!(cache.indexed("uid", "y").len(), 2);
        assert_eq!(cache.list_namespace("ns").len(), 2);
        assert_eq!(cache.list_namespace("n").len(), 0);
    }
}
