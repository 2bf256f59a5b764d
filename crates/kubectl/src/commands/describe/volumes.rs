//! Where volumes come from: those of pods and persistent volumes

use serde_json::Value;

use super::storage::claim_template;
use crate::value::{flag, int, list, map, name_of, plain, text};

/// A source with nothing but plain fields: its field, what it is, and its lines.
struct Source {
    field: &'static str,
    what: &'static str,
    lines: &'static [(&'static str, &'static str)],
}

/// In the original's order.
const SOURCES: &[Source] = &[
    Source {
        field: "gcePersistentDisk",
        what: "GCEPersistentDisk (a Persistent Disk resource in Google Compute Engine)",
        lines: &[("PDName", "/pdName"), ("FSType", "/fsType"), ("Partition", "#/partition"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "awsElasticBlockStore",
        what: "AWSElasticBlockStore (a Persistent Disk resource in AWS)",
        lines: &[("VolumeID", "/volumeID"), ("FSType", "/fsType"), ("Partition", "#/partition"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "gitRepo",
        what: "GitRepo (a volume that is pulled from git when the pod is created)",
        lines: &[("Repository", "/repository"), ("Revision", "/revision")],
    },
    Source {
        field: "secret",
        what: "Secret (a volume populated by a Secret)",
        lines: &[("SecretName", "/secretName"), ("Optional", "?/optional")],
    },
    Source {
        field: "configMap",
        what: "ConfigMap (a volume populated by a ConfigMap)",
        lines: &[("Name", "/name"), ("Optional", "?/optional")],
    },
    Source {
        field: "nfs",
        what: "NFS (an NFS mount that lasts the lifetime of a pod)",
        lines: &[("Server", "/server"), ("Path", "/path"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "glusterfs",
        what: "Glusterfs (a Glusterfs mount on the host that shares a pod's lifetime)",
        lines: &[("EndpointsName", "/endpoints"), ("Path", "/path"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "persistentVolumeClaim",
        what: "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        lines: &[("ClaimName", "/claimName"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "quobyte",
        what: "Quobyte (a Quobyte mount on the host that shares a pod's lifetime)",
        lines: &[("Registry", "/registry"), ("Volume", "/volume"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "azureDisk",
        what: "AzureDisk (an Azure Data Disk mount on the host and bind mount to the pod)",
        lines: &[("DiskName", "/diskName"), ("DiskURI", "/diskURI"), ("Kind: ", "/kind"), ("FSType", "/fsType"), ("CachingMode", "/cachingMode"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "vsphereVolume",
        what: "vSphereVolume (a Persistent Disk resource in vSphere)",
        lines: &[("VolumePath", "/volumePath"), ("FSType", "/fsType"), ("StoragePolicyName", "/storagePolicyName")],
    },
    Source {
        field: "photonPersistentDisk",
        what: "PhotonPersistentDisk (a Persistent Disk resource in photon platform)",
        lines: &[("PdID", "/pdID"), ("FSType", "/fsType")],
    },
    Source { field: "portworxVolume", what: "PortworxVolume (a Portworx Volume resource)", lines: &[("VolumeID", "/volumeID")] },
    Source { field: "local", what: "LocalVolume (a persistent volume backed by local storage on a node)", lines: &[("Path", "/path")] },
    Source {
        field: "storageos",
        what: "StorageOS (a StorageOS Persistent Disk resource)",
        lines: &[("VolumeName", "/volumeName"), ("VolumeNamespace", "/volumeNamespace"), ("FSType", "/fsType"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "azureFile",
        what: "AzureFile (an Azure File Service mount on the host and bind mount to the pod)",
        lines: &[("SecretName", "/secretName"), ("ShareName", "/shareName"), ("ReadOnly", "?/readOnly")],
    },
    Source {
        field: "flocker",
        what: "Flocker (a Flocker volume mounted by the Flocker agent)",
        lines: &[("DatasetName", "/datasetName"), ("DatasetUUID", "/datasetUUID")],
    },
    Source { field: "image", what: "Image (a container image or OCI artifact)", lines: &[("Reference", "/reference"), ("PullPolicy", "/pullPolicy")] },
];

pub fn volumes(volumes: &[Value], indent: &str) -> String {
    if volumes.is_empty() {
        return format!("{indent}Volumes:\t<none>\n");
    }
    let mut out = format!("{indent}Volumes:\n");
    for volume in volumes {
        out += &format!("  {}{}:\n", &indent[..indent.len().min(1)], name_of(volume));
        out += &source(volume);
    }
    out
}

/// Type and settings of a volume or of a persistent volume's specification.
pub fn source(volume: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| out += &format!("    {name}:\t{value}\n");
    if let Some(found) = volume.get("hostPath") {
        line("Type", "HostPath (bare host directory volume)".to_owned());
        line("Path", text(found, "/path").to_owned());
        line("HostPathType", found.get("type").map_or_else(|| "<none>".to_owned(), plain));
    } else if let Some(found) = volume.get("emptyDir") {
        line("Type", "EmptyDir (a temporary directory that shares a pod's lifetime)".to_owned());
        line("Medium", text(found, "/medium").to_owned());
        let limit = found.get("sizeLimit").map(plain).filter(|limit| limit != "0");
        line("SizeLimit", limit.unwrap_or_else(|| "<unset>".to_owned()));
    } else if let Some(found) = volume.get("projected") {
        return projected(found);
    } else if let Some(found) = volume.get("ephemeral") {
        line("Type", "EphemeralVolume (an inline specification for a volume that gets created and deleted with the pod)".to_owned());
        if let Some(template) = found.get("volumeClaimTemplate") {
            out += &claim_template(template).lines().map(|line| format!("    {line}\n")).collect::<String>();
        }
    } else if let Some(found) = volume.get("downwardAPI") {
        out += "    Type:\tDownwardAPI (a volume populated by information about the pod)\n    Items:\n";
        for item in list(found, "/items") {
            let from = if item.get("fieldRef").is_some() { text(item, "/fieldRef/fieldPath") } else { text(item, "/resourceFieldRef/resource") };
            out += &format!("      {from} -> {}\n", text(item, "/path"));
        }
    } else if let Some(found) = volume.get("csi") {
        line("Type", "CSI (a Container Storage Interface (CSI) volume source)".to_owned());
        line("Driver", text(found, "/driver").to_owned());
        line("FSType", text(found, "/fsType").to_owned());
        if found.get("volumeHandle").is_some() {
            line("VolumeHandle", text(found, "/volumeHandle").to_owned());
        }
        line("ReadOnly", flag(found, "/readOnly").to_string());
        let attributes: Vec<String> = map(found, "/volumeAttributes").map(|(key, value)| format!("{key}={}", plain(value))).collect();
        let shown = if attributes.is_empty() { "<none>".to_owned() } else { format!("    {}", attributes.join("\n        \t    ")) };
        line("VolumeAttributes", shown);
    } else if let Some(found) = volume.get("fc") {
        let names: Vec<String> = list(found, "/targetWWNs").iter().map(plain).collect();
        line("Type", "FC (a Fibre Channel disk)".to_owned());
        line("TargetWWNs", names.join(", "));
        line("LUN", found.get("lun").map_or_else(|| "<none>".to_owned(), plain));
        line("FSType", text(found, "/fsType").to_owned());
        line("ReadOnly", flag(found, "/readOnly").to_string());
    } else if let Some((source, found)) = SOURCES.iter().find_map(|source| Some((source, volume.get(source.field)?))) {
        line("Type", source.what.to_owned());
        for (title, pointer) in source.lines {
            let value = match pointer.split_at(1) {
                ("#", pointer) => int(found, pointer).to_string(),
                ("?", pointer) => flag(found, pointer).to_string(),
                _ => text(found, pointer).to_owned(),
            };
            line(title, value);
        }
    } else {
        out += "  <unknown>\n";
    }
    out
}

fn projected(found: &Value) -> String {
    let mut out = "    Type:\tProjected (a volume that contains injected data from multiple sources)\n".to_owned();
    for source in list(found, "/sources") {
        if let Some(secret) = source.get("secret") {
            out += &format!("    SecretName:\t{}\n    Optional:\t{}\n", name_of(secret), flag(secret, "/optional"));
        } else if source.get("downwardAPI").is_some() {
            out += "    DownwardAPI:\ttrue\n";
        } else if let Some(map) = source.get("configMap") {
            out += &format!("    ConfigMapName:\t{}\n    Optional:\t{}\n", name_of(map), flag(map, "/optional"));
        } else if let Some(token) = source.get("serviceAccountToken") {
            out += &format!("    TokenExpirationSeconds:\t{}\n", int(token, "/expirationSeconds"));
        }
    }
    out
}
