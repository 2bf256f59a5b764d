//! Single requests for typed objects.
//!
//! Invariant: everything but the outermost (de)serialisation is one non-generic function, so that sixty
//! kinds cost no sixty copies of it. Retrying is the caller's business.

use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::Resource;
use kube::client::Body;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::key::ObjectKey;
use crate::wire::path_of;

pub use kube::Error;

/// What DELETE does with the object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// The parts of `DeleteOptions` that components use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Precondition: refuses to delete a namesake.
    pub uid: Option<String>,
    /// Precondition: refuses to delete what has changed since.
    pub resource_version: Option<String>,
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
}

impl DeleteOptions {
    pub fn uid(uid: impl Into<String>) -> Self {
        DeleteOptions { uid: Some(uid.into()), ..DeleteOptions::default() }
    }

    fn to_json(&self) -> Value {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if self.uid.is_some() || self.resource_version.is_some() {
            let mut preconditions = json!({});
            if let Some(uid) = &self.uid {
                preconditions["uid"] = json!(uid);
            }
            if let Some(resource_version) = &self.resource_version {
                preconditions["resourceVersion"] = json!(resource_version);
            }
            options["preconditions"] = preconditions;
        }
        if let Some(seconds) = self.grace_period_seconds {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(propagation) = self.propagation {
            options["propagationPolicy"] = json!(match propagation {
                Propagation::Background => "Background",
                Propagation::Foreground => "Foreground",
                Propagation::Orphan => "Orphan",
            });
        }
        options
    }
}

/// The four kinds of PATCH.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply { object: Value, field_manager: String, force: bool },
}

impl Patch {
    fn content_type(&self) -> &'static str {
        match self {
            Patch::Json(_) => "application/json-patch+json",
            Patch::Merge(_) => "application/merge-patch+json",
            Patch::Strategic(_) => "application/strategic-merge-patch+json",
            Patch::Apply { .. } => "application/apply-patch+yaml",
        }
    }

    fn body(&self) -> &Value {
        match self {
            Patch::Json(value) | Patch::Merge(value) | Patch::Strategic(value) => value,
            Patch::Apply { object, .. } => object,
        }
    }

    fn query(&self) -> String {
        match self {
            Patch::Apply { field_manager, force, .. } => {
                format!("?fieldManager={}&force={force}", api::percent::encode(field_manager))
            }
            _ => String::new(),
        }
    }
}

/// A client for single requests. Cheap to clone.
#[derive(Clone)]
pub struct Rest {
    client: kube::Client,
}

impl Rest {
    pub fn new(client: kube::Client) -> Self {
        Rest { client }
    }

    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    pub async fn get<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, key: &ObjectKey) -> Result<K, Error> {
        decode(&self.call(Method::GET, object_path::<K>(key, ""), None).await?)
    }

    pub async fn create<K: Resource<DynamicType = ()> + DeserializeOwned + Serialize>(&self, object: &K) -> Result<K, Error> {
        let path = path_of::<K>(object.meta().namespace.as_deref());
        decode(&self.call(Method::POST, path, Some((JSON, encode(object)?))).await?)
    }

    pub async fn update<K: Resource<DynamicType = ()> + DeserializeOwned + Serialize>(&self, object: &K) -> Result<K, Error> {
        self.put(object, "").await
    }

    pub async fn update_status<K: Resource<DynamicType = ()> + DeserializeOwned + Serialize>(&self, object: &K) -> Result<K, Error> {
        self.put(object, "status").await
    }

    /// PUT of the object, or of its subresource when `subresource` is not empty.
    pub async fn put<K: Resource<DynamicType = ()> + DeserializeOwned + Serialize>(&self, object: &K, subresource: &str) -> Result<K, Error> {
        let path = object_path::<K>(&ObjectKey::of(object.meta()), subresource);
        decode(&self.call(Method::PUT, path, Some((JSON, encode(object)?))).await?)
    }

    /// POST to a subresource, for example a pod's `binding` or `eviction`.
    pub async fn post<K: Resource<DynamicType = ()>>(&self, key: &ObjectKey, subresource: &str, body: &Value) -> Result<Value, Error> {
        decode(&self.call(Method::POST, object_path::<K>(key, subresource), Some((JSON, encode(body)?))).await?)
    }

    pub async fn patch<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, key: &ObjectKey, patch: &Patch, subresource: &str) -> Result<K, Error> {
        let path = object_path::<K>(key, subresource) + &patch.query();
        decode(&self.call(Method::PATCH, path, Some((patch.content_type(), encode(patch.body())?))).await?)
    }

    /// Yields the object when it remains for now (finalizers, grace period), `None` when it is gone.
    pub async fn delete<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, key: &ObjectKey, options: &DeleteOptions) -> Result<Option<K>, Error> {
        let answer = self.delete_at(object_path::<K>(key, ""), options).await?;
        answer.map(|value| serde_json::from_value(value).map_err(Error::SerdeError)).transpose()
    }

    /// DELETE of an object or a collection at any path.
    pub async fn delete_at(&self, path: String, options: &DeleteOptions) -> Result<Option<Value>, Error> {
        let answer = self.call(Method::DELETE, path, Some((JSON, encode(&options.to_json())?))).await?;
        let value: Value = decode(&answer)?;
        Ok((value["kind"] != "Status").then_some(value))
    }

    /// GET of anything that answers JSON.
    pub async fn get_at<T: DeserializeOwned>(&self, path: String) -> Result<T, Error> {
        decode(&self.call(Method::GET, path, None).await?)
    }

    /// PATCH at any path.
    pub async fn patch_at<T: DeserializeOwned>(&self, path: String, patch: &Patch) -> Result<T, Error> {
        let body = encode(patch.body())?;
        decode(&self.call(Method::PATCH, path + &patch.query(), Some((patch.content_type(), body))).await?)
    }

    /// PUT at any path.
    pub async fn put_at<T: DeserializeOwned>(&self, path: String, body: &Value) -> Result<T, Error> {
        decode(&self.call(Method::PUT, path, Some((JSON, encode(body)?))).await?)
    }

    /// POST at any path.
    pub async fn post_at<T: DeserializeOwned>(&self, path: String, body: &Value) -> Result<T, Error> {
        decode(&self.call(Method::POST, path, Some((JSON, encode(body)?))).await?)
    }

    async fn call(&self, method: Method, path: String, body: Option<(&'static str, Vec<u8>)>) -> Result<bytes::Bytes, Error> {
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, JSON);
        let body = match body {
            Some((content_type, bytes)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                Body::from(bytes)
            }
            None => Body::empty(),
        };
        let response = self.client.send(request.body(body).map_err(Error::HttpError)?).await?;
        read_body(response).await
    }
}

const JSON: &str = "application/json";

/// The whole body of a successful answer, or the `Status` of any other.
pub(crate) async fn read_body(response: http::Response<Body>) -> Result<bytes::Bytes, Error> {
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if code.is_success() {
        return Ok(body);
    }
    Err(Error::Api(Box::new(status_of(code, &body))))
}

/// Proxies and crashing servers answer without a `Status`; then one is made up as client-go does.
fn status_of(code: StatusCode, body: &[u8]) -> kube::core::Status {
    if let Ok(status) = serde_json::from_slice::<kube::core::Status>(body)
        && (!status.message.is_empty() || !status.reason.is_empty())
    {
        return status;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(2048)]).into_owned();
    kube::core::Status::failure(&text, "").with_code(code.as_u16())
}

fn object_path<K: Resource<DynamicType = ()>>(key: &ObjectKey, subresource: &str) -> String {
    let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
    let mut path = path_of::<K>(namespace);
    path.push('/');
    path.push_str(&api::percent::encode(&key.name));
    if !subresource.is_empty() {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(Error::SerdeError)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(Error::SerdeError)
}
