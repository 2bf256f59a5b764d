//! One machine, real containers, the real kubectl: what a user does first, and what must not break meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use testbed::cluster::{Cluster, for_test, kubectls};

const SOON: Duration = Duration::from_secs(30);

/// The cluster for a test, or None where the machine cannot run one (said by name).
const NGINX_DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-deployment
  labels: {app: nginx}
spec:
  replicas: 3
  selector:
    matchLabels: {app: nginx}
  template:
    metadata:
      labels: {app: nginx}
    spec:
      containers:
      - name: nginx
        image: nginx:1.7.9
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
"#;

const NGINX_SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: nginx}
  ports: [{port: 80, nodePort: 30090}]
"#;

const VISITOR: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: visitor}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: busybox, image: "busybox:1.35", command: [sleep, "3600"]}
"#;

#[test]
fn a_deployment_rolls_without_a_failed_request() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(NGINX_DEPLOYMENT);
    cluster.apply(NGINX_SERVICE);
    cluster.apply(VISITOR);
    let rollout = |expected: &str| {
        let said = cluster.kubectl("rollout status deployment/nginx-deployment --timeout=60s");
        assert!(said.contains(expected), "{said}");
    };
    rollout("deployment \"nginx-deployment\" successfully rolled out");
    cluster.kubectl("wait --for=condition=Ready pod/visitor --timeout=30s");
    let page = |words: &str| cluster.kubectl(&format!("exec visitor -- wget -q -O - {words}"));
    assert!(page("http://web.default.svc.cluster.local/").contains("nginx:1.7.9"));
    assert!(page("http://web/").contains("nginx:1.7.9"), "the search path finds it");
    assert!(fetch(30090).expect("the NodePort answers").contains("nginx:1.7.9"));

    let load = Load::start(30090);
    cluster.kubectl("set image deployment/nginx-deployment nginx=nginx:1.9.1");
    rollout("successfully rolled out");
    let (requests, failures) = load.stop();
    assert_eq!(failures, 0, "of {requests} requests during the roll");
    assert!(requests > 50, "only {requests} requests were made");
    assert!(fetch(30090).expect("answers").contains("nginx:1.9.1"));

    let sets = cluster.kubectl("get rs -l app=nginx -o jsonpath={range.items[*]}{.spec.replicas},{end}");
    assert!(sets == "0,3," || sets == "3,0,", "{sets}");
    let history = cluster.kubectl("rollout history deployment/nginx-deployment");
    assert!(history.contains("REVISION") && history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    cluster.kubectl("rollout undo deployment/nginx-deployment");
    rollout("successfully rolled out");
    assert_eq!(image_of(&cluster), "nginx:1.7.9");
    cluster.kubectl("rollout undo deployment/nginx-deployment --to-revision=2");
    rollout("successfully rolled out");
    assert_eq!(image_of(&cluster), "nginx:1.9.1");

    cluster.kubectl("rollout pause deployment/nginx-deployment");
    cluster.kubectl("set image deployment/nginx-deployment nginx=nginx:1.16");
    std::thread::sleep(Duration::from_secs(1));
    assert!(fetch(30090).expect("answers").contains("nginx:1.9.1"), "a paused deployment does not roll");
    cluster.kubectl("rollout resume deployment/nginx-deployment");
    rollout("successfully rolled out");
    assert!(fetch(30090).expect("answers").contains("nginx:1.16"));

    cluster.kubectl("scale deployment/nginx-deployment --replicas=6");
    rollout("successfully rolled out");
    let table = cluster.kubectl("get deploy,rs,pods --show-labels");
    assert!(table.contains("6/6") && table.contains("pod-template-hash="), "{table}");
    let described = cluster.kubectl("describe deployment nginx-deployment");
    assert!(described.contains("ScalingReplicaSet") && described.contains("Scaled up replica set"), "{described}");
    let all = cluster.kubectl("get all");
    for wanted in ["pod/nginx-deployment-", "service/web", "deployment.apps/nginx-deployment", "replicaset.apps/"] {
        assert!(all.contains(wanted), "{wanted} in {all}");
    }
}

#[test]
fn a_missing_image_leaves_the_old_pods_serving() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(NGINX_DEPLOYMENT);
    cluster.apply(NGINX_SERVICE);
    cluster.kubectl("rollout status deployment/nginx-deployment --timeout=60s");
    cluster.kubectl("set image deployment/nginx-deployment nginx=nginx:12.34.56");
    let pods = cluster.eventually("get pods -l app=nginx", SOON, |text| text.contains("ImagePullBackOff"));
    assert_eq!(pods.matches("Running").count(), 3, "{pods}");
    assert!(fetch(30090).expect("the old ones answer").contains("nginx:1.7.9"));
    let events = cluster.kubectl("get events");
    for wanted in ["Failed to pull image \"nginx:12.34.56\"", "Error: ErrImagePull", "Back-off pulling image"] {
        assert!(events.contains(wanted), "{wanted} in {events}");
    }
    cluster.kubectl("rollout undo deployment/nginx-deployment");
    cluster.kubectl("rollout status deployment/nginx-deployment --timeout=60s");
    cluster.eventually("get pods -l app=nginx", SOON, |text| {
        text.matches("Running").count() == 3 && !text.contains("ImagePull")
    });
}

#[test]
fn a_bare_pod_is_adopted_and_a_deleted_one_replaced() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(&VISITOR.replace("metadata: {name: visitor}", "metadata: {name: stray, labels: {app: frontend}}"));
    cluster.apply(
        r#"
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: frontend}
spec:
  replicas: 3
  selector: {matchLabels: {app: frontend}}
  template:
    metadata: {labels: {app: frontend}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: busybox, image: "busybox:1.35", command: [sleep, "3600"]}]
"#,
    );
    let ready = "get rs frontend -o jsonpath={.status.readyReplicas}";
    cluster.eventually(ready, SOON, |text| text == "3");
    let owner = cluster.kubectl("get pod stray -o jsonpath={.metadata.ownerReferences[0].name}");
    assert_eq!(owner, "frontend");
    let names = "get pods -l app=frontend -o name";
    assert_eq!(cluster.kubectl(names).lines().count(), 3);
    cluster.kubectl("delete pod stray");
    cluster.eventually(names, SOON, |text| text.lines().count() == 3 && !text.contains("stray"));
    cluster.kubectl("delete rs frontend");
    cluster.eventually(names, SOON, str::is_empty);
}

#[test]
fn containers_of_a_pod_share_its_network_and_take_exec() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - name: nginx-container
    image: nginx:1.16
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: redis-container
    image: redis:latest
    volumeMounts: [{name: shared, mountPath: /shared}]
"#,
    );
    cluster.kubectl("wait --for=condition=Ready pod/pair --timeout=60s");
    let exec = |container: &str, script: &str| {
        cluster.kubectl_words(&["exec", "pair", "-c", container, "--", "/bin/bash", "-c", script])
    };
    let page = exec("redis-container", "exec 3<>/dev/tcp/localhost/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    assert!(page.contains("Welcome to nginx!"), "{page}");
    let pong = exec("nginx-container", "exec 3<>/dev/tcp/localhost/6379; printf 'PING\\r\\n' >&3; head -n 1 <&3");
    assert!(pong.contains("PONG"), "{pong}");
    exec("nginx-container", "echo hello > /shared/note");
    assert_eq!(exec("redis-container", "cat /shared/note"), "hello\n");
    let listing = exec("nginx-container", "ls -all --classify / | grep lib");
    assert!(listing.contains("lib -> usr/lib/"), "{listing}");

    // Standard input, exit codes, and a missing program.
    let mut child = cluster
        .kubectl_command(&["exec", "-i", "pair", "-c", "nginx-container", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    child.stdin.take().expect("has input").write_all(b"through and back\n").expect("writes");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through and back\n");
    let failed = cluster.kubectl_output(&["exec", "pair", "-c", "nginx-container", "--", "sh", "-c", "exit 7"]).expect("runs");
    assert_eq!(failed.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("command terminated with exit code 7"));

    // A terminal: `script` gives kubectl one.
    let kubectl = kubectls().pop().expect("a kubectl");
    let line = format!(
        "{} --kubeconfig {} exec -it pair -c nginx-container -- /bin/sh -c 'tty; exit 3'",
        kubectl.display(),
        cluster.kubeconfig().display()
    );
    if let Ok(output) = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output() {
        assert!(String::from_utf8_lossy(&output.stdout).contains("/dev/pts/"), "{output:?}");
        assert_eq!(output.status.code(), Some(3), "{output:?}");
    }
    let logs = cluster.kubectl("logs pair -c nginx-container --tail=1");
    assert!(logs.contains("GET /"), "{logs}");
    let choose = cluster.kubectl_fails("logs pair --container=nope");
    assert!(choose.contains("container nope is not valid for pod pair"), "{choose}");
}

#[test]
fn every_kubectl_creates_a_deployment() {
    let Some(cluster) = for_test(&[]) else { return };
    for (index, kubectl) in kubectls().iter().enumerate() {
        let name = format!("web-{index}");
        let output = cluster
            .kubectl_command_of(kubectl, &["create", "deployment", &name, "--image=nginx"])
            .output()
            .expect("kubectl runs");
        assert!(
            output.status.success(),
            "{}: {}",
            kubectl.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        cluster.kubectl(&format!("rollout status deployment/{name} --timeout=60s"));
        let output = cluster
            .kubectl_command_of(kubectl, &["exec", &format!("deployment/{name}"), "--", "echo", "hello"])
            .output()
            .expect("kubectl runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n", "{}: {output:?}", kubectl.display());
    }
}

#[test]
fn a_killed_server_finds_its_containers_again() {
    let Some(mut cluster) = for_test(&[]) else { return };
    cluster.apply(NGINX_DEPLOYMENT);
    cluster.kubectl("rollout status deployment/nginx-deployment --timeout=60s");
    const STATE: &str = "get pods -l app=nginx -o jsonpath={range.items[*]}{.metadata.name}/{.status.containerStatuses[0].containerID}/{.status.containerStatuses[0].restartCount},{end}";
    let before = cluster.kubectl(STATE);
    let pids = processes(&cluster, "nginx: master");
    assert_eq!(pids.len(), 3, "{pids:?}");
    cluster.kill_server().expect("is killed");
    assert_eq!(processes(&cluster, "nginx: master"), pids, "containers outlive the server");
    cluster.start_server().expect("starts again");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(cluster.kubectl(STATE), before);
    assert_eq!(processes(&cluster, "nginx: master"), pids);
    cluster.kubectl("exec deployment/nginx-deployment -- true");
    cluster.kubectl("delete deployment nginx-deployment");
    let end = Instant::now() + SOON;
    while !processes(&cluster, "nginx: master").is_empty() {
        assert!(Instant::now() < end, "deleted containers must end");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn nothing_is_left_behind() {
    let Some(mut cluster) = for_test(&[]) else { return };
    cluster.apply(NGINX_DEPLOYMENT);
    cluster.apply(NGINX_SERVICE);
    cluster.kubectl("rollout status deployment/nginx-deployment --timeout=60s");
    assert!(!left_behind(&cluster).is_empty(), "the check itself must see a running cluster");
    let output = cluster.down().expect("coracle down runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(left_behind(&cluster), Vec::<String>::new());
    assert!(!cluster.data_dir.exists());
}

#[test]
fn bad_input_is_answered_and_nothing_stored() {
    let Some(cluster) = for_test(&[]) else { return };
    let apply_fails = |manifest: &str, expected: &str| {
        let mut child = cluster
            .kubectl_command(&["create", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child.stdin.take().expect("has input").write_all(manifest.as_bytes()).expect("writes");
        let output = child.wait_with_output().expect("ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "wanted {expected:?}, got {said:?}");
    };
    let deployment = NGINX_DEPLOYMENT;
    apply_fails(&deployment.replace("    matchLabels: {app: nginx}", "    matchLabel: {app: nginx}"), "unknown field \"spec.selector.matchLabel\"");
    apply_fails(&deployment.replace("replicas: 3", "replicas: three"), "cannot unmarshal string into Go struct field");
    apply_fails(&deployment.replace("kind: Deployment", "kind: Deploymint"), "no matches for kind \"Deploymint\" in version \"apps/v1\"");
    apply_fails(&deployment.replace("name: nginx-deployment", "name: Nginx_Deployment"), "a lowercase RFC 1123 subdomain must consist of");
    apply_fails(
        &deployment.replace("      labels: {app: nginx}\n    spec", "      labels: {app: other}\n    spec"),
        "`selector` does not match template `labels`",
    );
    let huge = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: huge}}\ndata: {{a: {}}}\n", "x".repeat(3 << 20));
    apply_fails(&huge, "limit is 3145728");
    assert_eq!(cluster.kubectl("get deployments -o name"), "");
    assert!(cluster.kubectl_fails("get configmap huge").contains("configmaps \"huge\" not found"));
}

fn image_of(cluster: &Cluster) -> String {
    cluster.kubectl("get deployment nginx-deployment -o jsonpath={.spec.template.spec.containers[0].image}")
}

/// One request to a NodePort of this machine.
fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.starts_with("HTTP/1.1 200") {
        true => Ok(text),
        false => Err(std::io::Error::other(format!("answered {text:?}"))),
    }
}

/// A loop of requests in the background, each on a connection of its own.
struct Load {
    stop: Arc<AtomicBool>,
    failures: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<usize>,
}

impl Load {
    fn start(port: u16) -> Load {
        let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, failed) = (stop.clone(), failures.clone());
        let thread = std::thread::spawn(move || {
            let mut requests = 0;
            while !stopped.load(Ordering::Relaxed) && requests < 100_000 {
                requests += 1;
                if let Err(cause) = fetch(port) {
                    eprintln!("request {requests} failed: {cause}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            requests
        });
        Load { stop, failures, thread }
    }

    fn stop(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let requests = self.thread.join().expect("the load ends");
        (requests, self.failures.load(Ordering::Relaxed))
    }
}

/// Pids of processes whose command line starts with this.
/// Those of this cluster's containers that run such a command.
fn processes(cluster: &Cluster, command: &str) -> Vec<u32> {
    let group = format!("/coracle-{}/", instance(cluster));
    let is_ours = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(&group))
            && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(command.as_bytes()))
    };
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .expect("lists")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(is_ours)
        .collect();
    pids.sort_unstable();
    pids
}

/// What names everything of this cluster in the kernel.
fn instance(cluster: &Cluster) -> String {
    let data_dir = cluster.data_dir.display().to_string();
    let hash = data_dir.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

/// Everything in the kernel that carries this cluster's name.
fn left_behind(cluster: &Cluster) -> Vec<String> {
    let data_dir = cluster.data_dir.display().to_string();
    let instance = instance(cluster);
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut found = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    found.extend(mounts.lines().filter(|it| it.contains(&data_dir) || it.contains(&instance)).map(String::from));
    found.extend(output("ip", &["-o", "link"]).lines().filter(|it| it.contains(&instance)).map(String::from));
    found.extend(output("nft", &["list", "tables"]).lines().filter(|it| it.contains(&instance)).map(String::from));
    let groups = output("find", &["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{instance}*")]);
    found.extend(groups.lines().map(String::from));
    for entry in fs::read_dir("/proc").expect("lists").flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line).replace('\0', " ");
        if text.contains(&data_dir) || text.contains(&instance) {
            found.push(text);
        }
    }
    if fs::exists(format!("/run/coracle-{instance}")).unwrap_or(false) {
        found.push(format!("/run/coracle-{instance}"));
    }
    found
}
