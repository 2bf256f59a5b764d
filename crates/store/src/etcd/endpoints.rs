//! `--datastore-endpoint` and its certificates, read.

use std::sync::Arc;

use http::Uri;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::Settings;
use super::grpc::Endpoint;
use crate::StoreError;

const PORT: u16 = 2379;
/// Where Linux distributions keep whom they trust.
const AUTHORITIES: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

type Credentials = Option<(String, String)>;

pub(super) fn read(settings: &Settings) -> Result<(Vec<Endpoint>, Credentials), StoreError> {
    let mut endpoints = Vec::new();
    let mut credentials = None;
    let mut tls = None;
    for text in settings.endpoints.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let refused = |why: &str| StoreError::Etcd(format!("endpoint {text:?}: {why}"));
        let uri: Uri = text.parse().map_err(|cause| refused(&format!("{cause}")))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refused("expected http://HOST:PORT or https://HOST:PORT")),
        };
        let authority = uri.authority().ok_or_else(|| refused("no host"))?;
        if let Some((user, _)) = authority.as_str().rsplit_once('@') {
            let (name, password) = user.split_once(':').ok_or_else(|| refused("a user without a password"))?;
            credentials = Some((name.to_owned(), password.to_owned()));
        }
        if secure && tls.is_none() {
            tls = Some(Arc::new(client_config(settings).map_err(|why| StoreError::Etcd(format!("TLS: {why}")))?));
        }
        let tls = tls.clone().filter(|_| secure);
        endpoints.push(Endpoint { host: authority.host().to_owned(), port: authority.port_u16().unwrap_or(PORT), tls, uri: uri.clone() });
    }
    match endpoints.is_empty() {
        true => Err(StoreError::Etcd("no endpoint".to_owned())),
        false => Ok((endpoints, credentials)),
    }
}

fn client_config(settings: &Settings) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let authorities = match settings.authority_pem.as_str() {
        "" => AUTHORITIES.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default(),
        given => given.to_owned(),
    };
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        let added = certificate.map_err(|cause| cause.to_string()).and_then(|it| roots.add(it).map_err(|cause| cause.to_string()));
        if let Err(cause) = added
            && !settings.authority_pem.is_empty()
        {
            return Err(format!("CA certificate: {cause}"));
        }
    }
    if roots.is_empty() {
        return Err("no CA certificate: name one with --datastore-cafile".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|cause| cause.to_string())?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match settings.certificate_pem.is_empty() {
        true => builder.with_no_client_auth(),
        false => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(settings.certificate_pem.as_bytes()).collect();
            let chain = chain.map_err(|cause| format!("client certificate: {cause}"))?;
            let key = PrivateKeyDer::from_pem_slice(settings.key_pem.as_bytes()).map_err(|cause| format!("client key: {cause}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|cause| format!("client certificate: {cause}"))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(endpoints: &str, expected: &str) {
        let said = match read(&Settings::new(endpoints)) {
            Err(cause) => cause.to_string(),
            Ok((endpoints, credentials)) => {
                let places: Vec<String> = endpoints.iter().map(|it| format!("{}:{}", it.host, it.port)).collect();
                format!("{} {credentials:?}", places.join(" "))
            }
        };
        assert_eq!(said, expected, "{endpoints}");
    }

    #[test]
    fn endpoints_are_read() {
        check("http://a:1", "a:1 None");
        check("http://a, http://[::1]:3 ,", "a:2379 [::1]:3 None");
        check("http://root:se:cret@a", "a:2379 Some((\"root\", \"se:cret\"))");
        check("", "etcd: no endpoint");
        check("a:2379", "etcd: endpoint \"a:2379\": expected http://HOST:PORT or https://HOST:PORT");
    }
}
