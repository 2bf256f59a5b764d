use super::*;
use crate::fixtures;
use crate::history::POD_REVISION_LABEL;
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `replicas [parallel] [ondelete] [partition=N] [start=N] [unavailable=N|N%] [minready=N] [claims] [retention] [deleting]`.
fn set(text: &str) -> StatefulSet {
    let mut words = text.split_whitespace();
    let mut spec = StatefulSetSpec { replicas: words.next().map(|n| n.parse().unwrap()), ..StatefulSetSpec::default() };
    let mut rolling = RollingUpdateStatefulSetStrategy::default();
    let mut kind = "RollingUpdate";
    let mut set = StatefulSet::default();
    for word in words {
        let (name, text) = word.split_once('=').unwrap_or((word, "0"));
        let value = || text.parse::<i32>().unwrap();
        match name {
            "parallel" => spec.pod_management_policy = Some("Parallel".into()),
            "ondelete" => kind = "OnDelete",
            "partition" => rolling.partition = Some(value()),
            "unavailable" => {
                rolling.max_unavailable = Some(text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int));
            }
            "start" => spec.ordinals.get_or_insert_default().start = Some(value()),
            "minready" => spec.min_ready_seconds = Some(value()),
            "claims" => {
                let mut claim = PersistentVolumeClaim::default();
                claim.metadata.name = Some("data".into());
                spec.volume_claim_templates = Some(vec![claim]);
            }
            "retention" => spec.persistent_volume_claim_retention_policy = Some(StatefulSetPersistentVolumeClaimRetentionPolicy::default()),
            "deleting" => set.metadata.deletion_timestamp = Some(fixtures::ago(1)),
            other => panic!("{other}"),
        }
    }
    spec.update_strategy = Some(StatefulSetUpdateStrategy { type_: Some(kind.into()), rolling_update: Some(rolling) });
    set.spec = Some(spec);
    set.metadata.name = Some("db".into());
    set
}

/// Pods are `db-N[:flags][@revision]`, of revision `new` unless said otherwise.
fn plan(set: &StatefulSet, pods: &str) -> Plan {
    let pods: Vec<Arc<Pod>> = pods
        .split_whitespace()
        .map(|word| {
            let (word, revision) = word.split_once('@').unwrap_or((word, "new"));
            let mut pod = fixtures::pod(word);
            pod.metadata.labels.get_or_insert_default().insert(POD_REVISION_LABEL.into(), revision.into());
            let ordinal = identity::ordinal(set, &pod).unwrap();
            Arc::new(identity::repaired(set, &pod, ordinal).unwrap_or(pod))
        })
        .collect();
    let old_template = PodTemplateSpec::default();
    let observed = Observed { set, pods: &pods, current: "old", current_template: &old_template, update: "new", collisions: 0 };
    decide(&observed, fixtures::now())
}

#[track_caller]
fn check(spec: &str, pods: &str, expected: &str) {
    let plan = plan(&set(spec), pods);
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    let tell = |step: &Step| match step {
        Step::Create(pod) if identity::revision_of(pod) == "old" => format!("+{}@old", name(pod)),
        Step::Create(pod) => format!("+{}", name(pod)),
        Step::Delete(pod) => format!("-{}", name(pod)),
        Step::Repair(pod) => format!("repair({})", name(pod)),
        Step::Claims { pod } => format!("claims({})", name(pod)),
        Step::OwnClaims { pod, condemned } => format!("own({}{})", name(pod), if *condemned { ", condemned" } else { "" }),
    };
    let told: Vec<String> = plan.batches.iter().flatten().map(tell).collect();
    assert_eq!(told.join(" "), expected);
}

#[test]
fn ordered_one_after_the_other() {
    check("3", "", "+db-0");
    check("3", "db-0:unready", "");
    check("3", "db-0:pending", "");
    check("3", "db-0", "+db-1");
    check("3", "db-0 db-2", "+db-1");
    check("3", "db-0 db-1 db-2", "");
    check("3 minready=30", "db-0:age=10", ""); // Ready, not yet available.
    check("3 minready=30", "db-0:age=30", "+db-1");
    check("2 start=5", "", "+db-5");
    check("2 start=5", "db-5", "+db-6");
    check("3", "db-0:deleting db-1 db-2", ""); // The name is free when it is gone.
    check("3", "db-1 db-2", "+db-0");
    check("0", "", "");
    check("3 deleting", "db-0", "");
}

#[test]
fn what_ended_is_replaced() {
    check("3", "db-0:failed", "-db-0");
    check("3", "db-0:succeeded", "-db-0");
    check("3", "db-0:failed,deleting", "");
    check("3", "db-0:failed db-1 db-2", "-db-0");
    check("3 parallel", "db-0:failed db-1:succeeded", "-db-0 -db-1 +db-2");
    check("3 parallel", "db-0:failed,deleting db-1 db-2", "");
    check("3 ondelete", "db-0:failed@old", "-db-0");
}

#[test]
fn scales_down_from_the_top() {
    check("1", "db-0 db-1 db-2", "-db-2");
    check("1", "db-0 db-1 db-2:deleting", "");
    check("0", "db-0", "-db-0");
    check("1", "db-0:unready db-1 db-2", ""); // Something is wrong: nothing is taken away.
    check("1", "db-0 db-1:unready db-2", "-db-2");
    check("1", "db-0 db-1 db-2:unready", "-db-2"); // It is the only one that is amiss.
    check("1", "db-0 db-1:unready db-2:unready", ""); // The lower one first.
    check("1 minready=30", "db-0 db-1 db-2:age=10", "-db-2");
    check("1 minready=30", "db-0 db-1:age=5 db-2:age=10", "");
    check("1 minready=30", "db-0:age=5 db-1 db-2", "");
    check("1 parallel", "db-0 db-1 db-2", "-db-2 -db-1");
    check("1 parallel", "db-0:unready db-1 db-2:unready", "-db-2 -db-1");
    check("1 parallel", "db-0 db-1:deleting db-2", "-db-2");
    check("2 start=2", "db-2 db-3 db-0 db-1", "-db-1"); // The start was moved up.
    check("2 start=1", "db-0 db-1 db-2 db-3", "-db-3");
}

#[test]
fn parallel_all_at_once() {
    check("3 parallel", "", "+db-0 +db-1 +db-2");
    check("3 parallel", "db-0:unready db-2", "+db-1");
    check("3 parallel", "db-0:deleting", "+db-1 +db-2");
    check("2 parallel start=7", "", "+db-7 +db-8");
}

#[test]
fn in_parallel_a_few_try_first() {
    let sizes = |spec: &str| plan(&set(spec), "").batches.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes("9 parallel"), [1, 2, 4, 2]);
    assert_eq!(sizes("1 parallel"), [1]);
    assert_eq!(sizes("2000 parallel"), [1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500, 489]);
    assert_eq!(sizes("9"), [1]);
}

#[test]
fn updates_from_the_top() {
    check("3", "db-0@old db-1@old db-2@old", "-db-2");
    check("3", "db-0@old db-1@old db-2:unready", "");
    check("3", "db-0@old db-1@old db-2:deleting@old", "");
    check("3", "db-0@old db-1@old", "+db-2");
    check("3", "db-0@old db-1@old db-2", "-db-1");
    check("3 minready=30", "db-0@old db-1@old db-2:age=10", ""); // Not before it is available.
    check("3", "db-0 db-1@old db-2", "-db-1");
    check("2 start=3", "db-3@old db-4@old", "-db-4");
    check("1", "db-0@old db-1@old", "-db-1"); // First to the right size.
    check("3", "db-0@old db-1@old db-2:unready@broken", "-db-2"); // Mended by the next update.
}

#[test]
fn a_partition_keeps_the_old_below() {
    check("3 partition=2", "db-0@old db-1@old db-2@old", "-db-2");
    check("3 partition=2", "db-0@old db-1@old db-2", "");
    check("3 partition=2", "db-0@old db-2", "+db-1@old");
    check("3 partition=2", "db-0@old db-1@old", "+db-2");
    check("3 partition=9", "db-0@old db-1@old db-2@old", "");
    check("3 partition=1 start=4", "db-4@old db-5@old db-6", "-db-5"); // Counted from the start.
    check("3 partition=1 start=4", "", "+db-4@old");
    check("3 partition=1 parallel", "", "+db-0@old +db-1 +db-2");
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    check("3 ondelete", "db-0@old db-1@old db-2@old", "");
    check("3 ondelete", "db-0@old db-1@old", "+db-2");
    check("3 ondelete", "db-0@old db-2@old", "+db-1");
    check("3 ondelete parallel", "db-0:unready@old db-1@old", "+db-2");
}

#[test]
fn as_many_as_may_be_unavailable() {
    check("3 unavailable=2", "db-0@old db-1@old db-2@old", "-db-2 -db-1");
    check("3 unavailable=9", "db-0@old db-1@old db-2@old", "-db-2 -db-1 -db-0");
    check("3 unavailable=2 partition=2", "db-0@old db-1@old db-2@old", "-db-2");
    check("5 unavailable=50%", "db-0@old db-1@old db-2@old db-3@old db-4@old", "-db-4 -db-3"); // Rounded down,
    check("3 unavailable=10%", "db-0@old db-1@old db-2@old", "-db-2"); // but one at least.
    check("4 unavailable=2 parallel", "db-0@old db-1@old db-2@old db-3:unready", "-db-2");
    check("4 unavailable=2 parallel", "db-0@old db-1@old db-2:unready db-3:unready", "");
    check("4 unavailable=2 parallel", "db-0@old db-1@old db-2@old db-3:deleting@old", "-db-2");
    check("4 unavailable=2 parallel", "db-0@old db-1@old db-2@old", "+db-3 -db-2"); // One that is to be made is not there yet.
    // In parallel what is of no use goes at once, and first.
    check("4 parallel", "db-0:unready@old db-1@old db-2@old db-3@old", "-db-0");
    check("4 parallel", "db-0:unready@old db-1:unready@old db-2@old db-3@old", "-db-1 -db-0");
    check("4 unavailable=3 parallel", "db-0:unready@old db-1@old db-2@old db-3@old", "-db-0 -db-3 -db-2");
    check("4 parallel partition=1", "db-0:unready@old db-1@old db-2 db-3", "");
}

#[test]
fn claims_are_made_and_owned() {
    check("2 claims", "db-0 db-1", "");
    check("2 claims", "db-0:pending", "claims(db-0)");
    check("2 claims retention", "db-0 db-1", "own(db-0) own(db-1)");
    check("1 claims retention", "db-0 db-1", "own(db-0) own(db-1, condemned) -db-1");
    check("1 retention", "db-0 db-1", "-db-1"); // Nothing to own.
}

/// Compared are replicas, ready, available, current, updated, and the current revision.
#[track_caller]
fn check_status(spec: &str, pods: &str, expected: &str) {
    let status = plan(&set(spec), pods).status;
    let number = |value: Option<i32>| value.unwrap_or(0);
    let told = format!(
        "{} {} {} {} {} {}",
        status.replicas,
        number(status.ready_replicas),
        number(status.available_replicas),
        number(status.current_replicas),
        number(status.updated_replicas),
        status.current_revision.unwrap()
    );
    assert_eq!(told, expected);
}

#[test]
fn the_status_counts() {
    check_status("3", "", "0 0 0 0 0 old");
    check_status("3", "db-0@old db-1:unready@old", "2 1 1 2 0 old");
    check_status("3", "db-0@old db-1@old db-2", "3 3 3 2 1 old");
    check_status("3", "db-0@old db-1@old db-2:deleting@old", "3 3 2 2 0 old"); // What goes is of no revision any more.
    check_status("3 minready=30", "db-0 db-1 db-2:age=10", "3 3 2 3 3 new");
    check_status("3", "db-0 db-1 db-2", "3 3 3 3 3 new"); // Complete: the new one is the current one.
    check_status("3", "db-0 db-1 db-2:unready", "3 2 2 0 3 old");
    check_status("2", "db-0 db-1 db-2", "3 3 3 0 3 old"); // Not before it has its size.
    check_status("3 ondelete", "db-0 db-1 db-2", "3 3 3 0 3 old"); // Nobody rolls it.
    check_status("3 partition=2", "db-0@old db-1@old db-2", "3 3 3 2 1 old");
    check_status("3 deleting", "db-0 db-1:unready", "2 1 1 0 2 old");
}

#[test]
fn looks_again_when_a_pod_may_have_become_available() {
    let next = |spec: &str, pods: &str| plan(&set(spec), pods).next;
    assert_eq!(next("3 minready=30", "db-0:age=10 db-1:age=25"), Next::after_seconds(Some(5)));
    assert_eq!(next("3 minready=30", "db-0"), Next::Settled);
    assert_eq!(next("3", "db-0:unready"), Next::Settled);
}
