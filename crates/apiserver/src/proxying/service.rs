//! The `proxy` subresource of nodes, pods and services.

use api::percent::encode;
use serde_json::Value;

use super::connect::{Backend, pass_on, unverified_tls};
use super::pod::kubelet;
use crate::admission_chain::{Cluster, Operation};
use crate::error::RequestError;
use crate::http::reply::Reply;
use crate::rest::Call;

pub async fn proxy(call: &Call) -> Result<Reply, RequestError> {
    let backend = match call.kind.plural {
        "nodes" => node(call)?,
        "pods" => pod(call)?,
        _ => service(call)?,
    };
    let attributes = call.attributes_with(Operation::Connect, &Value::Null);
    call.server.admission.validate(&attributes, &Value::Null).await?;
    let query: Vec<String> =
        call.query.pairs().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    let path = format!("/{}{mark}{}", call.info.tail, query.join("&"));
    pass_on(call, backend, call.method.clone(), &path, call.body.clone()).await
}

/// `https:name:port`, `name:port`, `name`
fn split(text: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [scheme, name, port] => (scheme, name, port),
        [name, port] => ("", name, port),
        _ => ("", text, ""),
    }
}

fn node(call: &Call) -> Result<Backend, RequestError> {
    let (_, name, _) = split(call.name());
    kubelet(&call.server, name)
}

fn tls(scheme: &str) -> Result<Option<rustls::ClientConfig>, RequestError> {
    if scheme == "https" { unverified_tls().map(Some) } else { Ok(None) }
}

fn pod(call: &Call) -> Result<Backend, RequestError> {
    let (scheme, name, port) = split(call.name());
    let pod = call
        .server
        .get("", "pods", call.namespace(), name)
        .ok_or_else(|| RequestError::not_found(call.kind, name))?;
    let address = pod["status"]["podIP"].as_str().unwrap_or("");
    if address.is_empty() {
        return Err(RequestError::BadRequest("address not allowed".into()));
    }
    let declared = pod["spec"]["containers"].as_array().into_iter().flatten().flat_map(|container| {
        container["ports"].as_array().cloned().unwrap_or_default()
    });
    let mut ports = declared.into_iter();
    let port = match port.parse::<u16>() {
        Ok(port) => Some(port),
        Err(_) if port.is_empty() => ports.next().and_then(|first| number(&first["containerPort"])).or(Some(80)),
        Err(_) => ports.find(|own| own["name"] == port).and_then(|own| number(&own["containerPort"])),
    };
    let port = port.ok_or_else(|| RequestError::BadRequest("invalid pod port".into()))?;
    Ok(Backend { host: address.to_owned(), port, tls: tls(scheme)? })
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|value| u16::try_from(value).ok())
}

/// An endpoint that is ready, of the port that is meant.
fn service(call: &Call) -> Result<Backend, RequestError> {
    let (scheme, name, wanted) = split(call.name());
    let service = call
        .server
        .get("", "services", call.namespace(), name)
        .ok_or_else(|| RequestError::not_found(call.kind, name))?;
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let found = ports.iter().find(|port| match wanted.parse::<u64>() {
        Ok(number) => port["port"] == number,
        Err(_) => wanted.is_empty() || port["name"] == wanted,
    });
    let unavailable = |what: String| RequestError::ServiceUnavailable(what);
    let port = found.ok_or_else(|| unavailable(format!("no service port {wanted:?} found for service {name:?}")))?;
    let port_name = port["name"].as_str().unwrap_or("");
    let slices: Vec<Value> = call
        .server
        .list("discovery.k8s.io", "endpointslices", call.namespace())
        .into_iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name)
        .collect();
    let mut backends = Vec::new();
    for slice in &slices {
        let Some(number) = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|own| own["name"].as_str().unwrap_or("") == port_name)
            .and_then(|own| number(&own["port"]))
        else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"].as_bool().unwrap_or(true)
                && let Some(address) = endpoint["addresses"][0].as_str()
            {
                backends.push((address.to_owned(), number));
            }
        }
    }
    if backends.is_empty() {
        return Err(unavailable(format!("no endpoints available for service {:?}", call.name())));
    }
    let pick = call.server.random_below(backends.len() as u64) as usize;
    let (host, port) = backends.swap_remove(pick);
    Ok(Backend { host, port, tls: tls(scheme)? })
}
