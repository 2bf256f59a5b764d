//! Reviews: what somebody may do, whose a token is, who the caller is. Nothing here is stored.

use http::StatusCode;
use serde_json::{Value, json};

use crate::admission_chain::Question;
use crate::authz::Asked;
use crate::error::{ObjectName, RequestError};
use crate::http::reply::{Content, Reply};
use crate::kinds::{Kind, Problem, ProblemReason, Verbs};
use crate::rest::Call;
use crate::rest::decode::{Expected, body};
use crate::user::User;

pub fn is_review(kind: &Kind) -> bool {
    kind.verbs == Verbs::Create && kind.kind.ends_with("Review")
}

pub async fn create(call: &Call) -> Result<Reply, RequestError> {
    let validation = crate::rest::options::check(&call.query, "CreateOptions")?;
    let mut review = body(call, Expected::of(call.kind), validation)?;
    review["status"] = match call.kind.kind {
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.user)}),
        "TokenReview" => token_review(call, &review)?,
        "SelfSubjectRulesReview" => rules_review(call, &review)?,
        "SelfSubjectAccessReview" => access_review(call, &review, (*call.user).clone())?,
        "LocalSubjectAccessReview" => {
            let namespace = review["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or("");
            if namespace != call.namespace() {
                return Err(invalid(
                    call,
                    "spec.resourceAttributes.namespace",
                    &format!("{namespace:?}: must match metadata.namespace: {}", call.namespace()),
                ));
            }
            access_review(call, &review, subject(call, &review)?)?
        }
        _ => access_review(call, &review, subject(call, &review)?)?,
    };
    let content = Content::Value { kind: call.kind, definition: call.kind.definition, value: review };
    Ok(Reply { code: StatusCode::CREATED, content })
}

fn invalid(call: &Call, field: &str, detail: &str) -> RequestError {
    RequestError::Invalid {
        object: ObjectName::new(call.kind.group, call.kind.kind, ""),
        problems: vec![Problem {
            reason: ProblemReason::Invalid,
            field: field.into(),
            detail: format!("Invalid value: {detail}"),
        }],
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// The user that a review is about.
fn subject(call: &Call, review: &Value) -> Result<User, RequestError> {
    let spec = &review["spec"];
    let extra = spec["extra"].as_object().into_iter().flatten();
    let user = User {
        name: spec["user"].as_str().unwrap_or("").into(),
        uid: spec["uid"].as_str().unwrap_or("").into(),
        groups: strings(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), strings(values))).collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(invalid(call, "spec.user", "\"\": at least one of user or group must be specified"));
    }
    Ok(user)
}

fn access_review(call: &Call, review: &Value, user: User) -> Result<Value, RequestError> {
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |of: &'_ Value, field: &str| of[field].as_str().unwrap_or("").to_owned();
    let authorizer = &call.server.authorizer;
    let decision = match (resource.is_object(), path.is_object()) {
        (true, false) => {
            let fields: Vec<String> = ["verb", "group", "version", "resource", "subresource", "namespace", "name"]
                .iter()
                .map(|field| text(resource, field))
                .collect();
            let question = Question {
                verb: &fields[0],
                group: &fields[1],
                version: &fields[2],
                resource: &fields[3],
                subresource: &fields[4],
                namespace: &fields[5],
                name: &fields[6],
            };
            authorizer.allows(&user, &Asked::Resource(question))
        }
        (false, true) => {
            let (verb, path) = (text(path, "verb"), text(path, "path"));
            authorizer.allows(&user, &Asked::Path { verb: &verb, path: &path })
        }
        _ => {
            return Err(invalid(
                call,
                "spec.resourceAttributes",
                "null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    let mut status = json!({"allowed": decision.is_allowed()});
    if !decision.reason().is_empty() {
        status["reason"] = decision.reason().into();
    }
    Ok(status)
}

fn rules_review(call: &Call, review: &Value) -> Result<Value, RequestError> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or("");
    if namespace.is_empty() {
        return Err(RequestError::BadRequest("no namespace on request".into()));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in call.server.authorizer.rules(&call.user, namespace) {
        if !rule.resources.is_empty() {
            resources.push(json!(rule));
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
}

fn token_review(call: &Call, review: &Value) -> Result<Value, RequestError> {
    let token = review["spec"]["token"].as_str().unwrap_or("");
    if token.is_empty() {
        return Err(RequestError::BadRequest("token is required for TokenReview in authentication".into()));
    }
    let mut audiences = strings(&review["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.push(call.server.config.issuer());
    }
    Ok(match call.server.authenticator.token(&call.server, token, Some(&audiences)) {
        Some((user, meant)) => json!({"authenticated": true, "user": user_info(&user), "audiences": meant}),
        None => json!({"user": {}, "error": "[invalid bearer token, token lookup failed]"}),
    })
}
