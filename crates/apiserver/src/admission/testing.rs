//! A cluster of a few objects, to try plugins on.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Cluster, Operation, Question, Target, Warnings};
use crate::error::RequestError;
use crate::kinds::{Kind, registry};
use crate::user::User;

pub struct World {
    /// By group, plural, namespace, name.
    objects: Mutex<BTreeMap<[String; 4], Value>>,
    pub user: User,
    pub warnings: Warnings,
    /// What the authorizer allows: `verb resource`.
    pub allowed: Vec<&'static str>,
}

pub fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u-1"}, "spec": spec})
}

impl World {
    pub fn new(objects: &[(&str, &str, Value)]) -> Self {
        let key = |group: &str, plural: &str, object: &Value| {
            let metadata = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
            [group.to_owned(), plural.to_owned(), metadata("namespace"), metadata("name")]
        };
        let objects = objects.iter().map(|(group, plural, object)| (key(group, plural, object), object.clone()));
        World {
            objects: Mutex::new(objects.collect()),
            user: User::authenticated("alice", &[]),
            warnings: Warnings::default(),
            allowed: Vec::new(),
        }
    }

    /// The object as amended, or the error's sentence.
    pub async fn mutate(
        &self,
        plugin: &dyn Admission,
        group: &str,
        plural: &str,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value, String> {
        let kind = self.kind(group, plural).expect("a known kind");
        let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let attributes = self.attributes(Operation::Create, kind, namespace, &name, None);
        if plugin.handles(attributes.operation, kind, "") {
            plugin.mutate(&attributes, &mut object).await.map_err(message)?;
        }
        Ok(object)
    }

    /// The error's sentence, or nothing. With `old` it is an update.
    pub async fn validate(
        &self,
        plugin: &dyn Admission,
        group: &str,
        plural: &str,
        namespace: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> String {
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        self.validate_for(plugin, (group, plural, ""), operation, namespace, object, old).await
    }

    /// The same for any operation and subresource; `target` is group, plural, subresource.
    pub async fn validate_for(
        &self,
        plugin: &dyn Admission,
        target: (&str, &str, &str),
        operation: Operation,
        namespace: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> String {
        let kind = self.kind(target.0, target.1).expect("a known kind");
        let name = object["metadata"]["name"].as_str().unwrap_or("");
        let mut attributes = self.attributes(operation, kind, namespace, name, old);
        attributes.subresource = target.2;
        if !plugin.handles(operation, kind, target.2) {
            return String::new();
        }
        plugin.validate(&attributes, object).await.err().map(message).unwrap_or_default()
    }

    fn attributes<'a>(
        &'a self,
        operation: Operation,
        kind: &'static Kind,
        namespace: &'a str,
        name: &'a str,
        old: Option<&'a Value>,
    ) -> Attributes<'a> {
        Attributes {
            operation,
            kind,
            namespace,
            name,
            subresource: "",
            old,
            options: None,
            user: &self.user,
            dry_run: false,
            now: Timestamp::UNIX_EPOCH,
            cluster: self,
            warnings: &self.warnings,
        }
    }
}

fn message(error: RequestError) -> String {
    error.status()["message"].as_str().unwrap_or("").to_owned()
}

#[async_trait]
impl Cluster for World {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.lock().get(&[group, plural, namespace, name].map(str::to_owned)).cloned()
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
        let objects = self.objects.lock();
        let wanted = objects
            .iter()
            .filter(|(key, _)| key[0] == group && key[1] == plural && (namespace.is_empty() || key[2] == namespace));
        wanted.map(|(_, object)| object.clone()).collect()
    }

    fn kind(&self, group: &str, plural: &str) -> Option<&'static Kind> {
        registry::REGISTRY.iter().copied().find(|kind| kind.group == group && kind.plural == plural)
    }

    async fn update(
        &self,
        target: Target<'_>,
        change: &(dyn for<'v> Fn(&'v mut Value) -> Result<bool, RequestError> + Sync),
    ) -> Result<(), RequestError> {
        let key = [target.group, target.plural, target.namespace, target.name].map(str::to_owned);
        let mut objects = self.objects.lock();
        let object = objects.get_mut(&key).expect("an object to update");
        let mut changed = object.clone();
        if change(&mut changed)? {
            *object = changed;
        }
        Ok(())
    }

    fn allowed(&self, _user: &User, question: &Question<'_>) -> bool {
        let asked = format!("{} {}", question.verb, question.resource);
        self.allowed.iter().any(|allowed| *allowed == asked)
    }
}
