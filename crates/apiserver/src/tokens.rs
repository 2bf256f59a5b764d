//! Service-account tokens: issued by TokenRequest, checked on every use, published for others to check.
//!
//! Invariant: a token holds as long as its signature, its times, its audience, and the objects that it is bound to.

use http::StatusCode;
use serde_json::{Value, json};

use crate::admission_chain::{Cluster, Operation};
use crate::error::{ObjectName, RequestError};
use crate::http::reply::{Content, Reply};
use crate::kinds::{Problem, ProblemReason};
use crate::rest::Call;
use crate::rest::decode::{Expected, body};
use crate::server::ApiServer;
use crate::user::{AUTHENTICATED, User};
use crate::views;

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// What an embedded client that asks for an hour and seven seconds gets, so that old libraries that never reread live.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;
const ASKS_FOR_EXTENSION: i64 = 3607;
/// Whose token it is, if it holds now, and for which of the audiences.
pub fn authenticate(server: &ApiServer, token: &str, audiences: Option<&[String]>) -> Option<(User, Vec<String>)> {
    if token.bytes().filter(|byte| *byte == b'.').count() != 2 {
        return None;
    }
    let claims = server.signing_key.verify(token)?;
    let now = server.config.clock.now().as_second();
    let issuer = server.config.issuer();
    if claims["iss"] != issuer.as_str() || claims["exp"].as_i64()? <= now || claims["nbf"].as_i64().unwrap_or(0) > now {
        return None;
    }
    let meant_for = |audience: &str| match audiences {
        Some(list) => list.iter().any(|own| own == audience),
        None => audience == issuer,
    };
    let meant = claims["aud"].as_array()?.iter().filter_map(Value::as_str).filter(|audience| meant_for(audience));
    let meant: Vec<String> = meant.map(str::to_owned).collect();
    if meant.is_empty() {
        return None;
    }
    let bound = &claims["kubernetes.io"];
    let namespace = bound["namespace"].as_str()?;
    let account = bound["serviceaccount"]["name"].as_str()?;
    let uid = bound["serviceaccount"]["uid"].as_str()?;
    still_there(server, "serviceaccounts", namespace, &bound["serviceaccount"])?;
    let mut extra = std::collections::BTreeMap::new();
    let mut note = |key: &str, value: &Value| {
        if let Some(text) = value.as_str() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![text.to_owned()]);
        }
    };
    if let Some(id) = claims["jti"].as_str() {
        note("credential-id", &json!(format!("JTI={id}")));
    }
    if bound["pod"].is_object() {
        still_there(server, "pods", namespace, &bound["pod"])?;
        note("pod-name", &bound["pod"]["name"]);
        note("pod-uid", &bound["pod"]["uid"]);
    }
    if bound["secret"].is_object() {
        still_there(server, "secrets", namespace, &bound["secret"])?;
    }
    if bound["node"].is_object() {
        if !bound["pod"].is_object() {
            still_there(server, "nodes", "", &bound["node"])?;
        }
        note("node-name", &bound["node"]["name"]);
        note("node-uid", &bound["node"]["uid"]);
    }
    let user = User {
        name: format!("system:serviceaccount:{namespace}:{account}"),
        uid: uid.to_owned(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.into(),
        ],
        extra,
    };
    Some((user, meant))
}

fn still_there(server: &ApiServer, plural: &str, namespace: &str, bound: &Value) -> Option<()> {
    let kind = server.stored_kind("", plural)?;
    let entry = server.cache.get(kind, namespace, bound["name"].as_str()?)?;
    let object = entry.value();
    (object["metadata"]["uid"] == bound["uid"]).then_some(())
}

/// TokenRequest.
pub async fn create(call: &Call) -> Result<Reply, RequestError> {
    let server = &call.server;
    let speaks = ("authentication.k8s.io", "v1", "TokenRequest");
    let validation = crate::rest::options::check(&call.query, "CreateOptions")?;
    let mut request = body(call, Expected::speaks(speaks)?, validation)?;
    let account = call.current()?.value();
    let attributes = call.attributes_with(Operation::Create, &request);
    server.admission.validate(&attributes, &account).await?;

    // What a client leaves out is null in Go, and 0 after decoding.
    let asked = request["spec"]["expirationSeconds"].as_i64().filter(|seconds| *seconds != 0).unwrap_or(DEFAULT_SECONDS);
    check_seconds(call, asked)?;
    let audiences = match request["spec"]["audiences"].as_array() {
        Some(list) if !list.is_empty() => list.clone(),
        _ => vec![server.config.issuer().into()],
    };
    let bound = bound_object(call, &request["spec"]["boundObjectRef"], &account)?;
    let now = call.now.as_second();
    let for_this_server = audiences.iter().any(|audience| *audience == server.config.issuer().as_str());
    let extended = asked == ASKS_FOR_EXTENSION && for_this_server && bound["pod"].is_object();
    let lasts = if extended { EXTENDED_SECONDS } else { asked };
    let mut private = json!({
        "namespace": call.namespace(),
        "serviceaccount": {"name": account["metadata"]["name"], "uid": account["metadata"]["uid"]},
    });
    for (key, value) in bound.as_object().into_iter().flatten() {
        private[key] = value.clone();
    }
    if extended {
        private["warnafter"] = (now + asked).into();
    }
    let claims = json!({
        "aud": audiences, "exp": now + lasts, "iat": now, "nbf": now,
        "iss": server.config.issuer(), "jti": server.new_uid(),
        "sub": format!("system:serviceaccount:{}:{}", call.namespace(), call.name()),
        "kubernetes.io": private,
    });
    request["metadata"] = json!({
        "name": call.name(), "namespace": call.namespace(),
        "creationTimestamp": crate::rest::write::seconds(call.now),
    });
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = asked.into();
    let expires = call.now + jiff::SignedDuration::from_secs(asked);
    request["status"] = json!({
        "token": server.signing_key.sign(&claims).map_err(RequestError::internal)?,
        "expirationTimestamp": crate::rest::write::seconds(expires),
    });
    let content = Content::Value {
        kind: views::plain_kind(),
        definition: "io.k8s.api.authentication.v1.TokenRequest",
        value: request,
    };
    Ok(Reply { code: StatusCode::CREATED, content })
}

fn check_seconds(call: &Call, asked: i64) -> Result<(), RequestError> {
    let detail = if asked < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if asked > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    Err(RequestError::Invalid {
        object: ObjectName::new("authentication.k8s.io", "TokenRequest", call.name()),
        problems: vec![Problem {
            reason: ProblemReason::Invalid,
            field: "spec.expirationSeconds".into(),
            detail: format!("Invalid value: {asked}: {detail}"),
        }],
    })
}

/// The claims of the object that a token dies with.
fn bound_object(call: &Call, reference: &Value, account: &Value) -> Result<Value, RequestError> {
    if !reference.is_object() {
        return Ok(json!({}));
    }
    let server = &call.server;
    let text = |field: &str| reference[field].as_str().unwrap_or("");
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let (plural, namespace) = match (text("apiVersion"), kind) {
        ("v1", "Pod") => ("pods", call.namespace()),
        ("v1", "Secret") => ("secrets", call.namespace()),
        ("v1", "Node") => ("nodes", ""),
        (version, _) => {
            return Err(RequestError::BadRequest(format!("cannot bind token to object of type {version}, Kind={kind}")));
        }
    };
    let stored = server.stored_kind("", plural).ok_or(RequestError::NoSuchPath)?;
    let object = server.cache.get(stored, namespace, name).ok_or_else(|| RequestError::not_found(stored, name))?.value();
    let actual = object["metadata"]["uid"].as_str().unwrap_or("");
    if !uid.is_empty() && uid != actual {
        return Err(RequestError::Conflict {
            object: ObjectName::of(stored, name),
            why: format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"),
        });
    }
    let named = |object: &Value| json!({"name": object["metadata"]["name"], "uid": object["metadata"]["uid"]});
    match kind {
        "Pod" => {
            let runs_as = object["spec"]["serviceAccountName"].as_str().unwrap_or("");
            if runs_as != account["metadata"]["name"].as_str().unwrap_or("") {
                return Err(RequestError::BadRequest(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    call.name()
                )));
            }
            let mut bound = json!({"pod": named(&object)});
            let node = object["spec"]["nodeName"].as_str().unwrap_or("");
            if !node.is_empty() {
                let uid = server.get("", "nodes", "", node).map(|node| node["metadata"]["uid"].clone());
                bound["node"] = match uid {
                    Some(uid) => json!({"name": node, "uid": uid}),
                    None => json!({"name": node}),
                };
            }
            Ok(bound)
        }
        "Secret" => Ok(json!({"secret": named(&object)})),
        _ => Ok(json!({"node": named(&object)})),
    }
}

/// `/.well-known/openid-configuration`
pub fn openid_configuration(server: &ApiServer) -> Reply {
    let issuer = server.config.issuer();
    let address = crate::bootstrap::host_and_port(server.config.advertise_address, server.config.advertise_port);
    let document = json!({
        "issuer": issuer,
        "jwks_uri": format!("https://{address}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [server.signing_key.algorithm()],
    });
    Reply::json(document.to_string())
}

/// `/openid/v1/jwks`
pub fn key_set(server: &ApiServer) -> Reply {
    let document = json!({"keys": [server.signing_key.jwk()]});
    Reply::ok(Content::Raw { content_type: "application/jwk-set+json", bytes: document.to_string().into() })
}
