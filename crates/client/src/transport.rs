//! Ways to reach an API server. Both yield a plain `kube::Client`.

use std::path::Path;

use http::{HeaderValue, Request, Response, header::USER_AGENT};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::{BoxError, Layer as _, Service, ServiceExt as _};

use crate::metrics::Counting;

/// What counts of requests call the server of the same process.
const IN_PROCESS: &str = "in-process";

/// A client whose requests are calls of `service`. Request URIs are relative: path and query only.
pub fn in_process<S, B>(service: S) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    kube::Client::new(Counting::of(IN_PROCESS).layer(service), "default")
}

/// The same with a `User-Agent`, from which the server derives the field manager of writes.
pub fn in_process_as<S, B>(service: S, user_agent: &'static str) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    in_process(service.map_request(move |mut request: Request<Body>| {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(user_agent));
        request
    }))
}

/// The current context of the kubeconfig at `path`.
pub async fn from_kubeconfig(path: impl AsRef<Path>) -> Result<kube::Client, FromKubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // An idle watch is silent for minutes; the reflector bounds its lifetime itself.
    config.read_timeout = None;
    let host = config.cluster_url.authority().map_or("", |authority| authority.as_str()).to_owned();
    Ok(ClientBuilder::try_from(config)?.with_layer(&Counting::of(&host)).build())
}

/// Why a kubeconfig did not yield a client.
#[derive(Debug)]
pub enum FromKubeconfigError {
    Kubeconfig(KubeconfigError),
    Client(Box<kube::Error>),
}

impl std::fmt::Display for FromKubeconfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FromKubeconfigError::Kubeconfig(cause) => write!(f, "kubeconfig: {cause}"),
            FromKubeconfigError::Client(cause) => cause.fmt(f),
        }
    }
}

impl std::error::Error for FromKubeconfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FromKubeconfigError::Kubeconfig(cause) => Some(cause),
            FromKubeconfigError::Client(cause) => Some(cause),
        }
    }
}

impl From<KubeconfigError> for FromKubeconfigError {
    fn from(cause: KubeconfigError) -> Self {
        FromKubeconfigError::Kubeconfig(cause)
    }
}

impl From<kube::Error> for FromKubeconfigError {
    fn from(cause: kube::Error) -> Self {
        FromKubeconfigError::Client(Box::new(cause))
    }
}
