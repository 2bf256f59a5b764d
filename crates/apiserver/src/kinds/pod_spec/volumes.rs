//! Volumes of a pod.

use serde_json::Value;

use super::Of;
use crate::kinds::core::persistent_volume_claim::validate_claim_spec;
use crate::kinds::{Cursor, Problems, checks};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

const DOWNWARD_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Returns the volumes that have a proper name, for the mounts.
pub fn validate<'v>(volumes: &Cursor<'_, 'v>, of: Of, problems: &mut Problems) -> Vec<(&'v str, &'v Value)> {
    let mut named: Vec<(&str, &Value)> = Vec::new();
    for volume in volumes.items() {
        let before = problems.list.len();
        validate_source(&volume, of, problems);
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
    }
    named
}

fn validate_source(volume: &Cursor, of: Of, problems: &mut Problems) {
    let mut found = false;
    for (field, value) in volume.object().into_iter().flatten() {
        if field == "name" || value.is_null() {
            continue;
        }
        let source = volume.at(field);
        if found {
            problems.forbidden(&source, "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        validate_one(field, &source, of, problems);
    }
    if !found {
        problems.required(volume, "must specify a volume type");
    }
}

/// What the source of this name must say.
pub fn validate_one(field: &str, source: &Cursor, of: Of, problems: &mut Problems) {
    let required: &[&str] = match field {
        "hostPath" => &["path"],
        "gitRepo" => &["repository"],
        "secret" => &["secretName"],
        "configMap" => &["name"],
        "nfs" => &["server", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "persistentVolumeClaim" => &["claimName"],
        "csi" => &["driver"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" => &["volumeID"],
        "azureFile" => &["secretName", "shareName"],
        "azureDisk" => &["diskName", "diskURI"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["monitors", "image"],
        "cephfs" => &["monitors"],
        "flexVolume" => &["driver"],
        "vsphereVolume" => &["volumePath"],
        "portworxVolume" => &["volumeID"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "image" if of == Of::Pod => &["reference"],
        _ => &[],
    };
    for field in required {
        checks::required(&source.at(field), problems);
    }
    match field {
        "emptyDir" => {
            let limit = source.at("sizeLimit");
            if checks::quantity(limit.value).is_some_and(|limit| limit.sign() < 0) {
                problems.forbidden(&limit, "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => {
            no_backsteps(&source.at("path"), problems);
            checks::optional_one_of(&source.at("type"), HOST_PATH_TYPES, problems);
        }
        "nfs" => {
            let path = source.at("path");
            if !path.is_empty() && !path.str().starts_with('/') {
                problems.invalid(&path, "must be an absolute path");
            }
        }
        "secret" | "configMap" => validate_keys(source, problems),
        "downwardAPI" => validate_downward(source, problems),
        "projected" => validate_projected(source, problems),
        "ephemeral" => {
            let template = source.at("volumeClaimTemplate");
            if template.exists() {
                validate_claim_spec(&template.at("spec"), problems);
            } else {
                problems.required(&template, "");
            }
        }
        "image" => checks::optional_one_of(&source.at("pullPolicy"), &["Always", "IfNotPresent", "Never"], problems),
        "csi" => {
            let publish = source.at("nodePublishSecretRef");
            if publish.exists() {
                checks::required(&publish.at("name"), problems);
            }
        }
        _ => {}
    }
}

/// Modes and items of secrets and config maps.
fn validate_keys(source: &Cursor, problems: &mut Problems) {
    validate_mode(&source.at("defaultMode"), problems);
    for item in source.at("items").items() {
        checks::required(&item.at("key"), problems);
        let path = item.at("path");
        if checks::required(&path, problems) {
            non_reserved_path(&path, problems);
        }
        validate_mode(&item.at("mode"), problems);
    }
}

fn validate_mode(mode: &Cursor, problems: &mut Problems) {
    if mode.exists() && !(0..=0o777).contains(&mode.int()) {
        problems.invalid(mode, MODE);
    }
}

fn validate_downward(source: &Cursor, problems: &mut Problems) {
    validate_mode(&source.at("defaultMode"), problems);
    for file in source.at("items").items() {
        let path = file.at("path");
        if path.is_empty() {
            problems.required(&path, "");
        }
        non_reserved_path(&path, problems);
        let (field, resource) = (file.at("fieldRef"), file.at("resourceFieldRef"));
        if field.exists() {
            validate_field_reference(&field, DOWNWARD_FIELDS, problems);
            if resource.exists() {
                problems.invalid_str(
                    &resource,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
        } else if resource.exists() {
            validate_resource_reference(&resource, true, problems);
        } else {
            problems.required(&field, "one of fieldRef and resourceFieldRef is required");
        }
        validate_mode(&file.at("mode"), problems);
    }
}

fn validate_projected(projected: &Cursor, problems: &mut Problems) {
    validate_mode(&projected.at("defaultMode"), problems);
    let mut paths: Vec<String> = Vec::new();
    for source in projected.at("sources").items() {
        let mut count = 0;
        for (field, value) in source.object().into_iter().flatten() {
            if value.is_null() {
                continue;
            }
            let at = source.at(field);
            count += 1;
            if count > 1 {
                problems.forbidden(&at, "may not specify more than 1 volume type");
                continue;
            }
            match field.as_str() {
                "secret" | "configMap" => {
                    checks::required(&at.at("name"), problems);
                    validate_keys(&at, problems);
                }
                "downwardAPI" => validate_downward(&at, problems),
                "serviceAccountToken" => validate_token(&at, problems),
                _ => {}
            }
            let own = at.at("items");
            let items = own.array().iter().filter_map(|item| item.get("path"));
            let direct = at.value.get("path").into_iter();
            for path in items.chain(direct).filter_map(Value::as_str).filter(|path| !path.is_empty()) {
                if paths.iter().any(|taken| taken == path) {
                    problems.invalid_str(&at, path, "conflicting duplicate paths");
                }
                paths.push(path.to_owned());
            }
        }
        if count == 0 {
            problems.required(&source, "must specify a volume type");
        }
    }
}

fn validate_token(token: &Cursor, problems: &mut Problems) {
    let (seconds, path) = (token.at("expirationSeconds"), token.at("path"));
    if seconds.int() < TOKEN_SECONDS_MIN {
        problems.invalid_plain(&seconds, seconds.int(), "may not specify a duration less than 10 minutes");
    } else if seconds.int() > TOKEN_SECONDS_MAX {
        problems.invalid_plain(&seconds, seconds.int(), "may not specify a duration larger than 2^32 seconds");
    }
    if path.is_empty() {
        problems.required(&path, "");
    } else {
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
    if path.str().starts_with("..") && !path.str().split('/').any(|part| part == "..") {
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
}
