//! ResourceQuotas as objects.

use serde_json::json;

use super::items;
use crate::harness::TestServer;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

// Conformance: [sig-api-machinery] ResourceQuota should manage the lifecycle of a ResourceQuota
#[tokio::test]
async fn a_quota() {
    let server = TestServer::start().await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "labels": {"quota": "q"}},
        "spec": {"hard": {"cpu": "1", "memory": "500Mi"}},
    });
    let created = server.post(QUOTAS, quota).await.expect(201);
    assert_eq!(created["spec"]["hard"], json!({"cpu": "1", "memory": "500Mi"}));
    let everywhere = "/api/v1/resourcequotas?labelSelector=quota=q";
    assert_eq!(items(&server.get(everywhere).await.expect(200)).len(), 1);
    let patch = json!({"metadata": {"labels": {"q": "patched"}}, "spec": {"hard": {"memory": "750Mi"}}});
    let patched = server.patch(&format!("{QUOTAS}/q"), "strategic-merge", patch).await.expect(200);
    assert_eq!(patched["metadata"]["labels"]["q"], "patched");
    assert_eq!(patched["spec"]["hard"], json!({"cpu": "1", "memory": "750Mi"}));
    server.delete(&format!("{QUOTAS}?labelSelector=q=patched")).await.expect(200);
    assert_eq!(items(&server.get(everywhere).await.expect(200)).len(), 0);
}

// Conformance: [sig-api-machinery] ResourceQuota should apply changes to a resourcequota status
#[tokio::test]
async fn its_status() {
    let server = TestServer::start().await;
    let (path, status) = (format!("{QUOTAS}/q"), format!("{QUOTAS}/q/status"));
    let hard = json!({"cpu": "500m", "memory": "500Mi"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    let mut object = server.post(QUOTAS, quota).await.expect(201);
    object["status"]["hard"] = hard.clone();
    let updated = server.put(&status, object).await.expect(200);
    assert_eq!(updated["status"]["hard"], updated["spec"]["hard"]);
    let more = json!({"cpu": "1", "memory": "1Gi"});
    let patched = server.patch(&path, "merge", json!({"spec": {"hard": more}})).await.expect(200);
    assert_eq!((&patched["spec"]["hard"], &patched["status"]["hard"]), (&more, &hard));
    server.patch(&status, "merge", json!({"status": {"hard": more}})).await.expect(200);
    let read = server.get(&status).await.expect(200);
    assert_eq!((&read["status"]["hard"], &read["spec"]["hard"]), (&more, &more));
    // The way of the status leads to nothing else.
    let again = json!({"spec": {"hard": {"cpu": "7"}}, "status": {"hard": {"cpu": "2", "memory": "2Gi"}}});
    let read = server.patch(&status, "merge", again).await.expect(200);
    assert_eq!((&read["status"]["hard"], &read["spec"]["hard"]), (&json!({"cpu": "2", "memory": "2Gi"}), &more));
}
