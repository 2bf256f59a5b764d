//! Names in one resource that mean another: they follow when that one is renamed.
//!
//! Invariant: a name is changed only where a resource of the meant kind bore it, in the namespace the reference looks
//! into; one that nobody bore stays.

use serde_json::Value;

use super::resource::{Id, Resource, each};
use crate::value::text;

/// Where a pod's specification stands.
pub const PODS: &[(&str, &str)] = &[
    ("Pod", "spec"),
    ("PodTemplate", "template/spec"),
    ("Deployment", "spec/template/spec"),
    ("ReplicaSet", "spec/template/spec"),
    ("DaemonSet", "spec/template/spec"),
    ("StatefulSet", "spec/template/spec"),
    ("Job", "spec/template/spec"),
    ("ReplicationController", "spec/template/spec"),
    ("CronJob", "spec/jobTemplate/spec/template/spec"),
];

/// What a pod's specification refers to.
const IN_PODS: &[(&str, &[&str])] = &[
    ("ConfigMap", &[
        "volumes/configMap/name",
        "volumes/projected/sources/configMap/name",
        "containers/env/valueFrom/configMapKeyRef/name",
        "initContainers/env/valueFrom/configMapKeyRef/name",
        "containers/envFrom/configMapRef/name",
        "initContainers/envFrom/configMapRef/name",
    ]),
    ("Secret", &[
        "volumes/secret/secretName",
        "volumes/projected/sources/secret/name",
        "containers/env/valueFrom/secretKeyRef/name",
        "initContainers/env/valueFrom/secretKeyRef/name",
        "containers/envFrom/secretRef/name",
        "initContainers/envFrom/secretRef/name",
        "imagePullSecrets/name",
    ]),
    ("ServiceAccount", &["serviceAccountName"]),
    ("PersistentVolumeClaim", &["volumes/persistentVolumeClaim/claimName"]),
    ("PriorityClass", &["priorityClassName"]),
];

/// What other kinds refer to: the kind that refers, the kind that is meant, where.
const ELSEWHERE: &[(&str, &str, &[&str])] = &[
    ("Ingress", "Secret", &[
        "spec/tls/secretName",
        "metadata/annotations/ingress.kubernetes.io\\/auth-secret",
        "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-secret",
        "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-tls-secret",
    ]),
    ("Ingress", "ConfigMap", &["metadata/annotations/nginx.ingress.kubernetes.io\\/fastcgi-params-configmap"]),
    ("Ingress", "Service", &[
        "spec/rules/http/paths/backend/service/name",
        "spec/defaultBackend/service/name",
        "spec/rules/http/paths/backend/serviceName",
        "spec/backend/serviceName",
    ]),
    ("Ingress", "IngressClass", &["spec/ingressClassName"]),
    ("HTTPRoute", "Service", &["spec/rules/backendRefs/name"]),
    ("ServiceAccount", "Secret", &["imagePullSecrets/name"]),
    ("StatefulSet", "Service", &["spec/serviceName"]),
    ("StatefulSet", "StorageClass", &["spec/volumeClaimTemplates/spec/storageClassName"]),
    ("PersistentVolumeClaim", "StorageClass", &["spec/storageClassName"]),
    ("PersistentVolumeClaim", "PersistentVolume", &["spec/volumeName"]),
    ("PersistentVolume", "StorageClass", &["spec/storageClassName"]),
    ("PersistentVolume", "Secret", &["spec/azureFile/secretName"]),
    ("StorageClass", "Secret", &["parameters/secretName", "parameters/adminSecretName", "parameters/userSecretName", "parameters/secretRef"]),
    ("Role", "ConfigMap", &["rules/resourceNames"]),
    ("Role", "Secret", &["rules/resourceNames"]),
    ("ClusterRole", "ConfigMap", &["rules/resourceNames"]),
    ("ClusterRole", "Secret", &["rules/resourceNames"]),
    ("Node", "ConfigMap", &["spec/configSource/configMap"]),
];

/// Kinds that have no namespace can be meant from anywhere.
const EVERYWHERE: &[&str] = &["ClusterRole", "PersistentVolume", "StorageClass", "PriorityClass", "IngressClass", "Namespace"];

struct Known {
    past: Vec<Id>,
    now: Id,
}

pub fn update(resources: &mut [Resource]) {
    let known: Vec<Known> = resources
        .iter()
        .map(|resource| Known { past: resource.ids().collect(), now: resource.current() })
        .filter(|known| known.past.len() > 1)
        .collect();
    if known.is_empty() {
        return;
    }
    for resource in resources {
        let from = Referrer { ids: resource.ids().collect(), known: &known };
        let kind = resource.current().kind;
        let object = &mut resource.object;
        for (_, base) in PODS.iter().filter(|(pods, _)| *pods == kind) {
            for (meant, paths) in IN_PODS {
                for path in *paths {
                    from.rename(object, &format!("{base}/{path}"), meant);
                }
            }
        }
        for (_, meant, paths) in ELSEWHERE.iter().filter(|(referrer, ..)| *referrer == kind) {
            for path in *paths {
                from.rename(object, path, meant);
            }
        }
        match kind.as_str() {
            "RoleBinding" | "ClusterRoleBinding" => {
                let meant = text(object, "/roleRef/kind").to_owned();
                from.rename(object, "roleRef/name", &meant);
                each(object, "subjects", false, &mut |subject| {
                    if text(subject, "/kind") == "ServiceAccount" {
                        from.rename_with_namespace(subject, "ServiceAccount");
                    }
                });
            }
            "HorizontalPodAutoscaler" => {
                let meant = text(object, "/spec/scaleTargetRef/kind").to_owned();
                from.rename(object, "spec/scaleTargetRef/name", &meant);
            }
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
                each(object, "webhooks/clientConfig/service", false, &mut |service| from.rename_with_namespace(service, "Service"));
            }
            "APIService" => each(object, "spec/service", false, &mut |service| from.rename_with_namespace(service, "Service")),
            _ => {}
        }
    }
}

struct Referrer<'a> {
    ids: Vec<Id>,
    known: &'a [Known],
}

impl Referrer<'_> {
    fn rename(&self, object: &mut Value, path: &str, meant: &str) {
        each(object, path, false, &mut |place| {
            if let Some(name) = place.as_str()
                && let Some(now) = self.find(meant, name, None)
            {
                *place = now.name.clone().into();
            }
        });
    }

    fn rename_with_namespace(&self, place: &mut Value, meant: &str) {
        let namespace = text(place, "/namespace").to_owned();
        if let Some(now) = self.find(meant, text(place, "/name"), Some(&namespace)) {
            let (name, namespace) = (now.name.clone(), now.namespace.clone());
            place["name"] = name.into();
            if !namespace.is_empty() {
                place["namespace"] = namespace.into();
            }
        }
    }

    /// What the resource that bore this name is called now. The name it bears now wins over old ones, and a
    /// namespace shared with the referrer, now or once, is asked for.
    fn find(&self, kind: &str, name: &str, namespace: Option<&str>) -> Option<&Id> {
        let place = |id: &Id| if id.namespace.is_empty() { "default".to_owned() } else { id.namespace.clone() };
        let near = |known: &Known| {
            if EVERYWHERE.contains(&kind) {
                return true;
            }
            match namespace {
                Some("") => true,
                Some(wanted) => known.past.iter().any(|id| place(id) == wanted),
                None => known.past.iter().any(|id| self.ids.iter().any(|own| own.same_namespace(id))),
            }
        };
        let of_kind = |known: &&Known| known.now.kind == kind && near(known);
        if self.known.iter().filter(of_kind).any(|known| known.now.name == name && known.past.len() > 1 && namespace.is_none()) {
            return None;
        }
        let mut found: Vec<&Known> = self.known.iter().filter(of_kind).filter(|known| known.past.iter().any(|id| id.name == name)).collect();
        if found.len() > 1 {
            // The latest name is the most particular one.
            let recent = |known: &Known| known.past.iter().rev().skip(1).position(|id| id.name == name);
            let best = found.iter().filter_map(|known| recent(known)).min();
            found.retain(|known| recent(known) == best);
        }
        match found.as_slice() {
            [one] => Some(&one.now),
            _ => None,
        }
    }
}
