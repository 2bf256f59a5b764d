//! The targets by name, and what their inputs usually look like.

use serde_json::{Value, json};

use crate::codec::SEPARATOR;
use crate::server;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "json", run: crate::json },
    Target { name: "yaml", run: crate::yaml },
    Target { name: "protobuf", run: crate::protobuf },
    Target { name: "patch", run: crate::patch },
    Target { name: "apply", run: crate::apply },
    Target { name: "selector", run: crate::selector },
    Target { name: "router", run: crate::router },
    Target { name: "token", run: crate::token },
];

/// What a target's inputs are made from.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "json" => objects().iter().map(|(at, object)| with_kind(*at, &[object.to_string().as_bytes()])).collect(),
        "yaml" => yaml(),
        "protobuf" => objects().iter().map(|(_, object)| protobuf(object)).collect(),
        "patch" => patches(),
        "apply" => configurations(),
        "selector" => selectors(),
        "router" => requests(),
        "token" => tokens(),
        other => panic!("no target {other}"),
    }
}

fn with_kind(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut input = vec![kind];
    input.extend(parts.join(&SEPARATOR));
    input
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}, "creationTimestamp": null},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{
                        "name": "main", "image": "nginx:1.16", "env": [{"name": "A", "value": "b"}],
                        "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
                    }],
                    "tolerations": [{"key": "a", "operator": "Exists"}],
                    "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}]}}],
                },
            },
        },
        "status": {},
    })
}

/// The place of each one's kind in the list of kinds, and the object.
fn objects() -> Vec<(u8, Value)> {
    vec![
        (0, deployment()),
        (2, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
            "spec": {"ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}], "clusterIPs": ["10.0.0.1"]}})),
        (3, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "managedFields": [
            {"manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:data": {".": {}, "f:x": {}}}}]}, "data": {"x": "y\u{1F600}"}, "binaryData": {"b": "AAEC"}})),
        (4, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "type": "Opaque", "data": {"x": "eA=="}, "stringData": {"y": "z"}})),
        (6, json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a.1"}, "involvedObject": {"kind": "Pod"},
            "eventTime": "2026-01-01T00:00:00.000001Z", "count": 3})),
        (7, json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}})),
        (10, json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a.b.c"},
            "spec": {"group": "b.c", "scope": "Namespaced", "names": {"plural": "a", "kind": "A"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "array", "items": {"type": "string", "enum": ["a", 1, null]}}}}}}]}})),
    ]
}

fn protobuf(object: &Value) -> Vec<u8> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let definition = api::schema::definition_of_kind(text("apiVersion"), text("kind")).expect("a built-in kind");
    let decoded = api::json::decode(object.to_string().as_bytes(), definition).expect("a whole object");
    api::protobuf::encode(&decoded.value, definition)
}

fn yaml() -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = objects().iter().map(|(_, object)| api::yaml::to_yaml(object).into_bytes()).collect();
    texts.extend([
        &b"a: &x {b: [1, 2.5, 0x1f, 1e3, ~, yes, 'no']}\nc: *x\nd:\n  <<: *x\n  e: |\n    text\n    more\n  f: >-\n    folded\n"[..],
        b"---\na: 1\n---\n- b\n- ? key\n  : value\n...\n# comment\n",
        b"\"quoted \\u263a\": !!str 12\nempty:\ndate: 2026-01-01\nbool: on\n",
    ].map(<[u8]>::to_vec));
    texts
}

fn patches() -> Vec<Vec<u8>> {
    let document = deployment().to_string();
    [
        r#"[{"op":"replace","path":"/spec/replicas","value":5},{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"x"}},{"op":"copy","from":"/spec","path":"/metadata/annotations"},{"op":"test","path":"/metadata/name","value":"web"},{"op":"remove","path":"/status"},{"op":"move","from":"/metadata/labels","path":"/spec/selector/matchLabels"}]"#,
        r#"{"spec":{"replicas":null,"template":{"spec":{"containers":[{"name":"main","image":"x"}]}}}}"#,
        r#"{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"main"}],"containers":[{"$patch":"delete","name":"main"},{"name":"b","image":"c"}],"tolerations":null}},"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"finalizers":["b"],"labels":{"$patch":"replace","x":"y"}}}"#,
    ]
    .iter()
    .map(|patch| with_kind(0, &[document.as_bytes(), patch.as_bytes()]))
    .collect()
}

fn configurations() -> Vec<Vec<u8>> {
    let live = deployment();
    let mut owned = live.clone();
    owned["metadata"]["managedFields"] = json!([
        {"manager": "a", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
         "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"main\"}": {".": {}, "f:name": {}, "f:image": {}}}}}}}},
        {"manager": "kubectl-client-side-apply", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:strategy": {}}}},
    ]);
    let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "finalizers": ["b", "a"]}});
    config["spec"] = json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "side", "image": "x", "ports": [{"containerPort": 80}]}]}}});
    let texts = [live.to_string(), owned.to_string(), config.to_string()];
    let parts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    vec![
        with_kind(0, &[parts[0], parts[2], parts[0]]),
        with_kind(0, &[parts[1], parts[2], parts[0]]),
        with_kind(0, &[parts[1], parts[0], parts[2]]),
    ]
}

fn selectors() -> Vec<Vec<u8>> {
    [
        "app=web,tier!=db,!gone,here,x in (a,b,),y notin (c)",
        "a==b,c>1,d<2",
        "metadata.name=a,status.phase!=Running,spec.nodeName==n\\,1\\=2\\\\",
        r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"NotIn","values":["v"]},{"key":"e","operator":"DoesNotExist"}]}"#,
        "1.5Gi",
        "-100e-3",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn requests() -> Vec<Vec<u8>> {
    let deployment = deployment().to_string();
    let mut requests: Vec<Vec<u8>> = [
        "GET /api/v1/namespaces/default/configmaps?labelSelector=app%3Dweb&limit=1&resourceVersion=0\naccept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        "GET /api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=5&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\naccept: application/vnd.kubernetes.protobuf;stream=watch",
        "GET /apis/apps/v1/deployments?fieldSelector=metadata.name%3Da&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJhXHUwMDAwIn0\naccept-encoding: gzip",
        "GET /openapi/v3/apis/apps/v1\naccept: application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
        "GET /api/v1/watch/namespaces/default/pods/a?timeoutSeconds=1",
        "GET /readyz/etcd?verbose&exclude=ping",
        "GET /apis\naccept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        "DELETE /api/v1/namespaces/default/pods/a?gracePeriodSeconds=0&propagationPolicy=Foreground\n\n{\"preconditions\":{\"uid\":\"x\"},\"orphanDependents\":true}",
        "DELETE /api/v1/namespaces/default/configmaps?labelSelector=app",
        "PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=m&force=true\ncontent-type: application/apply-patch+yaml\n\napiVersion: v1\nkind: ConfigMap\ndata: {x: z}\n",
        "PATCH /apis/apps/v1/namespaces/default/deployments/a\ncontent-type: application/strategic-merge-patch+json\n\n{\"spec\":{\"replicas\":2,\"template\":{\"spec\":{\"containers\":[{\"name\":\"main\",\"image\":\"b\"}]}}}}",
        "PATCH /apis/apps/v1/namespaces/default/deployments/a/scale\ncontent-type: application/merge-patch+json\n\n{\"spec\":{\"replicas\":4}}",
        "PATCH /api/v1/namespaces/default/pods/a/status?dryRun=All\ncontent-type: application/json-patch+json\n\n[{\"op\":\"add\",\"path\":\"/status/phase\",\"value\":\"Running\"}]",
        "POST /api/v1/namespaces/default/pods/a/binding\ncontent-type: application/json\n\n{\"target\":{\"kind\":\"Node\",\"name\":\"n\"}}",
        "POST /api/v1/namespaces/default/pods/a/eviction\ncontent-type: application/json\n\n{\"metadata\":{\"name\":\"a\"}}",
        "POST /apis/authorization.k8s.io/v1/subjectaccessreviews\n\n{\"spec\":{\"user\":\"u\",\"groups\":[\"g\"],\"resourceAttributes\":{\"verb\":\"get\",\"resource\":\"pods\"}}}",
        "POST /apis/authentication.k8s.io/v1/tokenreviews\n\n{\"spec\":{\"token\":\"abc\",\"audiences\":[\"x\"]}}",
        "POST /api/v1/namespaces/default/serviceaccounts/default/token\n\n{\"spec\":{\"audiences\":[\"a\"],\"expirationSeconds\":600,\"boundObjectRef\":{\"kind\":\"Pod\",\"name\":\"a\"}}}",
        "POST /api/v1/namespaces\nimpersonate-user: u\nimpersonate-group: g\nimpersonate-extra-a%2fb: c\n\n{\"metadata\":{\"generateName\":\"n-\"}}",
        "POST /apis/rbac.authorization.k8s.io/v1/clusterroles\n\n{\"metadata\":{\"name\":\"r\"},\"rules\":[{\"apiGroups\":[\"*\"],\"resources\":[\"*\"],\"verbs\":[\"*\"]}],\"aggregationRule\":{\"clusterRoleSelectors\":[{\"matchLabels\":{\"a\":\"b\"}}]}}",
        "POST /apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers\n\n{\"metadata\":{\"name\":\"h\"},\"spec\":{\"scaleTargetRef\":{\"kind\":\"Deployment\",\"name\":\"a\"},\"maxReplicas\":3}}",
        "PUT /api/v1/namespaces/default/services/a\n\n{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"9\"},\"spec\":{\"type\":\"NodePort\",\"ports\":[{\"port\":80,\"nodePort\":30001}]}}",
        "PUT /api/v1/namespaces/default/configmaps/a?fieldValidation=Strict\n\n{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"},\"data\":{\"x\":1},\"typo\":2}",
        "OPTIONS /api/v1/namespaces/default/pods/a",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    requests.push(format!("POST /apis/apps/v1/namespaces/default/deployments?fieldValidation=Warn\ncontent-type: application/json\n\n{deployment}").into_bytes());
    let mut binary = b"POST /apis/apps/v1/namespaces/default/deployments\ncontent-type: application/vnd.kubernetes.protobuf\naccept: application/vnd.kubernetes.protobuf\n\n".to_vec();
    binary.extend(protobuf(&self::deployment()));
    requests.push(binary);
    // One creation of each further kind, whose validation is most of the code.
    for (path, object) in [("/api/v1/namespaces/default/services", 1), ("/api/v1/namespaces/default/configmaps", 2),
        ("/api/v1/namespaces/default/secrets", 3), ("/api/v1/namespaces/default/events", 4),
        ("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", 5),
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", 6)] {
        let mut object = objects()[object].1.clone();
        object["metadata"]["name"] = format!("new-{}", object["metadata"]["name"].as_str().unwrap_or_default()).into();
        requests.push(format!("POST {path}\ncontent-type: application/json\n\n{object}").into_bytes());
    }
    requests
}

fn tokens() -> Vec<Vec<u8>> {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    vec![
        server::valid_token().into_bytes(),
        b"static-token".to_vec(),
        b"abcdef.0123456789abcdef".to_vec(),
        b"base64url.bearer.authorization.k8s.io.c3RhdGljLXRva2Vu, v5.channel.k8s.io".to_vec(),
        b"tok,user,uid,\"g1,g2\"\n# comment\n".to_vec(),
        certificate.cert.der().to_vec(),
    ]
}
