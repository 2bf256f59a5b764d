//! Logs and streams of pods, through the kubelet of their node.

use api::percent::encode;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;

use super::connect::{Backend, fetch, kubelet_tls, pass_on, unreachable_backend};
use crate::admission_chain::{Cluster, Operation};
use crate::error::{ObjectName, RequestError};
use crate::http::body::Body;
use crate::http::reply::{Content, Reply};
use crate::kinds::{Problem, ProblemReason};
use crate::rest::Call;
use crate::server::ApiServer;

const KUBELET_PORT: u16 = 10250;

/// The kubelet of a node.
pub fn kubelet(server: &ApiServer, node: &str) -> Result<Backend, RequestError> {
    let nodes = server.stored_kind("", "nodes").ok_or(RequestError::NoSuchPath)?;
    let node_object = server.get("", "nodes", "", node).ok_or_else(|| RequestError::not_found(nodes, node))?;
    let addresses = node_object["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let host = ["InternalIP", "ExternalIP", "Hostname"]
        .iter()
        .find_map(|wanted| addresses.iter().find(|address| address["type"] == *wanted))
        .and_then(|address| address["address"].as_str())
        .ok_or_else(|| unreachable_backend(&format!("no preferred addresses found; known addresses: [] on node {node}")))?;
    let port = node_object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let access = server.config.kubelet.as_ref().ok_or_else(|| {
        RequestError::ServiceUnavailable("this server has no credentials for kubelets".into())
    })?;
    Ok(Backend {
        host: host.to_owned(),
        port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(KUBELET_PORT),
        tls: Some(kubelet_tls(access)?),
    })
}

/// A document of a node's kubelet, of at most so many bytes.
pub async fn fetch_from_kubelet(server: &ApiServer, node: &str, path: &str, max: usize) -> Result<bytes::Bytes, RequestError> {
    let backend = kubelet(server, node)?;
    fetch(&backend, path, max).await.map_err(|cause| unreachable_backend(&cause))
}

fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    pod["spec"][list].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
}

/// The container that a request means.
fn container(pod: &Value, asked: Option<&str>) -> Result<String, RequestError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let (main, init, ephemeral) =
        (names(pod, "containers"), names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    match asked {
        Some(asked) => {
            if main.contains(&asked) || init.contains(&asked) || ephemeral.contains(&asked) {
                Ok(asked.to_owned())
            } else {
                Err(RequestError::BadRequest(format!("container {asked} is not valid for pod {name}")))
            }
        }
        None if main.len() == 1 => Ok(main[0].to_owned()),
        None if main.is_empty() => {
            Err(RequestError::BadRequest(format!("a container name must be specified for pod {name}")))
        }
        None => {
            let mut text =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", main.join(" "));
            for (list, what) in [(init, "init"), (ephemeral, "ephemeral")] {
                if !list.is_empty() {
                    text.push_str(&format!(" or one of the {what} containers: [{}]", list.join(" ")));
                }
            }
            Err(RequestError::BadRequest(text))
        }
    }
}

/// `GET pods/x/log`
pub async fn pod_log(call: &Call) -> Result<Reply, RequestError> {
    check_log_options(call)?;
    let pod = call.current()?.value();
    let container = container(&pod, call.query.get("container"))?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if node.is_empty() {
        let mut nothing = Response::new(Body::empty());
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(Reply::ok(Content::Response(nothing)));
    }
    let backend = kubelet(&call.server, node)?;
    let passed =
        ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
    let query: Vec<String> = passed
        .iter()
        .filter_map(|name| Some(format!("{name}={}", encode(call.query.get(name)?))))
        .collect();
    let path = format!("/containerLogs/{}/{}/{container}?{}", call.namespace(), call.name(), query.join("&"));
    let reply = pass_on(call, backend, Method::GET, &path, bytes::Bytes::new()).await?;
    match reply.content {
        // An upgrade is a success too: logs over WebSocket.
        Content::Response(response) if response.status().as_u16() >= 300 => Err(refused(response).await),
        content => Ok(Reply { content, ..reply }),
    }
}

/// The kubelet's words as an error of this API.
async fn refused(response: Response<Body>) -> RequestError {
    const READ_MAX: usize = 10 << 10;
    let code = response.status();
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(piece) = frame.into_data() else { continue };
        text.extend_from_slice(&piece[..piece.len().min(READ_MAX - text.len())]);
        if text.len() >= READ_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    match code {
        StatusCode::BAD_REQUEST => RequestError::BadRequest(text),
        StatusCode::INTERNAL_SERVER_ERROR => RequestError::Internal(text),
        StatusCode::SERVICE_UNAVAILABLE => RequestError::ServiceUnavailable(text),
        _ => RequestError::Other {
            code: code.as_u16(),
            status: Box::new(serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": format!("the server responded with the status code {} but did not return more information: {text}", code.as_u16()),
                "code": code.as_u16(),
            })),
        },
    }
}

fn check_log_options(call: &Call) -> Result<(), RequestError> {
    let mut problems = Vec::new();
    let mut check = |field: &str, minimum: i64, sentence: &str| {
        if let Some(text) = call.query.get(field) {
            let value = text.parse::<i64>();
            if !value.as_ref().is_ok_and(|value| *value >= minimum) {
                problems.push(Problem {
                    reason: ProblemReason::Invalid,
                    field: field.into(),
                    detail: format!("Invalid value: {text}: {sentence}"),
                });
            }
        }
    };
    check("tailLines", 0, "must be greater than or equal to 0");
    check("limitBytes", 1, "must be greater than 0");
    check("sinceSeconds", 1, "must be greater than 0");
    if call.query.get("sinceSeconds").is_some() && call.query.get("sinceTime").is_some() {
        problems.push(Problem {
            reason: ProblemReason::Forbidden,
            field: String::new(),
            detail: "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".into(),
        });
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(RequestError::Invalid { object: ObjectName::new("", "PodLogOptions", call.name()), problems })
}

/// exec, attach, portforward
pub async fn pod_stream(call: &Call) -> Result<Reply, RequestError> {
    let pod = call.current()?.value();
    let attributes = call.attributes_with(Operation::Connect, &pod);
    call.server.admission.validate(&attributes, &pod).await?;
    let what = call.info.subresource.as_str();
    let mut query: Vec<String> = Vec::new();
    let tail = if what == "portforward" {
        query.extend(call.query.all("ports").map(|ports| format!("port={}", encode(ports))));
        String::new()
    } else {
        for (own, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
            if call.query.flag(own) {
                query.push(format!("{theirs}=1"));
            }
        }
        if !["stdin", "stdout", "stderr"].iter().any(|stream| call.query.flag(stream)) {
            return Err(RequestError::BadRequest("you must specify at least one of stdin, stdout, stderr".into()));
        }
        if what == "exec" {
            query.extend(call.query.all("command").map(|word| format!("command={}", encode(word))));
            if !call.query.contains("command") {
                return Err(RequestError::BadRequest("you must specify at least 1 command for the container".into()));
            }
        }
        format!("/{}", container(&pod, call.query.get("container"))?)
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if node.is_empty() {
        return Err(RequestError::BadRequest(format!("pod {} does not have a host assigned", call.name())));
    }
    if call.headers.get(http::header::UPGRADE).is_none() {
        return Err(RequestError::BadRequest("Upgrade request required".into()));
    }
    let backend = kubelet(&call.server, node)?;
    let root = if what == "portforward" { "portForward" } else { what };
    let path = format!("/{root}/{}/{}{tail}?{}", call.namespace(), call.name(), query.join("&"));
    pass_on(call, backend, call.method.clone(), &path, bytes::Bytes::new()).await
}
