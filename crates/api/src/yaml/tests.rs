//! YAML, told by example.

use super::*;
use serde_json::json;

#[track_caller]
fn check(text: &str, expected: Value) {
    assert_eq!(
        to_json(text.as_bytes()).unwrap(),
        (expected, Vec::new()),
        "{text}"
    );
}

#[test]
fn reads() {
    check("", Value::Null);
    check(
        "a: 1\nb: [x, 'y', \"z\", y]\nc:\n- d: ~\n",
        json!({"a": 1, "b": ["x", "y", "z", true], "c": [{"d": null}]}),
    );
    check(
        "a: yes\nb: 'yes'\nc: off\nd: 010\ne: 0x10\nf: 1e3\ng: 1.5\nh: 1_000\ni: 2020-01-01",
        json!({"a": true, "b": "yes", "c": false, "d": 8, "e": 16, "f": 1000, "g": 1.5, "h": 1000, "i": "2020-01-01"}),
    );
    check("1: a\ntrue: b", json!({"1": "a", "true": "b"}));
    check(
        "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2",
        json!({"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}),
    );
    check(
        "a: |\n  x\n  y\nb: >-\n  x\n  y\n",
        json!({"a": "x\ny\n", "b": "x y"}),
    );
    check("a: !!str 1\nb: !!int \"2\"", json!({"a": "1", "b": 2}));
    check("# only\n---\na: b # c\n", json!({"a": "b"}));
    check(r#"{"a": [1, "b"]}"#, json!({"a": [1, "b"]}));
}

#[test]
fn complaints() {
    let (value, problems) = to_json(b"a: 1\nb: 2\na: 3\n").unwrap();
    assert_eq!(value, json!({"a": 3, "b": 2}));
    assert_eq!(
        problems,
        ["yaml: unmarshal errors:\n  line 3: key \"a\" already set in map"]
    );
    assert_eq!(
        to_json(b"a: b: c").unwrap_err().to_string(),
        "yaml: line 1: mapping values are not allowed in this context"
    );
    assert!(to_json(b"a: [").is_err());
    let bomb = format!(
        "a: &a [{}]\n{}",
        "x,".repeat(100),
        ["b", "c", "d", "e"]
            .iter()
            .fold(("a", String::new()), |(last, text), name| (
                name,
                format!(
                    "{text}{name}: &{name} [{}]\n",
                    format!("*{last},").repeat(100)
                )
            ))
            .1
    );
    assert_eq!(
        to_json(bomb.as_bytes()).unwrap_err().to_string(),
        "yaml: document contains excessive aliasing"
    );
    assert!(to_json(&b"[".repeat(100_000)).is_err());
}

#[test]
fn streams() {
    assert_eq!(
        documents(b"---\na: 1\n---\n# nothing\n--- # x\nb: |\n  ----\n"),
        ["a: 1\n", "b: |\n  ----\n"]
    );
}

#[track_caller]
fn check_written(value: Value, expected: &str) {
    let text = to_yaml(&value);
    assert_eq!(text, expected);
    assert_eq!(to_json(text.as_bytes()).unwrap().0, value, "reads back");
}

#[test]
fn writes() {
    check_written(
        json!({"b": [{"x": 1, "y": [2, []]}, "z"], "a": {"c": {}}, "n": null}),
        "a:\n  c: {}\nb:\n- x: 1\n  \"y\":\n  - 2\n  - []\n- z\n\"n\": null\n",
    );
    check_written(
        json!({"a": "1", "b": "true", "c": "", "d": "2024-01-01T00:00:00Z", "e": "plain text", "f": "a: b", "g": "- x", "h": "#", "i": "it's", "j": "'q'", "k": "1:30"}),
        "a: \"1\"\nb: \"true\"\nc: \"\"\nd: \"2024-01-01T00:00:00Z\"\ne: plain text\nf: 'a: b'\ng: '- x'\nh: '#'\ni: it's\nj: '''q'''\nk: \"1:30\"\n",
    );
    check_written(
        json!({"a": "x\ny\n", "b": "x\ny", "c": "x\n\n", "d": " x\n", "e": "x \ny", "f": "\t"}),
        "a: |\n  x\n  y\nb: |-\n  x\n  y\nc: |+\n  x\n\nd: |2\n   x\ne: \"x \\ny\"\nf: \"\\t\"\n",
    );
    check_written(
        json!({"a10": 1, "a9": 2, "a": 3, "b.c": 4, "bc": 5}),
        "a: 3\na9: 2\na10: 1\nb.c: 4\nbc: 5\n",
    );
    let long = "word ".repeat(30);
    check_written(
        json!({"message": long.trim()}),
        "message: word word word word word word word word word word word word word word word\n  word word word word word word word word word word word word word word word\n",
    );
    check_written(json!([]), "[]\n");
}

mod laws {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[a-z0-9 :#'\"\\-\n\t.%&*!|>{}\\[\\],?~]{0,12}",
            "[ -~]{60,140}",
            "\\PC{0,6}"
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(text.clone(), inner, 0..4)
                    .prop_map(|map| map.into_iter().collect())
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in value()) {
            let text = to_yaml(&value);
            prop_assert_eq!(to_json(text.as_bytes()), Ok((value, Vec::new())), "{}", text);
        }

        #[test]
        fn no_text_panics(text in "[a-z:\\- \n\\[\\]{}&*|>'\"#?!%@,.0-9]{0,60}") {
            let _ = to_json(text.as_bytes());
            documents(text.as_bytes());
        }
    }
}
