//! Lists in pages, and the forms that lists can have.

use serde_json::{Value, json};

use super::{items, revision};
use crate::harness::TestServer;

const TEMPLATES: &str = "/api/v1/namespaces/default/podtemplates";
const COUNT: usize = 400;
const PAGE: usize = 17;

async fn fill(server: &TestServer) {
    for number in 0..COUNT {
        let template = json!({
            "apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": format!("template-{number:04}")},
            "template": {"spec": {"containers": [{"name": "test", "image": "test2"}]}},
        });
        server.post(TEMPLATES, template).await.expect(201);
    }
}

async fn page(server: &TestServer, token: &str) -> crate::harness::Answer {
    server.get(&format!("{TEMPLATES}?limit={PAGE}&continue={token}")).await
}

fn names(list: &Value) -> Vec<String> {
    items(list).iter().map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

/// Reads on to the end; `seen` objects have been read already.
async fn read_on(server: &TestServer, mut list: Value, mut seen: usize) -> Vec<String> {
    let first = revision(&list);
    let mut all = Vec::new();
    loop {
        assert!(items(&list).len() <= PAGE);
        assert_eq!(revision(&list), first, "every page is of the same moment");
        all.extend(names(&list));
        seen += items(&list).len();
        let token = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        let remaining = list["metadata"]["remainingItemCount"].as_u64();
        assert_eq!(remaining, (!token.is_empty()).then_some((COUNT - seen) as u64));
        if token.is_empty() {
            return all;
        }
        list = page(server, &token).await.expect(200);
    }
}

// Conformance: [sig-api-machinery] Servers with support for API chunking should return chunks of results for list calls
#[tokio::test]
async fn in_pages() {
    let server = TestServer::start().await;
    fill(&server).await;
    let first = page(&server, "").await.expect(200);
    let paged = read_on(&server, first, 0).await;
    let whole = server.get(TEMPLATES).await.expect(200);
    assert_eq!((paged.len(), paged), (COUNT, names(&whole)));
}

// Conformance: [sig-api-machinery] Servers with support for API chunking should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent
#[tokio::test]
async fn a_page_after_compaction() {
    let server = TestServer::start().await;
    fill(&server).await;
    let first = page(&server, "").await.expect(200);
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    // Something changes, and the past is forgotten.
    let last = server.patch(&format!("{TEMPLATES}/template-0399"), "merge", json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    server.store.compact(revision(&last).parse().expect("a number")).await.expect("compacts");
    let expired = page(&server, &token).await.expect(410);
    assert_eq!((&expired["reason"], &expired["code"]), (&json!("Expired"), &json!(410)));
    let inconsistent = expired["metadata"]["continue"].as_str().expect("a token to go on with").to_owned();
    let second = page(&server, &inconsistent).await.expect(200);
    assert_eq!(names(&second)[0], format!("template-{PAGE:04}"));
    assert_eq!(read_on(&server, second, PAGE).await.len(), COUNT - PAGE);
}

// Conformance: [sig-api-machinery] Servers with support for Table transformation should return a 406 for a backend which does not implement metadata
#[tokio::test]
async fn what_is_no_table() {
    let server = TestServer::start().await;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": "default", "verb": "list", "resource": "pods"}},
    });
    let headers = "content-type: application/json\naccept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let path = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let refused = server.send(path, headers, review.to_string()).await.expect(406);
    assert_eq!(refused["reason"], "NotAcceptable");
}
