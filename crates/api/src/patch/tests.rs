//! Patches, told by example.

use super::*;
use crate::schema::definition;
use serde_json::json;

fn text<E: ToString>(result: Result<Value, E>) -> String {
    result.map_or_else(|error| error.to_string(), |value| value.to_string())
}

#[track_caller]
fn check_json(doc: Value, patch: Value, expected: &str) {
    assert_eq!(text(json_patch(&doc, &patch)), expected);
}

#[test]
fn json_patches() {
    check_json(
        json!({"a": 1}),
        json!([{"op": "add", "path": "/b", "value": 2}]),
        r#"{"a":1,"b":2}"#,
    );
    check_json(
        json!({"a": [1]}),
        json!([{"op": "add", "path": "/a/-", "value": 2}, {"op": "add", "path": "/a/0", "value": 0}]),
        r#"{"a":[0,1,2]}"#,
    );
    check_json(
        json!({"a": {"b/c": 1}}),
        json!([{"op": "replace", "path": "/a/b~1c", "value": 2}]),
        r#"{"a":{"b/c":2}}"#,
    );
    check_json(
        json!({"a": 1}),
        json!([{"op": "move", "from": "/a", "path": "/b"}]),
        r#"{"b":1}"#,
    );
    check_json(
        json!({"a": 1}),
        json!([{"op": "copy", "from": "/a", "path": "/b"}]),
        r#"{"a":1,"b":1}"#,
    );
    check_json(
        json!({"a": 1}),
        json!([{"op": "test", "path": "/a", "value": 1.0}]),
        r#"{"a":1}"#,
    );
    check_json(
        json!({"a": 1}),
        json!([{"op": "test", "path": "/a", "value": 2}]),
        "testing value /a failed: test failed",
    );
    check_json(
        json!({}),
        json!([{"op": "remove", "path": "/a"}]),
        "error in remove for path: '/a': unable to remove nonexistent key: a: missing value",
    );
    check_json(
        json!({}),
        json!([{"op": "remove", "path": "/a/b"}]),
        "remove operation does not apply: doc is missing path: \"/a/b\": missing value",
    );
    check_json(
        json!({}),
        json!([{"op": "replace", "path": "/a", "value": 1}]),
        "replace operation does not apply: doc is missing key: /a: missing value",
    );
    check_json(
        json!({}),
        json!([{"op": "add", "path": "/a/b", "value": 1}]),
        "add operation does not apply: doc is missing path: \"/a/b\": missing value",
    );
    check_json(
        json!({"a": []}),
        json!([{"op": "add", "path": "/a/1", "value": 1}]),
        "error in add for path: '/a/1': Unable to access invalid index: 1: invalid index referenced",
    );
    check_json(
        json!({}),
        json!([{"op": "jump", "path": "/a"}]),
        "Unexpected kind: jump",
    );
}

#[test]
fn merge_patches() {
    let doc = json!({"a": {"b": 1, "c": 2}, "d": [1]});
    assert_eq!(
        merge_patch(&doc, &json!({"a": {"b": null, "e": {"f": null}}, "d": [2]})),
        json!({"a": {"c": 2, "e": {}}, "d": [2]})
    );
}

#[track_caller]
fn check_strategic(kind: &str, doc: Value, patch: Value, expected: Value) {
    let found = strategic_merge_patch(&doc, &patch, definition(kind).unwrap()).unwrap();
    assert_eq!(found, expected);
}

const POD: &str = "io.k8s.api.core.v1.PodSpec";

#[test]
fn lists_merge_by_key() {
    check_strategic(
        POD,
        json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "2"}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "c", "image": "3", "tty": null}]}),
        json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}, {"name": "c", "image": "3"}, {"name": "b", "image": "2"}]}),
    );
    check_strategic(
        POD,
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b"}]}),
    );
    check_strategic(
        POD,
        json!({"containers": [{"name": "a"}]}),
        json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    check_strategic(
        POD,
        json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "1"}]}),
        json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a", "image": "1"}]}),
    );
    check_strategic(
        "io.k8s.api.core.v1.ServiceSpec",
        json!({"ports": [{"port": 80, "protocol": "TCP"}]}),
        json!({"ports": [{"port": 80, "name": "http"}]}),
        json!({"ports": [{"port": 80, "protocol": "TCP", "name": "http"}]}),
    );
}

#[test]
fn other_strategies() {
    // Volumes keep only the keys that the directive names.
    check_strategic(
        POD,
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}, "$retainKeys": ["name", "hostPath"]}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
    );
    check_strategic(
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        json!({"finalizers": ["a", "b"]}),
        json!({"finalizers": ["c", "a"]}),
        json!({"finalizers": ["c", "a", "b"]}),
    );
    check_strategic(
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        json!({"finalizers": ["a", "b"]}),
        json!({"$deleteFromPrimitiveList/finalizers": ["a"]}),
        json!({"finalizers": ["b"]}),
    );
    check_strategic(
        POD,
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}]}),
    );
    check_strategic(
        POD,
        json!({"nodeSelector": {"a": "b"}}),
        json!({"nodeSelector": {"$patch": "replace", "c": "d"}}),
        json!({"nodeSelector": {"c": "d"}}),
    );
    check_strategic(
        POD,
        json!({"nodeSelector": {"a": "b"}}),
        json!({"nodeSelector": {"a": null, "c": "d"}}),
        json!({"nodeSelector": {"c": "d"}}),
    );
    check_strategic(
        POD,
        json!({}),
        json!({"securityContext": {"runAsUser": null, "$patch": "merge"}}),
        json!({"securityContext": {}}),
    );
}

#[test]
fn strategic_errors() {
    let apply = |doc: Value, patch: Value| {
        text(strategic_merge_patch(
            &doc,
            &patch,
            definition(POD).unwrap(),
        ))
    };
    assert_eq!(
        apply(
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"image": "x"}]})
        ),
        "map: {\"image\":\"x\"} does not contain declared merge key: name"
    );
    assert_eq!(
        apply(
            json!({"nodeSelector": {}}),
            json!({"nodeSelector": {"$patch": "x"}})
        ),
        "unknown patch type: x in map: {}"
    );
    assert_eq!(apply(json!([]), json!({})), "invalid JSON document");
}
