//! Pulls one image from one of its endpoints, layer by layer, with everything checked against its digest.

use std::fs::File;

use futures::stream::{self, StreamExt};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError};
use oci_client::manifest::{OciDescriptor, OciImageManifest, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};

use super::layer::{Layers, hex};
use super::records::ImageRecord;
use super::registries::{Endpoint, RegistriesConfig};
use crate::cri::AuthConfig;

const LAYERS_AT_ONCE: usize = 3;
/// A manifest or config beyond this is hostile.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
const LAYERS_MAX: usize = 300;

#[derive(Debug)]
pub enum PullError {
    NotFound(String),
    Unauthorized(String),
    /// Nobody answered there.
    Unreachable(String),
    Other(String),
}

impl std::fmt::Display for PullError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (PullError::NotFound(text)
        | PullError::Unauthorized(text)
        | PullError::Unreachable(text)
        | PullError::Other(text)) = self;
        f.write_str(text)
    }
}

/// Pulls `reference` (fully qualified) and unpacks its layers; the record is not stored yet.
/// Tries the endpoints in order, each with the credentials given, then with those of `registries.yaml`, then without.
pub async fn pull(
    reference: &Reference,
    auth: &[AuthConfig],
    registries: &RegistriesConfig,
    layers: &Layers,
) -> Result<ImageRecord, PullError> {
    let mut problem = PullError::Unreachable("no endpoint".into());
    for endpoint in registries.endpoints(reference.registry(), reference.repository()) {
        match pull_from(&endpoint, reference, auth, registries, layers).await {
            Ok(record) => return Ok(record),
            Err(cause) => {
                tracing::debug!(host = endpoint.host, %cause, "endpoint failed");
                // What a mirror lacks the next endpoint may have. Told is what the first said that said anything.
                if matches!(problem, PullError::Unreachable(_)) {
                    problem = cause;
                }
            }
        }
    }
    Err(problem)
}

async fn pull_from(
    endpoint: &Endpoint,
    reference: &Reference,
    auth: &[AuthConfig],
    registries: &RegistriesConfig,
    layers: &Layers,
) -> Result<ImageRecord, PullError> {
    let source = at_endpoint(endpoint, reference);
    let mut tries: Vec<RegistryAuth> = auth.iter().filter_map(registry_auth).collect();
    tries.extend(registries.auth(&endpoint.host).as_ref().and_then(registry_auth));
    tries.push(RegistryAuth::Anonymous);
    let mut refused = None;
    for auth in &tries {
        // A client remembers the first credentials for a registry: each try has its own.
        let client = client_for(endpoint, registries)?;
        match resolve(&client, &source, reference, auth).await {
            Ok((manifest, digest)) => return fetch(&client, &source, reference, &manifest, &digest, layers).await,
            // Told is what the credentials met that somebody gave, rather than what none would have met.
            Err(cause @ PullError::Unauthorized(_)) => refused = refused.or(Some(cause)),
            Err(cause) => return Err(cause),
        }
    }
    Err(refused.unwrap_or_else(|| PullError::Other("no credentials".into())))
}

/// The manifest for this machine, and the digest that the reference resolved to (an index keeps its own).
async fn resolve(
    client: &Client,
    source: &Reference,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<(OciImageManifest, String), PullError> {
    let failed = |cause: OciDistributionError| {
        let whole = reference.whole();
        let text = match &cause {
            it if is_not_found(it) => format!("{whole}: not found"),
            it if is_refused(it) => {
                let why = match auth {
                    RegistryAuth::Anonymous => "no basic auth credentials",
                    _ => "the credentials were refused",
                };
                format!(
                    "pull access denied, repository does not exist or may require authorization: authorization failed: {why}"
                )
            }
            it => it.to_string(),
        };
        classify(&cause, format!("failed to resolve reference {whole:?}: {text}"))
    };
    let (found, digest) = client.pull_manifest(source, auth).await.map_err(failed)?;
    match found {
        OciManifest::Image(manifest) => Ok((manifest, digest)),
        OciManifest::ImageIndex(index) => {
            let entry = index
                .manifests
                .iter()
                .find(|entry| {
                    entry.platform.as_ref().is_none_or(|platform| {
                        platform.os.to_string() == "linux" && platform.architecture.to_string() == go_architecture()
                    })
                })
                .ok_or_else(|| {
                    PullError::NotFound(format!(
                        "no match for platform in manifest {digest}: linux/{}: not found",
                        go_architecture()
                    ))
                })?;
            let inner = source.clone_with_digest(entry.digest.clone());
            match client.pull_manifest(&inner, auth).await.map_err(failed)?.0 {
                OciManifest::Image(manifest) => Ok((manifest, digest)),
                OciManifest::ImageIndex(_) => Err(PullError::Other("an image index within an image index".into())),
            }
        }
    }
}

async fn fetch(
    client: &Client,
    source: &Reference,
    reference: &Reference,
    manifest: &OciImageManifest,
    digest: &str,
    layers: &Layers,
) -> Result<ImageRecord, PullError> {
    if manifest.layers.len() > LAYERS_MAX {
        return Err(PullError::Other(format!("{} layers: at most {LAYERS_MAX} are supported", manifest.layers.len())));
    }
    let config = fetch_config(client, source, &manifest.config).await?;
    let diff_ids = diff_ids(&config)?;
    if diff_ids.len() != manifest.layers.len() {
        return Err(PullError::Other(format!(
            "mismatched image rootfs and manifest layers: {} diff ids, {} layers",
            diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let fetches: Vec<_> = manifest
        .layers
        .iter()
        .zip(&diff_ids)
        .map(|(layer, diff_id)| fetch_layer(client, source, layer, diff_id, layers))
        .collect();
    // All are awaited, also after a failure: a dropped download would leave its file behind.
    let fetched: Vec<Result<(), PullError>> = stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE).collect().await;
    fetched.into_iter().collect::<Result<(), PullError>>()?;
    let mut record = record(&manifest.config.digest, config, diff_ids, layers)?;
    let name = format!("{}/{}", reference.registry(), reference.repository());
    record.digests.insert(format!("{name}@{digest}"));
    if reference.digest().is_none() {
        record.tags.insert(format!("{name}:{}", reference.tag().unwrap_or("latest")));
    }
    Ok(record)
}

async fn fetch_config(client: &Client, source: &Reference, config: &OciDescriptor) -> Result<String, PullError> {
    if usize::try_from(config.size).is_ok_and(|size| size > DOCUMENT_BYTES_MAX) {
        return Err(PullError::Other(format!("image config of {} bytes is too large", config.size)));
    }
    let mut bytes = Vec::new();
    client
        .pull_blob(source, config, &mut bytes)
        .await
        .map_err(|cause| classify(&cause, copy_problem(&cause, "config", config)))?;
    String::from_utf8(bytes).map_err(|cause| PullError::Other(format!("image config: {cause}")))
}

async fn fetch_layer(
    client: &Client,
    source: &Reference,
    layer: &OciDescriptor,
    diff_id: &str,
    layers: &Layers,
) -> Result<(), PullError> {
    if layers.contains(diff_id) {
        return Ok(());
    }
    let path = layers.ingest_path();
    let fetched = async {
        let file = tokio::fs::File::create(&path).await.map_err(|cause| PullError::Other(cause.to_string()))?;
        let mut out = tokio::io::BufWriter::new(file);
        client
            .pull_blob(source, layer, &mut out)
            .await
            .map_err(|cause| classify(&cause, copy_problem(&cause, "layer", layer)))?;
        let (layers, path, diff_id) = (layers.clone(), path.clone(), diff_id.to_string());
        tokio::task::spawn_blocking(move || layers.unpack(File::open(path)?, &diff_id))
            .await
            .map_err(|cause| PullError::Other(cause.to_string()))?
            .map_err(|cause| {
                PullError::Other(format!("failed to extract layer {}: {}", layer.digest, with_sources(&cause)))
            })
    }
    .await;
    // Best effort: the next start clears the directory.
    let _ = tokio::fs::remove_file(&path).await;
    fetched
}

/// The record of an image whose layers are unpacked.
pub fn record(id: &str, config: String, diff_ids: Vec<String>, layers: &Layers) -> Result<ImageRecord, PullError> {
    let found = digest_of(&config);
    if found != id {
        return Err(PullError::Other(format!("image config has digest {found}, expected {id}")));
    }
    let parsed: serde_json::Value =
        serde_json::from_str(&config).map_err(|cause| PullError::Other(format!("image config: {cause}")))?;
    let mut record = ImageRecord {
        id: id.to_string(),
        user: parsed["config"]["User"].as_str().unwrap_or_default().to_string(),
        config,
        ..ImageRecord::default()
    };
    for diff_id in &diff_ids {
        let usage = layers.usage(diff_id);
        record.bytes += usage.bytes;
        record.inodes += usage.inodes;
    }
    record.diff_ids = diff_ids;
    Ok(record)
}

/// The image ID that a configuration makes.
pub fn digest_of(config: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(config.as_bytes())))
}

/// `rootfs.diff_ids` of an image configuration.
pub fn diff_ids(config: &str) -> Result<Vec<String>, PullError> {
    let parsed: serde_json::Value =
        serde_json::from_str(config).map_err(|cause| PullError::Other(format!("image config: {cause}")))?;
    let list = parsed["rootfs"]["diff_ids"].as_array();
    let ids: Vec<String> = list.into_iter().flatten().filter_map(|it| it.as_str()).map(String::from).collect();
    let is_digest = |id: &String| {
        id.strip_prefix("sha256:").is_some_and(|it| it.len() == 64 && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    match ids.iter().find(|id| !is_digest(id)) {
        Some(bad) => Err(PullError::Other(format!("image config: bad diff id {bad:?}"))),
        None => Ok(ids),
    }
}

/// Go's name for this machine's architecture, as platforms in an image index are named.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn at_endpoint(endpoint: &Endpoint, reference: &Reference) -> Reference {
    let (host, repository) = (endpoint.host.clone(), endpoint.repository.clone());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Reference::with_digest(host, repository, digest.to_string()),
        (None, tag) => Reference::with_tag(host, repository, tag.unwrap_or("latest").to_string()),
    }
}

fn client_for(endpoint: &Endpoint, registries: &RegistriesConfig) -> Result<Client, PullError> {
    // The HTTP client takes the process's provider; whoever installed one first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = ClientConfig {
        protocol: if endpoint.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
        max_concurrent_download: LAYERS_AT_ONCE,
        connect_timeout: Some(std::time::Duration::from_secs(30)),
        read_timeout: Some(std::time::Duration::from_secs(60)),
        user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    if let Some(tls) = registries.tls(&endpoint.host) {
        if tls.cert_file.is_some() || tls.key_file.is_some() {
            return Err(PullError::Other(format!(
                "registry {}: client certificates (cert_file, key_file) are not supported yet",
                endpoint.host
            )));
        }
        config.accept_invalid_certificates = tls.insecure_skip_verify;
        if let Some(path) = &tls.ca_file {
            let data = std::fs::read(path)
                .map_err(|cause| PullError::Other(format!("registry {}: {}: {cause}", endpoint.host, path.display())))?;
            config.extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
        }
    }
    Client::try_from(config).map_err(|cause| PullError::Other(format!("registry {}: {cause}", endpoint.host)))
}

fn registry_auth(auth: &AuthConfig) -> Option<RegistryAuth> {
    if !auth.username.is_empty() {
        return Some(RegistryAuth::Basic(auth.username.clone(), auth.password.clone()));
    }
    (!auth.registry_token.is_empty()).then(|| RegistryAuth::Bearer(auth.registry_token.clone()))
}

fn is_not_found(cause: &OciDistributionError) -> bool {
    use oci_client::errors::OciErrorCode;
    match cause {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::ServerError { code: 404, .. } => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            matches!(
                error.code,
                OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
                    | OciErrorCode::BlobUnknown
            )
        }),
        _ => false,
    }
}

fn is_refused(cause: &OciDistributionError) -> bool {
    use oci_client::errors::OciErrorCode;
    match cause {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| matches!(error.code, OciErrorCode::Unauthorized | OciErrorCode::Denied)),
        _ => false,
    }
}

/// Why a blob did not arrive, in containerd's words where it is a wrong digest.
fn copy_problem(cause: &OciDistributionError, what: &str, blob: &OciDescriptor) -> String {
    match cause {
        OciDistributionError::DigestError(DigestError::VerificationError { expected, actual }) => format!(
            "failed commit on ref \"{what}-{}\": unexpected commit digest {actual}, expected {expected}: failed precondition",
            blob.digest
        ),
        other => format!("failed to copy: {}", with_sources(other)),
    }
}

/// An error with all that led to it, each said once.
fn with_sources(cause: &dyn std::error::Error) -> String {
    let mut text = cause.to_string();
    let mut next = cause.source();
    while let Some(inner) = next {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = inner.source();
    }
    text
}

fn classify(cause: &OciDistributionError, text: String) -> PullError {
    match (is_refused(cause), is_not_found(cause)) {
        (true, _) => PullError::Unauthorized(text),
        (_, true) => PullError::NotFound(text),
        _ if matches!(cause, OciDistributionError::RequestError(_)) => PullError::Unreachable(text),
        _ => PullError::Other(text),
    }
}
