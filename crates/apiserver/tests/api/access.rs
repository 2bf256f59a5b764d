//! Who may do what, and who is who.

use serde_json::{Value, json};

use crate::harness::{TestServer, config_map, pod, send};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test]
async fn what_is_not_granted_is_forbidden() {
    let server = TestServer::start().await;
    let bob = || server.service("bob", &[]);
    let check = async |request: &str, message: &str| {
        let answer = send(bob(), request, "", "").await;
        assert_eq!((answer.code, answer.message()), (403, message.to_owned()), "{request}");
    };
    check("GET /api/v1/namespaces/default/pods", "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"").await;
    check("GET /api/v1/nodes/n", "nodes \"n\" is forbidden: User \"bob\" cannot get resource \"nodes\" in API group \"\" at the cluster scope").await;
    check("DELETE /apis/apps/v1/namespaces/a/deployments/d", "deployments.apps \"d\" is forbidden: User \"bob\" cannot delete resource \"deployments\" in API group \"apps\" in the namespace \"a\"").await;
    check("GET /metrics", "forbidden: User \"bob\" cannot get path \"/metrics\"").await;
    for allowed in ["/version", "/api", "/apis/apps/v1", "/healthz", "/openapi/v3"] {
        assert_eq!(send(bob(), &format!("GET {allowed}"), "", "").await.code, 200, "{allowed}");
    }

    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    });
    server.post(&format!("{RBAC}/namespaces/default/rolebindings"), binding).await.expect(201);
    let created = send(bob(), &format!("POST {MAPS}"), "content-type: application/json", config_map("x").to_string()).await;
    assert_eq!(created.code, 201);
    assert_eq!(send(bob(), "GET /api/v1/namespaces/kube-system/configmaps", "", "").await.code, 403);
}

#[tokio::test]
async fn nobody_grants_more_than_they_have() {
    let server = TestServer::start().await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    });
    let roles_only = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "roles"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]}],
    });
    server.post(&format!("{RBAC}/namespaces/default/roles"), roles_only).await.expect(201);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "roles"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    });
    server.post(&format!("{RBAC}/namespaces/default/rolebindings"), binding).await.expect(201);
    let answer = send(server.service("bob", &[]), &format!("POST {RBAC}/namespaces/default/roles"), "content-type: application/json", role.to_string()).await;
    assert_eq!(answer.message(), "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"bob\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}");
}

#[tokio::test]
async fn reviews() {
    let server = TestServer::start().await;
    let who = send(server.service("bob", &["dev"]), "POST /apis/authentication.k8s.io/v1/selfsubjectreviews", "content-type: application/json", json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string()).await.expect(201);
    assert_eq!(who["status"]["userInfo"], json!({"username": "bob", "groups": ["dev", "system:authenticated"]}));
    let review = async |user: &str, verb: &str| {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}},
        });
        server.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", body).await.expect(201)["status"]["allowed"].clone()
    };
    assert_eq!(review("system:kube-scheduler", "list").await, true);
    assert_eq!(review("bob", "list").await, false);
}

#[tokio::test]
async fn impersonation() {
    let server = TestServer::start().await;
    let refused = server.send(&format!("GET {MAPS}"), "impersonate-user: bob", "").await;
    assert_eq!(refused.code, 403);
    let refused = send(server.service("eve", &[]), &format!("GET {MAPS}"), "impersonate-user: admin\nimpersonate-group: system:masters", "").await;
    assert_eq!(refused.message(), "users \"admin\" is forbidden: User \"eve\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope");
}

#[tokio::test]
async fn service_account_tokens() {
    let server = TestServer::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    server.post(accounts, account).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [], "expirationSeconds": 600}});
    let issued = server.post(&format!("{accounts}/robot/token"), request).await.expect(201);
    let token = issued["status"]["token"].as_str().expect("a token").to_owned();
    assert_eq!(issued["status"]["expirationTimestamp"], "2026-01-01T00:10:00Z");
    let review = async |token: &str| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        server.post("/apis/authentication.k8s.io/v1/tokenreviews", body).await.expect(201)["status"].clone()
    };
    let good: Value = review(&token).await;
    assert_eq!((&good["authenticated"], &good["user"]["username"]), (&json!(true), &json!("system:serviceaccount:default:robot")));
    let mut forged = token.clone();
    forged.replace_range(token.len() - 4.., "AAAA");
    assert!(review(&forged).await.get("authenticated").is_none());
    // It dies with its account.
    server.delete(&format!("{accounts}/robot")).await.expect(200);
    assert!(review(&token).await.get("authenticated").is_none());
    let keys = server.get("/openid/v1/jwks").await.expect(200);
    assert_eq!(keys["keys"][0]["alg"], "ES256");
}

#[tokio::test(start_paused = true)]
async fn a_node_asks_for_the_tokens_of_its_pods_alone() {
    let server = TestServer::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
    let mut uids = Vec::new();
    for (name, node) in [("p", "n1"), ("q", "n2")] {
        let mut pod = pod(name);
        pod["spec"]["serviceAccountName"] = "a".into();
        pod["spec"]["nodeName"] = node.into();
        pod["spec"]["volumes"] = json!([{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "audience": "vault"}}]}}]);
        let made = server.post("/api/v1/namespaces/default/pods", pod).await.expect(201);
        uids.push(made["metadata"]["uid"].as_str().expect("a uid").to_owned());
    }
    let node = server.service("system:node:n1", &["system:nodes"]);
    let check = async |bound: Value, audiences: &[&str], expected: &str| {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audiences, "expirationSeconds": 3600, "boundObjectRef": bound},
        });
        let path = "POST /api/v1/namespaces/default/serviceaccounts/a/token";
        let answer = send(node.clone(), path, "content-type: application/json", request.to_string()).await;
        let message = if answer.code == 201 { String::new() } else { answer.message() };
        assert!(message.ends_with(expected) && message.is_empty() == expected.is_empty(), "{message}");
    };
    let bound = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    check(bound("p", &uids[0]), &["vault"], "").await;
    check(bound("p", &uids[0]), &[], "").await; // The volume that every pod gets.
    check(
        bound("p", &uids[0]),
        &["bank"],
        "audience \"bank\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience",
    )
    .await;
    check(bound("p", &uids[0]), &["vault", "bank"], "node may only request 0 or 1 audiences").await;
    check(Value::Null, &["vault"], "node requested token not bound to a pod").await;
    check(bound("p", ""), &["vault"], "node requested token with a pod binding without a uid").await;
    check(
        bound("p", "other"),
        &["vault"],
        "the UID in the bound object reference (other) does not match the UID in record. The object might have been deleted and then recreated",
    )
    .await;
    check(bound("q", &uids[1]), &["vault"], "node requested token bound to a pod scheduled on a different node").await;
}
