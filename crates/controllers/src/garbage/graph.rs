//! Who depends on whom, as far as it was observed.
//!
//! Invariant: a node is in `dependents` of exactly those nodes that its own owner references name. An owner
//! that was named but never seen is a virtual node, until a live lookup finds it or finds it gone.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::object::{FOREGROUND, ORPHAN, Object};
use crate::discovery::Resource;

pub(super) type Uid = String;

/// Owners known to be gone, so that their many dependents need no lookup each.
const ABSENT_MAX: usize = 4096;

/// Where an object is, as far as its kind is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    Observed(Arc<Resource>),
    /// Named by an owner reference only.
    Virtual { api_version: String, kind: String },
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub namespace: String,
    pub name: String,
    pub uid: Uid,
    pub owners: Vec<OwnerReference>,
    pub dependents: BTreeSet<Uid>,
    pub deleting: bool,
    /// Being deleted in the foreground: it goes when its dependents are gone.
    pub deleting_dependents: bool,
    orphaning: bool,
}

impl Node {
    pub fn is_virtual(&self) -> bool {
        matches!(self.place, Place::Virtual { .. })
    }

    fn is_namespaced(&self) -> bool {
        !self.namespace.is_empty()
    }
}

/// What has to be looked at in consequence of a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wake {
    Delete(Uid),
    Orphan(Uid),
    /// The dependent's reference names an owner in another namespace.
    ForeignOwner { dependent: Uid, owner: Uid },
}

#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    absent: HashSet<(String, Uid)>,
    absent_order: VecDeque<(String, Uid)>,
}

impl Graph {
    pub fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Dependents that keep the owner from going in the foreground.
    pub fn blocking_dependents(&self, owner: &str) -> Vec<&Node> {
        let Some(node) = self.nodes.get(owner) else { return Vec::new() };
        let blocks = |dependent: &&Node| {
            dependent.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
        };
        node.dependents.iter().filter_map(|uid| self.nodes.get(uid)).filter(blocks).collect()
    }

    pub fn is_absent(&self, namespace: &str, uid: &str) -> bool {
        self.absent.contains(&(namespace.to_owned(), uid.to_owned()))
    }

    pub fn set_absent(&mut self, namespace: &str, uid: &str) {
        let key = (namespace.to_owned(), uid.to_owned());
        if self.absent.insert(key.clone()) {
            self.absent_order.push_back(key);
        }
        if self.absent_order.len() > ABSENT_MAX
            && let Some(oldest) = self.absent_order.pop_front()
        {
            self.absent.remove(&oldest);
        }
    }

    /// The object was added or changed.
    pub fn observe(&mut self, object: &Object, resource: &Arc<Resource>) -> Vec<Wake> {
        let metadata = &object.metadata;
        let mut wakes = Vec::new();
        let deleting_dependents = object.is_deleting() && object.has_finalizer(FOREGROUND);
        let orphaning = object.is_deleting() && object.has_finalizer(ORPHAN);
        let fresh = Node {
            place: Place::Observed(resource.clone()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            owners: metadata.owner_references.clone(),
            dependents: BTreeSet::new(),
            deleting: object.is_deleting(),
            deleting_dependents,
            orphaning,
        };
        // Moved, not copied: an owner may have ten thousand dependents, and changes whenever one of them does.
        let old = self.nodes.remove(&metadata.uid);
        let was_virtual = old.as_ref().is_some_and(Node::is_virtual);
        let (was_orphaning, was_deleting_dependents) =
            old.as_ref().map_or((false, false), |old| (old.orphaning, old.deleting_dependents));
        let (old_owners, dependents) = old.map(|old| (old.owners, old.dependents)).unwrap_or_default();
        self.nodes.insert(metadata.uid.clone(), Node { dependents, ..fresh });
        if was_virtual {
            wakes.extend(self.foreign_dependents(&metadata.uid));
        }

        self.relink(&metadata.uid, &old_owners, &metadata.owner_references, &mut wakes);

        if orphaning && !was_orphaning {
            wakes.push(Wake::Orphan(metadata.uid.clone()));
        } else if deleting_dependents && !was_deleting_dependents {
            wakes.extend(self.nodes[&metadata.uid].dependents.iter().cloned().map(Wake::Delete));
            wakes.push(Wake::Delete(metadata.uid.clone()));
        }
        wakes
    }

    /// The object is gone.
    pub fn forget(&mut self, uid: &str) -> Vec<Wake> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut wakes = Vec::new();
        for owner in &node.owners {
            if let Some(owner) = self.nodes.get_mut(&owner.uid) {
                owner.dependents.remove(uid);
                if owner.deleting_dependents {
                    wakes.push(Wake::Delete(owner.uid.clone()));
                }
            }
        }
        if !node.dependents.is_empty() {
            self.set_absent(&node.namespace, uid);
            wakes.extend(node.dependents.into_iter().map(Wake::Delete));
        }
        wakes
    }

    /// All that were observed as `resource`, which is no longer served.
    pub fn forget_resource(&mut self, resource: &Resource) -> Vec<Wake> {
        let of_resource = |node: &&Node| matches!(&node.place, Place::Observed(known) if **known == *resource);
        let gone: Vec<Uid> = self.nodes.values().filter(of_resource).map(|node| node.uid.clone()).collect();
        gone.iter().flat_map(|uid| self.forget(uid)).collect()
    }

    /// Moves the edges from the old owners to the new ones.
    fn relink(&mut self, uid: &str, old: &[OwnerReference], new: &[OwnerReference], wakes: &mut Vec<Wake>) {
        let node = &self.nodes[uid];
        let (namespace, deleting) = (node.namespace.clone(), node.deleting);
        for reference in old {
            let now = new.iter().find(|candidate| candidate.uid == reference.uid);
            let no_longer_blocks = reference.block_owner_deletion == Some(true)
                && now.is_none_or(|now| now.block_owner_deletion != Some(true));
            if let Some(owner) = self.nodes.get_mut(&reference.uid) {
                if now.is_none() {
                    owner.dependents.remove(uid);
                }
                if no_longer_blocks && owner.deleting_dependents {
                    wakes.push(Wake::Delete(owner.uid.clone()));
                }
            }
        }
        for reference in new {
            if old.iter().any(|known| known.uid == reference.uid) {
                continue;
            }
            match self.nodes.get_mut(&reference.uid) {
                Some(owner) => {
                    owner.dependents.insert(uid.to_owned());
                    if !owner.is_virtual() && owner.is_namespaced() && owner.namespace != namespace {
                        wakes.push(Wake::ForeignOwner { dependent: uid.to_owned(), owner: reference.uid.clone() });
                        wakes.push(Wake::Delete(uid.to_owned()));
                    } else if owner.deleting_dependents && !deleting {
                        wakes.push(Wake::Delete(uid.to_owned())); // It came too late to be seen before.
                    }
                }
                None => {
                    self.nodes.insert(reference.uid.clone(), virtual_node(reference, &namespace, uid));
                    wakes.push(Wake::Delete(reference.uid.clone()));
                }
            }
        }
    }

    /// An owner turned up in another namespace than those who name it thought.
    fn foreign_dependents(&self, owner: &str) -> Vec<Wake> {
        let owner = &self.nodes[owner];
        if !owner.is_namespaced() {
            return Vec::new();
        }
        let dependents = owner.dependents.iter().filter_map(|uid| self.nodes.get(uid));
        let foreign = dependents.filter(|dependent| dependent.namespace != owner.namespace);
        foreign
            .flat_map(|dependent| {
                [
                    Wake::ForeignOwner { dependent: dependent.uid.clone(), owner: owner.uid.clone() },
                    Wake::Delete(dependent.uid.clone()),
                ]
            })
            .collect()
    }
}

fn virtual_node(reference: &OwnerReference, namespace: &str, dependent: &str) -> Node {
    Node {
        place: Place::Virtual { api_version: reference.api_version.clone(), kind: reference.kind.clone() },
        namespace: namespace.to_owned(),
        name: reference.name.clone(),
        uid: reference.uid.clone(),
        owners: Vec::new(),
        dependents: [dependent.to_owned()].into(),
        deleting: false,
        deleting_dependents: false,
        orphaning: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name[<owner[!]]...[:flag]`: `!` blocks the owner's deletion; flags `foreground`, `orphan`, `deleting`;
    /// `ns2/name` is in another namespace.
    fn object(word: &str) -> Object {
        let (word, flag) = word.split_once(':').unwrap_or((word, ""));
        let mut parts = word.split('<');
        let name = parts.next().unwrap();
        let (namespace, name) = name.split_once('/').unwrap_or(("ns", name));
        let mut object = Object::default();
        object.metadata.name = name.into();
        object.metadata.uid = name.into();
        object.metadata.namespace = namespace.into();
        object.metadata.owner_references = parts
            .map(|owner| OwnerReference {
                uid: owner.trim_end_matches('!').into(),
                block_owner_deletion: Some(owner.ends_with('!')),
                ..OwnerReference::default()
            })
            .collect();
        object.metadata.deletion_timestamp = (!flag.is_empty()).then(|| "now".into());
        match flag {
            "foreground" => object.metadata.finalizers.push(FOREGROUND.into()),
            "orphan" => object.metadata.finalizers.push(ORPHAN.into()),
            _ => {}
        }
        object
    }

    /// Steps are objects to observe or `-name` to forget; compared is what the last one wakes.
    #[track_caller]
    fn check(steps: &str, expected: &str) {
        let resource = Arc::new(Resource {
            group: String::new(),
            version: "v1".into(),
            name: "pods".into(),
            kind: "Pod".into(),
            namespaced: true,
            verbs: Vec::new(),
        });
        let mut graph = Graph::default();
        let mut wakes = Vec::new();
        for step in steps.split_whitespace() {
            wakes = match step.strip_prefix('-') {
                Some(name) => graph.forget(name),
                None => graph.observe(&object(step), &resource),
            };
        }
        let told: Vec<String> = wakes
            .iter()
            .map(|wake| match wake {
                Wake::Delete(uid) => uid.clone(),
                Wake::Orphan(uid) => format!("orphan:{uid}"),
                Wake::ForeignOwner { dependent, owner } => format!("{dependent}!={owner}"),
            })
            .collect();
        assert_eq!(told.join(" "), expected, "{steps}");
    }

    #[test]
    fn wakes_those_whom_a_change_concerns() {
        check("set pod<set", "");
        check("pod<set", "set"); // Never seen: is it there at all?
        check("pod<set set", ""); // It is.
        check("set a<set b<set -set", "a b");
        check("set a<set set:foreground", "a set");
        check("set a<set! set:foreground -a", "set");
        check("set a<set! set:foreground a<set", "set"); // It no longer blocks.
        check("set:foreground late<set!", "late");
        check("set a<set set:orphan", "orphan:set");
        check("set a<set set:orphan set:orphan", ""); // Told once.
        check("set a<set a", "");
        check("set ns2/a<set", "a!=set a");
        check("ns2/a<set set", "a!=set a");
        check("set a<set set:deleting", "");
    }
}
