//! The cluster's certificates and keys, as files under `<data-dir>/server/tls` with kubeadm's names.
//!
//! Invariant: what stands on disk is kept while it is valid; a certificate that nears its end, or whose names no
//! longer fit, is issued again by the same authority. Keys are readable by their owner alone. Deliberately absent:
//! certificates issued through the CertificateSigningRequest API.

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// kubeadm's figures.
const AUTHORITY_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;
/// A leaf with less time left than this is issued again.
const RENEW_BEFORE_DAYS: i64 = 90;

#[derive(Debug)]
pub enum PkiError {
    File { path: PathBuf, cause: std::io::Error },
    Certificate { what: String, cause: String },
}

impl fmt::Display for PkiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PkiError::File { path, cause } => write!(f, "{}: {cause}", path.display()),
            PkiError::Certificate { what, cause } => write!(f, "certificate {what}: {cause}"),
        }
    }
}

impl std::error::Error for PkiError {}

/// A certificate with its private key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Who a client certificate speaks for.
#[derive(Clone, Copy, Debug)]
pub struct ClientName<'a> {
    /// File name without ending, e.g. `admin`.
    pub file: &'a str,
    pub user: &'a str,
    pub groups: &'a [&'a str],
}

/// The cluster's certificate authority and the directory where everything that it issues is kept.
pub struct Pki {
    directory: PathBuf,
    authority: Issuer<'static, KeyPair>,
    authority_pem: String,
    now: Timestamp,
}

impl Pki {
    /// Loads the authority from `directory`, or makes one. `now` dates what is issued.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Pki, PkiError> {
        fs::create_dir_all(directory).map_err(|cause| PkiError::File { path: directory.into(), cause })?;
        let files = (directory.join("ca.crt"), directory.join("ca.key"));
        if !files.0.exists() || !files.1.exists() {
            let made = new_authority(now)?;
            write_private(&files.1, &made.key_pem)?;
            write_public(&files.0, &made.certificate_pem)?;
        }
        let authority_pem = read(&files.0)?;
        let key = key_from(&files.1)?;
        let authority = Issuer::from_ca_cert_pem(&authority_pem, key)
            .map_err(|cause| PkiError::Certificate { what: "ca.crt".into(), cause: cause.to_string() })?;
        Ok(Pki { directory: directory.into(), authority, authority_pem, now })
    }

    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The authority's private key, PEM: for the signer of CertificateSigningRequests.
    pub fn authority_key_pem(&self) -> String {
        self.authority.key().serialize_pem()
    }

    /// The key that signs service-account tokens, in PEM: an ECDSA P-256 one, unless somebody has put another there.
    pub fn service_account_key(&self) -> Result<String, PkiError> {
        let path = self.directory.join("sa.key");
        if !path.exists() {
            let key = new_key("sa")?;
            write_private(&path, &key.serialize_pem())?;
            write_public(&self.directory.join("sa.pub"), &key.public_key_pem())?;
        }
        read(&path)
    }

    /// A serving certificate for these DNS names and addresses.
    pub fn serving(&self, file: &str, common_name: &str, names: &[String]) -> Result<Identity, PkiError> {
        self.leaf(file, || {
            let mut params = leaf_params(common_name, &[], ExtendedKeyUsagePurpose::ServerAuth, self.now);
            params.subject_alt_names = alternative_names(names)?;
            Ok(params)
        })
    }

    /// A client certificate.
    pub fn client(&self, name: ClientName<'_>) -> Result<Identity, PkiError> {
        self.leaf(name.file, || {
            Ok(leaf_params(name.user, name.groups, ExtendedKeyUsagePurpose::ClientAuth, self.now))
        })
    }

    fn leaf(
        &self,
        file: &str,
        params: impl FnOnce() -> Result<CertificateParams, PkiError>,
    ) -> Result<Identity, PkiError> {
        let certificate_path = self.directory.join(format!("{file}.crt"));
        let key_path = self.directory.join(format!("{file}.key"));
        let wanted = params()?;
        if let (Ok(certificate_pem), Ok(key_pem)) = (read(&certificate_path), read(&key_path))
            && still_good(&certificate_pem, &wanted, self.now)
        {
            return Ok(Identity { certificate_pem, key_pem });
        }
        let key = new_key(file)?;
        let certificate = wanted
            .signed_by(&key, &self.authority)
            .map_err(|cause| PkiError::Certificate { what: file.into(), cause: cause.to_string() })?;
        let identity = Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
        write_private(&key_path, &identity.key_pem)?;
        write_public(&certificate_path, &identity.certificate_pem)?;
        Ok(identity)
    }
}

/// A kubeconfig with one cluster, user and context, all called `name`.
pub fn kubeconfig(name: &str, server: &str, authority_pem: &str, identity: &Identity) -> serde_json::Value {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": encode(authority_pem),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": encode(&identity.certificate_pem),
            "client-key-data": encode(&identity.key_pem),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    })
}

fn new_authority(now: Timestamp) -> Result<Identity, PkiError> {
    let key = new_key("ca")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("kubernetes", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, AUTHORITY_YEARS);
    let certificate = params
        .self_signed(&key)
        .map_err(|cause| PkiError::Certificate { what: "ca".into(), cause: cause.to_string() })?;
    Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

fn leaf_params(
    common_name: &str,
    organizations: &[&str],
    usage: ExtendedKeyUsagePurpose,
    now: Timestamp,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name, organizations);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, LEAF_YEARS);
    params
}

fn distinguished_name(common_name: &str, organizations: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for organization in organizations {
        name.push(DnType::OrganizationName, *organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn alternative_names(names: &[String]) -> Result<Vec<SanType>, PkiError> {
    names
        .iter()
        .map(|name| match name.parse() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => name
                .as_str()
                .try_into()
                .map(SanType::DnsName)
                .map_err(|cause: rcgen::Error| PkiError::Certificate { what: name.clone(), cause: cause.to_string() }),
        })
        .collect()
}

/// A day of slack at the front: clocks of other machines may lag.
fn set_validity(params: &mut CertificateParams, now: Timestamp, years: i16) {
    let today = now.to_zoned(TimeZone::UTC).date();
    let date = |day: jiff::civil::Date| rcgen::date_time_ymd(day.year().into(), day.month() as u8, day.day() as u8);
    params.not_before = date(today.saturating_sub(1.day()));
    params.not_after = date(today.saturating_add(i64::from(years).years()));
}

/// Whether the certificate on disk lasts long enough and carries the wanted names.
fn still_good(certificate_pem: &str, wanted: &CertificateParams, now: Timestamp) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()) else { return false };
    let Ok(certificate) = pem.parse_x509() else { return false };
    let seconds_left = certificate.validity().not_after.timestamp() - now.as_second();
    if seconds_left < RENEW_BEFORE_DAYS * 24 * 3600 {
        return false;
    }
    let mut present: Vec<String> = match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(general_name).collect(),
        _ => Vec::new(),
    };
    let mut needed: Vec<String> = wanted
        .subject_alt_names
        .iter()
        .map(|name| match name {
            SanType::IpAddress(address) => address.to_string(),
            SanType::DnsName(name) => name.as_str().to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    present.sort();
    needed.sort();
    present == needed
}

fn general_name(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_string()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn new_key(what: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|cause| PkiError::Certificate { what: what.into(), cause: cause.to_string() })
}

fn key_from(path: &Path) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(&read(path)?)
        .map_err(|cause| PkiError::Certificate { what: path.display().to_string(), cause: cause.to_string() })
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|cause| PkiError::File { path: path.into(), cause })
}

fn write_public(path: &Path, text: &str) -> Result<(), PkiError> {
    write_with_mode(path, text, 0o644)
}

/// Writes a file that its owner alone may read.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    write_with_mode(path, text, 0o600)
}

/// Whole or not at all: a crash leaves the old file.
fn write_with_mode(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let failed = |cause| PkiError::File { path: path.into(), cause };
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a valid time")
    }

    #[test]
    fn what_is_valid_is_kept_and_what_is_not_is_issued_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let names = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let issue = |now, text: &str| {
            let pki = Pki::open(directory.path(), now).expect("opens");
            pki.serving("apiserver", "kube-apiserver", &names(text)).expect("issues").certificate_pem
        };
        let first = issue(now(), "localhost 127.0.0.1");
        assert_eq!(first, issue(now(), "localhost 127.0.0.1"));
        let renamed = issue(now(), "localhost 10.0.0.1");
        assert_ne!(first, renamed);
        let later = now() + jiff::SignedDuration::from_hours(24 * 300);
        assert_ne!(renamed, issue(later, "localhost 10.0.0.1"));
    }

    #[test]
    fn keys_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let pki = Pki::open(directory.path(), now()).expect("opens");
        pki.client(ClientName { file: "admin", user: "admin", groups: &["system:masters"] }).expect("issues");
        pki.service_account_key().expect("makes");
        for file in ["ca.key", "admin.key", "sa.key"] {
            let mode = fs::metadata(directory.path().join(file)).expect("exists").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}
