//! Volumes from elsewhere: network file systems, disks of clouds, drivers. Most of them work nowhere any more; they
//! are judged all the same.

use crate::kinds::{Cursor, Problems, checks};

const PARTITION: &str = "must be between 1 and 255, inclusive";
const LUN: &str = "must be between 0 and 255, inclusive";
const QUOBYTE_REGISTRY: &str = "must be a host:port pair or multiple pairs separated by commas";
const QUOBYTE_TENANT_MAX: usize = 64;
const DRIVER_NAME_MAX: usize = 63;

pub fn validate_remote(field: &str, source: &Cursor, problems: &mut Problems) {
    let required: &[&str] = match field {
        "nfs" => &["server", "path"],
        "gcePersistentDisk" => return validate_disk("pdName", source, problems),
        "awsElasticBlockStore" => return validate_disk("volumeID", source, problems),
        "cinder" | "portworxVolume" => &["volumeID"],
        "azureFile" => &["secretName", "shareName"],
        "azureDisk" => &["diskName", "diskURI"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["monitors", "image"],
        "cephfs" => &["monitors"],
        "flexVolume" => &["driver"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        _ => &[],
    };
    for field in required {
        checks::required(&source.at(field), problems);
    }
    match field {
        "nfs" => {
            let path = source.at("path");
            if !path.str().starts_with('/') {
                problems.invalid_str(&path, path.str(), "must be an absolute path");
            }
        }
        "iscsi" => validate_iscsi(source, problems),
        "fc" => validate_fibre_channel(source, problems),
        "flocker" => validate_flocker(source, problems),
        "quobyte" => validate_quobyte(source, problems),
        "cinder" => named_secret(source, problems),
        "flexVolume" => validate_flex(source, problems),
        "azureDisk" => validate_azure_disk(source, problems),
        "storageos" => {
            let (name, namespace) = (source.at("volumeName"), source.at("volumeNamespace"));
            if checks::required(&name, problems) {
                checks::label(&name, problems);
            }
            if !namespace.is_empty() {
                checks::label(&namespace, problems);
            }
            named_secret(source, problems);
        }
        "csi" => {
            driver_name(&source.at("driver"), problems);
            let secret = source.at("nodePublishSecretRef");
            let name = secret.at("name");
            if secret.exists() && checks::required(&name, problems) {
                problems.invalid_each_str(&source.at("name"), name.str(), api::names::dns1123_subdomain(name.str()));
            }
        }
        _ => {}
    }
}

/// The name of a CSI driver.
pub fn driver_name(driver: &Cursor, problems: &mut Problems) {
    checks::required(driver, problems);
    if driver.len() > DRIVER_NAME_MAX {
        problems.too_long(driver, DRIVER_NAME_MAX);
    }
    let sentences = api::names::dns1123_subdomain(&driver.str().to_lowercase());
    problems.invalid_each_str(driver, driver.str(), sentences);
}

fn named_secret(source: &Cursor, problems: &mut Problems) {
    let secret = source.at("secretRef");
    if secret.exists() {
        checks::required(&secret.at("name"), problems);
    }
}

fn validate_disk(name: &'static str, source: &Cursor, problems: &mut Problems) {
    // The original calls the one `persistentDisk`.
    let renamed = source.sibling(if name == "pdName" { "persistentDisk" } else { "awsElasticBlockStore" });
    checks::required(&renamed.at(name), problems);
    let partition = renamed.at("partition");
    if !(0..=255).contains(&partition.int()) {
        problems.invalid(&partition, PARTITION);
    }
}

fn validate_iscsi(source: &Cursor, problems: &mut Problems) {
    checks::required(&source.at("targetPortal"), problems);
    let name = source.at("iqn");
    if checks::required(&name, problems) {
        if !["iqn", "eui", "naa"].iter().any(|prefix| name.str().starts_with(prefix)) {
            problems.invalid(&name, "must be valid format starting with iqn, eui, or naa");
        } else if !is_initiator(name.str()) {
            problems.invalid(&name, "must be valid format");
        }
    }
    let lun = source.at("lun");
    if !(0..=255).contains(&lun.int()) {
        problems.invalid(&lun, LUN);
    }
    let secret = source.at("secretRef");
    if (source.at("chapAuthDiscovery").bool() || source.at("chapAuthSession").bool()) && !secret.exists() {
        problems.required(&secret, "");
    }
    if secret.exists() {
        checks::required(&secret.at("name"), problems);
    }
    let initiator = source.at("initiatorName");
    if initiator.exists() && !is_initiator(initiator.str()) {
        problems.invalid(&source.at("initiatorname").with(initiator.value), "must be valid format");
    }
}

/// `iqn.2016-04.com.example:storage`, `eui.` and 16 or `naa.` and 32 letters and digits.
fn is_initiator(name: &str) -> bool {
    let plain = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mut chars = name.chars();
    let (kind, rest) = (name.get(..3).unwrap_or(""), name.get(4..).unwrap_or(""));
    match kind {
        "eui" => plain(rest, 16),
        "naa" => plain(rest, 32),
        "iqn" => {
            let Some((head, tail)) = rest.split_once(':') else { return false };
            let date = head.as_bytes();
            let dated = date.len() > 8
                && date[..8].iter().enumerate().all(|(at, byte)| match at {
                    4 => *byte == b'-',
                    7 => *byte == b'.',
                    _ => byte.is_ascii_digit(),
                });
            chars.nth(3) == Some('.')
                && dated
                && head[8..].bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
                && !tail.is_empty()
                && !tail.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n'])
        }
        _ => false,
    }
}

fn validate_fibre_channel(source: &Cursor, problems: &mut Problems) {
    let (targets, ids, lun) = (source.at("targetWWNs"), source.at("wwids"), source.at("lun"));
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => problems.required(&targets, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => problems.invalid(&targets, "targetWWNs and wwids can not be specified simultaneously"),
        _ => {}
    }
    if targets.is_empty() {
        return;
    }
    if !lun.exists() {
        problems.required(&lun, "lun is required if targetWWNs is specified");
    } else if !(0..=255).contains(&lun.int()) {
        problems.invalid(&lun, LUN);
    }
}

fn validate_flocker(source: &Cursor, problems: &mut Problems) {
    let (name, id) = (source.at("datasetName"), source.at("datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => problems.required(source, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            problems.invalid_str(source, "resource", "datasetName and datasetUUID can not be specified simultaneously");
        }
        _ => {}
    }
    if name.str().contains('/') {
        problems.invalid(&name, "must not contain '/'");
    }
}

fn validate_quobyte(source: &Cursor, problems: &mut Problems) {
    let (registry, tenant) = (source.at("registry"), source.at("tenant"));
    if registry.is_empty() {
        problems.required(&registry, QUOBYTE_REGISTRY);
    } else if tenant.len() > QUOBYTE_TENANT_MAX {
        problems.required(&tenant, "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for pair in registry.str().split(',') {
            if pair.matches(':').count() != 1 {
                problems.invalid(&registry, QUOBYTE_REGISTRY);
            }
        }
    }
    checks::required(&source.at("volume"), problems);
}

fn validate_flex(source: &Cursor, problems: &mut Problems) {
    for (key, option) in source.at("options").entries() {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let dotted = format!(".{}", namespace.to_lowercase());
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            problems.invalid_str(&option, key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn validate_azure_disk(source: &Cursor, problems: &mut Problems) {
    checks::optional_one_of(&source.at("cachingMode"), &["None", "ReadOnly", "ReadWrite"], problems);
    let (kind, uri) = (source.at("kind"), source.at("diskURI"));
    checks::optional_one_of(&kind, &["Dedicated", "Managed", "Shared"], problems);
    if !kind.exists() {
        return;
    }
    let (managed, blob) = (uri.str().starts_with("/subscriptions/"), uri.str().starts_with("https://"));
    if kind.str() == "Managed" && !managed {
        problems.not_supported(&uri, &["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"]);
    }
    if kind.str() != "Managed" && !blob {
        problems.not_supported(&uri, &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    #[track_caller]
    fn source(kind: &str, source: Value, expected: &str) {
        let mut volume = json!({"name": "v"});
        volume[kind] = source;
        check(json!({"containers": [{"name": "c", "image": "nginx"}], "volumes": [volume]}), expected);
    }

    #[test]
    fn network_volumes() {
        source("nfs", json!({"server": "s", "path": "/p"}), "");
        source(
            "nfs",
            json!({"server": "s"}),
            "spec.volumes[0].nfs.path: Required value\n\
             spec.volumes[0].nfs.path: Invalid value: \"\": must be an absolute path",
        );
        source("iscsi", json!({"targetPortal": "p", "iqn": "iqn.2015-02.example.com:test", "lun": 1}), "");
        source("iscsi", json!({"targetPortal": "p", "iqn": "eui.0123456789ABCDEF", "lun": 1}), "");
        source(
            "iscsi",
            json!({"targetPortal": "p", "iqn": "iqn.2015-02.example.com:a|b", "lun": 256, "chapAuthSession": true}),
            "spec.volumes[0].iscsi.iqn: Invalid value: \"iqn.2015-02.example.com:a|b\": must be valid format\n\
             spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive\n\
             spec.volumes[0].iscsi.secretRef: Required value",
        );
        source(
            "iscsi",
            json!({"targetPortal": "p", "iqn": "x", "lun": 1, "initiatorName": "x"}),
            "spec.volumes[0].iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa\n\
             spec.volumes[0].iscsi.initiatorname: Invalid value: \"x\": must be valid format",
        );
        source("glusterfs", json!({"path": "p"}), "spec.volumes[0].glusterfs.endpoints: Required value");
        source(
            "flocker",
            json!({"datasetName": "a/b", "datasetUUID": "u"}),
            "spec.volumes[0].flocker: Invalid value: \"resource\": datasetName and datasetUUID can not be specified simultaneously\n\
             spec.volumes[0].flocker.datasetName: Invalid value: \"a/b\": must not contain '/'",
        );
        source(
            "quobyte",
            json!({"registry": "host", "volume": ""}),
            "spec.volumes[0].quobyte.registry: Invalid value: \"host\": must be a host:port pair or multiple pairs separated by commas\n\
             spec.volumes[0].quobyte.volume: Required value",
        );
        source("rbd", json!({"monitors": [], "image": "i"}), "spec.volumes[0].rbd.monitors: Required value");
    }

    #[test]
    fn disks() {
        source(
            "gcePersistentDisk",
            json!({"partition": 300}),
            "spec.volumes[0].persistentDisk.pdName: Required value\n\
             spec.volumes[0].persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive",
        );
        source(
            "awsElasticBlockStore",
            json!({}),
            "spec.volumes[0].awsElasticBlockStore.volumeID: Required value",
        );
        source(
            "fc",
            json!({"targetWWNs": ["a"], "wwids": ["b"]}),
            "spec.volumes[0].fc.targetWWNs: Invalid value: [\"a\"]: targetWWNs and wwids can not be specified simultaneously\n\
             spec.volumes[0].fc.lun: Required value: lun is required if targetWWNs is specified",
        );
        source(
            "azureDisk",
            json!({"diskName": "d", "diskURI": "x", "kind": "Managed"}),
            "spec.volumes[0].azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
        );
        source(
            "flexVolume",
            json!({"driver": "d", "options": {"kubernetes.io/x": "y"}}),
            "spec.volumes[0].flexVolume.options[kubernetes.io/x]: Invalid value: \"kubernetes.io/x\": kubernetes.io and k8s.io namespaces are reserved",
        );
        source("cinder", json!({"volumeID": "v", "secretRef": {}}), "spec.volumes[0].cinder.secretRef.name: Required value");
        source(
            "csi",
            json!({"driver": "a/b", "nodePublishSecretRef": {"name": "x"}}),
            "spec.volumes[0].csi.driver: Invalid value: \"a/b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        );
    }
}
