//! Accounts and tokens as pods see them; and what the API server's own flags do: audit, encryption, static tokens.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testbed::cluster::{Cluster, for_test};

const SOON: Duration = Duration::from_secs(60);

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Request, resources: [{group: '', resources: [secrets]}], namespaces: [default]}
";

const ENCRYPTION: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
  - identity: {}
";

const PODS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: mount-test}
---
apiVersion: v1
kind: Pod
metadata: {name: token}
spec:
  restartPolicy: Never
  serviceAccountName: mount-test
  containers:
  - {name: token, image: busybox:1.35, command: [cat, /var/run/secrets/kubernetes.io/serviceaccount/token]}
  - {name: ca, image: busybox:1.35, command: [cat, /var/run/secrets/kubernetes.io/serviceaccount/ca.crt]}
  - {name: namespace, image: busybox:1.35, command: [cat, /var/run/secrets/kubernetes.io/serviceaccount/namespace]}
---
apiVersion: v1
kind: Pod
metadata: {name: projected}
spec:
  restartPolicy: Never
  serviceAccountName: mount-test
  automountServiceAccountToken: false
  securityContext: {runAsUser: 1000, fsGroup: 10000}
  volumes:
  - name: token
    projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 43200}}]}
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "stat -Lc '%a %u %g' /token/token; cat /token/token"]
    volumeMounts: [{name: token, mountPath: /token}]
---
apiVersion: v1
kind: Pod
metadata: {name: issuer}
spec:
  restartPolicy: Never
  serviceAccountName: mount-test
  volumes:
  - name: token
    projected: {sources: [{serviceAccountToken: {path: token, audience: oidc-discovery-test, expirationSeconds: 3600}}]}
  containers:
  - {name: meant, image: testserver, args: [issuer, /token/token, oidc-discovery-test], volumeMounts: [{name: token, mountPath: /token}]}
  - {name: other, image: testserver, args: [issuer, /token/token, somebody-else], volumeMounts: [{name: token, mountPath: /token}]}
"#;

fn review(cluster: &Cluster, token: &str) -> Value {
    let body = format!(
        "{{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {{token: {:?}}}}}",
        token.trim()
    );
    let file = cluster.data_dir.join("review.yaml");
    fs::write(&file, body).expect("is written");
    let answer = cluster.kubectl_words(&["create", "-o", "json", "-f", &file.display().to_string()]);
    serde_json::from_str::<Value>(&answer).expect("JSON")["status"].take()
}

/// Whether some file below a directory holds a text.
fn holds(directory: &Path, text: &str) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return holds(&path, text);
        }
        let bytes = fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

// Conformance: [sig-auth] ServiceAccounts should mount an API token into pods
// Conformance: [sig-auth] ServiceAccounts should mount projected service account token
// Conformance: [sig-auth] ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace
// Conformance: [sig-auth] ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer
#[test]
fn accounts_in_pods_and_secrets_on_disk() {
    let scratch = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).expect("is written");
        path.display().to_string()
    };
    let (policy, encryption) = (file("policy.yaml", POLICY), file("encryption.yaml", ENCRYPTION));
    let tokens = file("tokens.csv", "static-secret,alice,7,\"dev,ops\"\n");
    let log = scratch.path().join("audit.log");
    let log_path = log.display().to_string();
    let flags = [
        "--audit-policy-file", &policy, "--audit-log-path", &log_path, "--encryption-provider-config", &encryption,
        "--token-auth-file", &tokens,
    ];
    let Some(mut cluster) = for_test(&flags) else { return };

    cluster.apply(PODS);
    let done = |phase: &str| phase == "Succeeded";
    cluster.eventually("get pod token -o jsonpath={.status.phase}", SOON, done);
    cluster.eventually("get pod projected -o jsonpath={.status.phase}", SOON, done);
    let user = "system:serviceaccount:default:mount-test";
    let token = cluster.kubectl("logs token -c token");
    assert_eq!(review(&cluster, &token)["user"]["username"], user);
    let authority = cluster.kubectl("logs token -c ca");
    let published = cluster.kubectl("get configmap kube-root-ca.crt -o jsonpath={.data.ca\\.crt}");
    assert_eq!((authority.trim(), cluster.kubectl("logs token -c namespace").trim()), (published.trim(), "default"));
    let projected = cluster.kubectl("logs projected");
    let (mode, token) = projected.split_once('\n').expect("two lines");
    assert_eq!(mode, "640 0 10000");
    let status = review(&cluster, token);
    assert_eq!((&status["user"]["username"], &status["authenticated"]), (&user.into(), &true.into()));

    // A pod that knows its token alone finds out by itself whether it holds, and for whom.
    cluster.eventually("get pod issuer -o jsonpath={.status.phase}", SOON, done);
    assert_eq!(cluster.kubectl("logs issuer -c meant").trim(), user);
    assert_eq!(cluster.kubectl("logs issuer -c other").trim(), "refused: it is meant for others");

    // The authority's certificate comes back, whatever is done to it.
    cluster.kubectl("create namespace elsewhere");
    let text = |wanted: String| move |found: &str| found.trim() == wanted.trim();
    let get = "get configmap kube-root-ca.crt -n elsewhere --ignore-not-found -o jsonpath={.data}";
    let whole = cluster.eventually(get, SOON, |found| found.contains("BEGIN CERTIFICATE"));
    cluster.kubectl("delete configmap kube-root-ca.crt -n elsewhere");
    cluster.eventually(get, SOON, text(whole.clone()));
    cluster.kubectl_words(&["patch", "configmap", "kube-root-ca.crt", "-n", "elsewhere", "--type", "merge", "-p", r#"{"data": {"ca.crt": "", "other": "x"}}"#]);
    cluster.eventually(get, SOON, text(whole));

    cluster.kubectl("create secret generic quiet --from-literal=password=swordfish-on-disk");
    cluster.kubectl("create configmap loud --from-literal=word=herring-on-disk");
    cluster.kill_server().expect("is killed");
    let store = cluster.data_dir.join("server");
    // c3dvcmRmaXNoLW9uLWRpc2s= is how the secret's value stands in JSON.
    assert!(holds(&store, "herring-on-disk") && !holds(&store, "c3dvcmRmaXNoLW9uLWRpc2s"));
    assert!(holds(&store, "k8s:enc:secretbox:v1:key1:"));
    cluster.start_server().expect("starts again");
    assert_eq!(cluster.kubectl("get secret quiet -o jsonpath={.data.password}").trim(), "c3dvcmRmaXNoLW9uLWRpc2s=");

    let recorded = fs::read_to_string(&log).expect("a log");
    let events = recorded.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let made = events.into_iter().find(|event| event["verb"] == "create" && event["objectRef"]["resource"] == "secrets");
    let made = made.expect("is recorded");
    assert_eq!((&made["level"], &made["stage"], &made["responseStatus"]["code"]), (&"Request".into(), &"ResponseComplete".into(), &201.into()));
    assert_eq!((&made["requestObject"]["metadata"]["name"], &made["sourceIPs"][0]), (&"quiet".into(), &"127.0.0.1".into()));
    assert_eq!(review(&cluster, "static-secret")["user"]["groups"][1], "ops");
}
