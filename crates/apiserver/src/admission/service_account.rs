//! Every pod is somebody: it gets its service account, that account's token, and its pull secrets.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a bit, by which the kubelet knows its own tokens.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A new namespace's `default` account is made by a controller; a pod right behind it waits this often, this long.
const ATTEMPTS: u32 = 10;
const ATTEMPT_WAIT: Duration = Duration::from_millis(100);

pub struct ServiceAccount;

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Create && kind.group.is_empty() && kind.plural == "pods" && subresource.is_empty()
    }

    async fn mutate(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), RequestError> {
        let forbidden = |why: String| RequestError::forbidden(attributes.kind, attributes.name, why);
        let uid = pod["metadata"]["uid"].as_str().unwrap_or("").to_owned();
        let mirror = pod["metadata"]["annotations"].get(MIRROR).is_some();
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        if mirror {
            return refuse_references_of_mirror(spec).map_err(forbidden);
        }
        let name = match spec.get("serviceAccountName").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => "default".to_owned(),
        };
        for field in ["serviceAccountName", "serviceAccount"] {
            spec.insert(field.into(), name.as_str().into());
        }
        let Some(account) = find(attributes, &name).await else {
            return Err(forbidden(format!(
                "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                attributes.namespace
            )));
        };
        limit_secrets(&account, spec).map_err(forbidden)?;
        let wants = |object: Option<&Value>| object.and_then(|value| value.as_bool());
        let automount = wants(spec.get("automountServiceAccountToken"))
            .or_else(|| wants(account.get("automountServiceAccountToken")))
            .unwrap_or(true);
        if automount {
            mount_token(spec, &uid);
        }
        let none = spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(|list| list.is_empty());
        if let Some(secrets) = account.get("imagePullSecrets").filter(|_| none) {
            spec.insert("imagePullSecrets".into(), secrets.clone());
        }
        Ok(())
    }
}

async fn find(attributes: &Attributes<'_>, name: &str) -> Option<Value> {
    let attempts = if name == "default" { ATTEMPTS } else { 1 };
    for attempt in 1..=attempts {
        let found = attributes.cluster.get("", "serviceaccounts", attributes.namespace, name);
        if found.is_some() || attempt == attempts {
            return found;
        }
        tokio::time::sleep(ATTEMPT_WAIT).await;
    }
    None
}

/// Mirrors of static pods show what runs already: they may not ask for anything.
fn refuse_references_of_mirror(spec: &Map<String, Value>) -> Result<(), String> {
    if spec.get("serviceAccountName").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) {
        return Err("a mirror pod may not reference service accounts".into());
    }
    for volume in spec.get("volumes").and_then(Value::as_array).into_iter().flatten() {
        if volume.get("secret").is_some() {
            return Err("a mirror pod may not reference secrets".into());
        }
        let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        for source in sources {
            if source.get("serviceAccountToken").is_some() {
                return Err("a mirror pod may not use ServiceAccountToken volume projections".into());
            }
        }
    }
    Ok(())
}

/// Only where the account asks for it by annotation.
fn limit_secrets(account: &Value, spec: &Map<String, Value>) -> Result<(), String> {
    let annotation = account["metadata"]["annotations"].get("kubernetes.io/enforce-mountable-secrets");
    if annotation.and_then(Value::as_str) != Some("true") {
        return Ok(());
    }
    let account_name = account["metadata"]["name"].as_str().unwrap_or("");
    let names = |field: &str| -> Vec<&str> {
        account[field].as_array().into_iter().flatten().filter_map(|secret| secret["name"].as_str()).collect()
    };
    let mountable = names("secrets");
    for volume in spec.get("volumes").and_then(Value::as_array).into_iter().flatten() {
        if let Some(secret) = volume["secret"]["secretName"].as_str().filter(|secret| !mountable.contains(secret)) {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {account_name} does not reference that secret"
            ));
        }
    }
    for list in ["initContainers", "containers"] {
        for container in spec.get(list).and_then(Value::as_array).into_iter().flatten() {
            for env in container["env"].as_array().into_iter().flatten() {
                let secret = env["valueFrom"]["secretKeyRef"]["name"].as_str();
                if let Some(secret) = secret.filter(|secret| !mountable.contains(secret)) {
                    return Err(format!(
                        "{} {} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because service account {account_name} does not reference that secret",
                        if list == "containers" { "container" } else { "init container" },
                        container["name"].as_str().unwrap_or(""),
                        env["name"].as_str().unwrap_or(""),
                    ));
                }
            }
        }
    }
    let pull = names("imagePullSecrets");
    for (index, secret) in spec.get("imagePullSecrets").and_then(Value::as_array).into_iter().flatten().enumerate() {
        if let Some(secret) = secret["name"].as_str().filter(|secret| !pull.contains(secret)) {
            return Err(format!(
                "imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account {account_name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

fn mount_token(spec: &mut Map<String, Value>, uid: &str) {
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let names: Vec<String> =
        volumes.into_iter().flatten().filter_map(|volume| volume["name"].as_str().map(str::to_owned)).collect();
    let existing = names.iter().find(|name| name.starts_with(VOLUME_PREFIX)).cloned();
    let name = existing.clone().unwrap_or_else(|| volume_name(uid, &names));

    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(Value::Array(containers)) = spec.get_mut(list) else { continue };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if !mounts.iter().any(|mount| mount["mountPath"] == TOKEN_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
                needed = true;
            }
        }
    }
    if existing.is_some() || !needed {
        return;
    }
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

/// The pod's uid is random enough to make a suffix of, and keeps this a function of its arguments.
fn volume_name(uid: &str, taken: &[String]) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut bytes = uid.bytes().cycle().take(uid.len().max(1) * 2).chain(0..);
    loop {
        let mut name = VOLUME_PREFIX.to_owned();
        for byte in bytes.by_ref().take(uid.len().max(1)) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut rest = hash;
        for _ in 0..5 {
            let index = usize::try_from(rest % ALPHABET.len() as u64).expect("less than the alphabet");
            name.push(char::from(ALPHABET[index]));
            rest /= ALPHABET.len() as u64;
        }
        if !taken.contains(&name) {
            return name;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{World, pod};

    #[tokio::test(start_paused = true)]
    async fn the_default_account_is_mounted() {
        let world = World::new(&[(
            "",
            "serviceaccounts",
            json!({"metadata": {"namespace": "a", "name": "default"}, "imagePullSecrets": [{"name": "pull"}]}),
        )]);
        let amended = world.mutate(&ServiceAccount, "", "pods", "a", pod(json!({"containers": [{"name": "c"}]}))).await;
        let spec = amended.expect("a pod")["spec"].clone();
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
        let volume = spec["volumes"][0]["name"].as_str().expect("a volume");
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5, "{volume}");
        assert_eq!(
            spec["containers"][0]["volumeMounts"],
            json!([{"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}])
        );
        let refused = world.mutate(&ServiceAccount, "", "pods", "b", pod(json!({"containers": []}))).await;
        assert_eq!(
            refused.expect_err("no account"),
            "pods \"p\" is forbidden: error looking up service account b/default: serviceaccount \"default\" not found"
        );
        let spec = json!({"containers": [{"name": "c"}], "automountServiceAccountToken": false});
        let amended = world.mutate(&ServiceAccount, "", "pods", "a", pod(spec)).await.expect("a pod");
        assert!(amended["spec"].get("volumes").is_none());
    }
}
