//! Volumes of a pod.

use std::borrow::Cow;

use serde_json::Value;

use super::Of;
use super::volume_sources::validate_remote;
use crate::kinds::core::persistent_volume_claim::validate_claim_spec;
use crate::kinds::metadata::{validate_annotations, validate_labels};
use crate::kinds::{Cursor, Problems, checks};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const MORE_THAN_ONE: &str = "may not specify more than 1 volume type";
const DUPLICATE_PATH: &str = "conflicting duplicate paths";
/// Of a volume's name and its iSCSI portal, which make one file name.
const PORTAL_MAX: usize = 64;

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

const DOWNWARD_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// In the order in which the original looks for them.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Returns the volumes that have a proper name, for the mounts. `pod` is the pod's name; templates have none.
pub fn validate<'v>(volumes: &Cursor<'_, 'v>, of: Of, pod: &str, problems: &mut Problems) -> Vec<(&'v str, &'v Value)> {
    let mut named: Vec<(&str, &Value)> = Vec::new();
    let created: Vec<String> = volumes
        .items()
        .filter(|volume| !pod.is_empty() && volume.at("ephemeral").exists())
        .map(|volume| format!("{pod}-{}", volume.at("name").str()))
        .collect();
    for volume in volumes.items() {
        let before = problems.list.len();
        validate_source(&volume, of, pod, problems);
        let name = volume.at("name");
        if name.is_empty() {
            problems.required(&name, "");
        } else {
            checks::label(&name, problems);
        }
        if named.iter().any(|(own, _)| *own == name.str()) {
            problems.duplicate(&name);
        }
        if problems.list.len() == before {
            named.push((name.str(), volume.value));
        }
        let claim = volume.at("persistentVolumeClaim.claimName");
        if created.iter().any(|created| created == claim.str()) {
            problems.invalid(&claim, "must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    named
}

fn validate_source(volume: &Cursor, of: Of, pod: &str, problems: &mut Problems) {
    let mut found = false;
    for field in SOURCES {
        let source = volume.at(field);
        if !source.exists() {
            continue;
        }
        if found {
            // Two of them the original calls otherwise here.
            let named = match *field {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                other => other,
            };
            problems.forbidden(&volume.at(named), MORE_THAN_ONE);
        } else {
            found = true;
            validate_one(field, &source, of, problems);
            if *field == "ephemeral" {
                validate_claim_name(volume, pod, problems);
            }
        }
        if *field == "iscsi" && source.at("initiatorName").exists() {
            let (name, portal) = (volume.at("name"), source.at("targetPortal"));
            if name.len() + 1 + portal.len() > PORTAL_MAX {
                problems.invalid_str(&name, name.str(), "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.");
            }
        }
    }
    if !found {
        problems.required(volume, "must specify a volume type");
    }
}

/// The claim that is made for the volume must be able to exist.
fn validate_claim_name(volume: &Cursor, pod: &str, problems: &mut Problems) {
    let name = volume.at("name");
    if pod.is_empty() || name.is_empty() {
        return;
    }
    let claim = format!("{pod}-{}", name.str());
    for sentence in api::names::dns1123_subdomain(&claim) {
        problems.invalid(&name, &format!("PVC name \"{claim}\": {sentence}"));
    }
}

/// What the source of this name must say; of pods and, where they have the same, of persistent volumes.
pub fn validate_one(field: &str, source: &Cursor, of: Of, problems: &mut Problems) {
    match field {
        "emptyDir" => {
            let limit = source.at("sizeLimit");
            if checks::quantity(limit.value).is_some_and(|limit| limit.sign() < 0) {
                problems.forbidden(&limit, "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => {
            let path = source.at("path");
            if checks::required(&path, problems) {
                no_backsteps(&path, problems);
                checks::optional_one_of(&source.at("type"), HOST_PATH_TYPES, problems);
            }
        }
        "gitRepo" => {
            checks::required(&source.at("repository"), problems);
            relative_path(&source.at("directory"), problems);
        }
        "secret" => {
            checks::required(&source.at("secretName"), problems);
            validate_keys(source, problems);
        }
        "configMap" => {
            checks::required(&source.at("name"), problems);
            validate_keys(source, problems);
        }
        "persistentVolumeClaim" => {
            checks::required(&source.at("claimName"), problems);
        }
        "downwardAPI" => {
            validate_mode(&source.at("defaultMode"), problems);
            validate_downward(source, problems);
        }
        "projected" => validate_projected(source, problems),
        "ephemeral" => validate_ephemeral(source, problems),
        "image" => {
            if of == Of::Pod {
                checks::required(&source.at("reference"), problems);
            }
            let policy = source.at("pullPolicy");
            if checks::required(&policy, problems) {
                checks::one_of(&policy, &["Always", "IfNotPresent", "Never"], problems);
            }
        }
        _ => validate_remote(field, source, problems),
    }
}

fn validate_ephemeral(source: &Cursor, problems: &mut Problems) {
    let template = source.at("volumeClaimTemplate");
    if !template.exists() {
        return problems.required(&template, "");
    }
    let metadata = template.at("metadata");
    validate_annotations(&metadata.at("annotations"), problems);
    validate_labels(&metadata.at("labels"), problems);
    for (field, value) in metadata.object().into_iter().flatten() {
        if !matches!(field.as_str(), "annotations" | "labels" | "creationTimestamp") && !value.is_null() {
            problems.forbidden(&metadata.at(field), "cannot be set");
        }
    }
    validate_claim_spec(&template.at("spec"), problems);
}

/// Modes and items of secrets and config maps.
fn validate_keys(source: &Cursor, problems: &mut Problems) {
    validate_mode(&source.at("defaultMode"), problems);
    for item in source.at("items").items() {
        validate_key(&item, problems);
    }
}

fn validate_key(item: &Cursor, problems: &mut Problems) {
    checks::required(&item.at("key"), problems);
    let path = item.at("path");
    checks::required(&path, problems);
    non_reserved_path(&path, problems);
    validate_mode(&item.at("mode"), problems);
}

fn validate_mode(mode: &Cursor, problems: &mut Problems) {
    if mode.exists() && !(0..=0o777).contains(&mode.int()) {
        problems.invalid(mode, MODE);
    }
}

/// The original names the source, not its item, for these.
fn validate_downward(source: &Cursor, problems: &mut Problems) {
    for file in source.at("items").items() {
        let moved = |field: &'static str| file.at(field).value;
        let (path, field, resource) = (source.at("path"), source.at("fieldRef"), source.at("resourceFieldRef"));
        let (path, field) = (path.with(moved("path")), field.with(moved("fieldRef")));
        let resource = resource.with(moved("resourceFieldRef"));
        checks::required(&path, problems);
        non_reserved_path(&path, problems);
        if field.exists() {
            validate_field_reference(&field, DOWNWARD_FIELDS, problems);
            if resource.exists() {
                problems.invalid_str(
                    source,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
        } else if resource.exists() {
            validate_resource_reference(&resource, true, problems);
        } else {
            problems.required(source, "one of fieldRef and resourceFieldRef is required");
        }
        validate_mode(&source.at("mode").with(moved("mode")), problems);
    }
}

fn validate_projected(projected: &Cursor, problems: &mut Problems) {
    validate_mode(&projected.at("defaultMode"), problems);
    let mut paths: Vec<Cow<str>> = Vec::new();
    for source in projected.at("sources").items() {
        let mut count = 0;
        for field in ["secret", "configMap"] {
            let at = source.at(field);
            if !at.exists() {
                continue;
            }
            count += 1;
            checks::required(&at.at("name"), problems);
            for item in at.at("items").items() {
                validate_key(&item, problems);
                take_path(&mut paths, projected, item.at("path").str(), at.at("name").str(), problems);
            }
        }
        let downward = source.at("downwardAPI");
        if downward.exists() {
            count += 1;
            validate_downward(&downward, problems);
            for item in downward.at("items").items() {
                let path = item.at("path").str();
                take_path(&mut paths, projected, path, path, problems);
            }
        }
        let token = source.at("serviceAccountToken");
        if token.exists() {
            count += 1;
            validate_token(&token, projected, problems);
        }
        if count > 1 {
            problems.forbidden(&source, "may not specify more than 1 volume type per source");
        }
    }
}

/// `shown` is what the original prints of whom comes too late.
fn take_path<'v>(
    paths: &mut Vec<Cow<'v, str>>,
    projected: &Cursor,
    path: &'v str,
    shown: &str,
    problems: &mut Problems,
) {
    if path.is_empty() {
        return;
    }
    if paths.iter().any(|taken| taken == path) {
        problems.invalid_str(projected, shown, DUPLICATE_PATH);
    } else {
        paths.push(path.into());
    }
}

fn validate_token(token: &Cursor, projected: &Cursor, problems: &mut Problems) {
    let seconds = token.at("expirationSeconds");
    if seconds.int() < TOKEN_SECONDS_MIN {
        problems.invalid_plain(&seconds, seconds.int(), "may not specify a duration less than 10 minutes");
    }
    if seconds.int() > TOKEN_SECONDS_MAX {
        problems.invalid_plain(&seconds, seconds.int(), "may not specify a duration larger than 2^32 seconds");
    }
    // So the original calls it.
    let path = projected.at("path");
    let path = path.with(token.at("path").value);
    if checks::required(&path, problems) {
        non_reserved_path(&path, problems);
    }
}

/// Not absolute, and never upwards.
pub fn relative_path(path: &Cursor, problems: &mut Problems) {
    if path.str().starts_with('/') {
        problems.invalid(path, "must be a relative path");
    }
    no_backsteps(path, problems);
}

pub fn no_backsteps(path: &Cursor, problems: &mut Problems) {
    if path.str().split('/').any(|part| part == "..") {
        problems.invalid(path, "must not contain '..'");
    }
}

/// Names that begin with two dots are the atomic writer's own.
fn non_reserved_path(path: &Cursor, problems: &mut Problems) {
    relative_path(path, problems);
    if path.str().starts_with("..") && !path.str().starts_with("../") {
        problems.invalid(path, "must not start with '..'");
    }
}

/// A `fieldRef`. `supported` is sorted.
pub fn validate_field_reference(reference: &Cursor, supported: &[&str], problems: &mut Problems) {
    let (version, path) = (reference.at("apiVersion"), reference.at("fieldPath"));
    if !checks::required(&version, problems) || !checks::required(&path, problems) {
        return;
    }
    let text = path.str();
    if version.str() != "v1" {
        let sentence = format!("error converting fieldPath: unsupported pod version: {}", version.str());
        return problems.invalid(&path, &sentence);
    }
    let subscript = text.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    if let Some((map, key)) = subscript {
        match map {
            "metadata.annotations" => {
                problems.invalid_each_str(reference, key, api::names::qualified_name(&key.to_lowercase()));
            }
            "metadata.labels" => problems.invalid_each_str(reference, key, api::names::qualified_name(key)),
            _ => problems
                .invalid(&path, &format!("error converting fieldPath: field label does not support subscript: {text}")),
        }
        return;
    }
    const KNOWN: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.host",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    if !KNOWN.contains(&text) {
        problems.invalid(&path, &format!("error converting fieldPath: field label not supported: {text}"));
    } else if text == "spec.host" {
        // The old name of spec.nodeName.
        if !supported.contains(&"spec.nodeName") {
            problems.not_supported_str(&path, "spec.nodeName", supported);
        }
    } else if !supported.contains(&text) {
        problems.not_supported(&path, supported);
    }
}

/// A `resourceFieldRef`; in volumes it must name its container.
pub fn validate_resource_reference(reference: &Cursor, in_volume: bool, problems: &mut Problems) {
    const RESOURCES: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let (container, resource) = (reference.at("containerName"), reference.at("resource"));
    if in_volume && container.is_empty() {
        problems.required(&container, "");
    } else if resource.is_empty() {
        problems.required(&resource, "");
    } else {
        let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.str().starts_with(prefix));
        if !huge && !RESOURCES.contains(&resource.str()) {
            problems.not_supported(&resource, RESOURCES);
        }
    }
    let divisor = reference.at("divisor");
    let (what, allowed) = match resource.str() {
        "limits.cpu" | "requests.cpu" => ("cpu", &["1m", "1"][..]),
        name if name.ends_with(".memory") => ("memory", BYTES),
        name if name.ends_with(".ephemeral-storage") => ("local ephemeral storage", BYTES),
        _ => ("hugepages", BYTES),
    };
    if !matches!(divisor.str(), "" | "0") && !allowed.contains(&divisor.str()) {
        let values = if what == "cpu" { "1m and 1".to_owned() } else { BYTES.join(", ") };
        let sentence = format!("only divisor's values {values} are supported with the {what} resource");
        problems.invalid_str(&divisor, resource.str(), &sentence);
    }
}

const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    fn volume(volume: Value) -> Value {
        json!({"containers": [{"name": "c", "image": "nginx"}], "volumes": [volume], "serviceAccountName": "default"})
    }

    #[test]
    fn sources() {
        check(volume(json!({"name": "v", "hostPath": {"path": "/x"}})), "");
        check(
            volume(json!({"name": "V_", "emptyDir": {}})),
            "spec.volumes[0].name: Invalid value: \"V_\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        );
        check(volume(json!({"name": "v", "secret": {}})), "spec.volumes[0].secret.secretName: Required value");
        check(
            volume(json!({"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}})),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        );
        check(
            volume(json!({"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "../p"}]}})),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"../p\": must not contain '..'",
        );
        check(
            volume(
                json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}),
            ),
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
        );
        check(
            volume(json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 5120}})),
            "spec.volumes[0].secret.defaultMode: Invalid value: 5120: must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
    #[test]
    fn files_and_their_places() {
        check(
            volume(json!({"name": "v", "downwardAPI": {"items": [{"path": "a/../b"}, {"path": "p", "fieldRef": {"fieldPath": "metadata.name"}, "mode": 512}]}})),
            "spec.volumes[0].downwardAPI.path: Invalid value: \"a/../b\": must not contain '..'\n\
             spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required\n\
             spec.volumes[0].downwardAPI.mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        );
        check(
            volume(json!({"name": "v", "projected": {"sources": [
                {"secret": {"name": "s", "items": [{"key": "a", "path": "p"}]}},
                {"configMap": {"name": "c", "items": [{"key": "a", "path": "p"}]}, "serviceAccountToken": {"path": "..t"}}]}})),
            "spec.volumes[0].projected: Invalid value: \"c\": conflicting duplicate paths\n\
             spec.volumes[0].projected.path: Invalid value: \"..t\": must not start with '..'\n\
             spec.volumes[0].projected.sources[1]: Forbidden: may not specify more than 1 volume type per source",
        );
        check(volume(json!({"name": "v", "projected": {"sources": [{}]}})), "");
        check(volume(json!({"name": "v", "hostPath": {"path": ""}})), "spec.volumes[0].hostPath.path: Required value");
        check(
            volume(json!({"name": "v", "hostPath": {"path": "/a", "type": "Pipe"}})),
            "spec.volumes[0].hostPath.type: Unsupported value: \"Pipe\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        );
        check(
            volume(json!({"name": "v", "gitRepo": {"repository": "r", "directory": "/d"}})),
            "spec.volumes[0].gitRepo.directory: Invalid value: \"/d\": must be a relative path",
        );
        check(
            volume(json!({"name": "v", "image": {"pullPolicy": "Never"}})),
            "spec.volumes[0].image.reference: Required value",
        );
        check(
            volume(json!({"name": "v", "secret": {"secretName": "s"}, "cephfs": {"monitors": ["m"]}, "downwardAPI": {}})),
            "spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type\n\
             spec.volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type",
        );
    }

    #[test]
    fn claims_that_pods_make() {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let claim = |metadata: Value| json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": metadata, "spec": spec}}});
        check(volume(claim(json!({"labels": {"a": "b"}}))), "");
        check(
            volume(claim(json!({"name": "x"}))),
            "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
        );
        check(volume(json!({"name": "v", "ephemeral": {}})), "spec.volumes[0].ephemeral.volumeClaimTemplate: Required value");
        check(
            json!({"containers": [{"name": "c", "image": "nginx"}],
                "volumes": [claim(json!({})), {"name": "w", "persistentVolumeClaim": {"claimName": "p-v"}}]}),
            "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-v\": must not reference a PVC that gets created for an ephemeral volume",
        );
    }

    #[test]
    fn references_to_fields_and_resources() {
        let env = |from: Value| json!({"containers": [{"name": "c", "image": "nginx", "env": [{"name": "A", "valueFrom": from}]}]});
        const AT: &str = "spec.containers[0].env[0].valueFrom";
        let field = |path: &str| env(json!({"fieldRef": {"fieldPath": path}}));
        check(field("status.podIP"), "");
        check(field("spec.host"), "");
        check(
            field("metadata.labels"),
            &format!("{AT}.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""),
        );
        check(
            field("spec.nodeSelector['a']"),
            &format!("{AT}.fieldRef.fieldPath: Invalid value: \"spec.nodeSelector['a']\": error converting fieldPath: field label does not support subscript: spec.nodeSelector['a']"),
        );
        check(
            env(json!({"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v2"}})),
            &format!("{AT}.fieldRef.fieldPath: Invalid value: \"metadata.name\": error converting fieldPath: unsupported pod version: v2"),
        );
        check(
            env(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}})),
            &format!("{AT}.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource"),
        );
        check(
            env(json!({"resourceFieldRef": {"resource": "limits.gpu"}})),
            &format!("{AT}.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\""),
        );
        check(
            env(json!({})),
            &format!("{AT}: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"),
        );
        check(
            env(json!({"secretKeyRef": {"name": "A", "key": "k"}, "configMapKeyRef": {"name": "a", "key": "k"}})),
            &format!("{AT}.secretKeyRef.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')\n{AT}: Invalid value: \"\": may not have more than one field specified at a time"),
        );
    }
}
