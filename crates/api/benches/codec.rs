//! Cost per operation of what runs on every request. Prints a table; nothing here passes or fails.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use api::apply::{Manager, apply, record_update};
use api::{json, patch, protobuf, schema, yaml};
use serde_json::{Value, json};

fn measure<T>(what: &str, mut operation: impl FnMut() -> T) {
    for _ in 0..200 {
        black_box(operation());
    }
    let (start, mut rounds) = (Instant::now(), 0u32);
    while start.elapsed() < Duration::from_millis(300) {
        black_box(operation());
        rounds += 1;
    }
    println!(
        "{what:<44}{:>9.2} us",
        start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
    );
}

fn config_map() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bench-000001", "namespace": "default", "labels": {"app": "bench"}}, "data": {"payload": "x".repeat(1024)}})
}

fn deployment() -> Value {
    let container = |name: &str| {
        json!({"name": name, "image": "nginx:1.16", "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}}, "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 10},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "volumeMounts": [{"name": "v", "mountPath": "/v"}]})
    };
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}}, "spec": {
        "replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container("nginx"), container("redis")], "volumes": [{"name": "v", "emptyDir": {}}], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}}}})
}

fn main() {
    let manager = Manager {
        name: "bench",
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z".parse().expect("a time"),
    };
    for (name, value) in [
        ("ConfigMap of 1 KiB", config_map()),
        ("Deployment", deployment()),
    ] {
        let text = |name: &str| {
            value[name]
                .as_str()
                .expect("the object says what it is")
                .to_owned()
        };
        let definition = schema::definition_of_kind(&text("apiVersion"), &text("kind"))
            .expect("a built-in kind");
        let body = json::encode(&value);
        let mut live = json::decode(&body, definition)
            .expect("the object is valid")
            .value;
        measure(&format!("{name}: serde_json to Value"), || {
            serde_json::from_slice::<Value>(&body).expect("JSON")
        });
        measure(&format!("{name}: json::decode"), || {
            json::decode(&body, definition)
        });
        measure(&format!("{name}: json::encode"), || json::encode(&live));
        let message = protobuf::encode(&live, definition);
        measure(&format!("{name}: protobuf::encode"), || {
            protobuf::encode(&live, definition)
        });
        measure(&format!("{name}: protobuf::decode"), || {
            protobuf::decode(&message)
        });
        measure(&format!("{name}: clone"), || live.clone());
        measure(&format!("{name}: record_update, create"), || {
            let mut new = live.clone();
            record_update(None, &mut new, &manager, definition);
            new
        });
        record_update(None, &mut live, &manager, definition);
        let mut changed = live.clone();
        changed["metadata"]["labels"]["changed"] = "yes".into();
        measure(&format!("{name}: record_update, one label"), || {
            let mut new = changed.clone();
            record_update(Some(&live), &mut new, &manager, definition);
            new
        });
        measure(&format!("{name}: record_update, nothing"), || {
            let mut new = live.clone();
            record_update(Some(&live), &mut new, &manager, definition);
            new
        });
        let labels = json!({"metadata": {"labels": {"a": "b"}}});
        measure(&format!("{name}: merge_patch"), || {
            patch::merge_patch(&live, &labels)
        });
        measure(&format!("{name}: strategic_merge_patch"), || {
            patch::strategic_merge_patch(&live, &labels, definition)
        });
        measure(&format!("{name}: normalise"), || {
            let mut new = live.clone();
            json::normalise(&mut new, definition).map(|_| new)
        });
        measure(&format!("{name}: apply"), || {
            apply(Some(&live), &value, &manager, true, definition)
        });
        let document = yaml::to_yaml(&live);
        measure(&format!("{name}: to_yaml"), || yaml::to_yaml(&live));
        measure(&format!("{name}: yaml to_json"), || {
            yaml::to_json(document.as_bytes())
        });
        println!();
    }
}
