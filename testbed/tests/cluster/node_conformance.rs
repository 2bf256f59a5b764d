//! What a pod may ask of its node, as the conformance tests of the original ask it.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use testbed::cluster::NODE;
use testbed::session::{self, condition, is_ready, is_true, script, waiting, with, with_main, with_volume};

/// The server of the testbed, in its image.
const SERVER: &str = "testserver";

fn main_status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

// Conformance: [sig-node] ConfigMap should be consumable via environment variable
// Conformance: [sig-node] ConfigMap should be consumable via the environment
// Conformance: [sig-node] ConfigMap should be consumable as environment variable names with various prefixes
// Conformance: [sig-node] Secrets should be consumable from pods in env vars
// Conformance: [sig-node] Secrets should be consumable via the environment
// Conformance: [sig-node] Secrets should be consumable as environment variable names variable names with various prefixes
// Conformance: [sig-node] Downward API should provide pod name, namespace and IP address as env vars
// Conformance: [sig-node] Downward API should provide host IP as an env var
// Conformance: [sig-node] Downward API should provide hostIPs as an env var
// Conformance: [sig-node] Downward API should provide pod UID as env vars
// Conformance: [sig-node] Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars
// Conformance: [sig-node] Downward API should provide default limits.cpu/memory from node allocatable
// Conformance: [sig-node] Variable Expansion should allow composing env vars into new env vars
// Conformance: [sig-node] Variable Expansion should allow substituting values in a container's command
// Conformance: [sig-node] Variable Expansion should allow substituting values in a container's args
#[test]
fn variables_come_from_objects_fields_and_one_another() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let data = json!({"data-1": "value-1", "data-2": "value-2"});
    session.create("configmaps", &json!({"metadata": {"name": "keys"}, "data": data}));
    session.create("secrets", &json!({"metadata": {"name": "keys"}, "stringData": data}));
    let env = |name: &str, text: &str, variables: Value| with_main(script(name, text), json!({"env": variables}));
    let from = |name: &str, text: &str, sources: Value| with_main(script(name, text), json!({"envFrom": sources}));
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let resource = |name: &str, resource: &str, divisor: &str| {
        json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}})
    };
    let key = |kind: &str| json!([{"name": "A", "valueFrom": {kind: {"name": "keys", "key": "data-1"}}}]);
    let prefixed = |kind: &str| -> Value {
        ["", "p-", "123", "#!", "p.q_"].iter().map(|prefix| json!({"prefix": prefix, kind: {"name": "keys"}})).collect()
    };
    // A shell passes on only names that it could have.
    const ENVIRON: &str = "tr '\\0' '\\n' < /proc/1/environ | grep data- | sort";
    const PREFIXED: &str = "#!data-1=value-1\n#!data-2=value-2\n123data-1=value-1\n123data-2=value-2\ndata-1=value-1\ndata-2=value-2\np-data-1=value-1\np-data-2=value-2\np.q_data-1=value-1\np.q_data-2=value-2";
    let amounts = json!([resource("LC", "limits.cpu", "1m"), resource("LM", "limits.memory", "1Mi"), resource("RC", "requests.cpu", "1m"), resource("RM", "requests.memory", "1Mi")]);
    let limits = json!({"resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}}});
    let node = session.get(&format!("nodes/{NODE}"));
    let quantity = |name: &str| api::quantity::Quantity::parse(node["status"]["allocatable"][name].as_str().expect("told")).expect("a quantity");
    let defaults = format!("{} {}", quantity("cpu").value(), quantity("memory").value());
    let addresses = node["status"]["addresses"].as_array().expect("a list").clone();
    let host = addresses.iter().find(|it| it["type"] == "InternalIP").and_then(|it| it["address"].as_str()).expect("an address").to_owned();
    let mut command = script("command", "");
    command["spec"]["containers"][0]["command"] = json!(["sh", "-c", "echo $(SAID) '$$(SAID)' '$(NEVER)'"]);
    let mut arguments = script("arguments", "");
    arguments["spec"]["containers"][0]["command"] = json!(["sh", "-c"]);
    arguments["spec"]["containers"][0]["args"] = json!(["echo $(SAID)"]);
    let said = json!([{"name": "SAID", "value": "test-value"}]);
    session.say(&[
        (env("map", "echo $A", key("configMapKeyRef")), "value-1"),
        (env("secret", "echo $A", key("secretKeyRef")), "value-1"),
        (from("all-map", ENVIRON, prefixed("configMapRef")), PREFIXED),
        (from("all-secret", ENVIRON, prefixed("secretRef")), PREFIXED),
        (env("names", "echo $N $S; hostname -i | grep -qF \"$IP\" && echo own", json!([field("N", "metadata.name"), field("S", "metadata.namespace"), field("IP", "status.podIP")])), "names default\nown"),
        (env("hosts", "echo $H $HS", json!([field("H", "status.hostIP"), field("HS", "status.hostIPs")])), &format!("{host} {host}")),
        (env("uid", "echo $U | grep -cE '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'", json!([field("U", "metadata.uid")])), "1"),
        (with_main(env("limits", "echo $LC $LM $RC $RM", amounts), limits), "1250 64 250 32"),
        (env("defaults", "echo $C $M", json!([resource("C", "limits.cpu", "1"), resource("M", "limits.memory", "1")])), &defaults),
        (env("composed", "echo $C", json!([{"name": "A", "value": "foo-value"}, {"name": "B", "value": "bar-value"}, {"name": "C", "value": "$(A);;$(B)"}])), "foo-value;;bar-value"),
        (with_main(command, json!({"env": said})), "test-value $(SAID) $(NEVER)"),
        (with_main(arguments, json!({"env": said})), "test-value"),
    ]);
}

// Conformance: [sig-node] Containers should use the image defaults if command and args are blank
// Conformance: [sig-node] Containers should be able to override the image's default arguments (container cmd)
// Conformance: [sig-node] Containers should be able to override the image's default command (container entrypoint)
// Conformance: [sig-node] Containers should be able to override the image's default command and arguments
// Conformance: [sig-node] Kubelet when scheduling a busybox command in a pod should print the output to logs
// Conformance: [sig-node] Kubelet when scheduling a read only busybox container should not write to root filesystem
// Conformance: [sig-node] Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts
// Conformance: [sig-node] Security Context When creating a container with runAsUser should run the container with uid 65534
// Conformance: [sig-node] Security Context When creating a pod with privileged should run the container as unprivileged when false
// Conformance: [sig-node] Security Context When creating a pod with readOnlyRootFilesystem should run the container with writable rootfs when readOnlyRootFilesystem=false
// Conformance: [sig-node] Security Context should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup
// Conformance: [sig-node] Security Context should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup
// Conformance: [sig-node] Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false
// Conformance: [sig-node] Sysctls should support sysctls [Environment:NotInUserNS]
#[test]
fn commands_users_and_privileges() {
    // An unsafe one, as the original's test needs it allowed; shm_rmid_forced itself is safe.
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let entry = |name: &str, patch: Value| {
        let pod = with_main(script(name, ""), json!({"image": "testserver:entrypoint", "command": null}));
        with_main(pod, patch)
    };
    let context = |name: &str, text: &str, context: Value| with_main(script(name, text), json!({"securityContext": context}));
    let aliases = json!({"spec": {"hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]}});
    let group = json!({"spec": {"securityContext": {"runAsUser": 1001, "runAsGroup": 2002}}});
    let sysctls = json!({"spec": {"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}}});
    session.say(&[
        (entry("default", json!({})), "[/usr/bin/testserver say default arguments]"),
        (entry("arguments", json!({"args": ["override", "arguments"]})), "[/usr/bin/testserver say override arguments]"),
        (entry("command", json!({"command": ["/usr/bin/testserver", "say-2"]})), "[/usr/bin/testserver say-2]"),
        (entry("both", json!({"command": ["/usr/bin/testserver", "say-2"], "args": ["override", "arguments"]})), "[/usr/bin/testserver say-2 override arguments]"),
        (script("logs", "echo Hello World; sleep 0.1"), "Hello World"),
        (context("read-only", "echo test > /file; sleep 0.1", json!({"readOnlyRootFilesystem": true})), "sh: can't create /file: Read-only file system"),
        (context("writable", "echo test > /file && cat /file", json!({"readOnlyRootFilesystem": false})), "test"),
        (with(script("aliases", "grep foo /etc/hosts"), aliases), "123.45.67.89\tfoo\tbar"),
        (context("user", "id -u", json!({"runAsUser": 65534})), "65534"),
        (context("unprivileged", "ip link add dummy0 type dummy 2>&1 | grep -c 'Operation not permitted' || true", json!({"privileged": false})), "1"),
        (with(script("pod-group", "id"), group), "uid=1001 gid=2002 groups=2002"),
        (context("own-group", "id", json!({"runAsUser": 1001, "runAsGroup": 2002})), "uid=1001 gid=2002 groups=2002"),
        // A program that is set-uid root leaves it the user it was.
        (context("escalate", "grep -E '^(NoNewPrivs|Uid)' /proc/self/status | tr '\\t' ' '", json!({"allowPrivilegeEscalation": false, "runAsUser": 1000})), "Uid: 1000 1000 1000 1000\nNoNewPrivs: 1"),
        (with(script("sysctl", "cat /proc/sys/kernel/shm_rmid_forced"), sysctls), "1"),
    ]);
}

// Conformance: [sig-node] Container Runtime blackbox test on terminated container should report termination message if TerminationMessagePath is set as non-root user and at a non-default path
// Conformance: [sig-node] Container Runtime blackbox test on terminated container should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError is set
// Conformance: [sig-node] Container Runtime blackbox test on terminated container should report termination message as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set
// Conformance: [sig-node] Container Runtime blackbox test on terminated container should report termination message from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set
// Conformance: [sig-node] Container Runtime blackbox test when starting a container that exits should run with the expected status
// Conformance: [sig-node] Kubelet when scheduling a busybox command that always fails in a pod should have an terminated reason
// Conformance: [sig-node] Kubelet when scheduling a busybox command that always fails in a pod should be possible to delete
#[test]
fn last_words_and_restarts() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let user = json!({"terminationMessagePath": "/dev/termination-custom-log", "securityContext": {"runAsUser": 1000}});
    //       name      script                                              container's fields  phase        message
    let table = [
        ("user", "printf DONE > /dev/termination-custom-log", user, "Succeeded", "DONE"),
        ("log", "printf DONE; exit 1", fallback.clone(), "Failed", "DONE"),
        ("empty", "printf DONE", fallback.clone(), "Succeeded", ""),
        ("file", "printf OK > /dev/termination-log; printf DONE", fallback, "Succeeded", "OK"),
    ];
    // They count their runs in a file that outlives the container.
    let counts = |name: &str, policy: &str| {
        let text = "f=/v/runs; n=$(cat $f 2>/dev/null || echo 0); n=$((n+1)); echo $n > $f; [ $n -ge 3 ] && WAIT; exit 1";
        let text = text.replace("WAIT", if policy == "Always" { "exec sleep 3600" } else { "exit 0" });
        let pod = with_volume(script(name, &text), json!({"emptyDir": {}}));
        with(pod, json!({"spec": {"restartPolicy": policy}}))
    };
    session.create("pods", &counts("always", "Always"));
    session.create("pods", &counts("onfailure", "OnFailure"));
    session.create("pods", &counts("never", "Never"));
    for (name, text, fields, phase, message) in table {
        session.create("pods", &with_main(script(name, text), fields));
        let pod = session.phase(name, phase);
        let end = &main_status(&pod)["state"]["terminated"];
        assert_eq!(end["message"].as_str().unwrap_or_default(), message, "{name}: {end}");
    }
    let pod = session.phase("never", "Failed");
    assert_eq!((&main_status(&pod)["restartCount"], &main_status(&pod)["ready"]), (&json!(0), &json!(false)), "{pod}");
    assert_eq!(main_status(&pod)["state"]["terminated"]["reason"], "Error");
    session.delete("pods/never");
    session.gone("pods/never");

    session.create("pods", &with(script("fails", "false"), json!({"spec": {"restartPolicy": "Always"}})));
    let pod = session.eventually("pods/fails", |pod| {
        let status = main_status(pod);
        !status["state"]["terminated"]["reason"].is_null() || !status["lastState"]["terminated"]["reason"].is_null()
    });
    assert_eq!(pod["status"]["containerStatuses"].as_array().map(Vec::len), Some(1));
    session.delete("pods/fails");
    session.gone("pods/fails");

    let pod = session.eventually_within("pods/always", Duration::from_secs(60), |pod| main_status(pod)["restartCount"] == 2 && is_ready(pod));
    assert_eq!((&pod["status"]["phase"], &main_status(&pod)["state"]["running"].is_object()), (&json!("Running"), &true));
    let pod = session.phase("onfailure", "Succeeded");
    assert_eq!(main_status(&pod)["restartCount"], 2, "{pod}");
    assert_eq!(main_status(&pod)["state"]["terminated"]["exitCode"], 0);
}

// Conformance: [sig-node] InitContainer should invoke init containers on a RestartNever pod
// Conformance: [sig-node] InitContainer should invoke init containers on a RestartAlways pod
// Conformance: [sig-node] InitContainer should not start app containers if init containers fail on a RestartAlways pod
// Conformance: [sig-node] InitContainer should not start app containers and fail the pod if init containers fail on a RestartNever pod
#[test]
fn init_containers_come_first_and_must_succeed() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let init = |commands: [&str; 2]| -> Value {
        commands.iter().enumerate().map(|(index, command)| json!({"name": format!("init{}", index + 1), "image": "busybox:1.35", "command": [command]})).collect()
    };
    let pod = |pod: Value, commands: [&str; 2], policy: &str| with(pod, json!({"spec": {"initContainers": init(commands), "restartPolicy": policy}}));
    session.create("pods", &pod(script("never", "true"), ["true", "true"], "Never"));
    session.create("pods", &pod(waiting("always"), ["true", "true"], "Always"));
    session.create("pods", &pod(waiting("stuck"), ["false", "true"], "Always"));
    session.create("pods", &pod(script("failed", "true"), ["true", "false"], "Never"));

    let initialized = |pod: &Value| {
        assert!(is_true(pod, "Initialized"), "{pod}");
        for status in pod["status"]["initContainerStatuses"].as_array().expect("a list") {
            assert_eq!((&status["ready"], &status["state"]["terminated"]["exitCode"]), (&json!(true), &json!(0)), "{pod}");
        }
    };
    initialized(&session.phase("never", "Succeeded"));
    initialized(&session.ready("always"));

    let pod = session.eventually("pods/stuck", |pod| pod["status"]["initContainerStatuses"][0]["restartCount"].as_i64() >= Some(2));
    assert_eq!(pod["status"]["phase"], "Pending");
    assert!(!is_true(&pod, "Initialized"));
    let told = condition(&pod, "Initialized").expect("told");
    assert_eq!((&told["reason"], &told["message"]), (&json!("ContainersNotInitialized"), &json!("containers with incomplete status: [init1 init2]")));
    assert_eq!(pod["status"]["initContainerStatuses"][1]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(main_status(&pod)["state"]["waiting"]["reason"], "PodInitializing");

    let pod = session.phase("failed", "Failed");
    let told = condition(&pod, "Initialized").expect("told");
    assert_eq!((&told["reason"], &told["message"]), (&json!("ContainersNotInitialized"), &json!("containers with incomplete status: [init2]")));
    let state = &main_status(&pod)["state"];
    assert!(state["running"].is_null() && state["terminated"]["startedAt"].is_null(), "{pod}");
}

// Conformance: [sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly
// Conformance: [sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart http hook properly
// Conformance: [sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly
// Conformance: [sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http hook properly
// Conformance: [sig-node] PreStop should call prestop when killing a pod
#[test]
fn hooks_call_a_server() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    session.create("pods", &with_main(waiting("server"), json!({"image": SERVER, "command": null})));
    let server = session.ready("server")["status"]["podIP"].as_str().expect("an address").to_owned();
    let http = |word: &str| json!({"httpGet": {"path": format!("/echo?msg={word}"), "host": server, "port": 8080}});
    let exec = |word: &str| json!({"exec": {"command": ["wget", "-qO-", format!("http://{server}:8080/echo?msg={word}")]}});
    let hooked = |name: &str, hook: &str, handler: Value| {
        let pod = with(waiting(name), json!({"spec": {"terminationGracePeriodSeconds": 20}}));
        session.create("pods", &with_main(pod, json!({"lifecycle": {hook: handler}})));
    };
    hooked("start-exec", "postStart", exec("start-exec"));
    hooked("start-http", "postStart", http("start-http"));
    hooked("stop-exec", "preStop", exec("stop-exec"));
    hooked("stop-http", "preStop", http("stop-http"));
    let heard = || session.raw(Method::GET, "pods/server:8080/proxy/read", "", None).1;
    for name in ["start-exec", "start-http", "stop-exec", "stop-http"] {
        session.ready(name);
    }
    // Ready comes after the hook.
    let said = heard();
    assert!(said.contains("msg=start-exec") && said.contains("msg=start-http") && !said.contains("stop"), "{said}");
    for name in ["stop-exec", "stop-http"] {
        session.delete(&format!("pods/{name}"));
    }
    for name in ["stop-exec", "stop-http"] {
        session.gone(&format!("pods/{name}"));
        assert!(heard().contains(&format!("msg={name}")), "{}", heard());
    }
}

// Conformance: [sig-node] Probing container should be restarted with a exec "cat /tmp/health" liveness probe
// Conformance: [sig-node] Probing container should *not* be restarted with a exec "cat /tmp/health" liveness probe
// Conformance: [sig-node] Probing container should be restarted with a /healthz http liveness probe
// Conformance: [sig-node] Probing container should *not* be restarted with a /healthz http liveness probe
// Conformance: [sig-node] Probing container should *not* be restarted with a tcp:8080 liveness probe
// Conformance: [sig-node] Probing container should be restarted with a GRPC liveness probe
// Conformance: [sig-node] Probing container should *not* be restarted with a GRPC liveness probe
// Conformance: [sig-node] Probing container with readiness probe should not be ready before initial delay and never restart
// Conformance: [sig-node] Probing container with readiness probe that fails should never be ready and never restart
#[test]
fn probes_restart_what_is_unwell_and_nothing_else() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let probe = |extra: Value| with(json!({"periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1}), extra);
    let server = |name: &str, args: Value, extra: Value| {
        let pod = with_main(waiting(name), json!({"image": SERVER, "command": null, "args": args}));
        session.create("pods", &with_main(pod, json!({"livenessProbe": probe(extra)})));
    };
    let shell = |name: &str, text: &str, extra: Value| {
        let mut pod = with_main(waiting(name), extra);
        pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", text]);
        session.create("pods", &pod);
    };
    let health = json!({"livenessProbe": probe(json!({"exec": {"command": ["cat", "/tmp/health"]}}))});
    let fails = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    let delayed = json!({"httpGet": {"path": "/", "port": 8080}, "initialDelaySeconds": 4, "periodSeconds": 1});
    shell("sick-exec", "echo ok > /tmp/health; sleep 3; rm /tmp/health; sleep 600", health.clone());
    shell("well-exec", "echo ok > /tmp/health; sleep 600", health);
    server("sick-http", json!(["liveness", "8080", "3"]), json!({"httpGet": {"path": "/healthz", "port": 8080}}));
    server("well-http", json!(["serve"]), json!({"httpGet": {"path": "/healthz", "port": 8080}}));
    // The socket stays open while its pages fail.
    server("well-tcp", json!(["liveness", "8080", "1"]), json!({"tcpSocket": {"port": 8080}}));
    server("sick-grpc", json!(["serve"]), json!({"grpc": {"port": 2333}}));
    server("well-grpc", json!(["serve"]), json!({"grpc": {"port": 8080}}));
    let started = Instant::now();
    session.create("pods", &with_main(waiting("delayed"), json!({"image": SERVER, "command": null, "readinessProbe": delayed})));
    session.create("pods", &with_main(waiting("unready"), json!({"readinessProbe": fails})));

    let pod = session.ready("delayed");
    assert!(started.elapsed() >= Duration::from_secs(4), "ready after {:?}", started.elapsed());
    assert_eq!(main_status(&pod)["restartCount"], 0);
    for name in ["sick-exec", "sick-http", "sick-grpc"] {
        session.eventually(&format!("pods/{name}"), |pod| main_status(pod)["restartCount"].as_i64() >= Some(1));
    }
    std::thread::sleep(Duration::from_secs(8).saturating_sub(started.elapsed()));
    for name in ["well-exec", "well-http", "well-tcp", "well-grpc"] {
        let pod = session.get(&format!("pods/{name}"));
        assert!(is_ready(&pod) && main_status(&pod)["restartCount"] == 0, "{pod}");
    }
    let pod = session.get("pods/unready");
    assert_eq!((is_ready(&pod), &main_status(&pod)["restartCount"]), (false, &json!(0)), "{pod}");
    assert_eq!(main_status(&pod)["ready"], false);
}

// Conformance: [sig-node] Probing container should have monotonically increasing restart count
#[test]
fn each_failing_probe_counts_one_restart_more() {
    let Some((_cluster, session)) = session::for_test(&["--max-container-restart-period", "1s"]) else { return };
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 1});
    let sick = json!({"image": SERVER, "command": null, "args": ["liveness", "8080", "3"], "livenessProbe": probe});
    session.create("pods", &with_main(waiting("sick"), sick));
    let mut seen = 0;
    while seen < 5 {
        let pod = session.eventually("pods/sick", |pod| main_status(pod)["restartCount"].as_i64().is_some_and(|count| count != seen));
        let count = main_status(&pod)["restartCount"].as_i64().expect("a number");
        assert_eq!(count, seen + 1, "{pod}");
        seen = count;
    }
}

// Conformance: [sig-node] Variable Expansion should allow substituting values in a volume subpath
// Conformance: [sig-node] Variable Expansion should fail substituting values in a volume subpath with backticks
// Conformance: [sig-node] Variable Expansion should fail substituting values in a volume subpath with absolute path
// Conformance: [sig-node] Variable Expansion should verify that a failing subpath expansion can be modified during the lifecycle of a container
// Conformance: [sig-node] Variable Expansion should succeed in writing subpaths in container
#[test]
fn sub_paths_by_expression() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    let mounted = |pod: Value, env: Value| {
        let mounts = json!([{"name": "v", "mountPath": "/sub", "subPathExpr": "$(WHERE)"}, {"name": "v", "mountPath": "/whole"}]);
        with_main(with_volume(pod, json!({"emptyDir": {}})), json!({"env": [env], "volumeMounts": mounts}))
    };
    let field = |path: &str| json!({"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": path}}});
    session.say(&[(mounted(script("own", "touch /sub/f; ls /whole/own"), field("metadata.name")), "f")]);
    for (name, value) in [("parent", ".."), ("absolute", "/tmp"), ("backticks", "`..`/..")] {
        session.create("pods", &mounted(script(name, "true"), json!({"name": "WHERE", "value": value})));
    }
    for name in ["parent", "absolute", "backticks"] {
        let pod = session.eventually(&format!("pods/{name}"), |pod| !main_status(pod)["state"]["waiting"]["reason"].is_null() && main_status(pod)["state"]["waiting"]["reason"] != "ContainerCreating");
        assert_eq!(main_status(&pod)["state"]["waiting"]["reason"], "CreateContainerConfigError", "{name}: {}", pod["status"]);
    }
    let by_annotation = mounted(waiting("later"), field("metadata.annotations['mysubpath']"));
    session.create("pods", &with(by_annotation, json!({"metadata": {"annotations": {"notmysubpath": "mypath"}}})));
    session.eventually("pods/later", |pod| main_status(pod)["state"]["waiting"]["reason"] == "CreateContainerConfigError");
    session.patch("pods/later", &json!({"metadata": {"annotations": {"mysubpath": "mypath"}}}));
    session.ready("later");
    cluster.kubectl("exec later -- touch /sub/made");
    assert_eq!(cluster.kubectl("exec later -- ls /whole/mypath"), "made\n");
    // Cleaning up does not ask for the expression again.
    session.patch("pods/later", &json!({"metadata": {"annotations": {"mysubpath": "newsubpath"}}}));
    session.delete("pods/later");
    session.gone("pods/later");
}

// Conformance: [sig-node] KubeletManagedEtcHosts should test kubelet managed /etc/hosts file
#[test]
fn the_hosts_file_is_the_nodes_unless_told_otherwise() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    const LOOK: &str = "head -1 /etc/hosts | grep -c '# Kubernetes-managed hosts file.'; true";
    let own = with_main(
        with_volume(script("own", LOOK), json!({"hostPath": {"path": "/etc/hosts", "type": "File"}})),
        json!({"volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]}),
    );
    let host = with(script("host", "head -1 /etc/hosts | grep -c '# Kubernetes-managed hosts file$'; true"), json!({"spec": {"hostNetwork": true}}));
    session.say(&[(script("managed", LOOK), "1"), (own, "0"), (host, "0")]);
}

// Conformance: [sig-node] Ephemeral Containers will start an ephemeral container in an existing pod
// Conformance: [sig-node] Ephemeral Containers should update the ephemeral containers in an existing pod
#[test]
fn ephemeral_containers_join_a_running_pod() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    session.create("pods", &waiting("pod"));
    session.ready("pod");
    let guest = |name: &str| json!({"name": name, "image": "busybox:1.35", "command": ["sh", "-c", format!("echo polo {name}; sleep 3600")]});
    for (count, name) in [(1, "debugger"), (2, "debugger2")] {
        session.strategic_patch("pods/pod/ephemeralcontainers", &json!({"spec": {"ephemeralContainers": [guest(name)]}}));
        let pod = session.eventually("pods/pod", |pod| {
            pod["status"]["ephemeralContainerStatuses"].as_array().is_some_and(|list| list.iter().any(|status| status["name"] == name && status["state"]["running"].is_object()))
        });
        assert_eq!(pod["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(count));
        session.eventually_text(&format!("pods/pod/log?container={name}"), |text| text == format!("polo {name}\n"));
    }
    // With a target it sees that container's processes, which are not shared otherwise.
    let guest = json!({"name": "looker", "image": "busybox:1.35", "targetContainerName": "main", "command": ["sh", "-c", "ps; tr '\\0' ' ' < /proc/1/cmdline"]});
    session.strategic_patch("pods/pod/ephemeralcontainers", &json!({"spec": {"ephemeralContainers": [guest]}}));
    session.eventually_text("pods/pod/log?container=looker", |text| text.contains("trap 'exit 0' TERM; while :; do sleep 0.1; done"));
    let pod = session.get("pods/pod");
    assert!(is_ready(&pod) && main_status(&pod)["restartCount"] == 0, "the end of the guest is not the end of its host");
}

// Conformance: [sig-node] Sysctls should reject invalid sysctls
// Conformance: [sig-node] ConfigMap should fail to create ConfigMap with empty key
// Conformance: [sig-node] ConfigMap should run through a ConfigMap lifecycle
// Conformance: [sig-node] ConfigMap should update ConfigMap successfully
// Conformance: [sig-node] Secrets should fail to create secret due to empty secret key
// Conformance: [sig-node] Secrets should patch a secret
// Conformance: [sig-node] PodTemplates should delete a collection of pod templates
// Conformance: [sig-node] PodTemplates should replace a pod template
// Conformance: [sig-node] PodTemplates should run the lifecycle of PodTemplates
// Conformance: [sig-node] Lease lease API should be available
// Conformance: [sig-node] Node Lifecycle should run through the lifecycle of a node
// Conformance: [sig-node] RuntimeClass should support RuntimeClasses API operations
// Conformance: [sig-node] RuntimeClass should reject a Pod requesting a non-existent RuntimeClass
// Conformance: [sig-node] RuntimeClass should reject a Pod requesting a deleted RuntimeClass
// Conformance: [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 DeviceClass
// Conformance: [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaim
// Conformance: [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaimTemplate
// Conformance: [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceSlice
#[test]
fn what_a_node_reads_lives_in_the_api() {
    let Some((_cluster, session)) = session::for_test(&["--disable-agent"]) else { return };
    let template = script("x", "true")["spec"].clone();
    let request = json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}});
    for (plural, object) in [
        ("configmaps", json!({"data": {"a": "b"}})),
        ("secrets", json!({"stringData": {"a": "b"}})),
        ("podtemplates", json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": template}})),
        ("nodes", json!({})),
        ("coordination.k8s.io/v1/leases", json!({"spec": {"holderIdentity": "me", "leaseDurationSeconds": 30, "leaseTransitions": 0}})),
        ("node.k8s.io/v1/runtimeclasses", json!({"handler": "runc"})),
        ("resource.k8s.io/v1/deviceclasses", json!({"spec": {}})),
        ("resource.k8s.io/v1/resourceclaims", request.clone()),
        ("resource.k8s.io/v1/resourceclaimtemplates", json!({"spec": request})),
        ("resource.k8s.io/v1/resourceslices", json!({"spec": {"driver": "d.example", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}})),
    ] {
        session.lives(plural, &object);
    }
    session.discovered("node.k8s.io", "v1", &["runtimeclasses"]);

    // Contents, besides the lives.
    session.create("configmaps", &json!({"metadata": {"name": "m", "labels": {"static": "yes"}}, "data": {"valueName": "value"}}));
    session.patch("configmaps/m", &json!({"metadata": {"labels": {"test": "patched"}}, "data": {"valueName": "value1"}}));
    let listed = session.items("/api/v1/configmaps?labelSelector=static=yes");
    assert_eq!((listed.len(), &listed[0]["data"]["valueName"], &listed[0]["metadata"]["labels"]["test"]), (1, &json!("value1"), &json!("patched")));
    let updated = session.edit("configmaps/m", |map| map["data"]["data"] = "value2".into());
    assert_eq!(updated["data"], json!({"data": "value2", "valueName": "value1"}));
    session.delete("configmaps?labelSelector=static=yes");
    session.create("secrets", &json!({"metadata": {"name": "s", "labels": {"testsecret": "true"}}, "stringData": {"key": "value"}}));
    session.strategic_patch("secrets/s", &json!({"metadata": {"labels": {"testsecret-constant": "true"}}, "data": {"key": "dmFsdWUx"}}));
    let secret = session.get("secrets/s");
    assert_eq!((&secret["data"]["key"], &secret["metadata"]["labels"]["testsecret-constant"]), (&json!("dmFsdWUx"), &json!("true")));
    session.delete("secrets?labelSelector=testsecret=true");
    assert!(session.items("/api/v1/secrets?labelSelector=testsecret=true").is_empty());
    for (plural, field) in [("configmaps", "data"), ("secrets", "stringData")] {
        let status = session.refused(plural, &json!({"metadata": {"name": "empty"}, field: {"": "value"}}));
        assert_eq!(status["code"], 422, "{status}");
    }
    let lease = session.create("coordination.k8s.io/v1/leases", &json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "holder", "leaseDurationSeconds": 30, "renewTime": "2026-01-01T00:00:00.000000Z"}}));
    assert_eq!(session.get("coordination.k8s.io/v1/leases/l")["spec"], lease["spec"]);
    session.edit("coordination.k8s.io/v1/leases/l", |lease| lease["spec"]["holderIdentity"] = "second".into());
    session.patch("coordination.k8s.io/v1/leases/l", &json!({"spec": {"leaseDurationSeconds": 60}}));
    let spec = session.get("coordination.k8s.io/v1/leases/l")["spec"].clone();
    assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&json!("second"), &json!(60)));
    session.create("coordination.k8s.io/v1/leases", &json!({"metadata": {"name": "m", "labels": {"deletecollection": "true"}}, "spec": {}}));
    assert_eq!(session.items("coordination.k8s.io/v1/leases").len(), 2);
    session.delete("coordination.k8s.io/v1/leases?labelSelector=deletecollection=true");
    assert_eq!(session.items("coordination.k8s.io/v1/leases").len(), 1);

    // Names of sysctls are judged before anybody runs them.
    let sysctl = |name: &str| json!({"name": name, "value": "1"});
    let invalid = with(script("invalid", "true"), json!({"spec": {"securityContext": {"sysctls": [sysctl("foo-"), sysctl("kernel.shmmax"), sysctl("safe-and-unsafe"), sysctl("bar..")]}}}));
    let text = session.refused("pods", &invalid)["message"].as_str().unwrap_or_default().to_owned();
    for wrong in ["spec.securityContext.sysctls[0].name: Invalid value: \"foo-\"", "spec.securityContext.sysctls[3].name: Invalid value: \"bar..\""] {
        assert!(text.contains(wrong), "{text}");
    }
    assert!(!text.contains("kernel.shmmax") && !text.contains("safe-and-unsafe"), "{text}");
    let status = session.refused("pods", &with(script("nobody", "true"), json!({"spec": {"runtimeClassName": "absent"}})));
    assert_eq!(status["code"], 403, "{status}");
    session.create("node.k8s.io/v1/runtimeclasses", &json!({"metadata": {"name": "passing"}, "handler": "runc"}));
    session.delete("node.k8s.io/v1/runtimeclasses/passing");
    let status = session.refused("pods", &with(script("nobody", "true"), json!({"spec": {"runtimeClassName": "passing"}})));
    assert!(status["message"].as_str().is_some_and(|text| text.contains("RuntimeClass \"passing\" not found")), "{status}");
}
