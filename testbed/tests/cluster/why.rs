//! `kubectl why`: a reason for every Pending, every restart, every rollout that hangs, everything that does not go.

use std::time::Duration;

use testbed::cluster::for_test;

use crate::ours::Ours;

const SOON: Duration = Duration::from_secs(60);

const HARDSHIPS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: well}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: picky}
spec: {nodeSelector: {disktype: ssd}, containers: [{name: main, image: "busybox:1.35"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec: {containers: [{name: main, image: "busybox:1.35", resources: {requests: {cpu: "1000"}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nobodys}
spec: {schedulerName: nobody, containers: [{name: main, image: "busybox:1.35"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: imageless}
spec: {containers: [{name: main, image: "nonesuch/image:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: mapless}
spec: {containers: [{name: main, image: "busybox:1.35", command: [sleep, "1"], envFrom: [{configMapRef: {name: nowhere}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: crasher}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "busybox:1.35", command: [sh, -c, "echo about to fail; exit 3"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: killed}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "busybox:1.35", command: [sh, -c, exit 139]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "busybox:1.35", command: [tail, /dev/zero], resources: {limits: {memory: 16Mi}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unready}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"], readinessProbe: {exec: {command: [sh, -c, "echo not yet; false"]}, periodSeconds: 1}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unalive}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"], livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1}}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stuck}
spec:
  progressDeadlineSeconds: 1
  selector: {matchLabels: {app: stuck}}
  template: {metadata: {labels: {app: stuck}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "nonesuch/image:1"}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: paused}
spec:
  paused: true
  replicas: 0
  selector: {matchLabels: {app: paused}}
  template: {metadata: {labels: {app: paused}}, spec: {containers: [{name: main, image: "busybox:1.35"}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec: {backoffLimit: 0, template: {spec: {restartPolicy: Never, containers: [{name: main, image: "busybox:1.35", command: ["false"]}]}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: held, finalizers: [example.com/hold]}
---
apiVersion: v1
kind: Namespace
metadata: {name: poor}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: none, namespace: poor}
spec: {hard: {pods: "0"}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: refused, namespace: poor}
spec:
  selector: {matchLabels: {app: refused}}
  template: {metadata: {labels: {app: refused}}, spec: {containers: [{name: main, image: "busybox:1.35"}]}}
---
apiVersion: v1
kind: Namespace
metadata: {name: lingering}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: held, namespace: lingering, finalizers: [example.com/hold]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: unbound}
spec: {storageClassName: nonesuch, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

#[test]
fn why_names_the_reason() {
    let Some(cluster) = for_test(&[]) else { return };
    let home = tempfile::tempdir().expect("a scratch directory");
    let ours = Ours { cluster: &cluster, home: home.path() };
    ours.apply(HARDSHIPS);
    ours.run("kubectl delete configmap held --wait=false");
    ours.run("kubectl delete namespace lingering --wait=false");

    let table: &[(&str, &[&str])] = &[
        ("well", &["pod/well is as it should be"]),
        ("picky", &["cannot be scheduled: 0/1 nodes are available", "NODES", "1 ", "didn't match Pod's node affinity/selector"]),
        ("greedy", &["cannot be scheduled", "Insufficient cpu"]),
        ("nobodys", &["no scheduler named \"nobody\""]),
        ("imageless", &["container main waits: ImagePullBackOff", "nonesuch/image:1"]),
        ("mapless", &["CreateContainerConfigError", "configmap \"nowhere\" not found"]),
        ("crasher", &["exit code 3", "restarted", "its last lines:", "about to fail"]),
        ("killed", &["exit code 139, killed by signal 11 (SIGSEGV)"]),
        ("hungry", &["OOMKilled: it used more memory than its limit (16Mi)"]),
        ("unready", &["container main runs but is not ready", "Readiness probe failed", "not yet"]),
        ("unalive", &["Liveness probe failed", "restarted"]),
        ("deployment/stuck", &["ProgressDeadlineExceeded", "pod/stuck-", "ImagePullBackOff"]),
        ("deployment/paused", &["paused: changes wait for `kubectl rollout resume`"]),
        ("job/hopeless", &["BackoffLimitExceeded", "exit code 1"]),
        ("configmap/held", &["being deleted since", "held by the finalizer example.com/hold"]),
        ("namespace/lingering", &["being deleted since", "SomeFinalizersRemain", "example.com/hold"]),
        ("deployment/refused -n poor", &["exceeded quota: none"]),
        ("pvc/unbound", &["storageclass.storage.k8s.io \"nonesuch\" not found"]),
    ];
    std::thread::scope(|scope| {
        for (what, words) in table {
            let ours = &ours;
            scope.spawn(move || ours.eventually(&format!("kubectl why {what}"), words, SOON));
        }
    });

    let refused = ours.output("kubectl why pod/nonesuch");
    assert_eq!(String::from_utf8_lossy(&refused.stderr), "Error from server (NotFound): pods \"nonesuch\" not found\n");
    assert_eq!(refused.status.code(), Some(1));
    for held in ["configmap held -n default", "configmap held -n lingering"] {
        ours.run(&format!("kubectl patch {held} --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'"));
    }
}
