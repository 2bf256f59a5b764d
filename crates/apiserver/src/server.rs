//! The server: what all requests share.
//!
//! Invariant: everything that can be known before the first request (the cache, the routes, the policy) is there
//! before the first request is answered.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use api::clock::Clock;
use async_trait::async_trait;
use http_body::Body as HttpBody;
use ipnet::IpNet;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use store::{Revision, SharedStore, Transaction};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admission_chain::{Chain, Cluster, Question, Target};
use crate::allocate::{self, AllocateConfig};
use crate::allocation::Allocate;
use crate::audit::{AuditSettings, Auditor};
use crate::authn::Authenticator;
use crate::authn::static_tokens::StaticToken;
use crate::authz::Authorizer;
use crate::cache::{Cache, Entry, Filter, TooOld, encode};
use crate::error::RequestError;
use crate::flow::{FlowControl, FlowSettings};
use crate::http::body::BoxError;
use crate::http::service::{InProcess, LONG_RUNNING_MAX};
use crate::http::tls::{self, TlsConfig};
use crate::kinds::{Kind, registry};
use crate::measured::{MeasuredStore, StoreTimes};
use crate::metrics::Metrics;
use crate::pki::Identity;
use crate::resource_metrics::Scraper;
use crate::signing::{SigningKey, TokenError};
use crate::user::User;
use crate::{admission, bootstrap, discovery, expiry, flow, openapi};

/// Letters that make no words, as the original's.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
/// Changes of Services looked at at a time.
const ALLOCATION_EVENTS: usize = 256;
/// How often bookkeeping is tried against other writers.
const UPDATE_ATTEMPTS: usize = 100;

/// Who decides what is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Authorization {
    /// Node and RBAC.
    #[default]
    Rbac,
    AlwaysAllow,
}

/// How the server reaches kubelets.
#[derive(Clone, Debug)]
pub struct KubeletAccess {
    /// CN=kube-apiserver-kubelet-client, O=system:masters.
    pub identity: Identity,
    /// Who signs the kubelets' serving certificates; None: they are not verified, as the original does by default.
    pub authority_pem: Option<String>,
}

pub struct Config {
    pub store: SharedStore,
    pub clock: Clock,
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
    /// Where the endpoints of the `kubernetes` Service point to.
    pub advertise_address: IpAddr,
    pub advertise_port: u16,
    pub cluster_domain: String,
    /// PEM, ECDSA P-256 or RSA.
    pub service_account_key_pem: String,
    pub kubelet: Option<KubeletAccess>,
    pub static_tokens: Vec<StaticToken>,
    /// Whether who shows no credentials is `system:anonymous` (true) or refused.
    pub anonymous: bool,
    /// Who signs client certificates; published for servers that extend this one.
    pub client_authority_pem: Option<String>,
    pub authorization: Authorization,
    pub flow: FlowSettings,
    /// Prints what else of the process `/metrics` is to tell.
    pub more_metrics: Option<fn(&mut String)>,
    /// None: nothing is recorded.
    pub audit: Option<AuditSettings>,
    /// Seeds names and uids; None: from the operating system.
    pub seed: Option<u64>,
    pub cancel: CancellationToken,
}

impl Config {
    /// A server for tests and simulations: no kubelets, the usual addresses.
    pub fn new(store: SharedStore, clock: Clock, service_account_key_pem: String) -> Config {
        Config {
            store,
            clock,
            service_cidrs: vec!["10.43.0.0/16".parse().expect("a valid network")],
            node_ports: 30000..=32767,
            advertise_address: IpAddr::from([127, 0, 0, 1]),
            advertise_port: 6443,
            cluster_domain: "cluster.local".into(),
            service_account_key_pem,
            kubelet: None,
            static_tokens: Vec::new(),
            anonymous: true,
            client_authority_pem: None,
            authorization: Authorization::Rbac,
            flow: FlowSettings::default(),
            more_metrics: None,
            audit: None,
            seed: None,
            cancel: CancellationToken::new(),
        }
    }

    /// `iss` of service-account tokens.
    pub fn issuer(&self) -> String {
        format!("https://kubernetes.default.svc.{}", self.cluster_domain)
    }
}

pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) cache: Arc<Cache>,
    pub(crate) admission: Chain,
    pub(crate) allocator: Arc<dyn Allocate>,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Authorizer,
    pub(crate) signing_key: SigningKey,
    pub(crate) metrics: Metrics,
    pub(crate) store_times: Arc<StoreTimes>,
    pub(crate) flow: Arc<FlowControl>,
    /// Places for logs that are followed, exec and the like.
    pub(crate) long_running: Semaphore,
    pub(crate) auditor: Option<Arc<Auditor>>,
    pub(crate) discovery: discovery::Documents,
    pub(crate) openapi: openapi::Documents,
    /// What nodes and pods use, while somebody asks.
    pub(crate) usages: Scraper,
    random: Mutex<StdRng>,
    /// The allocator has been told all up to this revision.
    allocations_seen: Mutex<Revision>,
}

/// Why a server could not be made.
#[derive(Debug)]
pub enum StartError {
    Store(store::StoreError),
    Key(TokenError),
    Tls(String),
    Request(RequestError),
    Io(std::io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Store(cause) => write!(f, "{cause}"),
            StartError::Key(cause) => write!(f, "service-account key: {cause}"),
            StartError::Tls(cause) => write!(f, "TLS: {cause}"),
            StartError::Request(cause) => write!(f, "writing the first objects: {cause}"),
            StartError::Io(cause) => write!(f, "{cause}"),
        }
    }
}

impl std::error::Error for StartError {}

impl ApiServer {
    /// Reads the store, writes what a cluster starts with, and is ready.
    pub async fn new(mut config: Config) -> Result<Arc<ApiServer>, StartError> {
        let (store, store_times) = MeasuredStore::over(config.store.clone());
        config.store = store;
        let cache = Cache::start(config.store.clone(), config.cancel.clone()).await.map_err(StartError::Store)?;
        let allocator = allocate::allocator(AllocateConfig {
            service_cidrs: config.service_cidrs.clone(),
            node_ports: config.node_ports.clone(),
        }, cache.clone());
        let random = match config.seed {
            Some(seed) => {
                allocator.seed(seed);
                StdRng::seed_from_u64(seed)
            }
            None => {
                let mut seed = [0; 32];
                seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
                seed[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
                StdRng::from_seed(seed)
            }
        };
        let auditor = config.audit.take().map(|settings| Auditor::open(settings, config.clock.clone()));
        let auditor = auditor.transpose().map_err(StartError::Io)?.map(Arc::new);
        let signing_key = SigningKey::from_pem(&config.service_account_key_pem).map_err(StartError::Key)?;
        let server = Arc::new(ApiServer {
            admission: Chain::new(admission::plugins()),
            allocator,
            authenticator: Authenticator::new(&config),
            authorizer: Authorizer::new(config.authorization, cache.clone()),
            signing_key,
            metrics: Metrics::new(config.clock.now()),
            store_times,
            flow: FlowControl::new(&config.flow, cache.clone()),
            long_running: Semaphore::new(LONG_RUNNING_MAX),
            auditor,
            discovery: discovery::Documents::default(),
            openapi: openapi::Documents::default(),
            usages: Scraper::default(),
            random: Mutex::new(random),
            allocations_seen: Mutex::new(0),
            cache,
            config,
        });
        bootstrap::run(&server).await.map_err(StartError::Request)?;
        allocate::repair::once(&server).await.map_err(StartError::Request)?;
        tokio::spawn(allocate::repair::run(server.clone()));
        tokio::spawn(expiry::run(server.clone()));
        tokio::spawn(flow::run(server.clone()));
        Ok(server)
    }

    /// Serves over TLS until `cancel`.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        config: TlsConfig,
        cancel: CancellationToken,
    ) -> Result<(), StartError> {
        let acceptor = tls::acceptor(&config).map_err(StartError::Tls)?;
        tls::serve(self, listener, acceptor, cancel).await.map_err(StartError::Io)
    }

    /// The same router without a network, for somebody whose name is known. Authorization and admission apply.
    pub fn in_process(self: &Arc<Self>, user: &str, groups: &[&str]) -> InProcess {
        InProcess::new(self.clone(), User::authenticated(user, groups))
    }

    pub fn clock(&self) -> &Clock {
        &self.config.clock
    }

    pub(crate) fn new_uid(&self) -> String {
        let mut bytes = [0; 16];
        self.random.lock().fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    pub(crate) fn random_below(&self, bound: u64) -> u64 {
        self.random.lock().next_u64() % bound
    }

    pub(crate) fn append_random_suffix(&self, name: &mut String) {
        let mut random = self.random.lock();
        for _ in 0..SUFFIX_LEN {
            let letter = SUFFIX_LETTERS[(random.next_u32() as usize) % SUFFIX_LETTERS.len()];
            name.push(letter as char);
        }
    }

    /// The kind whose stored version a resource has, whatever its group's versions.
    pub(crate) fn stored_kind(&self, group: &str, plural: &str) -> Option<&'static Kind> {
        registry::REGISTRY
            .iter()
            .copied()
            .find(|kind| kind.group == group && kind.plural == plural && !kind.storage.is_empty())
            .map(|kind| self.cache.shelf(kind).kind)
    }

    /// Tells the allocator what has become of the objects of the one kind that it handles. Before it is asked for
    /// something, and before what a write has reserved is let go.
    pub(crate) fn observe_allocations(&self, kind: &'static Kind) {
        let shelf = self.cache.shelf(kind);
        let mut seen = self.allocations_seen.lock();
        loop {
            match shelf.events_after(*seen, ALLOCATION_EVENTS) {
                Ok((events, reached)) => {
                    *seen = reached;
                    if events.is_empty() {
                        return;
                    }
                    for event in events {
                        let value = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|entry| entry.value());
                        self.allocator.changed(shelf.kind, value(&event.old).as_ref(), value(&event.new).as_ref());
                    }
                }
                Err(TooOld { .. }) => {
                    let all = self.cache.select(kind, &Filter::default(), None, 0);
                    let values: Vec<Value> = all.entries.iter().map(|entry| entry.value()).collect();
                    self.allocator.load(shelf.kind, &values);
                    *seen = all.changed;
                }
            }
        }
    }

    /// What is written together with an object of this kind, so that nothing is handed out twice or left behind.
    pub(crate) fn along(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Transaction {
        if !self.allocator.handles(kind) {
            return Transaction::default();
        }
        allocate::along(self, namespace, name, old, new)
    }

    /// Handles a request of somebody whose credentials are yet to be looked at.
    pub(crate) fn boxed<B>(body: B) -> crate::http::service::Incoming
    where
        B: HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        use http_body_util::BodyExt;
        body.map_err(Into::into).boxed_unsync()
    }
}

#[async_trait]
impl Cluster for ApiServer {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = self.stored_kind(group, plural)?;
        self.cache.get(kind, namespace, name).map(|entry| entry.value())
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
        let Some(kind) = self.stored_kind(group, plural) else { return Vec::new() };
        self.cache.select(kind, &Filter::within(namespace), None, 0).entries.iter().map(|entry| entry.value()).collect()
    }

    fn kind(&self, group: &str, plural: &str) -> Option<&'static Kind> {
        registry::REGISTRY.iter().copied().find(|kind| kind.group == group && kind.plural == plural)
    }

    async fn update(
        &self,
        target: Target<'_>,
        change: &(dyn for<'a> Fn(&'a mut Value) -> Result<bool, RequestError> + Sync),
    ) -> Result<(), RequestError> {
        let kind = self.stored_kind(target.group, target.plural).ok_or(RequestError::NoSuchPath)?;
        for _ in 0..UPDATE_ATTEMPTS {
            let entry = self
                .cache
                .get(kind, target.namespace, target.name)
                .ok_or_else(|| RequestError::not_found(kind, target.name))?;
            let mut object = entry.value();
            if !change(&mut object)? {
                return Ok(());
            }
            let bytes = encode(kind, &object);
            if self.cache.put(kind, target.namespace, target.name, bytes, entry.revision).await?.is_some() {
                return Ok(());
            }
        }
        Err(RequestError::modified(kind, target.name))
    }

    fn allowed(&self, user: &User, question: &Question<'_>) -> bool {
        self.authorizer.allows(user, &question.into()).is_allowed()
    }
}
