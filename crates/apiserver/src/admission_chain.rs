//! What every write passes between decoding and the store: plugins that amend and plugins that refuse.
//!
//! Invariant: all `mutate`s run before any `validate`, each in the order of the chain; what `validate` sees is what
//! is stored. Deliberately absent: the plugins themselves (`admission/`) and any knowledge of kinds.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::admission_times::AdmissionTimes;
use crate::error::RequestError;
use crate::kinds::Kind;
use crate::user::User;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

impl Operation {
    /// `CREATE`, as admission names it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// One write, as plugins see it.
pub struct Attributes<'a> {
    pub operation: Operation,
    /// The kind of the resource, also when a subresource speaks another one.
    pub kind: &'static Kind,
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Set even under generateName; empty for deletecollection.
    pub name: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Update: as stored. Delete: what goes.
    pub old: Option<&'a Value>,
    /// The body of a subresource that speaks another kind (Binding, Eviction, TokenRequest, Scale, exec's options).
    pub options: Option<&'a Value>,
    pub user: &'a User,
    /// Nothing will be stored: plugins must leave no trace.
    pub dry_run: bool,
    pub now: Timestamp,
    pub cluster: &'a dyn Cluster,
    /// `Warning` headers of the answer.
    pub warnings: &'a Warnings,
}

/// Warnings that a request collects for its answer.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<String>>, Mutex<Vec<(String, String)>>);

impl Warnings {
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut list = self.0.lock();
        if !list.contains(&text) {
            list.push(text);
        }
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }

    /// An annotation for the audit log.
    pub fn note(&self, key: String, value: String) {
        self.1.lock().push((key, value));
    }

    pub fn take_notes(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.1.lock())
    }
}

/// What plugins may ask of the cluster. Reads come from the watch cache, which has every write that was acknowledged.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// `namespace` is empty for cluster-scoped kinds. The object has its resourceVersion.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value>;

    /// All objects of a kind, in one namespace or (with `""`) everywhere.
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value>;

    fn kind(&self, group: &str, plural: &str) -> Option<&'static Kind>;

    /// Reads an object, lets `change` edit it (false: leave it), writes it unless it changed meanwhile; then again.
    /// Bypasses admission: for bookkeeping such as quota usage. An `Err` of `change` is the answer.
    async fn update(
        &self,
        target: Target<'_>,
        change: &(dyn for<'a> Fn(&'a mut Value) -> Result<bool, RequestError> + Sync),
    ) -> Result<(), RequestError>;

    /// Whether the authorizers allow it.
    fn allowed(&self, user: &User, question: &Question<'_>) -> bool;
}

/// An object by its names.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub group: &'a str,
    pub plural: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

/// What somebody may want to do to a resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

/// An admission plugin.
#[async_trait]
pub trait Admission: Send + Sync {
    /// As `--enable-admission-plugins` names it.
    fn name(&self) -> &'static str;

    /// Whether `mutate` and `validate` want to be called at all: cheap, asked on every write.
    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool;

    /// May amend the object. Not called for deletes.
    async fn mutate(&self, _attributes: &Attributes<'_>, _object: &mut Value) -> Result<(), RequestError> {
        Ok(())
    }

    /// May refuse. For deletes `object` is what goes; for connects and subresources that speak another kind it is the
    /// parent object.
    async fn validate(&self, _attributes: &Attributes<'_>, _object: &Value) -> Result<(), RequestError> {
        Ok(())
    }
}

/// The plugins in order.
#[derive(Clone, Default)]
pub struct Chain {
    plugins: Vec<Arc<dyn Admission>>,
    times: Arc<AdmissionTimes>,
}

impl Chain {
    pub fn new(plugins: Vec<Arc<dyn Admission>>) -> Self {
        Chain { plugins, times: Arc::default() }
    }

    pub async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), RequestError> {
        let step = self.times.begin("admit", attributes);
        for plugin in self.asked(attributes) {
            let began = Instant::now();
            let result = plugin.mutate(attributes, object).await;
            step.plugin(plugin.name(), began.elapsed(), result.is_err());
            result.inspect_err(|_| step.end(true))?;
        }
        step.end(false);
        Ok(())
    }

    pub async fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
        let step = self.times.begin("validate", attributes);
        for plugin in self.asked(attributes) {
            let began = Instant::now();
            let result = plugin.validate(attributes, object).await;
            step.plugin(plugin.name(), began.elapsed(), result.is_err());
            result.inspect_err(|_| step.end(true))?;
        }
        step.end(false);
        Ok(())
    }

    pub fn times(&self) -> &AdmissionTimes {
        &self.times
    }

    fn asked(&self, attributes: &Attributes<'_>) -> impl Iterator<Item = &Arc<dyn Admission>> {
        self.plugins
            .iter()
            .filter(|plugin| plugin.handles(attributes.operation, attributes.kind, attributes.subresource))
    }
}
