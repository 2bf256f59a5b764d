//! Sets of field paths: a trie whose edges are path elements as `fieldsV1` spells them (`f:spec`, `k:{"name":"a"}`,
//! `v:"x"`), so that reading and writing managed fields is a copy.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One node of the trie; the root is the whole object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Set {
    /// The path that leads here belongs to the set.
    pub member: bool,
    pub children: BTreeMap<String, Set>,
}

impl Set {
    pub fn leaf() -> Self {
        Set {
            member: true,
            children: BTreeMap::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Attaches a child unless nothing is in it.
    pub fn attach(&mut self, element: String, child: Set) {
        if !child.is_empty() {
            self.children.insert(element, child);
        }
    }

    pub fn union(&mut self, other: Set) {
        self.member |= other.member;
        for (element, child) in other.children {
            match self.children.get_mut(&element) {
                Some(mine) => mine.union(child),
                None => drop(self.children.insert(element, child)),
            }
        }
    }

    /// Takes out what `other` has. A path that goes takes nothing below it along.
    pub fn subtract(&mut self, other: &Set) {
        self.member &= !other.member;
        for (element, child) in &other.children {
            if let Some(mine) = self.children.get_mut(element) {
                mine.subtract(child);
                if mine.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    pub fn minus(mut self, other: &Set) -> Set {
        self.subtract(other);
        self
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let mut shared = Set {
            member: self.member && other.member,
            children: BTreeMap::new(),
        };
        for (element, child) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                shared.attach(element.clone(), child.intersection(theirs));
            }
        }
        shared
    }

    /// Every path, as the original prints it (`.spec.containers[name="a"].image`): members of a node before what
    /// is below them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        let extended = |element: &str| format!("{prefix}{}", printed(element));
        paths.extend(
            self.children
                .iter()
                .filter(|(_, child)| child.member)
                .map(|(element, _)| extended(element)),
        );
        for (element, child) in self
            .children
            .iter()
            .filter(|(_, child)| !child.children.is_empty())
        {
            child.collect_paths(&extended(element), paths);
        }
    }

    /// `fieldsV1`. What is malformed in it is passed over.
    pub fn from_fields_v1(fields: &Value) -> Set {
        let mut set = Set::default();
        for (element, child) in fields.as_object().into_iter().flatten() {
            if element == "." {
                set.member = true;
            } else if element.as_bytes().get(1) == Some(&b':') {
                let mut child = Set::from_fields_v1(child);
                child.member |= child.children.is_empty();
                set.children.insert(element.clone(), child);
            }
        }
        set
    }

    pub fn into_fields_v1(self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(MEMBER.to_owned(), Value::Object(Map::new()));
        }
        fields.extend(
            self.children
                .into_iter()
                .map(|(element, child)| (element, child.into_fields_v1())),
        );
        Value::Object(fields)
    }
}

/// In `fieldsV1`: the node itself belongs to the set. A node without anything below it does anyway.
const MEMBER: &str = ".";

/// Takes a set out of `fieldsV1` in place; says whether something was taken. Most writes touch few fields of few
/// managers, so nothing else is decoded.
pub(super) fn subtract_from_fields_v1(fields: &mut Map<String, Value>, removed: &Set) -> bool {
    let mut taken = false;
    for (element, removed) in &removed.children {
        let Some(Value::Object(node)) = fields.get_mut(element) else {
            continue;
        };
        let was_member = node.is_empty() || node.contains_key(MEMBER);
        let stays_member = was_member && !removed.member;
        taken |= was_member != stays_member;
        taken |= subtract_from_fields_v1(node, removed);
        node.remove(MEMBER);
        match (node.is_empty(), stays_member) {
            (true, false) => drop(fields.remove(element)),
            (false, true) => drop(node.insert(MEMBER.to_owned(), Value::Object(Map::new()))),
            _ => {}
        }
    }
    taken
}

fn printed(element: &str) -> String {
    let (kind, rest) = element.split_at(2);
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}
