//! The cluster's certificate authority, for signing requests.

use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::der;
use super::request::Request;

const SECONDS_MIN: i64 = 600;
/// For clocks of other machines that lag.
const BACKDATE_SECONDS: i64 = 5 * 60;
/// Certificates shorter than this are not shortened by the backdating.
const SHORT_SECONDS: i64 = 8 * 3600;

pub struct Authority {
    key: KeyPair,
    /// DER.
    subject: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
    not_after: Timestamp,
}

impl Authority {
    pub fn open(certificate_pem: &str, key_pem: &str) -> Result<Self, String> {
        let block = pem::parse(certificate_pem).map_err(|error| error.to_string())?;
        let parsed = x509_parser::certificate::X509Certificate::from_der(block.contents());
        let (_, certificate) = parsed.map_err(|error| error.to_string())?;
        let key_identifier = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
            _ => None,
        });
        let key = KeyPair::from_pem(key_pem).map_err(|error| error.to_string())?;
        if key.subject_public_key_info() != certificate.public_key().raw {
            return Err("the key does not belong to the certificate".into());
        }
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(|error| error.to_string())?;
        Ok(Authority { key, subject: certificate.subject().as_raw().to_vec(), key_identifier, not_after })
    }

    /// The certificate, PEM. Subject, key and alternative names are those of the request, nothing else is.
    pub fn sign(&self, request: &Request, terms: &Terms<'_>) -> Result<String, String> {
        let seconds = terms.expiration_seconds.map_or(terms.seconds_max, |wanted| i64::from(wanted).max(SECONDS_MIN).min(terms.seconds_max));
        let not_before = terms.now - SignedDuration::from_secs(BACKDATE_SECONDS);
        let lasts = if seconds < SHORT_SECONDS { seconds } else { seconds - BACKDATE_SECONDS };
        let not_after = (terms.now + SignedDuration::from_secs(lasts)).min(self.not_after);
        if not_after <= terms.now {
            return Err("refusing to sign a certificate that expired in the past".into());
        }
        let algorithm = self.algorithm()?;
        let mut serial = terms.serial;
        serial[0] &= 0x7f;
        let certificate = der::sequence(&[
            der::element(0xa0, &der::integer(&[2])),
            der::integer(&serial),
            algorithm.clone(),
            self.subject.clone(),
            der::sequence(&[der::time(not_before), der::time(not_after)]),
            request.subject.clone(),
            request.public_key.clone(),
            der::element(0xa3, &self.extensions(request, terms.usages)?),
        ]);
        let signature = self.key.sign(&certificate).map_err(|error| error.to_string())?;
        let signed = der::sequence(&[certificate, algorithm, der::bit_string(&signature, 0)]);
        let line_ending = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        Ok(pem::encode_config(&pem::Pem::new("CERTIFICATE", signed), line_ending))
    }

    fn algorithm(&self) -> Result<Vec<u8>, String> {
        let null = || der::element(0x05, &[]);
        let algorithm = self.key.algorithm();
        if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            Ok(der::sequence(&[der::object_identifier(&[1, 2, 840, 10045, 4, 3, 2])]))
        } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            Ok(der::sequence(&[der::object_identifier(&[1, 2, 840, 10045, 4, 3, 3])]))
        } else if algorithm == &rcgen::PKCS_ED25519 {
            Ok(der::sequence(&[der::object_identifier(&[1, 3, 101, 112])]))
        } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
            Ok(der::sequence(&[der::object_identifier(&[1, 2, 840, 113549, 1, 1, 11]), null()]))
        } else {
            Err("the authority's key is of a kind that cannot sign here".into())
        }
    }

    fn extensions(&self, request: &Request, usages: &[String]) -> Result<Vec<u8>, String> {
        let (bits, purposes) = key_usages(usages)?;
        let mut extensions = Vec::new();
        if bits != 0 {
            extensions.push(extension(15, true, &usage_bits(bits)));
        }
        if !purposes.is_empty() {
            extensions.push(extension(37, false, &der::sequence(&purposes)));
        }
        extensions.push(extension(19, true, &der::sequence(&[])));
        if let Some(identifier) = &self.key_identifier {
            extensions.push(extension(35, false, &der::sequence(&[der::element(0x80, identifier)])));
        }
        if let Some(names) = &request.alternative_names {
            extensions.push(extension(17, request.subject_is_empty, names));
        }
        Ok(der::sequence(&extensions))
    }
}

/// All but the request itself that a signature depends on.
pub struct Terms<'a> {
    pub usages: &'a [String],
    pub expiration_seconds: Option<i32>,
    /// At most, and without a wish.
    pub seconds_max: i64,
    pub now: Timestamp,
    /// Random.
    pub serial: [u8; 16],
}

/// `2.5.29.<number>`
fn extension(number: u64, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![der::object_identifier(&[2, 5, 29, number])];
    if critical {
        parts.push(der::element(der::BOOLEAN, &[0xff]));
    }
    parts.push(der::element(der::OCTET_STRING, value));
    der::sequence(&parts)
}

/// Bit 0 is the first one of the string, hence the highest of the first byte.
fn usage_bits(bits: u16) -> Vec<u8> {
    let reversed = bits.reverse_bits().to_be_bytes();
    let kept = if reversed[1] == 0 { &reversed[..1] } else { &reversed[..] };
    let unused = kept.last().map_or(0, |byte| byte.trailing_zeros() as u8);
    der::bit_string(kept, unused)
}

/// The words of the API as key-usage bits and extended purposes.
fn key_usages(usages: &[String]) -> Result<(u16, Vec<Vec<u8>>), String> {
    let mut bits = 0u16;
    let mut purposes = Vec::new();
    let mut unknown = Vec::new();
    for usage in usages {
        let bit = match usage.as_str() {
            "signing" | "digital signature" => Some(0),
            "content commitment" => Some(1),
            "key encipherment" => Some(2),
            "data encipherment" => Some(3),
            "key agreement" => Some(4),
            "cert sign" => Some(5),
            "crl sign" => Some(6),
            "encipher only" => Some(7),
            "decipher only" => Some(8),
            _ => None,
        };
        let purpose: Option<&[u64]> = match usage.as_str() {
            "any" => Some(&[2, 5, 29, 37, 0]),
            "server auth" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 1]),
            "client auth" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 2]),
            "code signing" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 3]),
            "email protection" | "s/mime" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 4]),
            "ipsec end system" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 5]),
            "ipsec tunnel" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 6]),
            "ipsec user" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 7]),
            "timestamping" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 8]),
            "ocsp signing" => Some(&[1, 3, 6, 1, 5, 5, 7, 3, 9]),
            "microsoft sgc" => Some(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
            "netscape sgc" => Some(&[2, 16, 840, 1, 113730, 4, 1]),
            _ => None,
        };
        match (bit, purpose) {
            (Some(bit), _) => bits |= 1 << bit,
            (None, Some(arcs)) => purposes.push(der::object_identifier(arcs)),
            (None, None) => unknown.push(format!("\"{usage}\"")),
        }
    }
    if unknown.is_empty() { Ok((bits, purposes)) } else { Err(format!("unrecognized usage values: [{}]", unknown.join(" "))) }
}

#[cfg(test)]
pub mod tests {
    use super::super::request::{parse, tests::made};
    use super::*;
    use crate::fixtures;

    pub fn authority() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[track_caller]
    fn check(usages: &str, expiration_seconds: Option<i32>, expected: &str) {
        let (certificate_pem, key_pem) = authority();
        let authority = Authority::open(&certificate_pem, &key_pem).unwrap();
        let usages: Vec<String> = usages.split(", ").map(str::to_owned).collect();
        let terms = Terms { usages: &usages, expiration_seconds, seconds_max: 365 * 24 * 3600, now: fixtures::now(), serial: [0xff; 16] };
        let request = parse(&made("system:nodes/system:node:a", &["a.example"])).unwrap();
        let signed = pem::parse(authority.sign(&request, &terms).unwrap()).unwrap();
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(signed.contents()).unwrap();
        let issuer = pem::parse(certificate_pem).unwrap();
        let (_, issuer) = x509_parser::certificate::X509Certificate::from_der(issuer.contents()).unwrap();
        certificate.verify_signature(Some(issuer.public_key())).unwrap();
        assert_eq!(certificate.issuer(), issuer.subject());
        let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
        let told = format!(
            "{} | {} | client {} server {} | {} to {} | names {} authority {}",
            certificate.subject(),
            certificate.key_usage().unwrap().unwrap().value,
            purposes.client_auth,
            purposes.server_auth,
            certificate.validity().not_before.timestamp() - fixtures::now().as_second(),
            certificate.validity().not_after.timestamp() - fixtures::now().as_second(),
            certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(),
            certificate.is_ca(),
        );
        assert_eq!(told, expected);
    }

    #[test]
    fn certificates() {
        check(
            "digital signature, client auth",
            None,
            "O=system:nodes, CN=system:node:a | Digital Signature | client true server false | -300 to 31535700 | names 1 authority false",
        );
        check(
            "digital signature, key encipherment, server auth",
            Some(3600),
            "O=system:nodes, CN=system:node:a | Digital Signature, Key Encipherment | client false server true | -300 to 3600 | names 1 authority false",
        );
        check(
            "client auth, digital signature",
            Some(5),
            "O=system:nodes, CN=system:node:a | Digital Signature | client true server false | -300 to 600 | names 1 authority false",
        );
    }

    #[test]
    fn keys_that_do_not_belong_are_refused() {
        let (certificate_pem, _) = authority();
        let (_, other) = authority();
        assert_eq!(Authority::open(&certificate_pem, &other).err().unwrap(), "the key does not belong to the certificate");
        assert_eq!(key_usages(&["x".to_owned()]).unwrap_err(), "unrecognized usage values: [\"x\"]");
    }
}
