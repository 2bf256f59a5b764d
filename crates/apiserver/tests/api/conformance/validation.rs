//! Fields that do not exist, and fields that stand twice.

use crate::harness::TestServer;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn check(body: &str, expected: &[&str]) {
    let server = TestServer::start().await;
    let requests = [
        (format!("POST {DEPLOYMENTS}?fieldValidation=Strict"), "application/json", body.to_owned()),
        (format!("PATCH {DEPLOYMENTS}/web?fieldValidation=Strict&fieldManager=test"), "application/apply-patch+yaml", body.to_owned()),
    ];
    for (request, media, body) in requests {
        let refused = server.send(&request, &format!("content-type: {media}"), body).await;
        let message = refused.message();
        assert_eq!(refused.code, 400, "{request}: {message}");
        assert!(message.contains("strict decoding error"), "{message}");
        for sentence in expected {
            assert!(message.contains(sentence), "{request}: {sentence} is missing in {message}");
        }
    }
    let read = server.get(&format!("{DEPLOYMENTS}/web")).await;
    assert_eq!(read.code, 404, "nothing was stored");
}

// Conformance: [sig-api-machinery] FieldValidation should detect unknown and duplicate fields of a typed object
#[tokio::test]
async fn unknown_and_duplicate_fields() {
    let body = r#"{
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "nginx"}},
        "spec": {
            "unknown1": "val1", "unknownDupe": "valDupe", "unknownDupe": "valDupe2",
            "paused": true, "paused": false,
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {
                "metadata": {"labels": {"app": "nginx"}},
                "spec": {"containers": [{
                    "name": "nginx", "image": "nginx:latest", "unknownNested": "val1",
                    "imagePullPolicy": "Always", "imagePullPolicy": "Never"
                }]}
            }
        }
    }"#;
    let unknown = [r#"unknown field "spec.template.spec.containers[0].unknownNested""#, r#"unknown field "spec.unknown1""#];
    check(&body.replace(r#""paused": true, "#, "").replace(r#""imagePullPolicy": "Always", "#, "").replace(r#""unknownDupe": "valDupe", "#, ""), &unknown).await;

    let server = TestServer::start().await;
    let request = format!("POST {DEPLOYMENTS}?fieldValidation=Strict");
    let message = server.send(&request, "content-type: application/json", body).await.message();
    let duplicate = [
        r#"duplicate field "spec.paused""#,
        r#"duplicate field "spec.template.spec.containers[0].imagePullPolicy""#,
        r#"unknown field "spec.unknown1""#,
        r#"unknown field "spec.unknownDupe""#,
    ];
    for sentence in duplicate {
        assert!(message.contains(sentence), "{sentence} is missing in {message}");
    }
}

// Conformance: [sig-api-machinery] FieldValidation should detect unknown metadata fields of a typed object
#[tokio::test]
async fn unknown_metadata() {
    let body = r#"{
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "unknownMeta": "unknownVal", "labels": {"app": "nginx"}},
        "spec": {
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {
                "metadata": {"labels": {"app": "nginx"}, "embeddedMeta": "x"},
                "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]}
            }
        }
    }"#;
    check(body, &[r#"unknown field "metadata.unknownMeta""#, r#"unknown field "spec.template.metadata.embeddedMeta""#]).await;
}
