//! Decoding, told by example.

use super::*;
use crate::schema::definition_of_kind;
use serde_json::json;

fn of(kind: &str) -> &'static Definition {
    let api_version = if kind == "Deployment" {
        "apps/v1"
    } else {
        "v1"
    };
    definition_of_kind(api_version, kind).unwrap()
}

#[track_caller]
fn check(kind: &str, body: &str, expected: Value) {
    let decoded = decode(body.as_bytes(), of(kind)).unwrap();
    assert_eq!(decoded.value, expected);
    assert_eq!(decoded.strict_problems, Vec::<String>::new());
    let again = decode(&encode(&decoded.value), of(kind)).unwrap();
    assert_eq!(again.value, decoded.value, "decoding again changes nothing");
}

#[test]
fn normal_form() {
    check(
        "ConfigMap",
        r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","creationTimestamp":null,"labels":{}},"data":{"k":"v"},"immutable":false}"#,
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}, "immutable": false}),
    );
    check(
        "Deployment",
        r#"{"spec":{"replicas":0,"paused":false,"strategy":{},"selector":null,"template":{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1000m","memory":1024}},"args":[]}]}}}}"#,
        json!({"metadata": {}, "status": {}, "spec": {"replicas": 0, "strategy": {}, "selector": null, "template": {"metadata": {}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1024"}}}]}}}}),
    );
    check(
        "Service",
        r#"{"spec":{"ports":[{"port":80,"protocol":""}]}}"#,
        json!({"metadata": {}, "spec": {"ports": [{"port": 80, "targetPort": 0}]}, "status": {"loadBalancer": {}}}),
    );
    check(
        "Pod",
        r#"{"status":{"conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T01:00:00.5+01:00"}]},"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}"#,
        json!({"metadata": {}, "spec": {"containers": null, "volumes": [{"name": "v", "emptyDir": {}}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    );
}

#[track_caller]
fn check_problems(kind: &str, body: &str, expected: &[&str]) {
    assert_eq!(
        decode(body.as_bytes(), of(kind)).unwrap().strict_problems,
        expected
    );
}

#[test]
fn strict_problems() {
    check_problems(
        "Deployment",
        r#"{"spec":{"selector":{"matchLabel":{}},"foo":1,"template":{"spec":{"containers":[{"name":"a"},{"Name":"b"}]}}},"x":1}"#,
        &[
            r#"unknown field "spec.selector.matchLabel""#,
            r#"unknown field "spec.foo""#,
            r#"unknown field "spec.template.spec.containers[1].Name""#,
            r#"unknown field "x""#,
        ],
    );
    check_problems(
        "ConfigMap",
        r#"{"data":{"a":"1","a":"2"},"data":{"b":"3"},"metadata":{"name":"x","name":"y"}}"#,
        &[
            r#"duplicate field "data.a""#,
            r#"duplicate field "data""#,
            r#"duplicate field "metadata.name""#,
        ],
    );
    check_problems(
        "ConfigMap",
        r#"{"a":{"b":{"c":1}},"a":2}"#,
        &[r#"unknown field "a""#],
    );
}

#[track_caller]
fn check_error(kind: &str, body: &str, expected: &str) {
    assert_eq!(
        decode(body.as_bytes(), of(kind)).unwrap_err().to_string(),
        expected,
        "{body}"
    );
}

#[test]
fn errors() {
    check_error(
        "Deployment",
        r#"{"spec":{"replicas":"3"}}"#,
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check_error(
        "Deployment",
        r#"{"spec":{"replicas":1.5}}"#,
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check_error(
        "Deployment",
        r#"{"spec":{"replicas":3000000000}}"#,
        "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check_error(
        "Deployment",
        r#"{"spec":[]}"#,
        "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
    );
    check_error(
        "Deployment",
        "[]",
        "json: cannot unmarshal array into Go value of type v1.Deployment",
    );
    check_error(
        "Pod",
        r#"{"spec":{"containers":[{"env":[{"name":"a","value":1}]}]}}"#,
        "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
    );
    check_error(
        "Pod",
        r#"{"spec":{"containers":{}}}"#,
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
    );
    check_error(
        "ConfigMap",
        r#"{"data":{"a":1}}"#,
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
    );
    check_error(
        "ConfigMap",
        r#"{"metadata":{"labels":{"a":true}}}"#,
        "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
    );
    check_error(
        "Secret",
        r#"{"data":{"a":"!"}}"#,
        "illegal base64 data at input byte 0",
    );
    check_error(
        "Pod",
        r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    check_error(
        "Pod",
        r#"{"metadata":{"creationTimestamp":"now"}}"#,
        r#"parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#,
    );
    check_error("Pod", "{", "unexpected end of JSON input");
    check_error(
        "Pod",
        "{a",
        "invalid character 'a' looking for beginning of object key string",
    );
    check_error(
        "Pod",
        r#"{"a" 1}"#,
        "invalid character '1' after object key",
    );
    check_error(
        "Pod",
        r#"{"a":1 "b""#,
        "invalid character '\"' after object key:value pair",
    );
    check_error("Pod", "{} x", "invalid character 'x' after top-level value");
    check_error(
        "Pod",
        r#"{"a":tru}"#,
        "invalid character '}' in literal true (expecting 'e')",
    );
    check_error(
        "Pod",
        r#"{"a":[1,]}"#,
        "invalid character ']' looking for beginning of value",
    );
    check_error(
        "Pod",
        r#"{"a":01}"#,
        "invalid character '1' after object key:value pair",
    );
    check_error(
        "Pod",
        &format!("{{\"a\":{}", "[".repeat(200_000)),
        "exceeded max depth",
    );
}

#[test]
fn text() {
    let body = r#"{"data":{"k":"a\u00e9\n\ud83d\ude00\ud800 \/"}}"#;
    assert_eq!(
        decode(body.as_bytes(), of("ConfigMap")).unwrap().value["data"]["k"],
        "a\u{e9}\n\u{1f600}\u{fffd} /"
    );
    assert_eq!(
        decode(b"{\"data\":{\"k\":\"\xff\"}}", of("ConfigMap"))
            .unwrap()
            .value["data"]["k"],
        "\u{fffd}"
    );
    assert_eq!(
        type_meta(br#"{"a":[{}],"kind":"Pod","apiVersion":"v1"}"#).unwrap(),
        ("v1".to_owned(), "Pod".to_owned())
    );
}

#[test]
fn normalising_a_value() {
    let mut value = json!({"data": {"k": null}, "metadata": {"foo": 1}});
    assert_eq!(
        normalise(&mut value, of("ConfigMap")).unwrap(),
        [r#"unknown field "metadata.foo""#]
    );
    assert_eq!(value, json!({"data": {"k": ""}, "metadata": {}}));
}

#[test]
fn no_definition_has_more_fields_than_bits() {
    assert!(crate::schema::definitions().all(|definition| definition.fields.len() <= 128));
}

mod laws {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("\\PC{0,6}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect())
            ]
        })
    }

    proptest! {
        #[test]
        fn untyped_values_survive(value in value()) {
            let decoded = decode_untyped(&encode(&value)).unwrap();
            prop_assert_eq!(decoded.value, value);
            prop_assert!(decoded.strict_problems.is_empty());
        }

        #[test]
        fn good_json_is_what_serde_takes_for_good(text in "[\\[\\]{}\",:0-9eE+.tfn\\-rualse ]{0,24}") {
            let theirs = serde_json::from_str::<Value>(&text);
            match decode_untyped(text.as_bytes()) {
                Ok(_) => prop_assert!(theirs.is_ok(), "{text}: {theirs:?}"),
                Err(error) => prop_assert!(theirs.is_err(), "{text}: {error}"),
            }
        }

        #[test]
        fn normal_form_is_stable(value in value(), at in prop::sample::select(vec!["metadata", "spec", "status"])) {
            let body = encode(&json!({at: value}));
            if let Ok(decoded) = decode(&body, of("Deployment")) {
                let again = decode(&encode(&decoded.value), of("Deployment")).unwrap();
                prop_assert_eq!(again.value, decoded.value);
            }
        }
    }
}
