//! What goes wrong on a machine: an event or a clear error, nothing lost, and it converges after.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::cluster::{Cluster, for_test, missing};

const SOON: Duration = Duration::from_secs(45);

/// The cluster for a test, or None where the machine cannot run one (said by name).
fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         imagePullSecrets: [{{name: login-{name}}}]\n  containers: [{{name: main, command: [sleep, \"3600\"], {container}}}]\n---\n"
    )
}

fn login(pod: &str, registry: &str, password: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: login-{pod}}}\ntype: kubernetes.io/dockerconfigjson\nstringData:\n  \
         .dockerconfigjson: '{{\"auths\":{{\"{registry}\":{{\"username\":\"user\",\"password\":\"{password}\"}}}}}}'\n---\n"
    )
}

#[test]
fn images_that_cannot_be_had_are_told_by_events() {
    let Some(cluster) = for_test(&[]) else { return };
    let registry = cluster.registry.to_string();
    let private = format!("image: \"{registry}/private/library/busybox:1.35\"");
    let manifests = [
        pod("corrupt", "image: \"broken/library/nginx:1.16\""),
        pod("badname", "image: \"Nginx::bad\""),
        pod("never", "image: \"redis:7\", imagePullPolicy: Never"),
        login("welcome", &registry, "secret"),
        pod("welcome", &private),
        login("guesser", &registry, "guess"),
        pod("guesser", &private.replace("busybox", "redis").replace("1.35", "7")),
        pod("stranger", &private.replace("busybox", "nginx").replace("1.35", "1.16")),
    ];
    cluster.apply(&manifests.concat());
    cluster.kubectl("wait --for=condition=Ready pod/welcome --timeout=30s");
    let reason = |pod: &str, wanted: &str| {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        cluster.eventually(&format!("get pod {pod} -o {path}"), SOON, |text| text == wanted);
    };
    for (pod, wanted) in [
        ("corrupt", "ImagePullBackOff"),
        ("badname", "InvalidImageName"),
        ("never", "ErrImageNeverPull"),
        ("guesser", "ImagePullBackOff"),
        ("stranger", "ImagePullBackOff"),
    ] {
        reason(pod, wanted);
    }
    for (pod, wanted) in [
        ("corrupt", "Failed to pull image \"broken/library/nginx:1.16\": failed to pull and unpack image \"docker.io/broken/library/nginx:1.16\": failed commit on ref \"layer-sha256:"),
        ("corrupt", ": unexpected commit digest sha256:"),
        ("corrupt", "Error: ImagePullBackOff"),
        ("badname", "Failed to apply default image tag \"Nginx::bad\": couldn't parse image name \"Nginx::bad\": invalid reference format"),
        ("badname", "Error: InvalidImageName"),
        ("never", "Container image \"redis:7\" is not present with pull policy of Never"),
        ("welcome", "Successfully pulled image"),
        ("guesser", "pull access denied, repository does not exist or may require authorization: authorization failed: "),
        ("stranger", "pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials"),
    ] {
        cluster.eventually(&format!("describe pod {pod}"), SOON, |text| text.contains(wanted));
    }
    // The right password heals it.
    cluster.apply(&login("guesser", &registry, "secret"));
    cluster.kubectl("wait --for=condition=Ready pod/guesser --timeout=60s");
}

#[test]
fn a_killed_shim_is_noticed_and_its_containers_started_again() {
    let Some(cluster) = for_test(&[]) else { return };
    let two = pod("victim", "image: \"busybox:1.35\"").replace(
        "containers: [",
        "containers: [{name: other, image: \"busybox:1.35\", command: [sleep, \"3600\"]}, ",
    );
    cluster.apply(&(two + &pod("final", "image: \"busybox:1.35\"").replace("spec:\n", "spec:\n  restartPolicy: Never\n")));
    cluster.kubectl("wait --for=condition=Ready pod/victim pod/final --timeout=30s");
    let shims = shims(&cluster);
    assert_eq!(shims.len(), 2, "{shims:?}");
    for pid in shims {
        let ended = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
        assert!(ended.success());
    }
    let restarts = "get pod victim -o jsonpath={.status.containerStatuses[*].restartCount}/{.status.containerStatuses[*].ready}";
    cluster.eventually(restarts, SOON, |text| text == "1 1/true true");
    let status = |pod: &str| -> Value {
        serde_json::from_str(&cluster.kubectl(&format!("get pod {pod} -o jsonpath={{.status}}"))).expect("JSON")
    };
    let victim = status("victim");
    let last = &victim["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&"ContainerStatusUnknown".into(), &137.into()), "{victim}");
    cluster.eventually("describe pod victim", SOON, |text| text.contains("Pod sandbox changed, it will be killed and re-created."));
    assert_eq!(cluster.kubectl("exec victim -c main -- echo alive"), "alive\n");
    cluster.eventually("get pod final -o jsonpath={.status.phase}", SOON, |text| text == "Failed");
    cluster.kubectl("delete pod victim final");
}

/// Pids of the cluster's shims: those that hold this cluster's containers.
fn shims(cluster: &Cluster) -> Vec<u32> {
    let instance = {
        let data_dir = cluster.data_dir.display().to_string();
        let hash = data_dir.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("/run/coracle-{hash:08x}/")
    };
    let is_ours = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line).into_owned();
        text.contains("internal-shim") && text.contains(&instance)
    };
    let entries = fs::read_dir("/proc").expect("lists");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
}

#[test]
fn a_full_disk_is_told_and_overcome() {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let Some(disk) = Disk::mount() else {
        eprintln!("skipped: cannot mount a small disk");
        return;
    };
    let directory = disk.path.parent().map(std::path::Path::to_path_buf);
    let cluster = Cluster::start_in(directory, &[]).expect("the cluster starts");
    assert_eq!(cluster.data_dir, disk.path);
    cluster.apply(&pod("first", "image: \"busybox:1.35\""));
    cluster.kubectl("wait --for=condition=Ready pod/first --timeout=30s");
    let filler = disk.path.join("filler");

    // Not a byte left: writes are refused with the reason, what runs goes on, reads are answered.
    fill(&filler, usize::MAX);
    let end = Instant::now() + SOON;
    let mut written = Vec::new();
    let told = loop {
        let name = format!("map-{}", written.len());
        let output = cluster.kubectl_output(&["create", "configmap", &name, "--from-literal=a=b"]).expect("kubectl runs");
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).into_owned();
        }
        written.push(name);
        assert!(Instant::now() < end, "a full disk must be told");
    };
    assert!(told.contains("No space left on device"), "{told}");
    assert!(cluster.kubectl("get pod first").contains("Running"));
    assert_eq!(cluster.kubectl("exec first -- echo alive"), "alive\n");

    // Room for objects, none for an image.
    fs::remove_file(&filler).expect("removes");
    let room = "create configmap room --from-literal=a=b";
    let end = Instant::now() + SOON;
    while !cluster.kubectl_output(&room.split(' ').collect::<Vec<_>>()).is_ok_and(|output| output.status.success()) {
        assert!(Instant::now() < end, "writes must be taken again");
    }
    for name in &written {
        cluster.kubectl(&format!("get configmap {name}"));
    }
    fill(&filler, 86 << 20);
    cluster.apply(&pod("second", "image: \"nginx:1.16\"").replace("command: [sleep, \"3600\"], ", ""));
    cluster.eventually("describe pod second", SOON, |text| {
        text.contains("Failed to pull image \"nginx:1.16\"") && text.contains("No space left on device")
    });
    fs::remove_file(&filler).expect("removes");
    cluster.kubectl("wait --for=condition=Ready pod/second --timeout=60s");
    assert!(cluster.kubectl("get pod first").contains("Running"));
}

fn fill(path: &Path, bytes: usize) {
    let mut file = fs::File::create(path).expect("creates");
    let block = vec![0_u8; 1 << 16];
    let mut written = 0;
    while written < bytes {
        match file.write(&block) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
}

/// A small disk where the next cluster of this process has its data dir.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn mount() -> Option<Disk> {
        let path = std::env::temp_dir().join(format!("coracle-test-disk-{}/data", std::process::id()));
        fs::create_dir_all(&path).ok()?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(&path).status().ok()?;
        mounted.success().then_some(Disk { path })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts.contains(&self.path.display().to_string()) {
            // `coracle down --purge` did it unless the test failed early.
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

const FULL_NAMESPACE: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: full}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: held, namespace: full, finalizers: [example.com/hold]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: full}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"]}]
"#;

#[test]
fn what_is_deleted_goes_with_all_that_it_owns() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(FULL_NAMESPACE);
    cluster.apply(&FULL_NAMESPACE.replace("namespace: full", "namespace: default"));
    let remove_hold = |namespace: &str| {
        let patch = r#"[{"op":"remove","path":"/metadata/finalizers"}]"#;
        cluster.kubectl_words(&["patch", "configmap", "held", "-n", namespace, "--type=json", "-p", patch]);
    };
    cluster.kubectl("-n full rollout status deployment/web --timeout=30s");
    cluster.kubectl("delete namespace full --wait=false");
    let namespace = cluster.eventually("get namespace full -o jsonpath={.status}", SOON, |text| text.contains("SomeFinalizersRemain"));
    for wanted in [
        "\"phase\":\"Terminating\"",
        "Some resources are remaining: configmaps. has 1 resource instances",
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
    ] {
        assert!(namespace.contains(wanted), "{wanted} in {namespace}");
    }
    let refused = cluster.kubectl_fails("create configmap late -n full");
    assert!(refused.contains("unable to create new content in namespace full because it is being terminated"), "{refused}");
    assert_eq!(cluster.kubectl("-n full get pods,deployments,replicasets -o name"), "");
    remove_hold("full");
    let end = Instant::now() + SOON;
    while cluster.kubectl_output(&["get", "namespace", "full"]).is_ok_and(|output| output.status.success()) {
        assert!(Instant::now() < end, "the namespace must go");
        std::thread::sleep(Duration::from_millis(50));
    }

    // A finalizer keeps an object until it is taken away.
    cluster.kubectl("delete configmap held --wait=false");
    assert!(!cluster.kubectl("get configmap held -o jsonpath={.metadata.deletionTimestamp}").is_empty());
    remove_hold("default");
    assert!(cluster.kubectl_fails("get configmap held").contains("configmaps \"held\" not found"));

    // Orphans stay and are adopted again; in the foreground the owner goes last.
    cluster.kubectl("rollout status deployment/web --timeout=30s");
    let owners = "get rs -l app=web -o jsonpath={.items[*].metadata.ownerReferences[*].kind}";
    let set = cluster.kubectl("get rs -l app=web -o name");
    cluster.kubectl("delete deployment web --cascade=orphan");
    assert_eq!(cluster.kubectl(owners), "");
    assert_eq!(cluster.kubectl("get rs -l app=web -o name"), set);
    assert_eq!(cluster.kubectl("get pods -l app=web -o name").lines().count(), 2);
    cluster.apply(&FULL_NAMESPACE.replace("namespace: full", "namespace: default"));
    cluster.eventually(owners, SOON, |text| text == "Deployment");
    assert_eq!(cluster.kubectl("get rs -l app=web -o name"), set);
    cluster.kubectl("delete deployment web --cascade=foreground");
    assert_eq!(cluster.kubectl("get rs,pods -l app=web -o name"), "", "whoever waits for the owner waits for all");
}

#[test]
fn a_server_killed_while_pods_are_made_converges() {
    let Some(mut cluster) = for_test(&[]) else { return };
    let deployment = FULL_NAMESPACE.replace("namespace: full", "namespace: default").replace("replicas: 2", "replicas: 12");
    let deployment = deployment.replace("3600", "3612");
    cluster.apply(&deployment);
    for pause in [40, 250, 600] {
        std::thread::sleep(Duration::from_millis(pause));
        cluster.kill_server().expect("is killed");
        cluster.start_server().expect("starts again");
    }
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    let pods = cluster.eventually("get pods -l app=web --no-headers", SOON, |text| text.matches(" Running ").count() == 12);
    assert_eq!(pods.lines().count(), 12, "{pods}");
    let sleeping = || {
        let output = Command::new("pgrep").args(["-fxc", "sleep 3612"]).output().expect("pgrep runs");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    assert_eq!(sleeping(), "12", "each pod has one container, and no container is without a pod");
    let addresses = cluster.kubectl("get pods -l app=web -o jsonpath={.items[*].status.podIP}");
    let distinct: std::collections::BTreeSet<&str> = addresses.split_whitespace().collect();
    assert_eq!(distinct.len(), 12, "{addresses}");
    cluster.kubectl("delete deployment web");
    let end = Instant::now() + SOON;
    while sleeping() != "0" {
        assert!(Instant::now() < end, "deleted containers must end");
        std::thread::sleep(Duration::from_millis(100));
    }
}
