//! YAML, told by example.

use super::*;
use serde_json::json;

#[track_caller]
fn check(text: &str, expected: Value) {
    assert_eq!(to_json(text.as_bytes()).unwrap(), (expected, Vec::new()), "{text}");
}

#[test]
fn reads() {
    check("", Value::Null);
    check("a: 1\nb: [x, 'y', \"z\"]\nc:\n- d: ~\n", json!({"a": 1, "b": ["x", true, "z"], "c": [{"d": null}]}).as_object().map(|map| { let mut map = map.clone(); map["b"] = json!(["x", "y", "z"]); Value::Object(map) }).unwrap());
    check("a: yes\nb: 'yes'\nc: off\nd: 010\ne: 0x10\nf: 1e3\ng: 1.5\nh: 1_000\ni: 2020-01-01", json!({"a": true, "b": "yes", "c": false, "d": 8, "e": 16, "f": 1000, "g": 1.5, "h": 1000, "i": "2020-01-01"}));
    check("1: a\ntrue: b", json!({"1": "a", "true": "b"}));
    check("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2", json!({"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}));
    check("a: |\n  x\n  y\nb: >-\n  x\n  y\n", json!({"a": "x\ny\n", "b": "x y"}));
    check("a: !!str 1\nb: !!int \"2\"", json!({"a": "1", "b": 2}));
    check("# only\n---\na: b # c\n", json!({"a": "b"}));
    check(r#"{"a": [1, "b"]}"#, json!({"a": [1, "b"]}));
}

#[test]
fn complaints() {
    let (value, problems) = to_json(b"a: 1\nb: 2\na: 3\n").unwrap();
    assert_eq!(value, json!({"a": 3, "b": 2}));
    assert_eq!(problems, ["yaml: unmarshal errors:\n  line 3: key \"a\" already set in map"]);
    assert_eq!(to_json(b"a: b: c").unwrap_err().to_string(), "yaml: line 1: mapping values are not allowed in this context");
    assert!(to_json(b"a: [").is_err());
    let bomb = format!("a: &a [{}]\n{}", "x,".repeat(100), ["b", "c", "d", "e"].iter().fold(("a", String::new()), |(last, text), name| (name, format!("{text}{name}: &{name} [{}]\n", format!("*{last},").repeat(100)))).1);
    assert_eq!(to_json(bomb.as_bytes()).unwrap_err().to_string(), "yaml: document contains excessive aliasing");
    assert!(to_json(&b"[".repeat(100_000)).is_err());
}

#[test]
fn streams() {
    assert_eq!(documents(b"---\na: 1\n---\n# nothing\n--- # x\nb: |\n  ----\n"), ["a: 1\n", "b: |\n  ----\n"]);
}

#[track_caller]
fn check_written(value: Value, expected: &str) {
    let text = to_yaml(&value);
    assert_eq!(text, expected);
    assert_eq!(to_json(text.as_bytes()).unwrap().0, value, "reads back");
}

#[test]
fn writes() {
    check_written(json!({"b": [{"x": 1, "y": [2, []]}, "z"], "a": {"c": {}}, "n": null}), "a:\n  c: {}\nb:\n- x: 1\n  \"y\":\n  - 2\n  - []\n- z\n\"n\": null\n");
    check_written(json!({"a": "1", "b": "true", "c": "", "d": "2024-01-01T00:00:00Z", "e": "plain text", "f": "a: b", "g": "- x", "h": "#", "i": "it's", "j": "'q'", "k": "1:30"}),
        "a: \"1\"\nb: \"true\"\nc: \"\"\nd: \"2024-01-01T00:00:00Z\"\ne: plain text\nf: 'a: b'\ng: '- x'\nh: '#'\ni: it's\nj: '''q'''\nk: \"1:30\"\n");
    check_written(json!({"a": "x\ny\n", "b": "x\ny", "c": "x\n\n", "d": " x\n", "e": "x \ny", "f": "\t"}),
        "a: |\n  x\n  y\nb: |-\n  x\n  y\nc: |+\n  x\n\nd: |2\n   x\ne: \"x \\ny\"\nf: \"\\t\"\n");
    check_written(json!({"a10": 1, "a9": 2, "a": 3, "b.c": 4, "bc": 5}), "a: 3\na9: 2\na10: 1\nb.c: 4\nbc: 5\n");
    let long = "word ".repeat(30);
    check_written(json!({"message": long.trim()}), "message: word word word word word word word word word word word word word word word\n  word word word word word word word word word word word word word word word\n");
    check_written(json!([]), "[]\n");
}
