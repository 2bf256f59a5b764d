//! Services and names, as pods, the host and programs that talk to the API from inside meet them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use testbed::cluster::{Cluster, kubectls, missing};

const SOON: Duration = Duration::from_secs(30);

const SERVICES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: &serve
  terminationGracePeriodSeconds: 0
  hostname: a
  subdomain: headless
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "mkdir /www; hostname > /www/index.html; touch /ready; exec httpd -f -p 8080 -h /www"]
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {exec: {command: [cat, /ready]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  hostname: b
  subdomain: headless
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "mkdir /www; hostname > /www/index.html; touch /ready; exec httpd -f -p 8080 -h /www"]
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {exec: {command: [cat, /ready]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: visitor}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: kubectl, hostPath: {path: "KUBECTL", type: File}}]
  containers:
  - name: main
    image: busybox:1.35
    command: [sleep, "3600"]
    volumeMounts: [{name: kubectl, mountPath: /bin/kubectl-of-host}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: port}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 31080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {type: NodePort, selector: {app: nobody}, ports: [{port: 80, nodePort: 31081}]}
---
apiVersion: v1
kind: Service
metadata: {name: external}
spec: {externalIPs: [10.77.0.1], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: byhand}
spec: {ports: [{port: 80, targetPort: 8080}]}
"#;

#[test]
fn services_are_reached_by_pods_and_the_host() {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let cluster = Cluster::start().expect("the cluster starts");
    let kubectl = kubectls().pop().expect("a kubectl");
    cluster.apply(&SERVICES.replace("&serve", "").replace("KUBECTL", &kubectl.display().to_string()));
    cluster.kubectl("wait --for=condition=Ready pod/a pod/b pod/visitor --timeout=30s");
    let run = |pod: &str, script: &str| cluster.kubectl_words(&["exec", pod, "--", "sh", "-c", script]);
    let of = |kind: &str, name: &str, path: &str| cluster.kubectl(&format!("get {kind} {name} -o jsonpath={{{path}}}"));
    let both: BTreeSet<String> = ["a".to_string(), "b".to_string()].into();

    // Every name that the search path makes of one.
    for name in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local", "port", "outside", "headless:8080"] {
        let answer = run("visitor", &format!("wget -q -O - http://{name}/"));
        assert!(both.contains(answer.trim_end()), "{name} answers {answer}");
    }
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: byhand}}\nsubsets: [{{addresses: [{{ip: {}}}], ports: [{{port: 8080}}]}}]\n",
        of("pod", "b", ".status.podIP"),
    ));
    cluster.eventually("get endpointslices -l kubernetes.io/service-name=byhand", SOON, |text| text.contains("8080"));
    let answer = run("visitor", "sleep 0.2; wget -q -O - http://byhand/; wget -q -O - http://10.77.0.1/");
    assert!(answer.starts_with("b\n") && answer.lines().count() == 2, "{answer}");
    assert_eq!(run("visitor", "wget -q -O - http://a.headless:8080; wget -q -O - http://b.headless.default.svc.cluster.local:8080"), "a\nb\n");
    let many = |pod: &str, service: &str| -> BTreeSet<String> {
        let script = format!("for i in $(seq 24); do wget -q -O - http://{service}/; done");
        run(pod, &script).lines().map(String::from).collect()
    };
    assert_eq!(many("visitor", "web"), both, "requests spread over the endpoints");
    assert_eq!(many("a", "web"), both, "an endpoint reaches itself through its Service");
    assert_eq!(many("visitor", "sticky").len(), 1, "a client stays with its endpoint");

    // From the host, and by the node's address from a pod.
    let node = of("node", "testbed", ".status.addresses[0].address");
    for address in [
        format!("{}:80", of("service", "web", ".spec.clusterIP")),
        format!("{}:8080", of("pod", "a", ".status.podIP")),
        "127.0.0.1:31080".into(),
        format!("{node}:31080"),
    ] {
        let answer = fetch(&address).unwrap_or_else(|cause| panic!("{address}: {cause}"));
        assert!(both.contains(answer.lines().last().unwrap_or_default()), "{address} answers {answer}");
    }
    let answer = run("visitor", &format!("wget -q -O - http://{node}:31080/"));
    assert!(both.contains(answer.trim_end()), "{answer}");

    // Nobody behind it: refused at once rather than a timeout.
    let refused = cluster.kubectl_output(&["exec", "visitor", "--", "wget", "-q", "-O", "-", "http://nobody/"]).expect("kubectl runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("Connection refused"), "{said}");
    for address in [format!("{}:80", of("service", "nobody", ".spec.clusterIP")), "127.0.0.1:31081".into()] {
        let started = Instant::now();
        let cause = fetch(&address).expect_err("nobody answers");
        assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused, "{address}");
        assert!(started.elapsed() < Duration::from_secs(1), "{address}");
    }

    names(&cluster, &|script| run("visitor", script));
    the_api_from_inside(&cluster, &|script| run("visitor", script));

    // A Service follows readiness.
    let addresses = "get endpoints web -o jsonpath={.subsets[0].addresses[*].ip}";
    assert_eq!(cluster.kubectl(addresses).split_whitespace().count(), 2);
    run("a", "rm /ready");
    cluster.eventually(addresses, SOON, |text| text.split_whitespace().count() == 1);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(many("visitor", "web"), ["b".to_string()].into());
    assert_eq!(many("visitor", "sticky"), ["b".to_string()].into(), "affinity ends with its endpoint");
    run("a", "touch /ready");
    cluster.eventually(addresses, SOON, |text| text.split_whitespace().count() == 2);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(many("visitor", "web"), both);
    cluster.kubectl("delete service port");
    let end = Instant::now() + SOON;
    while fetch("127.0.0.1:31080").is_ok() {
        assert!(Instant::now() < end, "a deleted NodePort must not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn names(cluster: &Cluster, run: &dyn Fn(&str) -> String) {
    let ip = |pod: &str| cluster.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"));
    let web = cluster.kubectl("get service web -o jsonpath={.spec.clusterIP}");
    let reversed: Vec<&str> = web.rsplit('.').collect();
    let dashed = ip("a").replace('.', "-");
    for (query, wanted) in [
        ("outside.default.svc.cluster.local".to_string(), vec!["canonical name = web.default.svc.cluster.local".into(), web.clone()]),
        ("headless.default.svc.cluster.local".into(), vec![ip("a"), ip("b")]),
        ("-type=srv _http._tcp.headless.default.svc.cluster.local".into(), vec![
            "8080 a.headless.default.svc.cluster.local".into(),
            "8080 b.headless.default.svc.cluster.local".into(),
        ]),
        ("-type=srv _http._tcp.web.default.svc.cluster.local".into(), vec!["80 web.default.svc.cluster.local".into()]),
        (format!("-type=ptr {}.in-addr.arpa", reversed.join(".")), vec!["name = web.default.svc.cluster.local".into()]),
        (format!("-type=a {dashed}.default.pod.cluster.local"), vec![ip("a")]),
    ] {
        let said = run(&format!("nslookup {query}"));
        for line in wanted {
            assert!(said.contains(&line), "{query}: {line} in {said}");
        }
    }
    let said = run("nslookup nosuch.default.svc.cluster.local || true");
    assert!(said.contains("NXDOMAIN"), "{said}");
}

/// A client's in-cluster configuration: the Service's address, the pod's token, the cluster's certificate.
fn the_api_from_inside(cluster: &Cluster, run: &dyn Fn(&str) -> String) {
    if !is_static(&kubectls().pop().expect("a kubectl")) {
        eprintln!("skipped: kubectl does not run in a busybox container");
        return;
    }
    const PROGRAM: &str = "HOME=/tmp /bin/kubectl-of-host";
    let who = run(&format!("{PROGRAM} auth whoami"));
    assert!(who.contains("system:serviceaccount:default:default") && who.contains("system:serviceaccounts:default"), "{who}");
    let denied = run(&format!("{PROGRAM} get pods 2>&1 || true"));
    assert!(
        denied.contains("User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""),
        "{denied}"
    );
    cluster.kubectl("create rolebinding reads --clusterrole=view --serviceaccount=default:default");
    let deadline = Instant::now() + SOON;
    while !run(&format!("{PROGRAM} get pods 2>&1 || true")).contains("visitor") {
        assert!(Instant::now() < deadline, "the role must take effect");
    }
    let directory = "/var/run/secrets/kubernetes.io/serviceaccount";
    let by_name = run(&format!(
        "{PROGRAM} --server https://kubernetes.default.svc --certificate-authority {directory}/ca.crt --token $(cat {directory}/token) get --raw /version"
    ));
    assert!(by_name.contains("\"gitVersion\": \"v1.35"), "{by_name}");
}

/// Whether a program needs no loader, which a busybox container lacks.
fn is_static(program: &Path) -> bool {
    std::process::Command::new("readelf")
        .args(["-l", &program.display().to_string()])
        .output()
        .is_ok_and(|output| output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("INTERP"))
}

fn fetch(address: &str) -> std::io::Result<String> {
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
