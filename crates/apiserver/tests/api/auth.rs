//! Accounts, tokens, certificates and reviews, as the conformance suite walks through them; and who may come in.

use std::collections::BTreeMap;

use apiserver::{Config, StaticToken};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::{TestServer, config, config_map, pod, send};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "labels": {"test": "sa"}}})
}

/// The events of a watch from a revision, until it ends.
async fn events(server: &TestServer, path: &str, revision: &str) -> Vec<(String, Value)> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let answer = server.get(&format!("{path}{separator}watch=1&resourceVersion={revision}&timeoutSeconds=1")).await;
    let lines = answer.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice::<Value>(line).expect("an event"))
        .map(|mut event| (event["type"].as_str().unwrap_or("").to_owned(), event["object"].take()))
        .filter(|(kind, _)| kind != "BOOKMARK")
        .collect()
}

fn kinds(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(kind, _)| kind.as_str()).collect()
}

fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned()
}

/// What discovery says of a group's version: resource to verbs.
async fn discovered(server: &TestServer, group: &str) -> BTreeMap<String, Vec<String>> {
    let groups = server.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().expect("groups").iter().any(|own| own["name"] == group), "{group}");
    let own = server.get(&format!("/apis/{group}")).await.expect(200);
    assert!(own["versions"].as_array().expect("versions").iter().any(|version| version["version"] == "v1"), "{group}");
    let list = server.get(&format!("/apis/{group}/v1")).await.expect(200);
    let resources = list["resources"].as_array().expect("resources").iter();
    resources
        .map(|resource| {
            let verbs = resource["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            (resource["name"].as_str().unwrap_or("").to_owned(), verbs.collect())
        })
        .collect()
}

// Conformance: [sig-auth] ServiceAccounts should run through the lifecycle of a ServiceAccount
#[tokio::test(start_paused = true)]
async fn the_life_of_a_service_account() {
    let server = TestServer::start().await;
    let before = server.get(ACCOUNTS).await.expect(200);
    server.post(ACCOUNTS, account("robot")).await.expect(201);
    let patched = server.patch(&format!("{ACCOUNTS}/robot"), "strategic-merge", json!({"automountServiceAccountToken": false})).await;
    assert_eq!(patched.expect(200)["automountServiceAccountToken"], false);
    let listed = server.get("/api/v1/serviceaccounts?labelSelector=test%3Dsa").await.expect(200);
    assert_eq!((&listed["items"][0]["metadata"]["name"], &listed["items"][0]["automountServiceAccountToken"]), (&json!("robot"), &json!(false)));
    server.send(&format!("DELETE {ACCOUNTS}?labelSelector=test%3Dsa"), "", "").await.expect(200);
    let seen = events(&server, &format!("{ACCOUNTS}?labelSelector=test%3Dsa"), &revision(&before)).await;
    assert_eq!(kinds(&seen), ["ADDED", "MODIFIED", "DELETED"]);
    assert_eq!(seen[0].1["metadata"]["labels"]["test"], "sa");
}

// Conformance: [sig-auth] ServiceAccounts should update a ServiceAccount
#[tokio::test]
async fn a_service_account_is_updated() {
    let server = TestServer::start().await;
    let mut made = server.post(ACCOUNTS, account("robot")).await.expect(201);
    made["automountServiceAccountToken"] = true.into();
    let updated = server.put(&format!("{ACCOUNTS}/robot"), made).await.expect(200);
    assert_eq!(updated["automountServiceAccountToken"], true);
    assert_eq!(server.get(&format!("{ACCOUNTS}/robot")).await.expect(200)["automountServiceAccountToken"], true);
}

async fn token_of(server: &TestServer, name: &str) -> String {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let issued = server.post(&format!("{ACCOUNTS}/{name}/token"), request).await.expect(201);
    issued["status"]["token"].as_str().expect("a token").to_owned()
}

// Conformance: [sig-auth] ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview
#[tokio::test]
async fn a_token_is_made_and_reviewed() {
    let server = TestServer::start().await;
    server.post(ACCOUNTS, account("robot")).await.expect(201);
    let token = token_of(&server, "robot").await;
    assert!(!token.is_empty());
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let review = server.post("/apis/authentication.k8s.io/v1/tokenreviews", body).await.expect(201);
    assert_eq!((&review["status"]["authenticated"], review["status"].get("error")), (&json!(true), None));
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:robot");
}

// Conformance: [sig-auth] SubjectReview should support SubjectReview API operations
#[tokio::test]
async fn subject_reviews_agree_with_what_happens() {
    let server = TestServer::start().await;
    server.post(ACCOUNTS, account("robot")).await.expect(201);
    let user = "system:serviceaccount:default:robot";
    let headers = format!("impersonate-user: {user}");
    let allowed = async |verb: &str| {
        let spec = json!({
            "user": user, "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": {"verb": verb, "resource": "configmaps", "namespace": "default"},
        });
        let review = |kind: &str| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": {"namespace": "default"}, "spec": spec});
        let mut global = review("SubjectAccessReview");
        global["metadata"] = json!({});
        let global = server.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", global).await.expect(201);
        let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
        let local = server.post(local, review("LocalSubjectAccessReview")).await.expect(201);
        assert_eq!(global["status"]["allowed"], local["status"]["allowed"], "{verb}");
        global["status"]["allowed"] == true
    };
    let listed = async || server.send("GET /api/v1/namespaces/default/configmaps", &headers, "").await.code;
    assert_eq!((allowed("list").await, listed().await), (false, 403));
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    });
    server.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.expect(201);
    assert_eq!((allowed("list").await, listed().await), (true, 200));
    assert!(!allowed("delete").await);
}

// Conformance: [sig-auth] ServiceAccounts should allow opting out of API token automount
#[tokio::test]
async fn who_does_not_want_a_token_gets_none() {
    let server = TestServer::start().await;
    let mount = [("default", None), ("mount", Some(true)), ("nomount", Some(false))];
    for (name, automount) in mount {
        let mut own = account(name);
        if let Some(automount) = automount {
            own["automountServiceAccountToken"] = automount.into();
        }
        server.post(ACCOUNTS, own).await.expect(201);
    }
    for (account, of_account) in mount {
        for of_pod in [None, Some(true), Some(false)] {
            let mut wanted = pod(&format!("{account}-{of_pod:?}").to_lowercase().replace(['(', ')'], "-").replace("--", "-"));
            wanted["metadata"]["name"] = wanted["metadata"]["name"].as_str().unwrap_or("").trim_end_matches('-').into();
            wanted["metadata"]["labels"] = json!({});
            wanted["spec"]["serviceAccountName"] = account.into();
            if let Some(of_pod) = of_pod {
                wanted["spec"]["automountServiceAccountToken"] = of_pod.into();
            }
            let made = server.post("/api/v1/namespaces/default/pods", wanted).await.expect(201);
            let mounts = made["spec"]["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
            let has = mounts.iter().any(|mount| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount");
            assert_eq!(has, of_pod.or(of_account).unwrap_or(true), "{account} {of_pod:?}");
        }
    }
}

fn certificate_request() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "e2e.example.com");
    STANDARD.encode(params.serialize_request(&key).expect("a request").pem().expect("PEM"))
}

// Conformance: [sig-auth] Certificates API [Privileged:ClusterAdmin] should support CSR API operations
#[tokio::test(start_paused = true)]
async fn certificate_signing_requests() {
    let server = TestServer::start().await;
    let resources = discovered(&server, "certificates.k8s.io").await;
    let all: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let part: &[&str] = &["get", "patch", "update"];
    for (name, verbs) in [("", all), ("/approval", part), ("/status", part)] {
        assert_eq!(resources[&format!("certificatesigningrequests{name}")], verbs, "{name}");
    }

    let wanted = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "e2e-example-csr-", "labels": {"test": "csr"}},
        "spec": {
            "request": certificate_request(), "signerName": "example.com/e2e", "expirationSeconds": 3600,
            "usages": ["digital signature", "key encipherment", "server auth"],
        },
    });
    server.post(REQUESTS, wanted.clone()).await.expect(201);
    server.post(REQUESTS, wanted.clone()).await.expect(201);
    let made = server.post(REQUESTS, wanted.clone()).await.expect(201);
    let path = format!("{REQUESTS}/{}", made["metadata"]["name"].as_str().expect("a name"));
    let got = server.get(&path).await.expect(200);
    assert_eq!((&got["metadata"]["uid"], &got["spec"]["expirationSeconds"]), (&made["metadata"]["uid"], &json!(3600)));
    let selected = format!("{REQUESTS}?labelSelector=test%3Dcsr");
    let listed = server.get(&selected).await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3));

    let patched = server.patch(&path, "merge", json!({"metadata": {"annotations": {"patched": "true"}}})).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    let mut update = patched.clone();
    update["metadata"]["annotations"]["updated"] = "true".into();
    let updated = server.put(&path, update).await.expect(200);
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    let seen = events(&server, &selected, &revision(&listed)).await;
    assert_eq!(kinds(&seen), ["MODIFIED", "MODIFIED"]);
    assert_eq!(seen[1].1["metadata"]["annotations"], json!({"patched": "true", "updated": "true"}));

    let approval = format!("{path}/approval");
    let got = server.get(&approval).await.expect(200);
    assert_eq!((&got["kind"], &got["metadata"]["uid"]), (&json!("CertificateSigningRequest"), &made["metadata"]["uid"]));
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "e2e"});
    let patch = json!({
        "metadata": {"annotations": {"patchedapproval": "true"}}, "status": {"conditions": [condition("ApprovalPatch")]},
    });
    let mut patched = server.patch(&approval, "merge", patch).await.expect(200);
    assert_eq!(patched["status"]["conditions"][0]["type"], "ApprovalPatch");
    assert_eq!(patched["metadata"]["annotations"]["patchedapproval"], "true");
    patched["status"]["conditions"].as_array_mut().expect("a list").push(condition("Approved"));
    let updated = server.put(&approval, patched).await.expect(200);
    assert_eq!(updated["status"]["conditions"][1]["type"], "Approved");

    let status = format!("{path}/status");
    let got = server.get(&status).await.expect(200);
    assert_eq!(got["metadata"]["uid"], made["metadata"]["uid"]);
    let certificate = rcgen::generate_simple_self_signed(["e2e.example.com".to_owned()]).expect("a certificate").cert.pem();
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": STANDARD.encode(&certificate)}});
    let mut patched = server.patch(&status, "merge", patch).await.expect(200);
    assert_eq!(patched["status"]["certificate"], STANDARD.encode(&certificate));
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    patched["status"]["conditions"].as_array_mut().expect("a list").push(condition("StatusUpdate"));
    let updated = server.put(&status, patched).await.expect(200);
    assert_eq!(updated["status"]["conditions"].as_array().map(Vec::len), Some(3));

    server.delete(&path).await.expect(200);
    assert_eq!(server.get(&path).await.code, 404);
    assert_eq!(server.get(&selected).await.expect(200)["items"].as_array().map(Vec::len), Some(2));
    server.delete(&selected).await.expect(200);
    assert_eq!(server.get(&selected).await.expect(200)["items"].as_array().map(Vec::len), Some(0));
}

/// The walk that the suite makes through a cluster-scoped kind with a status.
async fn walk(group: &str, plural: &str, wanted: Value, change: Value, changed: &str, condition: Value) {
    let server = TestServer::start().await;
    let resources = discovered(&server, group).await;
    let all: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    assert_eq!(resources[plural], all);
    assert_eq!(resources[&format!("{plural}/status")], ["get", "patch", "update"]);
    let path = format!("/apis/{group}/v1/{plural}");
    let selected = format!("{path}?labelSelector=test%3Dwalk");
    let before = revision(&server.get(&path).await.expect(200)["metadata"].clone().as_object().map(|metadata| json!({"metadata": metadata})).expect("metadata"));
    let mut names = Vec::new();
    for _ in 0..3 {
        let made = server.post(&path, wanted.clone()).await.expect(201);
        names.push(made["metadata"]["name"].as_str().expect("a name").to_owned());
    }
    let own = format!("{path}/{}", names[0]);
    assert_eq!(server.get(&own).await.expect(200)["metadata"]["name"], names[0].as_str());
    assert_eq!(server.get(&selected).await.expect(200)["items"].as_array().map(Vec::len), Some(3));
    let seen = events(&server, &selected, &before).await;
    assert!(kinds(&seen).iter().filter(|kind| **kind == "ADDED").count() == 3);

    let at = revision(&server.get(&own).await.expect(200));
    let mut patch = change.clone();
    patch["metadata"] = json!({"annotations": {"patched": "true"}});
    let patched = server.patch(&own, "merge", patch).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    assert_eq!(patched.pointer(changed), change.pointer(changed));
    let mut update = server.get(&own).await.expect(200);
    update["metadata"]["annotations"]["updated"] = "true".into();
    let updated = server.put(&own, update).await.expect(200);
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    let seen = events(&server, &selected, &at).await;
    let mine: Vec<_> = seen.iter().filter(|(_, object)| object["metadata"]["name"] == names[0].as_str()).collect();
    assert!(mine.iter().any(|(kind, object)| kind == "MODIFIED" && object["metadata"]["annotations"]["updated"] == "true"));

    let status = format!("{own}/status");
    assert_eq!(server.get(&status).await.expect(200)["metadata"]["name"], names[0].as_str());
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"conditions": [condition]}});
    let patched = server.patch(&status, "merge", patch).await.expect(200);
    let conditions = patched["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().any(|own| own["type"] == condition["type"]));
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    let mut update = server.get(&status).await.expect(200);
    update["status"]["conditions"] = json!([{"type": "StatusUpdate", "status": "True", "reason": "e2e", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let updated = server.put(&status, update).await.expect(200);
    assert_eq!(updated["status"]["conditions"][0]["type"], "StatusUpdate");

    server.delete(&own).await.expect(200);
    assert_eq!(server.get(&own).await.code, 404);
    server.delete(&selected).await.expect(200);
    assert_eq!(server.get(&selected).await.expect(200)["items"].as_array().map(Vec::len), Some(0));
}

// Conformance: [sig-api-machinery] API priority and fairness should support FlowSchema API operations
#[tokio::test(start_paused = true)]
async fn flow_schemas() {
    let wanted = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"generateName": "e2e-example-fs-", "labels": {"test": "walk"}},
        "spec": {
            "matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }],
        },
    });
    let condition = json!({"type": "PatchStatusFailed", "status": "False", "reason": "e2e", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let change = json!({"spec": {"matchingPrecedence": 9999}});
    walk("flowcontrol.apiserver.k8s.io", "flowschemas", wanted, change, "/spec/matchingPrecedence", condition).await;
}

// Conformance: [sig-api-machinery] API priority and fairness should support PriorityLevelConfiguration API operations
#[tokio::test(start_paused = true)]
async fn priority_level_configurations() {
    let wanted = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"generateName": "e2e-example-pl-", "labels": {"test": "walk"}},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}},
    });
    let condition = json!({"type": "PatchStatusFailed", "status": "False", "reason": "e2e", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let change = json!({"spec": {"limited": {"nominalConcurrencyShares": 4}}});
    walk("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", wanted, change, "/spec/limited/nominalConcurrencyShares", condition).await;
}

async fn bootstrap_secret(server: &TestServer, id: &str, fields: &[(&str, &str)]) {
    let own = [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-authentication", "true")];
    let data: BTreeMap<&str, String> = own.iter().chain(fields).map(|(name, text)| (*name, STANDARD.encode(text))).collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("bootstrap-token-{id}")},
        "type": "bootstrap.kubernetes.io/token", "data": data,
    });
    server.post("/api/v1/namespaces/kube-system/secrets", secret).await.expect(201);
}

/// Whose a token is, by a TokenReview.
async fn whose(server: &TestServer, token: &str) -> Value {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    server.post("/apis/authentication.k8s.io/v1/tokenreviews", body).await.expect(201)["status"]["user"].clone()
}

#[tokio::test]
async fn bootstrap_tokens() {
    let server = TestServer::start().await;
    bootstrap_secret(&server, "valid1", &[("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token,other")]).await;
    bootstrap_secret(&server, "past01", &[("expiration", "2025-12-31T00:00:00Z")]).await;
    bootstrap_secret(&server, "future", &[("expiration", "2026-12-31T00:00:00Z")]).await;
    bootstrap_secret(&server, "silent", &[("usage-bootstrap-authentication", "false")]).await;
    let check = async |token: &str, user: &str| {
        let found = whose(&server, token).await;
        assert_eq!(found["username"].as_str().unwrap_or(""), user, "{token}");
        found
    };
    let user = check("valid1.0123456789abcdef", "system:bootstrap:valid1").await;
    assert_eq!(user["groups"], json!(["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"]));
    check("future.0123456789abcdef", "system:bootstrap:future").await;
    for refused in ["past01.0123456789abcdef", "silent.0123456789abcdef", "valid1.fedcba9876543210", "nobody.0123456789abcdef", "valid1.0123456789ABCDEF", "valid1"] {
        check(refused, "").await;
    }
}

#[tokio::test]
async fn static_tokens() {
    let token = StaticToken { token: "secret".into(), user: "alice".into(), uid: "7".into(), groups: vec!["dev".into()] };
    let server = TestServer::with(Config { static_tokens: vec![token], ..config() }).await;
    let user = whose(&server, "secret").await;
    assert_eq!(user, json!({"username": "alice", "uid": "7", "groups": ["dev", "system:authenticated"]}));
    assert!(whose(&server, "secret2").await.get("username").is_none());
}

#[tokio::test]
async fn on_behalf_of_others() {
    let server = TestServer::start().await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "impersonator"},
        "rules": [
            {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"], "verbs": ["impersonate"]},
            {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["dev"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "resourceNames": ["1"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "resourceNames": ["view"], "verbs": ["impersonate"]},
        ],
    });
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.expect(201);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "impersonator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "impersonator"},
        "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.expect(201);
    let who = async |headers: &str| {
        let headers = format!("content-type: application/json\n{headers}");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
        send(server.service("eve", &[]), "POST /apis/authentication.k8s.io/v1/selfsubjectreviews", headers.trim_end(), body).await
    };
    let full = "impersonate-user: bob\nimpersonate-group: dev\nimpersonate-uid: 1\nimpersonate-extra-scopes: view";
    assert_eq!(
        who(full).await.expect(201)["status"]["userInfo"],
        json!({"username": "bob", "uid": "1", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["view"]}})
    );
    for (headers, message) in [
        ("impersonate-user: root", "users \"root\" is forbidden: User \"eve\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"),
        (
            "impersonate-user: bob\nimpersonate-group: ops",
            "groups \"ops\" is forbidden: User \"eve\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope",
        ),
        (
            "impersonate-user: bob\nimpersonate-uid: 2",
            "uids.authentication.k8s.io \"2\" is forbidden: User \"eve\" cannot impersonate resource \"uids\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            "impersonate-user: bob\nimpersonate-extra-scopes: edit",
            "userextras.authentication.k8s.io \"edit\" is forbidden: User \"eve\" cannot impersonate resource \"userextras/scopes\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            "impersonate-user: system:serviceaccount:a:b",
            "serviceaccounts \"b\" is forbidden: User \"eve\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"a\"",
        ),
    ] {
        let answer = who(headers).await;
        assert_eq!((answer.code, answer.message().as_str()), (403, message));
    }
    assert_eq!(who("impersonate-group: dev").await.code, 500);
    // An account impersonated brings its groups along.
    let account = server.send("POST /apis/authentication.k8s.io/v1/selfsubjectreviews", "content-type: application/json\nimpersonate-user: system:serviceaccount:a:b", json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string()).await;
    assert_eq!(
        account.expect(201)["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"])
    );
}

#[tokio::test]
async fn others_can_check_tokens_by_the_published_keys() {
    let server = TestServer::start().await;
    let document = server.get("/.well-known/openid-configuration").await;
    assert_eq!(document.headers["content-type"], "application/json");
    let document = document.expect(200);
    server.post(ACCOUNTS, account("robot")).await.expect(201);
    let token = token_of(&server, "robot").await;
    let part = |at: usize| -> Value {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).expect("three parts")).expect("base64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    assert_eq!((&part(1)["iss"], &document["id_token_signing_alg_values_supported"]), (&document["issuer"], &json!(["ES256"])));
    let keys = server.get("/openid/v1/jwks").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    let keys = keys.expect(200);
    let key = keys["keys"].as_array().expect("keys").iter().find(|key| key["kid"] == part(0)["kid"]).expect("its key").clone();
    let mut point = vec![4];
    for coordinate in ["x", "y"] {
        point.extend(URL_SAFE_NO_PAD.decode(key[coordinate].as_str().expect("text")).expect("base64"));
    }
    let (signed, signature) = token.rsplit_once('.').expect("a signature");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    assert!(public.verify(signed.as_bytes(), &signature).is_ok());
    // Accounts may read both; who shows nothing may not.
    let anonymous = send(server.service("system:serviceaccount:a:b", &["system:serviceaccounts"]), "GET /openid/v1/jwks", "", "").await;
    assert_eq!(anonymous.code, 200);
    assert_eq!(send(server.service("alice", &[]), "GET /openid/v1/jwks", "", "").await.code, 403);
}

#[tokio::test]
async fn controllers_have_roles_of_their_own() {
    let server = TestServer::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let listed = server.get(&format!("{roles}?labelSelector=kubernetes.io%2Fbootstrapping%3Drbac-defaults")).await.expect(200);
    let names: Vec<&str> = listed["items"].as_array().expect("items").iter().filter_map(|role| role["metadata"]["name"].as_str()).collect();
    for name in ["system:controller:deployment-controller", "system:controller:namespace-controller", "system:heapster", "view"] {
        assert!(names.contains(&name), "{name}");
    }
    let binding = server.get("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:controller:job-controller").await.expect(200);
    assert_eq!(binding["subjects"], json!([{"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"}]));
    // The one user who runs them all may make what they make.
    for (group, resource) in [
        ("", "pods"), ("", "persistentvolumes"), ("", "persistentvolumeclaims"), ("", "configmaps"), ("", "secrets"),
        ("", "serviceaccounts"), ("", "endpoints"), ("", "events"), ("events.k8s.io", "events"), ("apps", "replicasets"),
        ("apps", "controllerrevisions"), ("batch", "jobs"), ("discovery.k8s.io", "endpointslices"),
        ("coordination.k8s.io", "leases"), ("storage.k8s.io", "storageclasses"),
        ("authorization.k8s.io", "subjectaccessreviews"), ("", "serviceaccounts/token"),
    ] {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let asked = json!({"verb": "create", "group": group, "resource": resource, "subresource": subresource, "namespace": "a"});
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "system:kube-controller-manager", "resourceAttributes": asked}});
        let review = server.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", body).await.expect(201);
        assert_eq!(review["status"]["allowed"], true, "{resource}");
    }
    // But they are no administrator.
    let manager = || server.service("system:kube-controller-manager", &[]);
    let header = "content-type: application/json";
    assert_eq!(send(manager(), "POST /api/v1/namespaces/default/configmaps", header, config_map("a").to_string()).await.code, 201);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}});
    assert_eq!(send(manager(), "POST /api/v1/namespaces", header, namespace.to_string()).await.code, 403);
}

#[tokio::test]
async fn scale_by_server_side_apply() {
    let server = TestServer::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        },
    });
    server.patch(&format!("{path}/web?fieldManager=owner"), "apply", deployment).await.expect(201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 3}});
    let refused = server.patch(&format!("{path}/web/scale?fieldManager=scaler"), "apply", scale.clone()).await;
    assert_eq!(refused.message(), "Apply failed with 1 conflict: conflict with \"owner\": .spec.replicas");
    let scaled = server.patch(&format!("{path}/web/scale?fieldManager=scaler&force=true"), "apply", scale).await.expect(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    let object = server.get(&format!("{path}/web")).await.expect(200);
    assert_eq!(object["spec"]["replicas"], 3);
    let managers = object["metadata"]["managedFields"].as_array().expect("managers");
    let own = managers.iter().find(|manager| manager["manager"] == "scaler").expect("the scaler");
    assert_eq!((&own["subresource"], &own["apiVersion"], &own["fieldsV1"]), (&json!("scale"), &json!("apps/v1"), &json!({"f:spec": {"f:replicas": {}}})));
}

#[tokio::test]
async fn what_the_server_says_of_itself() {
    let authority = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let server = TestServer::with(Config { client_authority_pem: Some(authority.clone()), ..config() }).await;
    let map = server.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.expect(200);
    assert_eq!(map["data"]["client-ca-file"], authority);
    let service = server.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.apps").await.expect(200);
    assert_eq!((&service["spec"], &service["status"]["conditions"][0]["reason"]), (&json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15}), &json!("Local")));
    let core = server.get("/api/v1").await.expect(200);
    let pods = core["resources"].as_array().expect("resources").iter().find(|resource| resource["name"] == "pods").expect("pods");
    assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
    let events = server.get("/apis/events.k8s.io/v1").await.expect(200);
    assert_eq!(events["resources"][0]["storageVersionHash"], "r2yiGXH7wu8=");
}

#[tokio::test]
async fn rows_of_pods_that_are_done_say_so() {
    let server = TestServer::start().await;
    server.post(ACCOUNTS, account("default")).await.expect(201);
    server.post("/api/v1/namespaces/default/pods", pod("a")).await.expect(201);
    let path = "/api/v1/namespaces/default/pods/a";
    server.patch(&format!("{path}/status"), "merge", json!({"status": {"phase": "Succeeded"}})).await.expect(200);
    let table = server.send(&format!("GET {path}"), "accept: application/json;as=Table;v=v1;g=meta.k8s.io", "").await.expect(200);
    assert_eq!(
        table["rows"][0]["conditions"],
        json!([{"type": "Completed", "status": "True", "reason": "Succeeded", "message": "The pod has completed successfully."}])
    );
}

#[tokio::test]
async fn fields_are_owned_in_the_version_that_set_them() {
    let server = TestServer::start().await;
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let scaler = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}},
    });
    let made = server.post(&format!("{path}?fieldManager=me"), scaler).await.expect(201);
    let own = &made["metadata"]["managedFields"][0];
    assert_eq!((&own["manager"], &own["apiVersion"]), (&json!("me"), &json!("autoscaling/v1")));
    assert_eq!(own["fieldsV1"]["f:spec"]["f:targetCPUUtilizationPercentage"], json!({}));
    assert_eq!(own["fieldsV1"]["f:spec"].get("f:metrics"), None);
}

#[tokio::test]
async fn tokens_are_meant_for_somebody() {
    let token = StaticToken { token: "secret".into(), user: "alice".into(), uid: String::new(), groups: Vec::new() };
    let server = TestServer::with(Config { static_tokens: vec![token], ..config() }).await;
    server.post(ACCOUNTS, account("robot")).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["vault", "other"], "expirationSeconds": null}});
    let issued = server.post(&format!("{ACCOUNTS}/robot/token"), request).await.expect(201);
    assert_eq!(issued["spec"]["expirationSeconds"], 3600);
    let token = issued["status"]["token"].as_str().expect("a token");
    let check = async |token: &str, audiences: Value, expected: Value| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
        let status = server.post("/apis/authentication.k8s.io/v1/tokenreviews", body).await.expect(201)["status"].take();
        assert_eq!(status["audiences"], expected, "{audiences}: {status}");
    };
    let server_itself = "https://kubernetes.default.svc.cluster.local";
    check(token, json!(["vault"]), json!(["vault"])).await;
    check(token, json!(["vault", "x"]), json!(["vault"])).await;
    check(token, json!(["x"]), Value::Null).await;
    check(token, json!([]), Value::Null).await;
    check("secret", json!([]), json!([server_itself])).await;
    check("secret", json!(["vault"]), Value::Null).await;
    check("secret", json!(["vault", server_itself]), json!([server_itself])).await;
}
