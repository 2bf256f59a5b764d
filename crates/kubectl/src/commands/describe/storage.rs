//! Volumes, claims and their classes

use serde_json::Value;

use super::{head, labels_and_annotations, rfc1123, volumes};
use crate::output::age_of;
use crate::rest::Url;
use crate::selection::Info;
use crate::session::Session;
use crate::value::{flag, list, map, name, pairs, plain, text};

/// `RWO,ROX`
fn modes(object: &Value, pointer: &str) -> String {
    let found: Vec<&str> = list(object, pointer).iter().filter_map(Value::as_str).collect();
    let known = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let shown: Vec<&str> = known.iter().filter(|(mode, _)| found.contains(mode)).map(|(_, short)| *short).collect();
    shown.join(",")
}

fn finalizers(object: &Value) -> String {
    let all: Vec<String> = list(object, "/metadata/finalizers").iter().map(plain).collect();
    format!("Finalizers:\t[{}]\n", all.join(" "))
}

fn status(object: &Value, now: jiff::Timestamp) -> String {
    match text(object, "/metadata/deletionTimestamp") {
        "" => format!("Status:\t{}\n", text(object, "/status/phase")),
        since => format!("Status:\tTerminating (lasts {})\n", age_of(since, now)),
    }
}

fn class(object: &Value) -> &str {
    let annotated = text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    if annotated.is_empty() { text(object, "/spec/storageClassName") } else { annotated }
}

pub fn volume(object: &Value, now: jiff::Timestamp) -> String {
    let mut out = format!("Name:\t{}\n", name(object)) + &labels_and_annotations(object) + &finalizers(object);
    out += &format!("StorageClass:\t{}\n", class(object));
    out += &status(object, now);
    let claim = match object.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")),
        None => String::new(),
    };
    out += &format!("Claim:\t{claim}\nReclaim Policy:\t{}\n", text(object, "/spec/persistentVolumeReclaimPolicy"));
    out += &format!("Access Modes:\t{}\n", modes(object, "/spec/accessModes"));
    if !text(object, "/spec/volumeMode").is_empty() {
        out += &format!("VolumeMode:\t{}\n", text(object, "/spec/volumeMode"));
    }
    out += &format!("Capacity:\t{}\n", object.pointer("/spec/capacity/storage").map_or_else(|| "0".to_owned(), plain));
    out += &node_affinity(object);
    out += &format!("Message:\t{}\nSource:\n", text(object, "/status/message"));
    out + &volumes::source(&object["spec"])
}

fn node_affinity(object: &Value) -> String {
    let Some(required) = object.pointer("/spec/nodeAffinity/required") else { return "Node Affinity:\t<none>\n".to_owned() };
    let terms = list(required, "/nodeSelectorTerms");
    if terms.is_empty() {
        return "Node Affinity:\t\n  Required Terms:\t<none>\n".to_owned();
    }
    let mut out = "Node Affinity:\t\n  Required Terms:\t\n".to_owned();
    for (index, term) in terms.iter().enumerate() {
        let requirement = |one: &Value| {
            let values: Vec<String> = list(one, "/values").iter().map(plain).collect();
            let values = if values.is_empty() { String::new() } else { format!(" [{}]", values.join(", ")) };
            format!("{} {}{values}", text(one, "/key"), text(one, "/operator").to_lowercase())
        };
        let all: Vec<String> = list(term, "/matchExpressions").iter().map(requirement).collect();
        let shown = if all.is_empty() { "<none>".to_owned() } else { all.join("\n    \t") };
        out += &format!("    Term {index}:\t{shown}\n");
    }
    out
}

pub async fn claim(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let mut out = head(object) + &format!("StorageClass:\t{}\n", class(object)) + &status(object, session.clock.now());
    out += &claim_body(object, true);
    let pods = session.get(Url::new(format!("/api/v1/namespaces/{}/pods", info.namespace))).await.unwrap_or_default();
    let uses = |pod: &&Value| {
        let by_volume = list(pod, "/spec/volumes").iter().any(|volume| text(volume, "/persistentVolumeClaim/claimName") == info.name);
        let owners = list(object, "/metadata/ownerReferences");
        by_volume || owners.iter().any(|owner| text(owner, "/kind") == "Pod" && text(owner, "/uid") == text(pod, "/metadata/uid"))
    };
    let names: Vec<&str> = list(&pods, "/items").iter().filter(uses).map(name).collect();
    out += &format!("Used By:\t{}\n", if names.is_empty() { "<none>".to_owned() } else { names.join("\n\t") });
    let conditions = list(object, "/status/conditions");
    if !conditions.is_empty() {
        out += "Conditions:\n  Type\tStatus\tLastProbeTime\tLastTransitionTime\tReason\tMessage\n  ----\t------\t-----------------\t------------------\t------\t-------\n";
        for one in conditions {
            let time = |pointer: &str| match text(one, pointer) {
                "" => "Mon, 01 Jan 0001 00:00:00 +0000".to_owned(),
                time => rfc1123(time),
            };
            out += &format!("  {} \t{} \t{} \t{} \t{} \t{}\n", text(one, "/type"), text(one, "/status"), time("/lastProbeTime"), time("/lastTransitionTime"), text(one, "/reason"), text(one, "/message"));
        }
    }
    out
}

/// The claim that a pod's ephemeral volume is made from.
pub fn claim_template(template: &Value) -> String {
    format!("StorageClass:\t{}\n", class(template)) + &claim_body(template, false)
}

fn claim_body(object: &Value, whole: bool) -> String {
    let mut out = format!("Volume:\t{}\n", text(object, "/spec/volumeName")) + &labels_and_annotations(object);
    if whole {
        out += &finalizers(object);
    }
    let bound = !text(object, "/spec/volumeName").is_empty();
    let capacity = if bound { object.pointer("/status/capacity/storage").map_or_else(|| "0".to_owned(), plain) } else { String::new() };
    out += &format!("Capacity:\t{capacity}\nAccess Modes:\t{}\n", if bound { modes(object, "/status/accessModes") } else { String::new() });
    if !text(object, "/spec/volumeMode").is_empty() {
        out += &format!("VolumeMode:\t{}\n", text(object, "/spec/volumeMode"));
    }
    if let Some(source) = object.pointer("/spec/dataSource") {
        out += "DataSource:\n";
        if source.get("apiGroup").is_some() {
            out += &format!("  APIGroup:\t{}\n", text(source, "/apiGroup"));
        }
        out += &format!("  Kind:\t{}\n  Name:\t{}\n", text(source, "/kind"), text(source, "/name"));
    }
    out
}

pub fn storage_class(object: &Value) -> String {
    let default = ["storageclass.kubernetes.io~1is-default-class", "storageclass.beta.kubernetes.io~1is-default-class"]
        .iter()
        .any(|key| text(object, &format!("/metadata/annotations/{key}")) == "true");
    let expansion = match object.get("allowVolumeExpansion") {
        None => "<unset>",
        Some(_) if flag(object, "/allowVolumeExpansion") => "True",
        Some(_) => "False",
    };
    let options: Vec<String> = list(object, "/mountOptions").iter().map(|option| format!("  {}\n", plain(option))).collect();
    let mut out = format!(
        "Name:\t{}\nIsDefaultClass:\t{}\nAnnotations:\t{}\nProvisioner:\t{}\nParameters:\t{}\nAllowVolumeExpansion:\t{expansion}\nMountOptions:{}",
        name(object),
        if default { "Yes" } else { "No" },
        pairs(object, "/metadata/annotations", "<none>"),
        text(object, "/provisioner"),
        pairs(object, "/parameters", "<none>"),
        if options.is_empty() { "\t<none>\n".to_owned() } else { format!("\n{}", options.concat()) },
    );
    for (title, pointer) in [("ReclaimPolicy", "/reclaimPolicy"), ("VolumeBindingMode", "/volumeBindingMode")] {
        if !text(object, pointer).is_empty() {
            out += &format!("{title}:\t{}\n", text(object, pointer));
        }
    }
    if let Some(topologies) = object.get("allowedTopologies").and_then(Value::as_array) {
        out += "AllowedTopologies:\t";
        out += if topologies.is_empty() { "<none>\n" } else { "\n" };
        for (index, term) in topologies.iter().enumerate() {
            let requirement = |one: &Value| {
                let values: Vec<String> = list(one, "/values").iter().map(plain).collect();
                format!("{} in [{}]", text(one, "/key"), values.join(", "))
            };
            let all: Vec<String> = list(term, "/matchLabelExpressions").iter().map(requirement).collect();
            out += &format!("  Term {index}:\t{}\n", if all.is_empty() { "<none>".to_owned() } else { all.join("\n  \t") });
        }
    }
    out
}

pub fn volume_attributes_class(object: &Value) -> String {
    format!(
        "Name:\t{}\nAnnotations:\t{}\nDriverName:\t{}\nParameters:\t{}\n",
        name(object),
        pairs(object, "/metadata/annotations", "<none>"),
        text(object, "/driverName"),
        pairs(object, "/parameters", "<none>"),
    )
}

pub fn csi_node(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", name(object)) + &labels_and_annotations(object);
    out += &format!("CreationTimestamp:\t{}\nSpec:\n", rfc1123(text(object, "/metadata/creationTimestamp")));
    let drivers = list(object, "/spec/drivers");
    if !drivers.is_empty() {
        out += "  Drivers:\n";
    }
    for driver in drivers {
        out += &format!("    {}:\n      Node ID:\t{}\n", text(driver, "/name"), text(driver, "/nodeID"));
        if let Some(count) = driver.pointer("/allocatable/count") {
            out += &format!("      Allocatables:\n        Count:\t{}\n", plain(count));
        }
        let keys: Vec<String> = list(driver, "/topologyKeys").iter().map(plain).collect();
        if !keys.is_empty() {
            out += &format!("      Topology Keys:\t[{}]\n", keys.join(" "));
        }
    }
    out
}

/// The claims that a stateful set makes for its pods.
pub fn claim_templates(templates: &[Value]) -> String {
    if templates.is_empty() {
        return "Volume Claims:\t<none>\n".to_owned();
    }
    let mut out = "Volume Claims:\n".to_owned();
    for claim in templates {
        let all = |pointer: &str| -> String {
            let found: Vec<String> = map(claim, pointer).map(|(key, value)| format!("{key}={}", plain(value))).collect();
            if found.is_empty() { "<none>".to_owned() } else { found.join("\n  \t") }
        };
        let modes: Vec<String> = list(claim, "/spec/accessModes").iter().map(plain).collect();
        let capacity = claim.pointer("/spec/resources/requests/storage").map_or_else(|| "<default>".to_owned(), plain);
        out += &format!(
            "  Name:\t{}\n  StorageClass:\t{}\n  Labels:\t{}\n  Annotations:\t{}\n  Capacity:\t{capacity}\n  Access Modes:\t[{}]\n",
            name(claim),
            class(claim),
            all("/metadata/labels"),
            all("/metadata/annotations"),
            modes.join(" ")
        );
    }
    out
}
