//! Namespace, prefix and suffix, labels, annotations, replicas, images.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::document::{Kustomization, Labels};
use super::images;
use super::resource::{Id, Resource, each};
use crate::error::Result;
use crate::fail;
use crate::value::{object_at, set, text};

/// Kinds whose name is not theirs to choose, or is another's key.
pub const KEEP_THEIR_NAME: [&str; 3] = ["CustomResourceDefinition", "APIService", "Namespace"];

pub fn run(kustomization: &Kustomization, resources: &mut [Resource]) -> Result {
    if !kustomization.namespace.is_empty() {
        namespace(&kustomization.namespace, resources)?;
    }
    for (prefix, suffix) in [(kustomization.name_prefix.as_str(), ""), ("", kustomization.name_suffix.as_str())] {
        if prefix.is_empty() && suffix.is_empty() {
            continue;
        }
        for resource in resources.iter_mut() {
            let id = resource.current();
            if !KEEP_THEIR_NAME.contains(&id.kind.as_str()) {
                resource.rename(format!("{prefix}{}{suffix}", id.name));
            }
        }
    }
    for labels in &kustomization.labels {
        for resource in resources.iter_mut() {
            label(resource, labels);
        }
    }
    for resource in resources.iter_mut() {
        for (path, create) in label_places(&resource.current(), true, true) {
            add_all(resource, &path, create, &kustomization.common_labels);
        }
        for path in annotation_places(&resource.current()) {
            add_all(resource, path, true, &kustomization.common_annotations);
        }
    }
    replicas(kustomization, resources)?;
    images::run(&kustomization.images, resources);
    Ok(())
}

pub fn add_all(resource: &mut Resource, path: &str, create: bool, pairs: &BTreeMap<String, String>) {
    if pairs.is_empty() {
        return;
    }
    each(&mut resource.object, path, create, &mut |place| {
        let fields = object_at(place, &[]);
        fields.extend(pairs.iter().map(|(key, value)| (key.clone(), value.clone().into())));
    });
}

fn label(resource: &mut Resource, labels: &Labels) {
    let id = resource.current();
    let mut places = label_places(&id, labels.include_selectors, labels.include_selectors || labels.include_templates);
    places.extend(labels.fields.iter().filter(|field| field.is_in(&id)).map(|field| (field.path.clone(), field.create)));
    for (path, create) in places {
        add_all(resource, &path, create, &labels.pairs);
    }
}

/// Where labels go: paths, and whether what is missing on the way is made.
fn label_places(id: &Id, selectors: bool, templates: bool) -> Vec<(String, bool)> {
    let mut places = vec![("metadata/labels".to_owned(), true)];
    let mut add = |path: &str, create: bool| places.push((path.to_owned(), create));
    if templates {
        match id.kind.as_str() {
            "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" | "Job" | "ReplicationController" => add("spec/template/metadata/labels", true),
            "CronJob" => {
                add("spec/jobTemplate/metadata/labels", true);
                add("spec/jobTemplate/spec/template/metadata/labels", true);
            }
            _ => {}
        }
        if id.kind == "StatefulSet" {
            add("spec/volumeClaimTemplates[]/metadata/labels", true);
        }
    }
    if !selectors {
        return places;
    }
    match id.kind.as_str() {
        "Service" if id.group.is_empty() => add("spec/selector", true),
        "ReplicationController" => add("spec/selector", true),
        "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" => add("spec/selector/matchLabels", true),
        "Job" | "PodDisruptionBudget" => add("spec/selector/matchLabels", false),
        "CronJob" => add("spec/jobTemplate/spec/selector/matchLabels", false),
        "NetworkPolicy" => {
            for path in ["spec/podSelector/matchLabels", "spec/ingress/from/podSelector/matchLabels", "spec/egress/to/podSelector/matchLabels"] {
                add(path, false);
            }
        }
        _ => {}
    }
    if matches!(id.kind.as_str(), "Deployment" | "StatefulSet") {
        for affinity in ["podAffinity", "podAntiAffinity"] {
            let base = format!("spec/template/spec/affinity/{affinity}");
            add(&format!("{base}/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector/matchLabels"), false);
            add(&format!("{base}/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels"), false);
        }
        add("spec/template/spec/topologySpreadConstraints/labelSelector/matchLabels", false);
    }
    places
}

fn annotation_places(id: &Id) -> &'static [&'static str] {
    match id.kind.as_str() {
        "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" | "Job" | "ReplicationController" => &["metadata/annotations", "spec/template/metadata/annotations"],
        "CronJob" => &["metadata/annotations", "spec/jobTemplate/metadata/annotations", "spec/jobTemplate/spec/template/metadata/annotations"],
        _ => &["metadata/annotations"],
    }
}

/// Kinds without a namespace, as far as they are built in; what is unknown has one.
fn is_cluster_scoped(id: &Id) -> bool {
    const KINDS: &[(&str, &[&str])] = &[
        ("", &["Namespace", "Node", "PersistentVolume", "ComponentStatus"]),
        ("admissionregistration.k8s.io", &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"]),
        ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
        ("apiregistration.k8s.io", &["APIService"]),
        ("authentication.k8s.io", &["TokenReview", "SelfSubjectReview"]),
        ("authorization.k8s.io", &["SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"]),
        ("certificates.k8s.io", &["CertificateSigningRequest", "ClusterTrustBundle"]),
        ("flowcontrol.apiserver.k8s.io", &["FlowSchema", "PriorityLevelConfiguration"]),
        ("internal.apiserver.k8s.io", &["StorageVersion"]),
        ("networking.k8s.io", &["IngressClass", "IPAddress", "ServiceCIDR"]),
        ("node.k8s.io", &["RuntimeClass"]),
        ("policy", &["PodSecurityPolicy"]),
        ("rbac.authorization.k8s.io", &["ClusterRole", "ClusterRoleBinding"]),
        ("resource.k8s.io", &["DeviceClass", "ResourceSlice"]),
        ("scheduling.k8s.io", &["PriorityClass"]),
        ("storage.k8s.io", &["StorageClass", "CSIDriver", "CSINode", "VolumeAttachment", "VolumeAttributesClass"]),
        ("storagemigration.k8s.io", &["StorageVersionMigration"]),
    ];
    KINDS.iter().any(|(group, kinds)| *group == id.group && kinds.contains(&id.kind.as_str()))
}

fn namespace(wanted: &str, resources: &mut [Resource]) -> Result {
    for resource in resources.iter_mut() {
        let id = resource.current();
        if id.kind == "Namespace" && id.group.is_empty() {
            resource.rename(wanted.to_owned());
        } else if !is_cluster_scoped(&id) {
            resource.remember();
            set(&mut resource.object, &["metadata", "namespace"], wanted.into());
        }
        match id.kind.as_str() {
            // Others are set when the accounts they mean are known.
            "RoleBinding" | "ClusterRoleBinding" => each(&mut resource.object, "subjects", false, &mut |subject| {
                if text(subject, "/kind") == "ServiceAccount" && text(subject, "/name") == "default" {
                    subject["namespace"] = wanted.into();
                }
            }),
            "APIService" => each(&mut resource.object, "spec/service", false, &mut |service| service["namespace"] = wanted.into()),
            "CustomResourceDefinition" => each(&mut resource.object, "spec/conversion/webhook/clientConfig/service/namespace", false, &mut |place| *place = wanted.into()),
            _ => {}
        }
    }
    for (index, resource) in resources.iter().enumerate() {
        let id = resource.current();
        if resources[..index].iter().any(|other| other.current() == id) {
            fail!("namespace transformation produces ID conflict: {}", json!([id.to_string(), id.to_string()]));
        }
    }
    Ok(())
}

fn replicas(kustomization: &Kustomization, resources: &mut [Resource]) -> Result {
    for wanted in &kustomization.replicas {
        let mut found = false;
        for resource in resources.iter_mut() {
            let scales = matches!(resource.current().kind.as_str(), "Deployment" | "ReplicationController" | "ReplicaSet" | "StatefulSet");
            if scales && resource.ids().any(|id| id.name == wanted.name) {
                found = true;
                set(&mut resource.object, &["spec", "replicas"], Value::from(wanted.count));
            }
        }
        if !found {
            fail!(
                "resource with name {} does not match a config with the following GVK [Deployment.[noVer].[noGrp] StatefulSet.[noVer].[noGrp] ReplicaSet.[noVer].[noGrp] ReplicationController.[noVer].[noGrp]]",
                wanted.name
            );
        }
    }
    Ok(())
}
