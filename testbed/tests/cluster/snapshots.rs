//! Snapshots of the store, and this machine's certificates.

use std::process::Command;
use std::time::Duration;

use testbed::cluster::{Cluster, coracle, for_test};

const SOON: Duration = Duration::from_secs(30);

/// What `coracle` says, or why not.
fn run(cluster: &Cluster, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(coracle()).args(arguments).arg("--data-dir").arg(&cluster.data_dir).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn a_snapshot_brings_back_what_was_and_pods_run_on() {
    let Some(mut cluster) = for_test(&[]) else { return };
    cluster.kubectl("create configmap kept --from-literal=is=here");
    cluster.kubectl("run web --image=nginx:1.16");
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s");
    let started = cluster.kubectl("get pod web -o jsonpath={.status.containerStatuses[0].containerID}");
    let said = run(&cluster, &["snapshot", "save"]).expect("a running server is saved");
    assert!(said.starts_with("saved ") && said.contains("/server/snapshots/snapshot-"), "{said}");
    let listed = run(&cluster, &["snapshot", "ls"]).expect("lists");
    let name = listed.lines().nth(1).and_then(|line| line.split(' ').next()).unwrap_or_else(|| panic!("{listed}")).to_owned();
    cluster.kubectl("delete configmap kept");
    cluster.kubectl("create configmap later");
    let before: i64 = cluster.kubectl("get configmap later -o jsonpath={.metadata.resourceVersion}").parse().expect("a number");

    let refused = run(&cluster, &["snapshot", "restore", &name]).expect_err("a server runs");
    assert!(refused.contains("runs already") && refused.contains("stop it first"), "{refused}");
    cluster.kill_server().expect("is killed");
    let offline = cluster.data_dir.join("offline");
    run(&cluster, &["snapshot", "save", &offline.display().to_string()]).expect("a stopped server is saved");
    let said = run(&cluster, &["snapshot", "restore", &name]).expect("restores");
    assert!(said.starts_with("restored ") && said.contains("store.before-"), "{said}");
    cluster.start_server().expect("starts");
    assert_eq!(cluster.kubectl("get configmap kept -o jsonpath={.data.is}"), "here");
    assert!(cluster.kubectl_fails("get configmap later").contains("not found"));
    let after: i64 = cluster.kubectl("get configmap kept -o jsonpath={.metadata.resourceVersion}").parse().expect("a number");
    assert!(after < before, "an object keeps its version: {after}");
    let list = cluster.kubectl("get --raw /api/v1/configmaps?limit=1");
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let list: i64 = list["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a number");
    assert!(list > before, "the store is ahead of all that was seen: {list}");
    // The node's pod is the one that the snapshot knows.
    let same = |text: &str| text == format!("{started},true");
    cluster.eventually("get pod web -o jsonpath={.status.containerStatuses[0].containerID},{.status.containerStatuses[0].ready}", SOON, same);
    cluster.kubectl("create configmap new");
}

#[test]
fn certificates_are_told_and_renewed() {
    let Some(mut cluster) = for_test(&["--disable-agent"]) else { return };
    let told = run(&cluster, &["certs"]).expect("tells");
    for (file, subject, left) in [("server/tls/ca.crt", "CN=kubernetes", "10y"), ("server/tls/apiserver.crt", "CN=kube-apiserver", "364d"), ("server/tls/admin.crt", "CN=kubernetes-admin", "364d")] {
        let line = told.lines().find(|line| line.starts_with(file)).unwrap_or_else(|| panic!("{file} in {told}"));
        assert!(line.contains(subject) && line.contains(left), "{line}");
    }
    let certificate = |cluster: &Cluster| std::fs::read(cluster.data_dir.join("server/tls/apiserver.crt")).expect("reads");
    let old = certificate(&cluster);
    let said = run(&cluster, &["certs", "renew"]).expect("renews");
    assert!(said.contains("the running server goes on with the old ones"), "{said}");
    cluster.kubectl("get namespaces");
    cluster.kill_server().expect("is killed");
    cluster.start_server().expect("starts");
    assert_ne!(old, certificate(&cluster));
    cluster.kubectl("get namespaces");
}
