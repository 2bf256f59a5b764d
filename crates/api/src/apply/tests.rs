//! Server-side apply, told by example and held to its laws.

use super::*;
use crate::schema::definition_of_kind;
use serde_json::json;

fn deployment() -> &'static Definition {
    definition_of_kind("apps/v1", "Deployment").unwrap()
}

fn manager(name: &str) -> Manager<'_> {
    Manager {
        name,
        api_version: "apps/v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

fn normal(mut value: Value, definition: &'static Definition) -> Value {
    json::normalise(&mut value, definition).unwrap();
    value
}

fn web(replicas: i64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "nginx", "image": image, "ports": [{"containerPort": 80}]}]}}}})
}

fn fields(object: &Value, manager: &str) -> Value {
    let found = entries::list(object)
        .iter()
        .find(|entry| entry["manager"] == manager);
    found.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn create_records_what_the_original_records() {
    let mut new = normal(web(1, "nginx"), deployment());
    new["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}});
    new["spec"]["template"]["spec"]["securityContext"] = json!({});
    new["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    record_update(None, &mut new, &manager("kubectl-create"), deployment());
    assert_eq!(
        new["metadata"]["managedFields"],
        json!([{"manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
                    "f:containers": {"k:{\"name\":\"nginx\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}, "f:ports": {
                        ".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}}}},
                    "f:securityContext": {}}}}}}])
    );
}

#[test]
fn updates_move_ownership() {
    let mut first = normal(web(1, "nginx"), deployment());
    record_update(None, &mut first, &manager("a"), deployment());
    let mut second = first.clone();
    second["spec"]["replicas"] = json!(2);
    second["metadata"]["labels"] = json!({"app": "web", "x": "y"});
    second["metadata"]["resourceVersion"] = json!("7");
    record_update(Some(&first), &mut second, &manager("b"), deployment());
    assert_eq!(
        fields(&second, "b"),
        json!({"f:metadata": {"f:labels": {"f:x": {}}}, "f:spec": {"f:replicas": {}}})
    );
    assert!(fields(&second, "a")["f:spec"].get("f:replicas").is_none());

    // Nothing but server fields changed: nothing is recorded, whatever the request says of managed fields.
    let mut third = second.clone();
    third["metadata"]["generation"] = json!(3);
    third["metadata"]["managedFields"] = json!([]);
    record_update(Some(&second), &mut third, &manager("c"), deployment());
    assert_eq!(
        third["metadata"]["managedFields"],
        second["metadata"]["managedFields"]
    );

    // Removing a field takes it from whoever had it.
    let mut fourth = third.clone();
    fourth["metadata"]["labels"]
        .as_object_mut()
        .unwrap()
        .remove("x");
    record_update(Some(&third), &mut fourth, &manager("c"), deployment());
    assert_eq!(fields(&fourth, "b"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields(&fourth, "c"), Value::Null);

    let mut reset = fourth.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    record_update(Some(&fourth), &mut reset, &manager("c"), deployment());
    assert!(reset["metadata"].get("managedFields").is_none());
}

#[test]
fn many_updaters_are_capped() {
    let map = definition_of_kind("v1", "ConfigMap").unwrap();
    let mut object = json!({"metadata": {"name": "a"}, "data": {}});
    for number in 0..30 {
        let mut next = object.clone();
        next["data"][format!("k{number}")] = json!("v");
        let name = format!("m{number}");
        let now = Timestamp::from_second(1_000_000 + number).unwrap();
        let by = Manager {
            name: &name,
            api_version: "v1",
            subresource: "",
            now,
        };
        record_update((number > 0).then_some(&object), &mut next, &by, map);
        object = next;
    }
    assert_eq!(entries::list(&object).len(), 10);
    assert!(
        fields(&object, "ancient-changes")["f:data"]
            .get("f:k0")
            .is_some()
    );
}

#[track_caller]
fn applied(live: Option<&Value>, config: &Value, name: &str) -> Value {
    apply(live, config, &manager(name), false, deployment()).unwrap()
}

#[test]
fn apply_creates_conflicts_and_forces() {
    let live = applied(None, &web(3, "nginx:1"), "a");
    assert_eq!(live["spec"]["replicas"], 3);
    assert_eq!(
        fields(&live, "a")["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"nginx\"}"]
            ["f:image"],
        json!({})
    );
    assert!(fields(&live, "a")["f:metadata"].get("f:name").is_none());

    let conflict = apply(
        Some(&live),
        &web(5, "nginx:1"),
        &manager("b"),
        false,
        deployment(),
    )
    .unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"
    );
    let conflict = apply(
        Some(&live),
        &web(5, "nginx:2"),
        &manager("b"),
        false,
        deployment(),
    )
    .unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"nginx\"].image"
    );
    let forced = apply(
        Some(&live),
        &web(5, "nginx:1"),
        &manager("b"),
        true,
        deployment(),
    )
    .unwrap();
    assert_eq!(forced["spec"]["replicas"], 5);
    assert!(fields(&forced, "a")["f:spec"].get("f:replicas").is_none());
    // The same value is shared.
    assert!(
        fields(&forced, "a")["f:spec"].get("f:selector").is_some()
            && fields(&forced, "b")["f:spec"].get("f:selector").is_some()
    );
}

#[test]
fn updaters_conflict_with_their_version() {
    let mut live = normal(web(1, "nginx"), deployment());
    record_update(
        None,
        &mut live,
        &manager("kubectl-client-side-apply"),
        deployment(),
    );
    let error = apply(
        Some(&live),
        &web(2, "nginx"),
        &manager("other"),
        false,
        deployment(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );

    // kubectl takes over what its client-side apply has set.
    live["metadata"]["annotations"] = json!({LAST_APPLIED: web(1, "nginx").to_string()});
    let taken = applied(Some(&live), &web(2, "nginx"), "kubectl");
    assert_eq!(taken["spec"]["replicas"], 2);
    assert!(
        taken["metadata"]["annotations"][LAST_APPLIED]
            .as_str()
            .unwrap()
            .contains("\"replicas\":2")
    );
    live["spec"]["replicas"] = json!(7);
    assert!(
        apply(
            Some(&live),
            &web(2, "nginx"),
            &manager("kubectl"),
            false,
            deployment()
        )
        .is_err()
    );
}

#[test]
fn what_is_no_longer_applied_goes() {
    let mut with_more = web(3, "nginx:1");
    with_more["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "side", "image": "x"}));
    with_more["metadata"]["labels"]["extra"] = json!("1");
    let live = applied(None, &with_more, "a");
    let mut less = web(3, "nginx:1");
    less["spec"].as_object_mut().unwrap().remove("replicas");
    let pruned = applied(Some(&live), &less, "a");
    assert_eq!(
        pruned["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(pruned["metadata"]["labels"], json!({"app": "web"}));
    assert!(pruned["spec"].get("replicas").is_none());

    // An element goes with what others have set inside of it, unless they own the element.
    let mut shared = live.clone();
    shared["spec"]["template"]["spec"]["containers"][1]["tty"] = json!(true);
    record_update(
        Some(&live),
        &mut shared,
        &manager("controller"),
        deployment(),
    );
    let gone = applied(Some(&shared), &less, "a");
    assert_eq!(
        gone["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(fields(&gone, "controller"), Value::Null);

    // What another manager owns stays.
    let both = applied(Some(&live), &with_more, "b");
    assert_eq!(
        applied(Some(&both), &less, "a")["metadata"]["labels"],
        json!({"app": "web", "extra": "1"})
    );
}

#[test]
fn unfit_configurations() {
    let check = |config: Value, expected: &str| {
        let error = apply(None, &config, &manager("a"), false, deployment())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!("failed to create typed patch object (/; , Kind=): {expected}")
        );
    };
    check(
        json!({"spec": {"foo": 1}}),
        ".spec.foo: field not declared in schema",
    );
    check(
        json!({"spec": {"replicas": "1"}}),
        ".spec.replicas: expected numeric (int or float), got string",
    );
    check(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}}),
        ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
    );
    check(
        json!({"spec": {"a": 1, "b": 2}}),
        "errors:\n  .spec.a: field not declared in schema\n  .spec.b: field not declared in schema",
    );
    let nobody = apply(
        None,
        &json!({"metadata": {"managedFields": [{"manager": "x"}]}}),
        &manager("a"),
        false,
        deployment(),
    );
    assert_eq!(
        nobody.unwrap_err().to_string(),
        "metadata.managedFields must be nil"
    );
}

#[test]
fn objects_without_records() {
    let live = normal(web(1, "nginx"), deployment());
    let error = apply(
        Some(&live),
        &web(2, "nginx"),
        &manager("a"),
        false,
        deployment(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn list_order() {
    let live = json!(["a", "b", "c", "d"]);
    let check = |config: Value, expected: Value| {
        assert_eq!(
            merge::merge(live.clone(), &config, Shape::Values),
            expected,
            "{config}"
        )
    };
    check(json!(["c", "a"]), json!(["b", "c", "d", "a"]));
    check(json!(["x", "b"]), json!(["a", "x", "b", "c", "d"]));
    check(json!(["b", "x"]), json!(["a", "b", "c", "d", "x"]));
}

mod laws {
    use super::*;
    use proptest::prelude::*;

    /// A configuration of few names, so that collisions are common.
    fn config() -> impl Strategy<Value = Value> {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        let container = (
            name.clone(),
            prop::option::of(0..3i32),
            prop::collection::btree_map(name.clone(), 0..2i32, 0..3usize),
        )
            .prop_map(|(name, image, env)| {
                let env: Vec<Value> = env
                    .into_iter()
                    .map(|(name, value)| json!({"name": name, "value": value.to_string()}))
                    .collect();
                let mut container = json!({"name": name});
                if !env.is_empty() {
                    container["env"] = env.into();
                }
                if let Some(image) = image {
                    container["image"] = json!(format!("i{image}"));
                }
                container
            });
        let containers = prop::collection::vec(container, 0..3).prop_map(|list| {
            let mut seen = std::collections::HashSet::new();
            list.into_iter()
                .filter(|item| seen.insert(item["name"].to_string()))
                .collect::<Vec<_>>()
        });
        (prop::option::of(0..3i32), prop::collection::btree_map(name.clone(), 0..2i32, 0..3usize), containers, prop::collection::btree_set(name, 0..3)).prop_map(|(replicas, labels, containers, finalizers)| {
            let labels: serde_json::Map<String, Value> = labels.into_iter().map(|(name, value)| (name.to_owned(), json!(value.to_string()))).collect();
            let mut config = json!({"metadata": {"name": "x", "labels": labels, "finalizers": finalizers}, "spec": {"template": {"spec": {"containers": containers}}}});
            for (object, name) in [("/metadata", "labels"), ("/metadata", "finalizers"), ("/spec/template/spec", "containers")] {
                let fields = config.pointer_mut(object).and_then(Value::as_object_mut).unwrap();
                if [json!({}), json!([])].contains(&fields[name]) {
                    fields.remove(name); // Can be owned empty, but not seen in the object.
                }
            }
            if let Some(replicas) = replicas {
                config["spec"]["replicas"] = json!(replicas);
            }
            config
        })
    }

    fn forced(live: Option<&Value>, config: &Value, name: &str) -> Value {
        apply(live, config, &manager(name), true, deployment()).unwrap()
    }

    /// Every leaf of the configuration stands in the object.
    fn contains(object: &Value, config: &Value, shape: Shape) -> bool {
        let changes = compare(
            Some(object),
            Some(&merge::merge(object.clone(), config, shape)),
            shape,
        );
        changes.modified.is_empty() && changes.added.is_empty()
    }

    proptest! {
        #[test]
        fn applying_again_changes_nothing(first in config(), second in config()) {
            let live = forced(Some(&forced(None, &first, "a")), &second, "b");
            prop_assert_eq!(&forced(Some(&live), &second, "b"), &live);
        }

        #[test]
        fn what_is_applied_holds(first in config(), second in config(), third in config()) {
            let live = forced(Some(&forced(Some(&forced(None, &first, "a")), &second, "b")), &third, "a");
            prop_assert!(contains(&live, &normal(third.clone(), deployment()), Shape::of(deployment())), "{}", live);
        }

        /// Managers of different fields may come in any order.
        #[test]
        fn the_order_of_disjoint_managers_is_no_matter(first in config(), second in config()) {
            // What one names the other does not: containers, labels and finalizers by the element, replicas by one.
            let mut second: Value = serde_json::from_str(
                &second.to_string().replace("\"a\"", "\"d\"").replace("\"b\"", "\"e\"").replace("\"c\"", "\"f\""),
            ).unwrap();
            if let Some(spec) = second["spec"].as_object_mut() {
                spec.remove("replicas");
            }
            let one = forced(Some(&forced(None, &first, "a")), &second, "b");
            let other = forced(Some(&forced(None, &second, "b")), &first, "a");
            let settled = |mut object: Value| {
                // New elements go behind those that are there: their order tells who came first.
                for list in ["/metadata/finalizers", "/spec/template/spec/containers"] {
                    if let Some(items) = object.pointer_mut(list).and_then(Value::as_array_mut) {
                        items.sort_by_key(Value::to_string);
                    }
                }
                object
            };
            prop_assert_eq!(fields(&one, "a"), fields(&other, "a"));
            prop_assert_eq!(fields(&one, "b"), fields(&other, "b"));
            prop_assert_eq!(settled(one), settled(other));
        }

        #[test]
        fn an_applier_that_leaves_leaves_nothing(config in config()) {
            let live = forced(None, &config, "a");
            let gone = forced(Some(&live), &json!({"metadata": {"name": "x"}}), "a");
            prop_assert_eq!(gone["metadata"].get("labels"), None);
            prop_assert_eq!(gone["spec"].get("replicas"), None);
            prop_assert_eq!(&gone["spec"]["template"]["spec"]["containers"], &Value::Null);
        }

        #[test]
        fn nobody_loses_what_somebody_owns(first in config(), second in config(), third in config()) {
            let both = forced(Some(&forced(None, &first, "a")), &second, "b");
            let after = forced(Some(&both), &third, "a");
            let still = Set::from_fields_v1(&fields(&after, "b"));
            let shape = Shape::of(deployment());
            let present = shape::whole_set(&after, shape);
            prop_assert!(still.clone().minus(&present).is_empty(), "{:?}", still.minus(&present).paths());
        }

        #[test]
        fn updates_own_what_they_change(first in config(), second in config()) {
            let mut old = normal(first, deployment());
            record_update(None, &mut old, &manager("a"), deployment());
            let mut new = normal(second, deployment());
            record_update(Some(&old), &mut new, &manager("b"), deployment());
            let mut again = new.clone();
            record_update(Some(&new), &mut again, &manager("c"), deployment());
            prop_assert_eq!(&again, &new);
            let present = shape::whole_set(&new, Shape::of(deployment()));
            for entry in entries::list(&new) {
                prop_assert!(Set::from_fields_v1(&entry["fieldsV1"]).minus(&present).is_empty());
            }
        }

        #[test]
        fn taking_out_in_place_is_taking_out(first in config(), second in config(), third in config()) {
            let shape = Shape::of(deployment());
            let mut set = shape::owned_set(&first, shape);
            set.union(shape::whole_set(&third, shape));
            set.member = false;
            let taken = shape::owned_set(&second, shape);
            let mut fields = set.clone().into_fields_v1();
            let changed = set::subtract_from_fields_v1(fields.as_object_mut().unwrap(), &taken);
            let rest = set.clone().minus(&taken);
            prop_assert_eq!(changed, rest != set);
            prop_assert_eq!(fields, rest.into_fields_v1());
        }

        #[test]
        fn sets_survive_their_json(config in config()) {
            let set = shape::owned_set(&config, Shape::of(deployment()));
            prop_assert_eq!(Set::from_fields_v1(&set.clone().into_fields_v1()), set);
        }
    }
}
