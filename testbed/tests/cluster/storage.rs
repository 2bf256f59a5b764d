//! Volumes as containers see them, and the storage API.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testbed::cluster::for_test;
use testbed::session::{self, Session, script, waiting, with, with_main, with_volume};

/// The four sources that show an object's keys as files: whose `data-1` is `value-1` and so on.
const SOURCES: [&str; 4] = ["configMap", "secret", "projected-configMap", "projected-secret"];

fn source(kind: &str, extra: Value) -> Value {
    let with_name = |name: &str| with(json!({name: "keys"}), extra.clone());
    match kind {
        "configMap" => json!({"configMap": with_name("name")}),
        "secret" => json!({"secret": with_name("secretName")}),
        _ => {
            let (mode, mut inner) = (extra["defaultMode"].clone(), with_name("name"));
            inner.as_object_mut().expect("an object").remove("defaultMode");
            let kind = kind.trim_start_matches("projected-");
            let projected = json!({"projected": {"sources": [{kind: inner}]}});
            if mode.is_null() { projected } else { with(projected, json!({"projected": {"defaultMode": mode}})) }
        }
    }
}

fn make_keys(session: &Session) {
    let data = json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"});
    session.create("configmaps", &json!({"metadata": {"name": "keys"}, "data": data}));
    session.create("secrets", &json!({"metadata": {"name": "keys"}, "stringData": data}));
}

// Conformance: [sig-storage] ConfigMap should be consumable from pods in volume
// Conformance: [sig-storage] ConfigMap should be consumable from pods in volume with defaultMode set
// Conformance: [sig-storage] ConfigMap should be consumable from pods in volume as non-root
// Conformance: [sig-storage] ConfigMap should be consumable from pods in volume with mappings
// Conformance: [sig-storage] ConfigMap should be consumable from pods in volume with mappings and Item mode set
// Conformance: [sig-storage] ConfigMap should be consumable from pods in volume with mappings as non-root
// Conformance: [sig-storage] ConfigMap should be consumable in multiple volumes in the same pod
// Conformance: [sig-storage] Projected configMap should be consumable from pods in volume
// Conformance: [sig-storage] Projected configMap should be consumable from pods in volume with defaultMode set
// Conformance: [sig-storage] Projected configMap should be consumable from pods in volume as non-root
// Conformance: [sig-storage] Projected configMap should be consumable from pods in volume with mappings
// Conformance: [sig-storage] Projected configMap should be consumable from pods in volume with mappings and Item mode set
// Conformance: [sig-storage] Projected configMap should be consumable from pods in volume with mappings as non-root
// Conformance: [sig-storage] Projected configMap should be consumable in multiple volumes in the same pod
// Conformance: [sig-storage] Secrets should be consumable from pods in volume
// Conformance: [sig-storage] Secrets should be consumable from pods in volume with defaultMode set
// Conformance: [sig-storage] Secrets should be consumable from pods in volume as non-root with defaultMode and fsGroup set
// Conformance: [sig-storage] Secrets should be consumable from pods in volume with mappings
// Conformance: [sig-storage] Secrets should be consumable from pods in volume with mappings and Item Mode set
// Conformance: [sig-storage] Secrets should be consumable in multiple volumes in a pod
// Conformance: [sig-storage] Projected secret should be consumable from pods in volume
// Conformance: [sig-storage] Projected secret should be consumable from pods in volume with defaultMode set
// Conformance: [sig-storage] Projected secret should be consumable from pods in volume as non-root with defaultMode and fsGroup set
// Conformance: [sig-storage] Projected secret should be consumable from pods in volume with mappings
// Conformance: [sig-storage] Projected secret should be consumable from pods in volume with mappings and Item Mode set
// Conformance: [sig-storage] Projected secret should be consumable in multiple volumes in a pod
#[test]
fn keys_are_files_with_their_modes_and_owners() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    make_keys(&session);
    let non_root = json!({"spec": {"securityContext": {"runAsUser": 1000}}});
    let group = json!({"spec": {"securityContext": {"runAsUser": 1000, "fsGroup": 1001}}});
    let item = json!([{"key": "data-2", "path": "path/to/data-2"}]);
    let item_mode = json!([{"key": "data-2", "path": "path/to/data-2", "mode": 0o400}]);
    const ONE: &str = "stat -Lc '%a %u %g' /v/data-1; cat /v/data-1";
    const MAPPED: &str = "ls /v; stat -Lc '%a %u %g' /v/path/to/data-2; cat /v/path/to/data-2";
    //             name          source's fields                   pod             script  said
    let table: [(&str, Value, Value, &str, &str); 7] = [
        ("plain", json!({}), json!({}), ONE, "644 0 0\nvalue-1"),
        ("mode", json!({"defaultMode": 0o400}), json!({}), ONE, "400 0 0\nvalue-1"),
        ("user", json!({}), non_root.clone(), ONE, "644 0 0\nvalue-1"),
        ("group", json!({"defaultMode": 0o440}), group, ONE, "440 0 1001\nvalue-1"),
        ("map", json!({"items": item}), json!({}), MAPPED, "path\n644 0 0\nvalue-2"),
        ("map-user", json!({"items": item}), non_root, MAPPED, "path\n644 0 0\nvalue-2"),
        ("map-mode", json!({"items": item_mode}), json!({}), MAPPED, "path\n400 0 0\nvalue-2"),
    ];
    for kind in SOURCES {
        let mut cases: Vec<(Value, &str)> = table
            .iter()
            .map(|(name, fields, patch, text, said)| {
                let pod = with_volume(script(&format!("{}-{name}", kind.to_lowercase()), text), source(kind, fields.clone()));
                (with(pod, patch.clone()), *said)
            })
            .collect();
        // The same in two volumes of one pod.
        let mut twice = with_volume(script(&format!("{}-twice", kind.to_lowercase()), "cat /v/data-1 /w/data-1"), source(kind, json!({})));
        let mut second = source(kind, json!({}));
        second["name"] = "w".into();
        twice["spec"]["volumes"].as_array_mut().expect("a list").push(second);
        let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w", "readOnly": true}]);
        cases.push((with_main(twice, json!({"volumeMounts": mounts})), "value-1value-1"));
        session.say(&cases);
    }
}

// Conformance: [sig-storage] ConfigMap updates should be reflected in volume
// Conformance: [sig-storage] ConfigMap optional updates should be reflected in volume
// Conformance: [sig-storage] ConfigMap binary data should be reflected in volume
// Conformance: [sig-storage] Projected configMap updates should be reflected in volume
// Conformance: [sig-storage] Projected configMap optional updates should be reflected in volume
// Conformance: [sig-storage] Secrets optional updates should be reflected in volume
// Conformance: [sig-storage] Projected secret optional updates should be reflected in volume
#[test]
fn changes_of_objects_arrive_in_running_containers() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    let read = |path: &str, wanted: &str| {
        cluster.eventually(&format!("exec reader -- cat {path}"), std::time::Duration::from_secs(30), |text| text == wanted);
    };
    let object = |kind: &str, name: &str, data: Value| {
        if kind.ends_with("secret") {
            session.create("secrets", &json!({"metadata": {"name": name}, "stringData": data}));
        } else {
            session.create("configmaps", &json!({"metadata": {"name": name}, "data": data}));
        }
    };
    let kinds = [("config", "configMap"), ("secret", "secret"), ("pconfig", "projected-configMap"), ("psecret", "projected-secret")];
    let mut volumes = Vec::new();
    for (short, kind) in kinds {
        // One changes, one goes, one comes.
        object(&kind.to_lowercase(), &format!("{short}-upd"), json!({"data-1": "value-1"}));
        object(&kind.to_lowercase(), &format!("{short}-del"), json!({"data-1": "value-1"}));
        for what in ["upd", "del", "new"] {
            let key = if kind == "secret" { "secretName" } else { "name" };
            let mut volume = source(kind, json!({"optional": true}));
            let inner = match kind {
                "configMap" | "secret" => &mut volume[kind],
                _ => &mut volume["projected"]["sources"][0][kind.trim_start_matches("projected-")],
            };
            inner[key] = format!("{short}-{what}").into();
            volume["name"] = format!("{short}-{what}").into();
            volumes.push(volume);
        }
    }
    session.create("configmaps", &json!({
        "metadata": {"name": "binary"}, "data": {"text": "words"}, "binaryData": {"raw": STANDARD.encode([0xde, 0xca, 0xfe, 0])},
    }));
    volumes.push(json!({"name": "binary", "configMap": {"name": "binary"}}));
    let mounts: Vec<Value> = volumes
        .iter()
        .map(|volume| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().expect("a name"))}))
        .collect();
    let pod = with(waiting("reader"), json!({"spec": {"volumes": volumes}}));
    session.create("pods", &with_main(pod, json!({"volumeMounts": mounts})));
    session.ready("reader");
    let raw = cluster.kubectl("exec reader -- od -An -tx1 /binary/raw");
    assert_eq!(raw.trim(), "de ca fe 00");
    assert_eq!(cluster.kubectl("exec reader -- cat /binary/text"), "words");
    for (short, kind) in kinds {
        let plural = if kind.to_lowercase().ends_with("secret") { "secrets" } else { "configmaps" };
        let (field, changed) = if plural == "secrets" { ("data", STANDARD.encode("value-2")) } else { ("data", "value-2".to_owned()) };
        read(&format!("/{short}-upd/data-1"), "value-1");
        read(&format!("/{short}-del/data-1"), "value-1");
        assert_eq!(cluster.kubectl(&format!("exec reader -- ls /{short}-new")), "");
        session.patch(&format!("{plural}/{short}-upd"), &json!({field: {"data-1": null, "data-3": changed}}));
        session.delete(&format!("{plural}/{short}-del"));
        object(&kind.to_lowercase(), &format!("{short}-new"), json!({"data-1": "value-1"}));
    }
    for (short, _) in kinds {
        read(&format!("/{short}-upd/data-3"), "value-2");
        read(&format!("/{short}-new/data-1"), "value-1");
        let empty = |line: String| cluster.eventually(&line, std::time::Duration::from_secs(30), str::is_empty);
        empty(format!("exec reader -- ls /{short}-del"));
        assert_eq!(cluster.kubectl(&format!("exec reader -- ls /{short}-upd")), "data-3\n");
    }
}

// Conformance: [sig-storage] Secrets should be able to mount in a volume regardless of a different secret existing with same name in different namespace
// Conformance: [sig-storage] Secrets should be immutable if `immutable` field is set
// Conformance: [sig-storage] ConfigMap should be immutable if `immutable` field is set
// Conformance: [sig-storage] Projected combined should project all components that make up the projection API [Projection]
#[test]
fn objects_of_one_name_immutable_ones_and_all_in_one() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    make_keys(&session);
    session.create("/api/v1/namespaces", &json!({"metadata": {"name": "other"}}));
    session.create("/api/v1/namespaces/other/secrets", &json!({"metadata": {"name": "keys"}, "stringData": {"data-1": "another"}}));
    let sources = json!([
        {"configMap": {"name": "keys", "items": [{"key": "data-1", "path": "configmap-data"}]}},
        {"secret": {"name": "keys", "items": [{"key": "data-1", "path": "secret-data"}]}},
        {"downwardAPI": {"items": [{"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]);
    session.say(&[
        (with_volume(script("own", "cat /v/data-1"), source("secret", json!({}))), "value-1"),
        (with_volume(script("all", "cat /v/podname /v/secret-data /v/configmap-data"), json!({"projected": {"sources": sources}})), "allvalue-1value-1"),
    ]);
    for plural in ["configmaps", "secrets"] {
        let field = if plural == "secrets" { "stringData" } else { "data" };
        session.create(plural, &json!({"metadata": {"name": "fixed"}, field: {"a": "1"}}));
        session.patch(&format!("{plural}/fixed"), &json!({"metadata": {"labels": {"l": "1"}}, "immutable": false}));
        session.patch(&format!("{plural}/fixed"), &json!({field: {"a": "2"}}));
        session.patch(&format!("{plural}/fixed"), &json!({"immutable": true}));
        for refused in [json!({field: {"a": "3"}}), json!({"immutable": false})] {
            let (code, status) = session.ask(http::Method::PATCH, &format!("{plural}/fixed"), "application/merge-patch+json", Some(&refused));
            assert_eq!(code, 422, "{status}");
            let message = status["message"].as_str().unwrap_or_default();
            assert!(message.contains("field is immutable when `immutable` is set"), "{message}");
        }
        // What is no data may change.
        session.patch(&format!("{plural}/fixed"), &json!({"metadata": {"labels": {"l": "2"}}}));
        session.delete(&format!("{plural}/fixed"));
    }
}

// Conformance: [sig-storage] Downward API volume should provide podname only
// Conformance: [sig-storage] Downward API volume should set DefaultMode on files
// Conformance: [sig-storage] Downward API volume should set mode on item file
// Conformance: [sig-storage] Downward API volume should provide container's cpu limit
// Conformance: [sig-storage] Downward API volume should provide container's memory limit
// Conformance: [sig-storage] Downward API volume should provide container's cpu request
// Conformance: [sig-storage] Downward API volume should provide container's memory request
// Conformance: [sig-storage] Downward API volume should provide node allocatable (cpu) as default cpu limit if the limit is not set
// Conformance: [sig-storage] Downward API volume should provide node allocatable (memory) as default memory limit if the limit is not set
// Conformance: [sig-storage] Downward API volume should update labels on modification
// Conformance: [sig-storage] Downward API volume should update annotations on modification
// Conformance: [sig-storage] Projected downwardAPI should provide podname only
// Conformance: [sig-storage] Projected downwardAPI should set DefaultMode on files
// Conformance: [sig-storage] Projected downwardAPI should set mode on item file
// Conformance: [sig-storage] Projected downwardAPI should provide container's cpu limit
// Conformance: [sig-storage] Projected downwardAPI should provide container's memory limit
// Conformance: [sig-storage] Projected downwardAPI should provide container's cpu request
// Conformance: [sig-storage] Projected downwardAPI should provide container's memory request
// Conformance: [sig-storage] Projected downwardAPI should provide node allocatable (cpu) as default cpu limit if the limit is not set
// Conformance: [sig-storage] Projected downwardAPI should provide node allocatable (memory) as default memory limit if the limit is not set
// Conformance: [sig-storage] Projected downwardAPI should update labels on modification
// Conformance: [sig-storage] Projected downwardAPI should update annotations on modification
#[test]
fn a_pod_reads_about_itself_in_files() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    let allocatable = session.get(&format!("nodes/{}", testbed::cluster::NODE))["status"]["allocatable"].clone();
    let amount = |name: &str| api::quantity::Quantity::parse(allocatable[name].as_str().expect("told")).expect("a quantity").value().to_string();
    let (cpu, memory) = (amount("cpu"), amount("memory"));
    let resource = |resource: &str, divisor: &str| {
        json!([{"path": "f", "resourceFieldRef": {"containerName": "main", "resource": resource, "divisor": divisor}}])
    };
    let name = |extra: Value| json!([with(json!({"path": "f", "fieldRef": {"fieldPath": "metadata.name"}}), extra)]);
    for projected in [false, true] {
        let prefix = if projected { "projected" } else { "plain" };
        let volume = |items: Value, mode: Value| match (projected, mode.is_null()) {
            (false, _) => json!({"downwardAPI": {"items": items, "defaultMode": mode}}),
            (true, true) => json!({"projected": {"sources": [{"downwardAPI": {"items": items}}]}}),
            (true, false) => json!({"projected": {"sources": [{"downwardAPI": {"items": items}}], "defaultMode": mode}}),
        };
        let limited = json!({"resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}}});
        let pod = |name: &str, text: &str, items: Value, mode: Value| {
            with_volume(script(&format!("{prefix}-{name}"), text), volume(items, mode))
        };
        const CAT: &str = "cat /v/f";
        let own_name = format!("{prefix}-name");
        session.say(&[
            (pod("name", CAT, name(json!({})), Value::Null), &own_name),
            (pod("mode", "stat -Lc %a /v/f", name(json!({})), json!(0o400)), "400"),
            (pod("item", "stat -Lc %a /v/f", name(json!({"mode": 0o400})), Value::Null), "400"),
            (with_main(pod("cl", CAT, resource("limits.cpu", "1"), Value::Null), limited.clone()), "2"),
            (with_main(pod("ml", CAT, resource("limits.memory", "1Mi"), Value::Null), limited.clone()), "64"),
            (with_main(pod("cr", CAT, resource("requests.cpu", "1m"), Value::Null), limited.clone()), "250"),
            (with_main(pod("mr", CAT, resource("requests.memory", "1Mi"), Value::Null), limited.clone()), "32"),
            (pod("ca", CAT, resource("limits.cpu", "1"), Value::Null), &cpu),
            (pod("ma", CAT, resource("limits.memory", "1"), Value::Null), &memory),
        ]);
        let items = json!([
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
        ]);
        let live = format!("{prefix}-live");
        let metadata = json!({"metadata": {"labels": {"key1": "value1", "key2": "value2"}, "annotations": {"builder": "bar"}}});
        session.create("pods", &with(with_volume(waiting(&live), volume(items, Value::Null)), metadata));
        session.ready(&live);
        let read = |file: &str, wanted: &str| {
            cluster.eventually(&format!("exec {live} -- cat /v/{file}"), std::time::Duration::from_secs(20), |text| text.contains(wanted));
        };
        read("labels", "key1=\"value1\"\nkey2=\"value2\"");
        read("annotations", "builder=\"bar\"");
        session.patch(&format!("pods/{live}"), &json!({"metadata": {"labels": {"key3": "value3"}, "annotations": {"builder": "foo"}}}));
        read("labels", "key3=\"value3\"");
        read("annotations", "builder=\"foo\"");
    }
}

// Conformance: [sig-storage] EmptyDir volumes volume on default medium should have the correct mode
// Conformance: [sig-storage] EmptyDir volumes volume on tmpfs should have the correct mode
// Conformance: [sig-storage] EmptyDir volumes should support (root,0644,default)
// Conformance: [sig-storage] EmptyDir volumes should support (root,0666,default)
// Conformance: [sig-storage] EmptyDir volumes should support (root,0777,default)
// Conformance: [sig-storage] EmptyDir volumes should support (non-root,0644,default)
// Conformance: [sig-storage] EmptyDir volumes should support (non-root,0666,default)
// Conformance: [sig-storage] EmptyDir volumes should support (non-root,0777,default)
// Conformance: [sig-storage] EmptyDir volumes should support (root,0644,tmpfs)
// Conformance: [sig-storage] EmptyDir volumes should support (root,0666,tmpfs)
// Conformance: [sig-storage] EmptyDir volumes should support (root,0777,tmpfs)
// Conformance: [sig-storage] EmptyDir volumes should support (non-root,0644,tmpfs)
// Conformance: [sig-storage] EmptyDir volumes should support (non-root,0666,tmpfs)
// Conformance: [sig-storage] EmptyDir volumes should support (non-root,0777,tmpfs)
// Conformance: [sig-storage] EmptyDir volumes pod should support shared volumes between containers
#[test]
fn empty_directories_on_disk_and_in_memory() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    for medium in ["", "Memory"] {
        let kind = if medium.is_empty() { "disk" } else { "tmpfs" };
        for (user, id) in [("root", 0), ("user", 1001)] {
            for mode in ["644", "666", "777"] {
                let name = format!("{}-{user}-{mode}", kind);
                // What `/v` is, the mode of the directory and of a file in it, and what was written.
                let text = format!(
                    "mount | grep -q '^tmpfs on /v ' && echo tmpfs || echo disk; stat -c %a /v; echo words > /v/f; chmod {mode} /v/f; stat -c '%a %u' /v/f; cat /v/f"
                );
                let pod = with_volume(script(&name, &text), json!({"emptyDir": {"medium": medium}}));
                cases.push(with(pod, json!({"spec": {"securityContext": {"runAsUser": id}}})));
                expected.push(format!("{kind}\n777\n{mode} {id}\nwords"));
            }
        }
    }
    let cases: Vec<(Value, &str)> = cases.into_iter().zip(expected.iter().map(String::as_str)).collect();
    session.say(&cases);

    let mut shared = with_volume(script("shared", "until [ -e /v/f ]; do sleep 0.1; done; cat /v/f; sleep 3600"), json!({"emptyDir": {}}));
    let second = json!({
        "name": "writer", "image": "busybox:1.35", "volumeMounts": [{"name": "v", "mountPath": "/w"}],
        "command": ["sh", "-c", "echo Hello from the busy-box sub-container > /w/f; sleep 3600"],
    });
    shared["spec"]["containers"].as_array_mut().expect("a list").push(second);
    session.create("pods", &shared);
    session.ready("shared");
    assert_eq!(cluster.kubectl("exec shared -c main -- cat /v/f"), "Hello from the busy-box sub-container\n");
}

// Conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with configmap pod
// Conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with configmap pod with mountPath of existing file
// Conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with secret pod
// Conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with downward pod
// Conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with projected pod
#[test]
fn sub_paths_of_objects() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    make_keys(&session);
    let downward = json!({"downwardAPI": {"items": [{"path": "data-1", "fieldRef": {"fieldPath": "metadata.name"}}]}});
    let file = |name: &str, source: Value, path: &str| {
        let pod = with_volume(script(name, &format!("cat {path}; [ -f {path} ] && echo; ls -d {path}")), source);
        with_main(pod, json!({"volumeMounts": [{"name": "v", "mountPath": path, "subPath": "data-1"}]}))
    };
    let beneath = json!({"items": [{"key": "data-2", "path": "sub/data-2"}]});
    let directory = with_main(
        with_volume(script("directory", "ls /d; cat /d/data-2"), source("configMap", beneath)),
        json!({"volumeMounts": [{"name": "v", "mountPath": "/d", "subPath": "sub"}]}),
    );
    session.say(&[
        (file("configmap", source("configMap", json!({})), "/a"), "value-1\n/a"),
        (file("existing", source("configMap", json!({})), "/etc/passwd"), "value-1\n/etc/passwd"),
        (file("secret", source("secret", json!({})), "/a"), "value-1\n/a"),
        (file("downward", downward, "/a"), "downward\n/a"),
        (file("projected", source("projected-configMap", json!({})), "/a"), "value-1\n/a"),
        (directory, "data-2\nvalue-2"),
    ]);
}

// Conformance: [sig-storage] EmptyDir wrapper volumes should not conflict
// Conformance: [sig-storage] EmptyDir wrapper volumes should not cause race condition when used for configmaps
#[test]
fn many_volumes_of_many_pods_do_not_race() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    make_keys(&session);
    let both = json!([{"name": "s", "secret": {"secretName": "keys"}}, {"name": "c", "configMap": {"name": "keys"}}]);
    let mounts = json!([{"name": "s", "mountPath": "/s"}, {"name": "c", "mountPath": "/c"}]);
    let pod = with(script("both", "cat /s/data-1 /c/data-2"), json!({"spec": {"volumes": both}}));
    session.say(&[(with_main(pod, json!({"volumeMounts": mounts})), "value-1value-2")]);

    const MAPS: usize = 50;
    let name = |index: usize| format!("racy-{index}");
    for index in 0..MAPS {
        session.create("configmaps", &json!({"metadata": {"name": name(index)}, "data": {"data-1": format!("value-{index}")}}));
    }
    let volumes: Vec<Value> = (0..MAPS).map(|index| json!({"name": name(index), "configMap": {"name": name(index)}})).collect();
    let mounts: Vec<Value> = (0..MAPS).map(|index| json!({"name": name(index), "mountPath": format!("/m/{index}")})).collect();
    let template = with(waiting("x"), json!({"metadata": {"name": null, "labels": {"racy": "yes"}}, "spec": {"volumes": volumes}}));
    let template = with_main(template, json!({"volumeMounts": mounts}));
    for round in 0..3 {
        let controller = format!("round-{round}");
        session.create("replicationcontrollers", &json!({
            "metadata": {"name": controller},
            "spec": {"replicas": 5, "selector": {"racy": "yes"}, "template": template},
        }));
        session.eventually_within(&format!("replicationcontrollers/{controller}"), std::time::Duration::from_secs(60), |it| it["status"]["readyReplicas"] == 5);
        for pod in session.items("pods?labelSelector=racy=yes") {
            assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
        }
        session.delete(&format!("replicationcontrollers/{controller}?propagationPolicy=Background"));
        session.eventually_within("pods?labelSelector=racy=yes", std::time::Duration::from_secs(60), |list| list["items"].as_array().is_some_and(Vec::is_empty));
    }
}

// Conformance: [sig-storage] StorageClasses CSI Conformance should run through the lifecycle of a StorageClass
// Conformance: [sig-storage] VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment
// Conformance: [sig-storage] VolumeAttributesClass should run through the lifecycle of a VolumeAttributesClass
// Conformance: [sig-storage] CSIInlineVolumes should run through the lifecycle of a CSIDriver
// Conformance: [sig-storage] CSINodes CSI Conformance should run through the lifecycle of a csinode
// Conformance: [sig-storage] CSIStorageCapacity should support CSIStorageCapacities API operations
// Conformance: [sig-storage] CSIInlineVolumes should support CSIVolumeSource in Pod API
// Conformance: [sig-storage] VolumeAttachment Conformance should apply changes to a volumeattachment status
#[test]
fn the_storage_api_lives() {
    let Some(cluster) = for_test(&["--disable-agent"]) else { return };
    let session = cluster.session();
    let attachment = json!({"spec": {"attacher": "e2e.example", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}});
    session.discovered("storage.k8s.io", "v1", &["storageclasses", "volumeattachments", "volumeattributesclasses", "csidrivers", "csinodes", "csistoragecapacities"]);
    let capacity = json!({"storageClassName": "c", "capacity": "1Gi", "nodeTopology": {"matchLabels": {"zone": "a"}}});
    for (plural, object) in [
        ("storageclasses", json!({"provisioner": "e2e.example"})),
        ("volumeattachments", attachment.clone()),
        ("volumeattributesclasses", json!({"driverName": "e2e.example", "parameters": {"iops": "100"}})),
        ("csidrivers", json!({"spec": {"attachRequired": false}})),
        ("csinodes", json!({"spec": {"drivers": []}})),
        ("csistoragecapacities", capacity),
    ] {
        session.lives(&format!("storage.k8s.io/v1/{plural}"), &object);
    }
    // One that is inline in a pod, which nobody runs here.
    let pod = with_volume(script("inline", "true"), json!({"csi": {"driver": "e2e.example", "volumeAttributes": {"a": "b"}, "readOnly": true}}));
    session.create("pods", &with(pod, json!({"metadata": {"labels": {"test": "inline"}}})));
    assert_eq!(session.items("pods?labelSelector=test=inline")[0]["spec"]["volumes"][0]["csi"]["driver"], "e2e.example");
    session.delete("pods/inline?gracePeriodSeconds=0");
    session.gone("pods/inline");

    let path = "storage.k8s.io/v1/volumeattachments/va";
    session.create("storage.k8s.io/v1/volumeattachments", &with(attachment, json!({"metadata": {"name": "va"}})));
    let status = format!("{path}/status");
    session.patch(&status, &json!({"metadata": {"annotations": {"a": "patched"}}, "status": {"attached": true}}));
    session.edit(&status, |object| object["status"]["attachmentMetadata"] = json!({"k": "v"}));
    let read = session.get(&status);
    assert_eq!((&read["status"]["attached"], &read["status"]["attachmentMetadata"]["k"]), (&json!(true), &json!("v")), "{read}");
    session.delete(path);
}

// Conformance: [sig-storage] PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC
// Conformance: [sig-storage] PersistentVolumes CSI Conformance should apply changes to a pv/pvc status
#[test]
fn persistent_volumes_and_claims_live() {
    let Some(cluster) = for_test(&["--disable-agent"]) else { return };
    let session = cluster.session();
    let volume = |name: &str| {
        json!({"metadata": {"name": name, "labels": {"life": "pv"}}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "persistentVolumeReclaimPolicy": "Retain", "csi": {"driver": "e2e.example", "volumeHandle": name},
        }})
    };
    let claim = |name: &str| {
        json!({"metadata": {"name": name, "labels": {"life": "pvc"}}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}},
        }})
    };
    for round in ["a", "b"] {
        let (pv, pvc) = (format!("persistentvolumes/pv-{round}"), format!("persistentvolumeclaims/pvc-{round}"));
        session.create("persistentvolumes", &volume(&format!("pv-{round}")));
        session.create("persistentvolumeclaims", &claim(&format!("pvc-{round}")));
        session.eventually(&pvc, |claim| claim["status"]["phase"] == "Bound");
        session.eventually(&pv, |volume| volume["status"]["phase"] == "Bound");
        assert_eq!(session.items("persistentvolumes?labelSelector=life=pv").len(), 1);
        assert_eq!(session.items("persistentvolumeclaims?labelSelector=life=pvc").len(), 1);
        for path in [&pv, &pvc] {
            session.patch(path, &json!({"metadata": {"labels": {"patched": "yes"}}}));
            session.edit(path, |object| object["metadata"]["labels"]["updated"] = "yes".into());
            let status = format!("{path}/status");
            let condition = json!({"type": "StatusPatched", "status": "True", "reason": "E2E", "message": "patched"});
            if path.starts_with("persistentvolumeclaims") {
                session.patch(&status, &json!({"status": {"conditions": [condition]}}));
                let edited = session.edit(&status, |claim| claim["status"]["conditions"][0]["message"] = "updated".into());
                assert_eq!(edited["status"]["conditions"][0]["message"], "updated");
            } else {
                session.patch(&status, &json!({"status": {"message": "patched", "reason": "E2E"}}));
                // The binder, too, writes the status: what counts is the answer.
                let edited = session.edit(&status, |volume| volume["status"]["message"] = "updated".into());
                assert_eq!(edited["status"]["message"], "updated");
            }
            let labels = session.get(path)["metadata"]["labels"].clone();
            assert_eq!((&labels["patched"], &labels["updated"]), (&json!("yes"), &json!("yes")));
        }
        match round {
            "a" => {
                session.delete(&pvc);
                session.gone(&pvc);
                session.delete(&pv);
            }
            _ => {
                session.delete("persistentvolumeclaims?labelSelector=life=pvc");
                session.gone(&pvc);
                session.delete("persistentvolumes?labelSelector=life=pv");
            }
        }
        session.gone(&pv);
    }
}
