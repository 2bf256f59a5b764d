//! The node's own certificates, asked for by CertificateSigningRequest: one by which it is known to the API server,
//! one by which its own API is known. Both are kept as files and renewed while they are in use.
//!
//! Invariants: a private key never leaves the node; a file holds certificate and key together and is replaced whole,
//! so that a crash leaves a pair that fits. Names of the files are the original's.
//!
//! Periodic work: none but one renewal after 70 to 90 percent of a certificate's life.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use arc_swap::ArcSwapOption;
use client::remote::Identity;
use client::{Change, Informer, Rest, Scope};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const NODES: &str = "system:nodes";
/// A request that nobody answers is made again after this.
const ANSWER_WITHIN: Duration = Duration::from_secs(15 * 60);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To speak to the API server as the node.
    Client,
    /// To be spoken to at these names and addresses.
    Serving { names: Vec<String> },
}

impl Purpose {
    fn signer(&self) -> &'static str {
        match self {
            Purpose::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Purpose::Serving { .. } => "kubernetes.io/kubelet-serving",
        }
    }

    fn usage(&self) -> &'static str {
        match self {
            Purpose::Client => "client auth",
            Purpose::Serving { .. } => "server auth",
        }
    }

    fn file_name(&self) -> &'static str {
        match self {
            Purpose::Client => "kubelet-client-current.pem",
            Purpose::Serving { .. } => "kubelet-server-current.pem",
        }
    }
}

#[derive(Debug)]
pub enum CertificateError {
    File { path: PathBuf, cause: std::io::Error },
    Made(String),
    Api(client::Error),
    Denied { name: String, why: String },
    Unanswered { name: String },
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateError::File { path, cause } => write!(f, "{}: {cause}", path.display()),
            CertificateError::Made(cause) => write!(f, "the certificate request cannot be made: {cause}"),
            CertificateError::Api(cause) => write!(f, "cannot create certificate signing request: {cause}"),
            CertificateError::Denied { name, why } => write!(f, "certificate signing request {name} is denied: {why}"),
            CertificateError::Unanswered { name } => {
                write!(f, "certificate signing request {name} is not approved yet; see kubectl get csr")
            }
        }
    }
}

impl std::error::Error for CertificateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CertificateError::File { cause, .. } => Some(cause),
            CertificateError::Api(cause) => Some(cause),
            _ => None,
        }
    }
}

/// The certificates of one node.
#[derive(Clone)]
pub struct Certificates {
    /// `<data-dir>/agent/pki`
    pub directory: PathBuf,
    pub node_name: String,
    pub clock: Clock,
}

/// A kept certificate, and the time at which it is to be renewed.
pub struct Kept {
    pub identity: Identity,
    pub renew_at: Timestamp,
}

impl Certificates {
    /// The pair on disk, if it is the node's and still valid.
    pub fn kept(&self, purpose: &Purpose) -> Option<Kept> {
        let path = self.path(purpose);
        let text = std::fs::read_to_string(&path).ok()?;
        let written = std::fs::metadata(&path).ok()?.modified().ok()?;
        let identity = Identity { certificate_pem: text.clone(), key_pem: text };
        PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).ok()?;
        let facts = Facts::of(&identity.certificate_pem)?;
        let names_fit = match purpose {
            Purpose::Client => true,
            Purpose::Serving { names } => names.iter().all(|name| facts.names.contains(name)),
        };
        let valid = facts.not_after > self.clock.now() && facts.common_name == self.user() && names_fit;
        let since = Timestamp::try_from(written).ok()?.max(facts.not_before);
        valid.then(|| Kept { identity, renew_at: renewal(since, facts.not_after, rand::random::<f64>()) })
    }

    /// Asks for a certificate, waits until it is approved and signed, and keeps it.
    pub async fn request(&self, client: &kube::Client, purpose: &Purpose, name_prefix: &str) -> Result<Kept, CertificateError> {
        let (key_pem, request_pem) = self.new_request(purpose)?;
        let mut object = CertificateSigningRequest::default();
        object.metadata.generate_name = Some(name_prefix.to_owned());
        object.spec.request = ByteString(request_pem.into_bytes());
        object.spec.signer_name = purpose.signer().to_owned();
        object.spec.usages = Some(vec!["digital signature".to_owned(), purpose.usage().to_owned()]);
        let made = Rest::new(client.clone()).create(&object).await.map_err(CertificateError::Api)?;
        let name = made.metadata.name.unwrap_or_default();
        let certificate_pem = tokio::time::timeout(ANSWER_WITHIN, answer(client, &name))
            .await
            .map_err(|_| CertificateError::Unanswered { name })??;
        self.keep(purpose, &Identity { certificate_pem, key_pem })
    }

    /// Renews the certificate whenever it is time, from `current` on, and hands each new one over. Until cancelled.
    pub async fn renew(&self, client: &kube::Client, purpose: &Purpose, mut current: Option<Kept>, on_new: impl Fn(&Identity)) {
        let mut delay = RETRY_FIRST;
        loop {
            if let Some(kept) = &current {
                let left = kept.renew_at.duration_since(self.clock.now());
                tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
            }
            match self.request(client, purpose, "csr-").await {
                Ok(kept) => {
                    tracing::info!(signer = purpose.signer(), renew_at = %kept.renew_at, "new certificate");
                    on_new(&kept.identity);
                    current = Some(kept);
                    delay = RETRY_FIRST;
                }
                Err(cause) => {
                    tracing::warn!(signer = purpose.signer(), %cause, "no new certificate");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_LONGEST);
                }
            }
        }
    }

    fn user(&self) -> String {
        format!("system:node:{}", self.node_name)
    }

    fn path(&self, purpose: &Purpose) -> PathBuf {
        self.directory.join(purpose.file_name())
    }

    /// Key and request, both PEM.
    fn new_request(&self, purpose: &Purpose) -> Result<(String, String), CertificateError> {
        let failed = |cause: rcgen::Error| CertificateError::Made(cause.to_string());
        let names = match purpose {
            Purpose::Client => Vec::new(),
            Purpose::Serving { names } => names.clone(),
        };
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, NODES);
        params.distinguished_name.push(DnType::CommonName, self.user());
        let key = KeyPair::generate().map_err(failed)?;
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
        Ok((key.serialize_pem(), request))
    }

    fn keep(&self, purpose: &Purpose, identity: &Identity) -> Result<Kept, CertificateError> {
        let path = self.path(purpose);
        let text = format!("{}{}", identity.certificate_pem, identity.key_pem);
        write_private(&path, &text).map_err(|cause| CertificateError::File { path, cause })?;
        let problem = || CertificateError::Made("the signed certificate does not fit".into());
        let facts = Facts::of(&identity.certificate_pem).ok_or_else(problem)?;
        let renew_at = renewal(self.clock.now().max(facts.not_before), facts.not_after, rand::random::<f64>());
        Ok(Kept { identity: identity.clone(), renew_at })
    }
}

/// Waits for the certificate of a request, PEM.
async fn answer(client: &kube::Client, name: &str) -> Result<String, CertificateError> {
    let (found, mut answers) = mpsc::channel(1);
    let ended = CancellationToken::new();
    let _guard = ended.clone().drop_guard();
    let scope = Scope { field_selector: Some(format!("metadata.name={name}")), ..Scope::default() };
    let requests = Informer::<CertificateSigningRequest>::start(client, scope, ended);
    requests.subscribe(move |change: &Change<CertificateSigningRequest>| {
        let outcome = match change {
            Change::Deleted(_) => Some(Err("it was deleted".to_owned())),
            change => outcome(change.object()),
        };
        if let Some(outcome) = outcome {
            // One answer is enough.
            let _ = found.try_send(outcome);
        }
    });
    match answers.recv().await {
        Some(Ok(certificate)) => Ok(certificate),
        Some(Err(why)) => Err(CertificateError::Denied { name: name.to_owned(), why }),
        None => Err(CertificateError::Unanswered { name: name.to_owned() }),
    }
}

/// Pure. None as long as it is neither refused nor signed.
fn outcome(request: &CertificateSigningRequest) -> Option<Result<String, String>> {
    let status = request.status.as_ref()?;
    let refusal = status.conditions.iter().flatten().find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"));
    if let Some(condition) = refusal {
        let told = [condition.reason.as_deref(), condition.message.as_deref()];
        return Some(Err(told.into_iter().flatten().collect::<Vec<_>>().join(": ")));
    }
    let certificate = status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty())?;
    Some(String::from_utf8(certificate.0.clone()).map_err(|cause| cause.to_string()))
}

/// Pure. Between 70 and 90 percent of the life; `chance` is 0 to 1.
fn renewal(from: Timestamp, until: Timestamp, chance: f64) -> Timestamp {
    let life = until.duration_since(from).as_secs_f64().max(0.0);
    SignedDuration::try_from_secs_f64(life * (0.7 + 0.2 * chance)).map_or(until, |after| from + after)
}

/// What a certificate says.
struct Facts {
    common_name: String,
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Facts {
    fn of(certificate_pem: &str) -> Option<Facts> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let names = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(general_name).collect(),
            _ => Vec::new(),
        };
        let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        Some(Facts {
            common_name: certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned(),
            names,
            not_before: time(certificate.validity().not_before)?,
            not_after: time(certificate.validity().not_after)?,
        })
    }
}

fn general_name(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Whole or not at all, and for its owner alone.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("pem.new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

/// The certificate that the node's own API shows; until there is one, nobody is served.
#[derive(Default)]
pub struct Serving {
    current: ArcSwapOption<CertifiedKey>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl Serving {
    /// Connections made from now on see this one.
    pub fn set(&self, identity: &Identity) -> Result<(), String> {
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|cause| cause.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|cause| cause.to_string())?;
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|cause| cause.to_string())?;
        self.current.store(Some(Arc::new(certified)));
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn renewal_is_late_in_the_life_and_before_its_end() {
        for (chance, expected) in [(0.0, 170), (0.5, 180), (1.0, 190)] {
            assert_eq!(renewal(time(100), time(200), chance).as_second(), expected);
        }
        assert_eq!(renewal(time(200), time(100), 0.5), time(200));
    }

    #[test]
    fn a_pair_is_kept_while_it_is_valid_and_the_nodes_own() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let of = |name: &str| Certificates { directory: directory.path().into(), node_name: name.into(), clock: clock.clone() };
        let certificates = of("a");
        let serving = |names: &str| Purpose::Serving { names: names.split(' ').map(str::to_owned).collect() };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.not_before = rcgen::date_time_ymd(2025, 12, 31);
        params.not_after = rcgen::date_time_ymd(2026, 1, 11);
        let certificate = params.self_signed(&key).unwrap();
        let identity = Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
        for purpose in [Purpose::Client, serving("a")] {
            assert!(certificates.kept(&purpose).is_none());
            certificates.keep(&purpose, &identity).unwrap();
        }
        assert!(certificates.kept(&Purpose::Client).is_some());
        assert!(certificates.kept(&serving("a 192.0.2.1")).is_some());
        assert!(certificates.kept(&serving("a 192.0.2.2")).is_none(), "the node has another address now");
        assert!(of("b").kept(&Purpose::Client).is_none(), "somebody else's");
        let later = Clock::starting_at("2026-02-01T00:00:00Z".parse().unwrap());
        assert!(Certificates { clock: later, ..certificates }.kept(&Purpose::Client).is_none(), "expired");
    }
}
