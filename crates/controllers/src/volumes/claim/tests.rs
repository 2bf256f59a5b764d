//! Which volume a claim gets, and what it is told while it has none.

use super::*;
use crate::volumes::BETA_CLASS;
use serde_json::{Value, json};

/// `name:size[:flag[,flag]]`; flags: `class=C`, `for=NAME` (promised by a user), `uid=U`, `modes=A/B`, `label`, `block`,
/// `phase=P`.
fn volume(word: &str) -> Arc<PersistentVolume> {
    let mut parts = word.split(':');
    let (name, size) = (parts.next().unwrap(), parts.next().unwrap());
    let mut volume = json!({
        "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Available"},
    });
    for flag in parts.next().unwrap_or_default().split(',').filter(|flag| !flag.is_empty()) {
        let (flag, value) = flag.split_once('=').unwrap_or((flag, ""));
        match flag {
            "class" => volume["spec"]["storageClassName"] = json!(value),
            "for" => volume["spec"]["claimRef"] = json!({"name": value, "namespace": "ns"}),
            "uid" => volume["spec"]["claimRef"]["uid"] = json!(value),
            "modes" => volume["spec"]["accessModes"] = value.split('/').collect(),
            "label" => volume["metadata"]["labels"] = json!({"disk": "fast"}),
            "block" => volume["spec"]["volumeMode"] = json!("Block"),
            "phase" => volume["status"]["phase"] = json!(value),
            "attributes" => volume["spec"]["volumeAttributesClassName"] = json!(value),
            "going" => volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            other => panic!("unknown flag {other}"),
        }
    }
    Arc::new(serde_json::from_value(volume).unwrap())
}

fn told(decision: Decision) -> String {
    match decision {
        Decision::Bind(volume) => format!("bind {}", name_of(&volume.metadata)),
        Decision::Wait(None) => "wait".into(),
        Decision::Wait(Some((kind, reason, message))) => format!("{kind:?} {reason}: {message}"),
        Decision::Lose { reason, message } => format!("lost {reason}: {message}"),
        Decision::Assign { class } => format!("assign {class}"),
        Decision::Provision => "provision".into(),
        Decision::Fail(why) => why,
    }
}

#[track_caller]
fn check(changes: Value, volumes: &str, expected: &str) {
    check_with_pods(changes, volumes, &[], expected);
}

/// Claim `ns/data` of 1Gi, altered by `changes`; pods that wait for it.
#[track_caller]
fn check_with_pods(changes: Value, volumes: &str, waiting_pods: &[&str], expected: &str) {
    let mut claim = json!({
        "metadata": {"name": "data", "namespace": "ns", "uid": "u1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""},
    });
    claim = api::patch::merge_patch(&claim, &changes);
    let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
    let volumes: Vec<_> = volumes.split_whitespace().map(volume).collect();
    let class = |name: &str, mode: &str| -> Arc<StorageClass> {
        let marks = json!({DEFAULT_CLASS: (name == "late").to_string()});
        let class = json!({"metadata": {"name": name, "annotations": marks}, "provisioner": "x/y", "volumeBindingMode": mode});
        Arc::new(serde_json::from_value(class).unwrap())
    };
    let classes = [class("late", "WaitForFirstConsumer"), class("now", "Immediate")];
    let default = default_class(&classes);
    let observed = Observed {
        claim: &claim,
        named: volumes.iter().find(|volume| name_of(&volume.metadata) == volume_name_of(&claim)).cloned(),
        volumes: &volumes,
        class: classes.iter().find(|class| name_of(&class.metadata) == class_of_claim(&claim)).map(|class| &**class),
        default_class: default.as_deref(),
        waiting_pods,
    };
    assert_eq!(told(decide(&observed)), expected);
}

#[test]
fn the_smallest_that_fits() {
    let none = "Normal FailedBinding: no persistent volumes available for this claim and no storage class is set";
    check(json!({}), "", none);
    check(json!({}), "small:512Mi", none);
    check(json!({}), "big:5Gi right:1Gi", "bind right");
    check(json!({}), "b:2Gi a:2Gi", "bind a");
    check(json!({}), "many:1Gi:modes=ReadWriteOnce/ReadOnlyMany one:2Gi", "bind one");
    check(json!({}), "other:1Gi:class=now", none);
    check(json!({}), "taken:1Gi:for=someone", none);
    check(json!({}), "mine:9Gi:for=data free:1Gi", "bind mine");
    check(json!({}), "old:1Gi:for=data,uid=u0", none);
    check(json!({}), "block:1Gi:block", none);
    check(json!({}), "young:1Gi:phase=Pending", none);
    check(json!({"spec": {"selector": {"matchLabels": {"disk": "fast"}}}}), "plain:1Gi fast:2Gi:label", "bind fast");
    check(json!({"spec": {"accessModes": ["ReadWriteMany"]}}), "one:1Gi", none);
    check(json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}}), "one:1Gi two:9Gi:modes=ReadWriteMany/ReadWriteOnce", "bind two");
    check(json!({"spec": {"volumeMode": "Block"}}), "files:1Gi block:5Gi:block", "bind block");
    check(json!({}), "going:1Gi:going", none);
    check(json!({}), "used:1Gi:phase=Released failed:1Gi:phase=Failed", none);
    check(json!({}), "mine:512Mi:for=data free:1Gi", "bind free"); // What was promised is too small.
    check(json!({}), "mine:1Gi:for=data,uid=u1 free:1Gi", "bind mine");
    check(json!({}), "mine:1Gi:for=data,class=now free:2Gi", "bind mine"); // A promise is worth more than a class.
    check(json!({}), "one:1Gi:attributes=fast two:2Gi", "bind two");
    check(json!({"spec": {"volumeAttributesClassName": "fast"}}), "one:1Gi two:2Gi:attributes=fast", "bind two");
    check(json!({"spec": {"selector": {"matchLabels": {"disk": "fast"}}}}), "plain:1Gi", none);
    check(json!({"metadata": {"annotations": {BETA_CLASS: "now"}}}), "free:1Gi:class=now", "bind free"); // The older way to say it.
}

#[test]
fn classes_decide_when_and_by_whom() {
    let late = || json!({"spec": {"storageClassName": "late"}});
    let waiting = "Normal WaitForFirstConsumer: waiting for first consumer to be created before binding";
    check(late(), "", waiting);
    check(late(), "free:1Gi:class=late", waiting);
    check(late(), "promised:1Gi:class=late,for=data", "bind promised");
    check(json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}, "spec": {"storageClassName": "late"}}), "", "provision");
    check(json!({"spec": {"storageClassName": "now"}}), "", "provision");
    check(json!({"spec": {"storageClassName": "now"}}), "free:1Gi:class=now", "bind free");
    check_with_pods(late(), "", &["web"], "Normal WaitForPodScheduled: waiting for pod web to be scheduled");
    check_with_pods(late(), "", &["a", "b"], "Normal WaitForPodScheduled: waiting for pods a,b to be scheduled");
    check(json!({"spec": {"storageClassName": "gone"}}), "", "provision"); // Which will say that there is no such class.
    check(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"storageClassName": "now"}}), "", "wait");
    check(json!({"spec": {"storageClassName": null}}), "", "assign late");
    check(json!({"spec": {"storageClassName": null}}), "free:1Gi", "bind free");
}

#[test]
fn named_volumes() {
    let named = |name: &str| json!({"spec": {"volumeName": name}});
    check(named("pv"), "", "wait");
    check(named("pv"), "pv:1Gi", "bind pv");
    check(named("pv"), "pv:512Mi", "Warning VolumeMismatch: Cannot bind to requested volume \"pv\": requested PV is too small");
    check(named("pv"), "pv:1Gi:class=x", "Warning VolumeMismatch: Cannot bind to requested volume \"pv\": storageClassName does not match");
    check(named("pv"), "pv:1Gi:block", "Warning VolumeMismatch: Cannot bind to requested volume \"pv\": incompatible volumeMode");
    check(named("pv"), "pv:1Gi:modes=ReadOnlyMany", "Warning VolumeMismatch: Cannot bind to requested volume \"pv\": incompatible accessMode");
    check(named("pv"), "pv:1Gi:attributes=x", "Warning VolumeMismatch: Cannot bind to requested volume \"pv\": VolumeAttributesClassName does not match");
    check(named("pv"), "pv:512Mi:for=data", "bind pv"); // Who promised it himself knows what he wants.
    check(named("pv"), "pv:1Gi:for=data,uid=u0", "Warning FailedBinding: volume \"pv\" already bound to a different claim.");
    check(
        json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}, "spec": {"volumeName": "pv"}}),
        "pv:1Gi:for=other",
        "invalid binding of claim \"ns/data\" to volume \"pv\": volume already claimed by \"ns/other\"",
    );
    check(named("pv"), "pv:1Gi:for=other", "Warning FailedBinding: volume \"pv\" already bound to a different claim.");
}

#[test]
fn a_bound_claim_keeps_its_volume_or_is_lost() {
    let bound = |name: &str| json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": name}});
    check(bound("pv"), "pv:1Gi:for=data,uid=u1", "bind pv");
    check(bound("pv"), "pv:1Gi", "bind pv");
    check(bound("pv"), "other:1Gi", "lost ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    check(bound(""), "", "lost ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    check(
        bound("pv"),
        "pv:1Gi:for=data,uid=u0",
        "lost ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly",
    );
}

#[test]
fn binding_writes_both_sides_once() {
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u1"}, "spec": {}})).unwrap();
    let held = promised_to(&volume("pv:1Gi"), &claim);
    assert_eq!(held.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid.as_deref(), Some("u1"));
    assert_eq!(annotation(&held.metadata, BOUND_BY_CONTROLLER), Some("yes"));
    assert_eq!(promised_to(&held, &claim), held);
    // Who promised it himself keeps his mark off it.
    assert_eq!(annotation(&promised_to(&volume("pv:1Gi:for=data"), &claim).metadata, BOUND_BY_CONTROLLER), None);
    let bound = bound_to(&claim, &held);
    assert_eq!(volume_name_of(&bound), "pv");
    assert_eq!(bound_to(&bound, &held), bound);
}
