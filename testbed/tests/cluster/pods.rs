//! What a pod's spec can ask of the node, each feature seen from inside a container or through the real kubectl.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::cluster::{Cluster, for_test, kubectls};

const SOON: Duration = Duration::from_secs(30);

/// The cluster for a test, or None where the machine cannot run one (said by name).
const ENVIRONMENT: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue, size: "7", notes.txt: "line one\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {password: s3cret}
---
apiVersion: v1
kind: Pod
metadata: {name: environment, labels: {app: env, tier: qa}, annotations: {note: "a note"}}
spec:
  restartPolicy: Never
  hostname: custom-host
  subdomain: sub
  hostAliases: [{ip: 10.9.8.7, hostnames: [alias.example, other.example]}]
  volumes:
  - {name: map, configMap: {name: settings, items: [{key: color, path: deep/colour, mode: 0400}]}}
  - {name: all, configMap: {name: settings, defaultMode: 0640}}
  - {name: secret, secret: {secretName: hidden}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  - {name: disk, emptyDir: {}}
  - {name: maybe, configMap: {name: absent, optional: true}}
  - name: together
    projected:
      sources:
      - configMap: {name: settings, items: [{key: size, path: size}]}
      - secret: {name: hidden, items: [{key: password, path: pw}]}
      - downwardAPI:
          items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: limit, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}
      - serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 600}
  containers:
  - name: main
    image: busybox:1.35
    workingDir: /tmp
    command: [sh, -c]
    args:
    - |
      echo "directory=$PWD arguments=$*"
      echo "hostname=$(hostname) file=$(cat /etc/hostname) aliases=$(grep alias.example /etc/hosts | tr '\t' ' ')"
      echo "self=$(grep $POD_IP /etc/hosts | tr '\t' ' ')"
      echo "fields=$NAME/$NAMESPACE/$NODE/$ACCOUNT/$LABEL/$NOTE"
      echo "keys=$COLOUR/$PASSWORD/$P_color/$P_size/[$ABSENT]"
      echo "expanded=$SECOND"
      echo "resources=$CPU/$MEMORY/$REQUEST"
      echo "api=$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"
      echo "modes=$(stat -Lc '%a' /maps/deep/colour /all/color /secret/password | tr '\n' ' ')"
      echo "projected=$(cat /together/size /together/pw /together/limit)"
      echo "labels=$(tr '\n' ' ' < /together/labels)"
      echo "token=$(cut -d. -f2 /together/token | base64 -d 2>/dev/null | grep -o '"aud":\["somebody"\]')"
      echo "memory=$(mount | grep ' /memory ' | cut -d' ' -f5) $(df -m /memory | tail -1 | tr -s ' ' | cut -d' ' -f2)"
      echo "optional=$(ls /maybe | wc -l)"
      echo "unwritten=$(mount | grep -cE "^tmpfs on (/secret|/together|/var/run/secrets/kubernetes.io/serviceaccount) ")"
      echo "subpath=$(cat /sub/notes.txt)"
      echo "readonly=$(touch /secret/x 2>&1)"
      echo "account=$(ls /var/run/secrets/kubernetes.io/serviceaccount | tr '\n' ' ')"
      echo "limit=$(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null)"
      echo "quota=$(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | cut -d' ' -f1)"
      echo "sysctl=$( (echo x > /proc/sys/kernel/domainname) 2>&1)"
      exit 4
    - name
    - "$(LITERAL)"
    - "$$(LITERAL)"
    env:
    - {name: LITERAL, value: plain}
    - {name: SECOND, value: "$(LITERAL)-$(UNKNOWN)-$$(LITERAL)"}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
    - {name: ABSENT, valueFrom: {configMapKeyRef: {name: absent, key: color, optional: true}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    envFrom: [{prefix: P_, configMapRef: {name: settings}}]
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 250m, memory: 32Mi}}
    volumeMounts:
    - {name: map, mountPath: /maps}
    - {name: all, mountPath: /all}
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: memory, mountPath: /memory}
    - {name: disk, mountPath: /disk}
    - {name: together, mountPath: /together}
    - {name: maybe, mountPath: /maybe}
    - {name: all, mountPath: /sub/notes.txt, subPath: notes.txt}
"#;

/// What the container above must say, line by line.
const ENVIRONMENT_SEEN: &[&str] = &[
    "directory=/tmp arguments=plain $(LITERAL)",
    "hostname=custom-host file=custom-host aliases=10.9.8.7 alias.example other.example",
    "custom-host.sub.default.svc.cluster.local custom-host",
    "fields=environment/default/testbed/default/qa/a note",
    "keys=blue/s3cret/blue/7/[]",
    "expanded=plain-$(UNKNOWN)-$(LITERAL)",
    "resources=1/64/250",
    "api=NETWORK.0.1:443",
    "modes=400 640 644 ",
    "projected=7s3cret64",
    "labels=app=\"env\" tier=\"qa\"",
    "token=\"aud\":[\"somebody\"]",
    "memory=tmpfs 8",
    "optional=0",
    "unwritten=3",
    "subpath=line one",
    "readonly=touch: /secret/x: Read-only file system",
    "account=ca.crt namespace token ",
    "limit=67108864",
    "quota=50000",
    ": can't create /proc/sys/kernel/domainname: Read-only file system",
];

#[test]
fn a_container_sees_its_environment_volumes_and_names() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(ENVIRONMENT);
    cluster.apply(NAMES);
    ended(&cluster, "environment", "Failed");
    let said = cluster.kubectl("logs environment");
    let network = cluster.service_network();
    for wanted in ENVIRONMENT_SEEN {
        let wanted = &wanted.replace("NETWORK", &network);
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
    assert_eq!(cluster.kubectl("get pod environment -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"), "4");

    let host = std::fs::read_to_string("/etc/resolv.conf").expect("the host has one");
    let server = host.lines().find_map(|line| line.strip_prefix("nameserver ")).map(str::trim).unwrap_or("127.0.0.1").to_string();
    let first = "search default.svc.cluster.local svc.cluster.local cluster.local";
    for (pod, wanted) in [
        ("dns-default", vec![format!("nameserver {server}")]),
        ("dns-none", vec!["search one.example two.example".into(), "nameserver 10.1.2.3".into(), "options ndots:2 edns0".into()]),
        ("dns-first", vec![format!("{first} more.example"), format!("nameserver {network}.0.10"), "options ndots:3".into()]),
        ("dns-host", vec![first.into(), format!("nameserver {network}.0.10"), format!("Address: {network}.0.1")]),
        ("dns-host-plain", vec![format!("nameserver {server}")]),
    ] {
        ended(&cluster, pod, "Succeeded");
        let said = cluster.kubectl(&format!("logs {pod}"));
        for line in wanted {
            assert!(said.contains(&line), "{pod}: {line} in {said}");
        }
    }
    // The host's own name and network namespace.
    let said = cluster.kubectl("logs dns-host");
    let here = std::fs::read_link("/proc/self/ns/net").expect("reads").display().to_string();
    assert!(said.contains(&here), "{here} in {said}");
    let addresses = cluster.kubectl("get pod dns-host -o jsonpath={.status.podIP}/{.status.hostIP}");
    let (pod, node) = addresses.split_once('/').expect("two addresses");
    assert_eq!(pod, node);

    ended(&cluster, "paths", "Succeeded");
    let said = cluster.kubectl("logs paths");
    for wanted in ["drwxr-xr-x", "-rw-r--r--", "crw-rw-rw-", "written"] {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
    let bad = "hostPath type check failed: /nonexistent is not a directory";
    cluster.eventually("describe pod paths-bad", SOON, |text| {
        text.contains("MountVolume.SetUp failed for volume \"a\" : ") && text.contains(bad)
    });
    // What was made below /tmp for this test.
    let _ = std::fs::remove_dir_all(HOST_DIRECTORY);
}

const HOST_DIRECTORY: &str = "/tmp/coracle-test-host-path";

const NAMES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: dns-default}
spec:
  dnsPolicy: Default
  restartPolicy: Never
  containers: [{name: main, image: "busybox:1.35", command: [cat, /etc/resolv.conf]}]
---
apiVersion: v1
kind: Pod
metadata: {name: dns-none}
spec:
  dnsPolicy: None
  dnsConfig: {nameservers: [10.1.2.3], searches: [one.example, two.example], options: [{name: ndots, value: "2"}, {name: edns0}]}
  restartPolicy: Never
  containers: [{name: main, image: "busybox:1.35", command: [cat, /etc/resolv.conf]}]
---
apiVersion: v1
kind: Pod
metadata: {name: dns-first}
spec:
  dnsConfig: {searches: [more.example], options: [{name: ndots, value: "3"}]}
  restartPolicy: Never
  containers: [{name: main, image: "busybox:1.35", command: [cat, /etc/resolv.conf]}]
---
apiVersion: v1
kind: Pod
metadata: {name: dns-host}
spec:
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "cat /etc/resolv.conf; nslookup kubernetes.default.svc.cluster.local; readlink /proc/self/ns/net"]
---
apiVersion: v1
kind: Pod
metadata: {name: dns-host-plain}
spec:
  hostNetwork: true
  restartPolicy: Never
  containers: [{name: main, image: "busybox:1.35", command: [cat, /etc/resolv.conf]}]
---
apiVersion: v1
kind: Pod
metadata: {name: paths}
spec:
  restartPolicy: Never
  volumes:
  - {name: a, hostPath: {path: /tmp/coracle-test-host-path/made, type: DirectoryOrCreate}}
  - {name: b, hostPath: {path: /tmp/coracle-test-host-path/made/file, type: FileOrCreate}}
  - {name: c, hostPath: {path: /dev/null, type: CharDevice}}
  - {name: d, hostPath: {path: /tmp, type: Directory}}
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "ls -ld /a /b /c /d; echo written > /a/x; cat /d/coracle-test-host-path/made/x"]
    volumeMounts:
    - {name: a, mountPath: /a}
    - {name: b, mountPath: /b}
    - {name: c, mountPath: /c}
    - {name: d, mountPath: /d, readOnly: true}
---
apiVersion: v1
kind: Pod
metadata: {name: paths-bad}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: a, hostPath: {path: /nonexistent, type: Directory}}]
  containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"], volumeMounts: [{name: a, mountPath: /a}]}]
"#;

#[test]
fn containers_start_stop_fail_and_start_again_in_order() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(LIVES);
    cluster.kubectl("wait --for=condition=Ready pod/order --timeout=30s");
    let log = Path::new(HOST_ORDER);
    cluster.eventually("get pod order", SOON, |_| std::fs::read_to_string(log).is_ok_and(|it| it.contains("post")));
    let table = cluster.kubectl("get pod order --no-headers");
    assert!(table.contains("2/2"), "a sidecar counts as a container: {table}");
    cluster.kubectl("delete pod order");
    let order = std::fs::read_to_string(log).expect("reads").replace('\n', " ");
    let _ = std::fs::remove_dir_all(log.parent().expect("has one"));
    assert_eq!(order.trim_end(), "first sidecar second main post pre main-stop sidecar-stop");

    let status = |pod: &str| -> Value {
        let text = cluster.kubectl(&format!("get pod {pod} -o jsonpath={{.status}}"));
        serde_json::from_str(&text).expect("JSON")
    };
    ended(&cluster, "oom", "Failed");
    let oom = status("oom");
    let state = &oom["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["reason"], &state["exitCode"]), (&"OOMKilled".into(), &137.into()), "{oom}");
    ended(&cluster, "deadline", "Failed");
    let deadline = status("deadline");
    assert_eq!(deadline["reason"], "DeadlineExceeded", "{deadline}");
    assert_eq!(deadline["message"], "Pod was active on the node longer than the specified deadline");
    ended(&cluster, "once", "Succeeded");
    assert_eq!(status("once")["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");

    cluster.eventually("get pods crash fallback", SOON, |text| text.matches("CrashLoopBackOff").count() == 2);
    let crash = status("crash");
    let container = &crash["containerStatuses"][0];
    let message = container["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("back-off ") && message.contains("restarting failed container=main pod=crash_default("), "{crash}");
    let last = &container["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"], &last["message"]), (&3.into(), &"Error".into(), &"last words\n".into()), "{crash}");
    assert!(container["restartCount"].as_i64() >= Some(1), "{crash}");
    let fallback = status("fallback");
    assert_eq!(fallback["containerStatuses"][0]["lastState"]["terminated"]["message"], "the log tells\n", "{fallback}");
    let events = cluster.eventually("get events", SOON, |text| {
        text.contains("Back-off restarting failed container main in pod crash_default(")
    });
    for wanted in ["Stopping container main", "Pod was active on the node longer than the specified deadline"] {
        assert!(events.contains(wanted), "{wanted} in {events}");
    }
    assert!(cluster.kubectl("logs crash --previous").starts_with("run "));

    for (pod, reason, message) in [
        ("noroot", "CreateContainerConfigError", "container has runAsNonRoot and image will run as root (pod: \"noroot_default("),
        ("nomap", "CreateContainerConfigError", "configmap \"nope\" not found"),
    ] {
        cluster.eventually(&format!("get pod {pod}"), SOON, |text| text.contains(reason));
        let status = status(pod);
        let said = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap_or_default();
        assert!(said.starts_with(message), "{status}");
    }
    cluster.eventually("describe pod nocommand", SOON, |text| {
        text.contains("exec: \"/no/such/program\": stat /no/such/program: no such file or directory")
            && text.contains("StartError")
            && text.contains("128")
    });
    let last = status("nocommand")["containerStatuses"][0]["lastState"]["terminated"].clone();
    assert_eq!(last["startedAt"], "1970-01-01T00:00:00Z", "{last}");
    cluster.eventually("describe pod nosecret", SOON, |text| {
        text.contains("MountVolume.SetUp failed for volume \"v\" : secret \"nope\" not found")
    });
    let wait = cluster.kubectl_fails("logs nomap");
    assert!(wait.contains("container \"main\" in pod \"nomap\" is waiting to start: CreateContainerConfigError"), "{wait}");

    // A container that ignores SIGTERM is killed after the grace period, or at once.
    cluster.kubectl("wait --for=condition=Ready pod/stubborn pod/stubborn-too --timeout=30s");
    let started = Instant::now();
    cluster.kubectl("delete pod stubborn");
    let took = started.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(8)).contains(&took), "{took:?}");
    let started = Instant::now();
    cluster.kubectl("delete pod stubborn-too --grace-period=1");
    assert!(started.elapsed() < Duration::from_secs(8));
    let forced = cluster.kubectl("delete pod crash --grace-period=0 --force");
    assert!(forced.contains("pod \"crash\" force deleted"), "{forced}");
}

const HOST_ORDER: &str = "/tmp/coracle-test-order/log";

const LIVES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: order}
spec:
  terminationGracePeriodSeconds: 10
  volumes: [{name: log, hostPath: {path: /tmp/coracle-test-order, type: DirectoryOrCreate}}]
  initContainers:
  - name: first
    image: busybox:1.35
    command: [sh, -c, "sleep 0.3; echo first > /log/log"]
    volumeMounts: [{name: log, mountPath: /log}]
  - name: sidecar
    image: busybox:1.35
    restartPolicy: Always
    command: [sh, -c, "trap 'echo sidecar-stop >> /log/log; exit 0' TERM; sleep 0.3; echo sidecar >> /log/log; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [grep, sidecar, /log/log]}, periodSeconds: 1}
    volumeMounts: [{name: log, mountPath: /log}]
  - name: second
    image: busybox:1.35
    command: [sh, -c, "echo second >> /log/log"]
    volumeMounts: [{name: log, mountPath: /log}]
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "trap 'echo main-stop >> /log/log; exit 0' TERM; echo main >> /log/log; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "sleep 0.2; echo post >> /log/log"]}}
      preStop: {exec: {command: [sh, -c, "sleep 0.3; echo pre >> /log/log"]}}
    volumeMounts: [{name: log, mountPath: /log}]
---
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  containers:
  - {name: main, image: "busybox:1.35", command: [sh, -c, "echo run $RANDOM; echo last words > /dev/termination-log; exit 3"]}
---
apiVersion: v1
kind: Pod
metadata: {name: fallback}
spec:
  restartPolicy: OnFailure
  containers:
  - {name: main, image: "busybox:1.35", terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, "echo the log tells; exit 1"]}
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: OnFailure
  containers: [{name: main, image: "busybox:1.35", command: ["true"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: oom}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "busybox:1.35", command: [tail, /dev/zero], resources: {limits: {memory: 16Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: deadline}
spec:
  activeDeadlineSeconds: 1
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: noroot}
spec:
  securityContext: {runAsNonRoot: true}
  containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nomap}
spec:
  containers:
  - {name: main, image: "busybox:1.35", command: [sleep, "3600"], env: [{name: A, valueFrom: {configMapKeyRef: {name: nope, key: a}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nosecret}
spec:
  volumes: [{name: v, secret: {secretName: nope}}]
  containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nocommand}
spec:
  containers: [{name: main, image: "busybox:1.35", command: [/no/such/program]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 2
  containers: [{name: main, image: "busybox:1.35", command: [sh, -c, "trap '' TERM; while :; do sleep 0.2; done"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn-too}
spec:
  terminationGracePeriodSeconds: 60
  containers: [{name: main, image: "busybox:1.35", command: [sh, -c, "trap '' TERM; while :; do sleep 0.2; done"]}]
"#;

#[test]
fn probes_security_and_live_volumes() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(PROBES);
    cluster.kubectl("wait --for=condition=Ready pod/secure --timeout=30s");
    let line = |container: &str, name: &str| -> Vec<String> {
        let init = cluster.kubectl(&format!("logs secure -c {container}"));
        let exec = cluster.kubectl(&format!("exec secure -c {container} -- cat /proc/self/status"));
        [init, exec]
            .iter()
            .map(|text| text.lines().find(|it| it.starts_with(name)).map(|it| it.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")))
            .map(Option::unwrap_or_default)
            .collect()
    };
    // In the container's first process, and in what exec adds.
    for (container, name, expected) in [
        ("strict", "Seccomp:", "2"),
        ("strict", "NoNewPrivs:", "1"),
        ("strict", "CapEff:", "0000000000000000"),
        ("strict", "Uid:", "1000 1000 1000 1000"),
        ("strict", "Groups:", "2000 3000 4000"),
        ("default", "Seccomp:", "2"),
        ("default", "NoNewPrivs:", "0"),
        ("default", "CapEff:", "00000000a80425fb"),
        ("some", "CapEff:", "00000000a80435fa"),
        ("privileged", "Seccomp:", "0"),
    ] {
        assert_eq!(line(container, name), [expected, expected], "{name} of {container}");
    }
    let said = cluster.kubectl("logs secure -c strict");
    for wanted in ["drwxrwsrwx 0 2000", "-rw-r--r-- 1000 2000", "40000\t50000", "touch: /x: Read-only file system"] {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }

    // Ready by http, started by tcp.
    let ready = |pod: &str, wanted: &str| {
        cluster.eventually(&format!("get pod {pod} -o jsonpath={{.status.conditions[?(@.type=='Ready')].status}}"), SOON, |it| it == wanted);
    };
    cluster.eventually("describe pod web", SOON, |text| text.contains("Readiness probe failed: HTTP probe failed with statuscode: 404"));
    ready("web", "False");
    cluster.kubectl_words(&["exec", "web", "--", "sh", "-c", "echo yes > /www/ready"]);
    ready("web", "True");
    cluster.eventually("describe pod late", SOON, |text| {
        text.contains("Startup probe failed: dial tcp") && text.contains("connect: connection refused")
    });
    ready("late", "True");
    // Dead by exec: killed and started again.
    cluster.kubectl("wait --for=condition=Ready pod/mortal --timeout=30s");
    cluster.kubectl("exec mortal -- rm /alive");
    cluster.eventually("get pod mortal -o jsonpath={.status.containerStatuses[0].restartCount}", SOON, |it| it == "1");
    cluster.eventually("describe pod mortal", SOON, |text| {
        text.contains("Liveness probe failed: cat: can't open '/alive': No such file or directory")
            && text.contains("Container main failed liveness probe, will be restarted")
    });

    // One process namespace, a sub-path by expression, a host port, a name with its domain, and a visitor to debug.
    cluster.kubectl("wait --for=condition=Ready pod/shared --timeout=30s");
    let processes = cluster.kubectl("exec shared -c a -- ps");
    assert!(processes.contains("nginx: master process") && processes.contains("sleep 3600"), "{processes}");
    assert_eq!(cluster.kubectl("exec shared -c a -- hostname"), "shared.sub.default.svc.cluster.local\n");
    cluster.kubectl("exec shared -c a -- touch /inner/made");
    assert_eq!(cluster.kubectl("exec shared -c a -- ls /outer/here/x"), "made\n");
    assert!(fetch(28_090).is_some_and(|page| page.contains("Welcome to nginx!")), "the host port answers");
    cluster.kubectl("debug shared --profile=general --image=busybox:1.35 --container=guest --target=b -- ps");
    let guest = "get pod shared -o jsonpath={.status.ephemeralContainerStatuses[?(@.name=='guest')].state.terminated.reason}";
    cluster.eventually(guest, SOON, |text| text == "Completed");
    assert!(cluster.kubectl("logs shared -c guest").contains("nginx: master process"));

    // A changed configMap arrives; a subPath keeps what it was.
    cluster.kubectl_words(&["patch", "configmap", "live", "-p", r#"{"data":{"color":"red"}}"#]);
    // The original notices within a minute; an annotation makes it look at once.
    cluster.kubectl("annotate pod web look=now");
    cluster.eventually("exec web -- cat /live/color", SOON, |text| text == "red");
    assert_eq!(cluster.kubectl("exec web -- cat /fixed"), "blue");
}

const PROBES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: live}
data: {color: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: live, configMap: {name: live}}]
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "mkdir /www; exec httpd -f -p 8080 -h /www"]
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /ready, port: web}, periodSeconds: 1}
    volumeMounts: [{name: live, mountPath: /live}, {name: live, mountPath: /fixed, subPath: color}]
---
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "sleep 1.5; exec httpd -f -p 8081"]
    startupProbe: {tcpSocket: {port: 8081}, periodSeconds: 1, failureThreshold: 10}
---
apiVersion: v1
kind: Pod
metadata: {name: mortal}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, "touch /alive; trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    livenessProbe: {exec: {command: [cat, /alive]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  shareProcessNamespace: true
  setHostnameAsFQDN: true
  subdomain: sub
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: a
    image: busybox:1.35
    command: [sleep, "3600"]
    env: [{name: WHERE, value: here}]
    volumeMounts: [{name: v, mountPath: /inner, subPathExpr: $(WHERE)/x}, {name: v, mountPath: /outer}]
  - {name: b, image: "nginx:1.16", ports: [{containerPort: 80, hostPort: 28090}]}
---
apiVersion: v1
kind: Pod
metadata: {name: secure}
spec:
  terminationGracePeriodSeconds: 0
  securityContext:
    runAsUser: 1000
    runAsGroup: 3000
    fsGroup: 2000
    supplementalGroups: [4000]
    seccompProfile: {type: RuntimeDefault}
    sysctls: [{name: net.ipv4.ip_local_port_range, value: "40000 50000"}]
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: strict
    image: busybox:1.35
    command:
    - sh
    - -c
    - |
      stat -c '%A %u %g' /v; touch /v/f; stat -c '%A %u %g' /v/f
      cat /proc/self/status /proc/sys/net/ipv4/ip_local_port_range; touch /x; sleep 3600
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: v, mountPath: /v}]
  - name: default
    image: busybox:1.35
    command: [sh, -c, "cat /proc/self/status; sleep 3600"]
    securityContext: {runAsUser: 0}
  - name: some
    image: busybox:1.35
    command: [sh, -c, "cat /proc/self/status; sleep 3600"]
    securityContext: {runAsUser: 0, capabilities: {add: [NET_ADMIN], drop: [CHOWN]}}
  - name: privileged
    image: busybox:1.35
    command: [sh, -c, "cat /proc/self/status; sleep 3600"]
    securityContext: {runAsUser: 0, privileged: true}
"#;

#[test]
fn every_kubectl_reads_logs_executes_attaches_copies_and_forwards() {
    let Some(cluster) = for_test(&[]) else { return };
    cluster.apply(TALKER);
    cluster.kubectl("wait --for=condition=Ready pod/talker pod/terminal --timeout=30s");
    cluster.eventually("logs talker --tail=1", SOON, |text| text == "line 29\n");
    let lines = |line: &str| cluster.kubectl(line).lines().count();
    assert_eq!(lines("logs talker"), 30);
    assert_eq!(cluster.kubectl("logs talker --tail=2"), "line 28\nline 29\n");
    assert_eq!(cluster.kubectl("logs talker --limit-bytes=6"), "line 0");
    assert_eq!(lines("logs talker --since=1h"), 30);
    assert_eq!(lines("logs talker --since-time=2099-01-01T00:00:00Z"), 0);
    let stamped = cluster.kubectl("logs talker --timestamps --tail=1");
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 29\n"), "{stamped}");
    assert!(cluster.kubectl("logs talker --all-containers --prefix --tail=1").contains("[pod/talker/main] line 29"));
    let none = cluster.kubectl_fails("logs talker --previous");
    assert!(none.contains("previous terminated container \"main\" in pod \"talker\" not found"), "{none}");
    let bad = cluster.kubectl_fails("exec talker -- /no/such");
    assert!(bad.contains("exec: \"/no/such\": stat /no/such: no such file or directory"), "{bad}");

    // -f tells what comes later, and ends with the container.
    let follower = cluster.kubectl_command(&["logs", "-f", "talker", "--tail=1"]).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    std::thread::sleep(Duration::from_millis(300));
    let mut attached = cluster
        .kubectl_command(&["attach", "-i", "talker"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    attached.stdin.as_mut().expect("has input").write_all(b"said by attach\n").expect("writes");
    cluster.eventually("logs talker --tail=1", SOON, |text| text == "heard said by attach\n");
    drop(attached.stdin.take());

    let local = cluster.data_dir.with_file_name("copied");
    std::fs::create_dir_all(local.join("sent")).expect("a directory");
    std::fs::write(local.join("sent/file"), "content\n").expect("writes");
    for (index, kubectl) in kubectls().iter().enumerate() {
        let run = |words: &[&str]| -> String {
            let output = cluster.kubectl_command_of(kubectl, words).stdin(Stdio::null()).output().expect("kubectl runs");
            assert!(output.status.success(), "{} {words:?}: {output:?}", kubectl.display());
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let (sent, there) = (local.join("sent").display().to_string(), format!("talker:/tmp/there-{index}"));
        run(&["cp", &sent, &there]);
        let back = local.join(format!("back-{index}"));
        run(&["cp", &there, &back.display().to_string()]);
        assert_eq!(std::fs::read_to_string(back.join("file")).expect("came back"), "content\n", "{}", kubectl.display());
        assert_eq!(run(&["exec", "talker", "--", "cat", &format!("/tmp/there-{index}/file")]), "content\n");
        assert_eq!(run(&["logs", "talker", "--tail=1"]), "heard said by attach\n");

        let port = 28_100 + index as u16;
        let mut forward = cluster
            .kubectl_command_of(kubectl, &["port-forward", "pod/web", &format!("{port}:8080")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl runs");
        let page = (0..100).find_map(|_| fetch(port).or_else(|| {
            std::thread::sleep(Duration::from_millis(50));
            None
        }));
        let again = fetch(port);
        forward.kill().expect("is killed");
        forward.wait().expect("ends");
        for page in [page, again] {
            assert!(page.is_some_and(|it| it.contains("forwarded")), "{}", kubectl.display());
        }
    }

    // Terminals: exec has one of the size of kubectl's, attach meets the shell that waits there.
    let kubectl = kubectls().pop().expect("a kubectl");
    let prefix = format!("stty rows 41 cols 97; {} --kubeconfig {}", kubectl.display(), cluster.kubeconfig().display());
    let shown = typed(&format!("{prefix} exec -it talker -- sh -c 'sleep 0.5; stty size; tty; exit 3'"), "");
    assert!(shown.contains("41 97") && shown.contains("/dev/pts/0"), "{shown}");
    let shown = typed(&format!("{prefix} attach -it terminal"), "echo $((6*7))\nexit\n");
    assert!(shown.contains("42"), "{shown}");

    cluster.kubectl("delete pod talker");
    let told = String::from_utf8_lossy(&follower.wait_with_output().expect("ends").stdout).into_owned();
    assert_eq!(told, "line 29\nheard said by attach\nbye\n");
}

const TALKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - name: main
    image: busybox:1.35
    stdin: true
    command:
    - sh
    - -c
    - |
      trap 'echo bye; exit 0' TERM
      i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done
      while :; do read -t 1 words && echo heard $words || sleep 0.2; done
---
apiVersion: v1
kind: Pod
metadata: {name: terminal}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "busybox:1.35", stdin: true, tty: true, command: [sh]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: "busybox:1.35", command: [sh, -c, "mkdir /www; echo forwarded > /www/index.html; exec httpd -f -p 8080 -h /www"]}
"#;

/// What a shell line shows on a terminal on which this is typed.
fn typed(line: &str, input: &str) -> String {
    let mut child = Command::new("script")
        .args(["-qec", line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1) of util-linux runs");
    std::thread::sleep(Duration::from_millis(700));
    let mut stdin = child.stdin.take().expect("has input");
    stdin.write_all(input.as_bytes()).expect("types");
    // `script` ends when its input does, so it stays open until the line had time to end.
    let waiter = std::thread::spawn(move || child.wait_with_output());
    std::thread::sleep(Duration::from_millis(1300));
    drop(stdin);
    let output = waiter.join().expect("no panic").expect("ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fetch(port: u16) -> Option<String> {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

/// Waits for a pod's phase.
#[track_caller]
fn ended(cluster: &Cluster, pod: &str, phase: &str) {
    cluster.eventually(&format!("get pod {pod} -o jsonpath={{.status.phase}}"), SOON, |text| text == phase);
}
