//! Each component in a process of its own, over kubeconfigs.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use testbed::cluster::{Cluster, NODE, for_test};

const SOON: Duration = Duration::from_secs(45);

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: "nginx:1.16", readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
"#;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|cause| panic!("{program}: {cause}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A kubeconfig for the node, by a CertificateSigningRequest as an administrator makes one by hand.
fn node_kubeconfig(cluster: &Cluster) -> String {
    let file = |name: &str| cluster.data_dir.join(name).display().to_string();
    let (key, request, certificate, kubeconfig) = (file("node.key"), file("node.csr"), file("node.crt"), file("node.kubeconfig"));
    run("openssl", &["ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", &key]);
    run("openssl", &["req", "-new", "-key", &key, "-subj", &format!("/O=system:nodes/CN=system:node:{NODE}"), "-out", &request]);
    let encoded = run("base64", &["-w0", &request]);
    cluster.apply(&format!(
        "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: node}}, spec: {{request: {encoded}, \
         signerName: kubernetes.io/kube-apiserver-client-kubelet, usages: [digital signature, client auth]}}}}"
    ));
    cluster.kubectl("certificate approve node");
    let issued = cluster.eventually("get csr node -o jsonpath={.status.certificate}", SOON, |text| !text.is_empty());
    fs::write(file("node.b64"), issued).expect("writes");
    fs::write(&certificate, run("base64", &["-d", &file("node.b64")])).expect("writes");
    fs::copy(cluster.kubeconfig(), &kubeconfig).expect("copies");
    let given = ["--kubeconfig", &kubeconfig, "config", "set-credentials", "node", "--client-certificate", &certificate];
    cluster.kubectl_words(&[&given[..], &["--client-key", &key, "--embed-certs"]].concat());
    cluster.kubectl_words(&["--kubeconfig", &kubeconfig, "config", "set-context", "--current", "--user", "node"]);
    kubeconfig
}

/// Ended, and waited for.
struct Component(Child);

impl Drop for Component {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn components_run_alone_and_make_a_cluster() {
    let Some(mut cluster) = for_test(&["--disable-agent"]) else { return };
    cluster.kill_server().expect("is killed");
    let start = |name: &str, flags: &[&str]| Component(cluster.start_component(name, flags).expect("starts"));
    let _api_server = start("apiserver", &[]);
    cluster.eventually("get --raw /readyz", SOON, |text| text == "ok");
    cluster.apply(WEB);
    // Nobody is there to make pods of it.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(cluster.kubectl("get pods -o name"), "");

    let controllers = start("controller-manager", &[]);
    let two = |text: &str| text == "Pending Pending";
    cluster.eventually("get pods -o jsonpath={.items[*].status.phase}", SOON, two);
    let kubeconfig = node_kubeconfig(&cluster);
    let kubelet = start("kubelet", &["--kubeconfig", &kubeconfig]);
    cluster.eventually(&format!("get node {NODE} -o jsonpath={{.status.conditions[-1:].status}}"), SOON, |text| text == "True");
    assert_eq!(cluster.kubectl("get pods -o jsonpath={.items[*].spec.nodeName}"), "", "nobody schedules yet");
    let _scheduler = start("scheduler", &[]);
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    let _proxy = start("proxy", &[]);
    let address = cluster.kubectl("get service web -o jsonpath={.spec.clusterIP}");
    let end = Instant::now() + SOON;
    let url = format!("http://{address}/");
    while !Command::new("curl").args(["-sS", "--max-time", "2", &url]).output().is_ok_and(|page| page.status.success()) {
        assert!(Instant::now() < end, "the Service does not answer on the host");
    }
    let pod = cluster.kubectl("get pods -o jsonpath={.items[0].metadata.name}");
    assert!(cluster.kubectl(&format!("exec {pod} -- nginx -v")).is_empty());

    // What holds a lease is waited for, what does not goes on at once; pods run on in both cases.
    let holder = cluster.kubectl("get lease kube-controller-manager -n kube-system -o jsonpath={.spec.holderIdentity}");
    assert!(holder.starts_with(&format!("{NODE}_")), "{holder}");
    drop((controllers, kubelet));
    let _controllers = start("controller-manager", &[]);
    let _kubelet = start("kubelet", &["--kubeconfig", &kubeconfig]);
    cluster.kubectl("scale deployment web --replicas=3");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    assert_eq!(cluster.kubectl("get pods -o jsonpath={.items[*].status.containerStatuses[0].restartCount}"), "0 0 0");
}
