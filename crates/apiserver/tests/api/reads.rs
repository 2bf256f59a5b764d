//! Lists, pages, revisions, selectors, forms.

use serde_json::{Value, json};

use crate::harness::{TestServer, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> String {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    names.join(" ")
}

async fn with_maps(names: &str) -> TestServer {
    let server = TestServer::start().await;
    for name in names.split(' ') {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"name": name});
        server.post(MAPS, map).await.expect(201);
    }
    server
}

#[tokio::test]
async fn lists() {
    let server = with_maps("a b c d e").await;
    let list = server.get(MAPS).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert!(list["items"][0].get("kind").is_none() && list["items"][0]["metadata"]["resourceVersion"].is_string());
    let check = async |query: &str, expected: &str| {
        let list = server.get(&format!("{MAPS}?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
    };
    check("", "a b c d e").await;
    check("labelSelector=name%3Db", "b").await;
    check("labelSelector=name+in+(a,c)", "a c").await;
    check("labelSelector=!name", "").await;
    check("fieldSelector=metadata.name%3Dd", "d").await;
    check("fieldSelector=metadata.name!%3Dd,metadata.namespace%3Ddefault", "a b c e").await;
    let refused = server.get(&format!("{MAPS}?fieldSelector=data.x%3D1")).await;
    assert_eq!((refused.code, refused.json()["reason"].clone()), (400, json!("BadRequest")));
    // `watch=0` is a list.
    check("watch=0&limit=2", "a b").await;
    assert_eq!(names(&server.get("/api/v1/namespaces/none/configmaps").await.expect(200)), "");
}

#[tokio::test]
async fn pages_show_one_state() {
    let server = with_maps("a b c d e").await;
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), ("a b".into(), &json!(3)));
    // What changes meanwhile is not seen by later pages.
    server.delete(&format!("{MAPS}/c")).await.expect(200);
    server.post(MAPS, config_map("cc")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&second), "c d");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().expect("a token");
    let third = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!((names(&third), third["metadata"].get("continue")), ("e".into(), None));
    let exact = first["metadata"]["resourceVersion"].as_str().expect("a revision");
    let exact = server.get(&format!("{MAPS}?resourceVersion={exact}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(names(&exact), "a b c d e");
    server.get(&format!("{MAPS}?continue=nonsense")).await.expect(400);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_not_there_yet() {
    let server = with_maps("a").await;
    let answer = server.get(&format!("{MAPS}?resourceVersion=100000")).await;
    assert_eq!(answer.code, 504);
    assert!(answer.message().starts_with("Timeout: Too large resource version: 100000, current: "));
    let refused = server.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await;
    assert_eq!(refused.message(), "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided");
}

#[tokio::test]
async fn forms() {
    let server = with_maps("a b").await;
    let accept = async |path: &str, accept: &str| server.send(&format!("GET {path}"), &format!("accept: {accept}"), "").await;
    let table = accept(MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.expect(200);
    assert_eq!((&table["kind"], &table["columnDefinitions"][0]["name"]), (&json!("Table"), &json!("Name")));
    assert_eq!((&table["rows"][1]["cells"][0], &table["rows"][1]["object"]["kind"]), (&json!("b"), &json!("PartialObjectMetadata")));
    let partial = accept(MAPS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("data").is_none());
    let yaml = accept(&format!("{MAPS}/a"), "application/yaml").await;
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("kind: ConfigMap"));
    assert_eq!(accept(MAPS, "text/html").await.code, 406);
    let protobuf = accept(&format!("{MAPS}/a"), "application/vnd.kubernetes.protobuf").await;
    assert_eq!(&protobuf.bytes[..4], b"k8s\0");
    let value = api::protobuf::decode(&protobuf.bytes).expect("readable");
    assert_eq!(value["metadata"]["name"], "a");
    let list = accept(MAPS, "application/vnd.kubernetes.protobuf").await;
    let list = api::protobuf::decode(&list.bytes).expect("readable");
    assert_eq!(names(&list), "a b");
}

#[tokio::test]
async fn large_answers_are_packed() {
    let server = TestServer::start().await;
    for at in 0..20 {
        let mut map = config_map(&format!("m{at:02}"));
        map["data"]["x"] = "y".repeat(20_000).into();
        server.post(MAPS, map).await.expect(201);
    }
    let packed = server.send(&format!("GET {MAPS}"), "accept-encoding: gzip", "").await;
    assert_eq!(packed.headers.get("content-encoding").and_then(|value| value.to_str().ok()), Some("gzip"));
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.bytes[..]), &mut plain).expect("gzip");
    assert_eq!(plain, server.get(MAPS).await.bytes);
    assert_eq!(serde_json::from_slice::<Value>(&plain).expect("JSON")["items"].as_array().map(Vec::len), Some(20));
}
