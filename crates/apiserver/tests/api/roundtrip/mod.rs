//! What one client writes as JSON another reads as protobuf and writes elsewhere; read there as JSON it is identical,
//! for every kind and every field.

mod fill;
mod oracle;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use api::schema::{self, Definition, Type};
use apiserver::kinds::registry::REGISTRY;
use apiserver::kinds::{Kind, Verbs};
use futures::FutureExt;
use serde_json::{Value, json};

use crate::harness::TestServer;
use fill::Filler;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Fields that no object here has when it is read, each with the reason.
const NOT_SET: &[(&str, &str)] = &[
    ("CertificateSigningRequestSpec.extra", REQUESTER),
    ("CertificateSigningRequestSpec.uid", REQUESTER),
    ("ConfigMapNodeConfigSource.kubeletConfigKey", DYNAMIC_CONFIG),
    ("ConfigMapNodeConfigSource.name", DYNAMIC_CONFIG),
    ("ConfigMapNodeConfigSource.namespace", DYNAMIC_CONFIG),
    ("ConfigMapNodeConfigSource.resourceVersion", DYNAMIC_CONFIG),
    ("ConfigMapNodeConfigSource.uid", DYNAMIC_CONFIG),
    ("CustomResourceDefinitionSpec.preserveUnknownFields", "must be false, which is not written"),
    ("EphemeralContainer.lifecycle", EPHEMERAL),
    ("EphemeralContainer.livenessProbe", EPHEMERAL),
    ("EphemeralContainer.ports", EPHEMERAL),
    ("EphemeralContainer.readinessProbe", EPHEMERAL),
    ("EphemeralContainer.resizePolicy", EPHEMERAL),
    ("EphemeralContainer.restartPolicy", EPHEMERAL),
    ("EphemeralContainer.restartPolicyRules", EPHEMERAL),
    ("EphemeralContainer.startupProbe", EPHEMERAL),
    ("ExemptPriorityLevelConfiguration.lendablePercent", EXEMPT),
    ("ExemptPriorityLevelConfiguration.nominalConcurrencyShares", EXEMPT),
    ("JSONSchemaProps.$ref", STRUCTURAL),
    ("JSONSchemaProps.$schema", STRUCTURAL),
    ("JSONSchemaProps.additionalItems", STRUCTURAL),
    ("JSONSchemaProps.definitions", STRUCTURAL),
    ("JSONSchemaProps.dependencies", STRUCTURAL),
    ("JSONSchemaProps.id", STRUCTURAL),
    ("JSONSchemaProps.patternProperties", STRUCTURAL),
    ("JSONSchemaProps.uniqueItems", STRUCTURAL),
    ("NodeConfigSource.configMap", DYNAMIC_CONFIG),
    ("NodeConfigStatus.active", DYNAMIC_CONFIG),
    ("NodeConfigStatus.assigned", DYNAMIC_CONFIG),
    ("NodeConfigStatus.lastKnownGood", DYNAMIC_CONFIG),
    ("NodeSpec.configSource", DYNAMIC_CONFIG),
    ("ObjectMeta.deletionGracePeriodSeconds", "set by a deletion"),
    ("ObjectMeta.deletionTimestamp", "set by a deletion"),
    ("ObjectMeta.selfLink", "no longer served"),
    ("PodSpec.workloadRef", ALPHA),
    ("PriorityLevelConfigurationSpec.exempt", EXEMPT),
    ("Secret.stringData", "only written"),
    ("TypedObjectReference.namespace", ALPHA),
    ("WorkloadReference.name", ALPHA),
    ("WorkloadReference.podGroup", ALPHA),
    ("WorkloadReference.podGroupReplicaKey", ALPHA),
];
const ALPHA: &str = "an alpha feature, off by default";
const REQUESTER: &str = "the server notes who asks";
const DYNAMIC_CONFIG: &str = "dynamic configuration of kubelets is gone";
const EPHEMERAL: &str = "ephemeral containers may not have it";
const EXEMPT: &str = "only the level named exempt has it, which is always there";
const STRUCTURAL: &str = "structural schemas may not have it";

fn definition(kind: &Kind) -> &'static Definition {
    schema::definition(kind.definition).expect("every kind has a schema")
}

fn api_version(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.version.to_owned() } else { format!("{}/{}", kind.group, kind.version) }
}

fn collection(kind: &Kind) -> String {
    let root = if kind.group.is_empty() { "/api" } else { "/apis" };
    let place = if kind.namespaced { "/namespaces/default" } else { "" };
    format!("{root}/{}{place}/{}", api_version(kind), kind.plural)
}

#[tokio::test(start_paused = true)]
async fn every_kind_with_every_field() {
    let server = TestServer::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "builder"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    server.patch("/api/v1/namespaces/default", "merge", label).await.expect(200);
    let mut filler = Filler::new();
    let (mut reachable, mut seen, mut failed) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for kind in REGISTRY.iter().copied().filter(|kind| !matches!(kind.verbs, Verbs::Create | Verbs::Read)) {
        reach(definition(kind), &mut reachable);
        for (at, mut object) in filler.objects(definition(kind)).into_iter().enumerate() {
            object["apiVersion"] = api_version(kind).into();
            object["kind"] = kind.kind.into();
            if object["metadata"]["name"] == "full" {
                object["metadata"]["name"] = format!("full-{at}").into();
                // Classes of attributes are a matter of CSI, which the first volume shows.
                if kind.kind == "PersistentVolume" && object["spec"]["csi"].is_null() {
                    object["spec"].as_object_mut().expect("a map").remove("volumeAttributesClassName");
                }
            }
            let trip = Trip { server: &server, kind };
            // One that fails tells so, and the others go on.
            match AssertUnwindSafe(trip.there_and_back(object)).catch_unwind().await {
                Ok(stored) => see(&stored, definition(kind), &mut seen),
                Err(_) => failed.push(kind.kind),
            }
        }
    }
    assert_eq!(failed, Vec::<&str>::new());
    let missing: Vec<&String> = reachable.difference(&seen).collect();
    let known: Vec<String> = NOT_SET.iter().map(|(field, _)| (*field).to_owned()).collect();
    let known: Vec<&String> = known.iter().collect();
    assert_eq!(missing, known);
}

/// `Definition.field` of everything that a kind may hold.
fn reach(definition: &'static Definition, fields: &mut BTreeSet<String>) {
    for field in definition.fields {
        let new = fields.insert(format!("{}.{}", definition.short_name(), field.name));
        if let Some(inner) = field.kind.definition().filter(|_| new) {
            reach(inner, fields);
        }
    }
}

/// The same of what an object does hold.
fn see(object: &Value, definition: &'static Definition, fields: &mut BTreeSet<String>) {
    for (name, value) in object.as_object().into_iter().flatten() {
        let Some(field) = definition.field(name) else { panic!("{}.{name} is not in the schema", definition.name) };
        fields.insert(format!("{}.{name}", definition.short_name()));
        see_value(value, &field.kind, fields);
    }
}

fn see_value(value: &Value, kind: &Type, fields: &mut BTreeSet<String>) {
    match kind {
        Type::Object(definition) => see(value, definition, fields),
        Type::List(inner) => value.as_array().into_iter().flatten().for_each(|item| see_value(item, inner, fields)),
        Type::Map(inner) => value.as_object().into_iter().flatten().for_each(|(_, item)| see_value(item, inner, fields)),
        _ => {}
    }
}

/// What the server says of itself, and what differs between two places.
fn without_identity(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|field, _| matches!(field.as_str(), "labels" | "annotations" | "finalizers" | "ownerReferences"));
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove("kubernetes.io/metadata.name"); // Of namespaces.
        }
    }
    object
}

/// Protobuf names the type of whole objects alone: those inside of others lose theirs.
fn without_inner_types(object: &Value) -> Value {
    let mut object = object.clone();
    let templates = object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
    for template in templates.into_iter().flatten().filter_map(Value::as_object_mut) {
        template.retain(|field, _| field != "apiVersion" && field != "kind");
    }
    object
}

/// Tells the first place that differs: whole objects are too long to look at.
#[track_caller]
fn assert_same(actual: &Value, expected: &Value, what: &str) {
    if let Some((path, actual, expected)) = difference(actual, expected, String::new()) {
        panic!("{what}: {path} is {actual}, not {expected}");
    }
}

fn difference(actual: &Value, expected: &Value, path: String) -> Option<(String, Value, Value)> {
    match (actual, expected) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                difference(a, b, format!("{path}.{key}"))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(at, (a, b))| difference(a, b, format!("{path}[{at}]")))
        }
        _ => (actual != expected).then(|| (path, actual.clone(), expected.clone())),
    }
}

/// Ephemeral containers have a door of their own.
fn take_debuggers(object: &mut Value) -> Option<Value> {
    let spec = object.get_mut("spec")?.as_object_mut()?;
    spec.remove("ephemeralContainers")
}

struct Trip<'a> {
    server: &'a TestServer,
    kind: &'static Kind,
}

impl Trip<'_> {
    /// Returns the object as it was read first.
    async fn there_and_back(&self, mut object: Value) -> Value {
        let debuggers = take_debuggers(&mut object);
        let kind = self.kind;
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let here = format!("{}/{name}", collection(kind));
        let created = self.server.post(&format!("{}?fieldValidation=Strict", collection(kind)), object.clone()).await;
        assert_eq!(created.code, 201, "{} {}", kind.kind, created.message());
        if let Some(status) = self.writes_status(&object) {
            let mut whole = created.json();
            whole["status"] = status;
            whole["metadata"]["resourceVersion"] = Value::Null; // Somebody else may note a condition meanwhile.
            let written = self.server.put(&format!("{here}/status?fieldValidation=Strict"), whole).await;
            assert_eq!(written.code, 200, "{} status: {}", kind.kind, written.message());
        }
        if let Some(debuggers) = &debuggers {
            let mut whole = self.server.get(&here).await.expect(200);
            whole["spec"]["ephemeralContainers"] = debuggers.clone();
            self.server.put(&format!("{here}/ephemeralcontainers"), whole).await.expect(200);
        }
        let read = self.server.get(&here).await.expect(200);

        let protobuf = self.get_protobuf(&here).await;
        let decoded = api::protobuf::decode(&protobuf).expect("protobuf");
        assert_same(&decoded, &without_inner_types(&read), &format!("{} as protobuf", kind.kind));
        let raw = oracle::raw(&protobuf);
        let again = oracle::through_published_types(kind.definition, &raw).expect("a published type");
        assert!(again == raw, "{} as the published types write it", kind.kind);
        self.list(&read).await;
        self.watch(&read).await;

        self.remove(&here).await;
        let mut copy = decoded;
        let metadata = copy["metadata"].as_object_mut().expect("metadata");
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
            metadata.remove(field);
        }
        let copy_name = name.replace("full", "copy");
        metadata.insert("name".into(), copy_name.as_str().into());
        let there = format!("{}/{copy_name}", collection(kind));
        take_debuggers(&mut copy);
        self.send_protobuf(&format!("POST {}", collection(kind)), &copy).await;
        if let Some(debuggers) = debuggers {
            copy["spec"]["ephemeralContainers"] = debuggers;
            self.send_protobuf(&format!("PUT {there}/ephemeralcontainers"), &copy).await;
        }
        if self.writes_status(&object).is_some() {
            self.send_protobuf(&format!("PUT {there}/status"), &copy).await;
        }
        let moved = self.server.get(&there).await.expect(200);
        assert_same(&without_identity(&moved), &without_identity(&read), &format!("{} written as protobuf", kind.kind));
        self.remove(&there).await;
        read
    }

    fn writes_status(&self, object: &Value) -> Option<Value> {
        let status = object.get("status")?;
        self.kind.subresources.iter().any(|own| own.name == "status").then(|| status.clone())
    }

    async fn get_protobuf(&self, path: &str) -> bytes::Bytes {
        let answer = self.server.send(&format!("GET {path}"), &format!("accept: {PROTOBUF}"), "").await;
        assert_eq!(answer.code, 200, "{path}");
        assert_eq!(answer.headers["content-type"], PROTOBUF);
        answer.bytes
    }

    async fn send_protobuf(&self, request: &str, object: &Value) {
        let body = api::protobuf::encode(object, definition(self.kind));
        let headers = format!("content-type: {PROTOBUF}\naccept: {PROTOBUF},application/json");
        let answer = self.server.send(request, &headers, body).await;
        let problem = api::protobuf::decode(&answer.bytes).unwrap_or_default();
        assert!(answer.code < 400, "{request}: {}", problem["message"]);
    }

    async fn list(&self, read: &Value) {
        let list = api::protobuf::decode(&self.get_protobuf(&collection(self.kind)).await).expect("protobuf");
        assert_eq!(list["kind"], format!("{}List", self.kind.kind));
        let item = list["items"].as_array().expect("items").iter().find(|item| item["metadata"] == read["metadata"]);
        let mut item = item.expect("the object in the list").clone();
        item["apiVersion"] = read["apiVersion"].clone();
        item["kind"] = read["kind"].clone();
        assert_same(&item, &without_inner_types(read), &format!("{} in a list", self.kind.kind));
    }

    async fn watch(&self, read: &Value) {
        let path = format!("{}?watch=true&resourceVersion=0&timeoutSeconds=1", collection(self.kind));
        let answer = self.server.send(&format!("GET {path}"), &format!("accept: {PROTOBUF};stream=watch"), "").await;
        assert_eq!(answer.headers["content-type"], format!("{PROTOBUF};stream=watch"), "{}", self.kind.kind);
        let mut rest = &answer.bytes[..];
        let mut found = false;
        while let Some((length, tail)) = rest.split_first_chunk() {
            let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
            let (event_type, object) = api::protobuf::decode_watch_event(frame).expect("an event");
            let object = api::protobuf::decode(&object).expect("protobuf");
            found |= event_type == "ADDED" && object == without_inner_types(read);
            rest = tail;
        }
        assert!(found, "{} in a watch", self.kind.kind);
    }

    async fn remove(&self, path: &str) {
        if self.kind.kind == "Namespace" {
            return; // It ends when its contents have, and no controller looks.
        }
        self.server.patch(path, "merge", json!({"metadata": {"finalizers": null}})).await.expect(200);
        self.server.delete(&format!("{path}?gracePeriodSeconds=0&propagationPolicy=Background")).await.expect(200);
        self.server.get(path).await.expect(404);
    }
}
