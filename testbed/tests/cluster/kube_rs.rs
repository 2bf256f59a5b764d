//! What programs written with kube-rs do, on a running server with a node: the client and its runtime as they are.

use std::pin::pin;
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{
    Api, AttachParams, DeleteParams, DynamicObject, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams,
};
use kube::discovery::{Discovery, Scope};
use kube::{Client, ResourceExt};
use kube_runtime::reflector::{self, ObjectRef};
use kube_runtime::wait::{await_condition, conditions};
use kube_runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use testbed::cluster::for_test;
use testbed::session::waiting;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(30);

fn typed<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("an object of this kind")
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}

fn with_cluster<F: Future<Output = ()>>(suite: impl FnOnce(Client) -> F, flags: &[&str]) {
    let Some(cluster) = for_test(flags) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let config = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).expect("reads");
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.expect("a configuration");
        suite(Client::try_from(config).expect("a client")).await;
    });
}

#[test]
fn objects_patches_and_subresources() {
    with_cluster(
        |client| async move {
            let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
            let created = PostParams::default();
            for index in 0..5 {
                let object = json!({"metadata": {"name": format!("m{index}"), "labels": {"of": "suite"}}, "data": {"a": "1"}});
                maps.create(&created, &typed(object)).await.expect("creates");
            }
            let first = maps.list(&ListParams::default().labels("of=suite").limit(2)).await.expect("a page");
            assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, None), "a selector hides the rest's count");
            let token = first.metadata.continue_.expect("more");
            let rest = maps.list(&ListParams::default().labels("of=suite").limit(10).continue_token(&token)).await.expect("the rest");
            assert_eq!(rest.items.len(), 3);
            let metadata = maps.list_metadata(&ListParams::default().labels("of=suite")).await.expect("metadata");
            assert_eq!(metadata.items.len(), 5);

            // Server-side apply: owned, refused to another, forced.
            let apply = |value: &str| Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"k": value}}));
            maps.patch("applied", &PatchParams::apply("one"), &apply("1")).await.expect("applies");
            let refused = maps.patch("applied", &PatchParams::apply("two"), &apply("2")).await.expect_err("one owns it");
            let kube::Error::Api(status) = refused else { panic!("{refused}") };
            assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
            assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .data.k");
            let taken = maps.patch("applied", &PatchParams::apply("two").force(), &apply("2")).await.expect("is forced");
            assert_eq!(taken.data.expect("data")["k"], "2");
            maps.patch("applied", &PatchParams::default(), &Patch::Merge(json!({"data": {"more": "x"}}))).await.expect("merges");

            let mut entry = maps.entry("entry").await.expect("an entry").or_insert(|| typed(json!({"data": {"n": "0"}})));
            entry.commit(&created).await.expect("is made");
            entry.get_mut().data.get_or_insert_default().insert("n".into(), "1".into());
            entry.commit(&created).await.expect("is written");
            assert_eq!(maps.get("entry").await.expect("reads").data.expect("data")["n"], "1");
            let missing = maps.get_opt("nobody").await.expect("no error");
            assert!(missing.is_none());

            let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
            let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "nginx"}]}});
            let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
            deployments.create(&created, &typed(web)).await.expect("creates");
            let scaled = deployments.patch_scale("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}}))).await.expect("scales");
            assert_eq!(scaled.spec.expect("a spec").replicas, Some(3));
            assert_eq!(deployments.get_scale("web").await.expect("reads").spec.expect("a spec").replicas, Some(3));
            let status = deployments.patch_status("web", &PatchParams::default(), &Patch::Merge(json!({"status": {"collisionCount": 7}}))).await.expect("patches the status");
            assert_eq!(status.status.expect("a status").collision_count, Some(7));
            deployments.restart("web").await.expect("restarts");
            let annotations = deployments.get("web").await.expect("reads").spec.expect("a spec").template.metadata.expect("metadata").annotations;
            assert!(annotations.expect("annotations").contains_key("kube.kubernetes.io/restartedAt"));

            // Every kind that is served, found without knowing any.
            let discovery = Discovery::new(client.clone()).run().await.expect("discovers");
            let mut seen = 0;
            for group in discovery.groups() {
                for (resource, capabilities) in group.recommended_resources() {
                    if !capabilities.operations.iter().any(|verb| verb == "list") {
                        continue;
                    }
                    let api: Api<DynamicObject> = match capabilities.scope {
                        Scope::Cluster => Api::all_with(client.clone(), &resource),
                        Scope::Namespaced => Api::default_namespaced_with(client.clone(), &resource),
                    };
                    api.list(&ListParams::default()).await.unwrap_or_else(|cause| panic!("{}: {cause}", resource.plural));
                    seen += 1;
                }
            }
            assert!(seen > 50, "{seen}");
            let deleted = maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("of=suite")).await.expect("deletes");
            assert_eq!(deleted.left().expect("a list").items.len(), 5);
        },
        &["--disable-agent"],
    );
}

#[test]
fn watchers_and_reflectors() {
    with_cluster(
        |client| async move {
            let secrets: Api<Secret> = Api::default_namespaced(client.clone());
            let made = |name: &str| typed::<Secret>(json!({"metadata": {"name": name}, "stringData": {"a": "b"}}));
            secrets.create(&PostParams::default(), &made("before")).await.expect("creates");
            for config in [watcher::Config::default(), watcher::Config::default().streaming_lists(), watcher::Config::default().page_size(1)] {
                let (reader, writer) = reflector::store::<Secret>();
                let stream = reflector::reflector(writer, watcher(secrets.clone(), config)).default_backoff().touched_objects();
                let mut stream = pin!(stream);
                let first = within("the first", stream.try_next()).await.expect("watches").expect("an object");
                assert_eq!(first.name_any(), "before");
                secrets.create(&PostParams::default(), &made("later")).await.expect("creates");
                let later = within("the later", stream.try_next()).await.expect("watches").expect("an object");
                assert_eq!(later.name_any(), "later");
                assert!(reader.get(&ObjectRef::new("later").within("default")).is_some());
                secrets.delete("later", &DeleteParams::default()).await.expect("deletes");
                within("the deletion", stream.try_next()).await.expect("watches").expect("an object");
                assert!(reader.get(&ObjectRef::new("later").within("default")).is_none());
                assert_eq!(reader.state().len(), 1);
            }
        },
        &["--disable-agent"],
    );
}

#[test]
fn pods_their_logs_and_streams() {
    with_cluster(
        |client| async move {
            let pods: Api<Pod> = Api::default_namespaced(client.clone());
            let mut server = waiting("server");
            server["spec"]["containers"][0] = json!({"name": "main", "image": "testserver", "imagePullPolicy": "IfNotPresent"});
            let mut shell = waiting("shell");
            shell["spec"]["containers"][0]["command"] = json!(["sh", "-c", "for i in 1 2 3; do echo line $i; done; exec sleep 3600"]);
            for pod in [server, shell] {
                pods.create(&PostParams::default(), &typed(pod)).await.expect("creates");
            }
            for name in ["server", "shell"] {
                within(name, await_condition(pods.clone(), name, conditions::is_pod_running())).await.expect("runs");
            }
            let lines = pods.log_stream("shell", &LogParams { follow: true, ..LogParams::default() }).await.expect("follows");
            let lines: Vec<String> = within("three lines", lines.lines().take(3).try_collect()).await.expect("reads");
            assert_eq!(lines, ["line 1", "line 2", "line 3"]);
            assert_eq!(pods.logs("shell", &LogParams { tail_lines: Some(1), ..LogParams::default() }).await.expect("reads"), "line 3\n");

            let mut echo = pods.exec("shell", ["sh", "-c", "read word; echo heard $word; echo bad >&2; exit 3"], &AttachParams::default().stdin(true)).await.expect("runs");
            let status = echo.take_status().expect("a status");
            let (mut stdin, mut stdout, mut stderr) = (echo.stdin().expect("in"), echo.stdout().expect("out"), echo.stderr().expect("err"));
            stdin.write_all(b"words\n").await.expect("writes");
            let (mut out, mut err) = (String::new(), String::new());
            within("output", stdout.read_to_string(&mut out)).await.expect("reads");
            within("errors", stderr.read_to_string(&mut err)).await.expect("reads");
            assert_eq!((out.as_str(), err.as_str()), ("heard words\n", "bad\n"));
            let status = within("the end", status).await.expect("a status");
            assert_eq!((status.status.as_deref(), status.reason.as_deref()), (Some("Failure"), Some("NonZeroExitCode")));

            let mut forwarded = pods.portforward("server", &[8080]).await.expect("forwards");
            let mut stream = forwarded.take_stream(8080).expect("a stream");
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("asks");
            let mut answer = String::new();
            within("the answer", stream.read_to_string(&mut answer)).await.expect("reads");
            assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("server"), "{answer}");

            pods.evict("shell", &EvictParams::default()).await.expect("evicts");
            let uid = pods.get("server").await.expect("reads").uid().expect("a uid");
            pods.delete("server", &DeleteParams::default()).await.expect("deletes");
            within("it is gone", await_condition(pods.clone(), "server", conditions::is_deleted(&uid))).await.expect("watches");
        },
        &[],
    );
}
