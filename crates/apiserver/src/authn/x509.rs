//! Client certificates: CN is the user, O are the groups. The TLS layer has verified the chain.

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::{AUTHENTICATED, User};

/// Until when the certificate is good.
pub fn expiry(certificate: &[u8]) -> Option<jiff::Timestamp> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    jiff::Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

/// None: the certificate names nobody.
pub fn user(certificate: &[u8]) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut groups: Vec<String> =
        parsed.subject().iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.into());
    let digest: String = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={digest}")])].into();
    Some(User { name, uid: String::new(), groups, extra })
}
