//! What a certificate request (PKCS#10) asks for, and which of the cluster's signers may grant it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// The parts that matter, those that are copied as DER.
#[derive(Debug, Default)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub subject: Vec<u8>,
    pub subject_is_empty: bool,
    pub public_key: Vec<u8>,
    /// The value of the extension.
    pub alternative_names: Option<Vec<u8>>,
    /// DNS names and addresses among them.
    pub names: Vec<String>,
    dns: usize,
    emails: usize,
    addresses: usize,
    uris: usize,
}

/// Parses what the object holds and checks that whoever asks has the key.
pub fn parse(object: &CertificateSigningRequest) -> Result<Request, String> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let failed = |why: String| format!("unable to parse csr \"{name}\": {why}");
    let block = pem::parse(&object.spec.request.0).ok().filter(|block| block.tag() == "CERTIFICATE REQUEST");
    let block = block.ok_or_else(|| failed("PEM block type must be CERTIFICATE REQUEST".into()))?;
    let (_, parsed) = X509CertificationRequest::from_der(block.contents()).map_err(|error| failed(error.to_string()))?;
    parsed.verify_signature().map_err(|error| failed(format!("unable to verify certificate request signature: {error}")))?;
    let info = &parsed.certification_request_info;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().unwrap_or_default().to_owned();
    let subject: &X509Name<'_> = &info.subject;
    let mut request = Request {
        common_name: subject.iter_common_name().last().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        subject: subject.as_raw().to_vec(),
        subject_is_empty: subject.iter().next().is_none(),
        public_key: info.subject_pki.raw.to_vec(),
        ..Request::default()
    };
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else { continue };
        for extension in &wanted.extensions {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                request.alternative_names = Some(extension.value.to_vec());
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(name) => {
                            request.dns += 1;
                            request.names.push((*name).to_owned());
                        }
                        GeneralName::RFC822Name(_) => request.emails += 1,
                        GeneralName::IPAddress(bytes) => {
                            request.addresses += 1;
                            // An address of no known length stays out of the names, and fits no node.
                            request.names.push(address(bytes).map_or_else(String::new, |address| address.to_string()));
                        }
                        GeneralName::URI(_) => request.uris += 1,
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(request)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Pure. Why the signer does not grant this; the sentences are the original's.
pub fn validate(signer: &str, request: &Request, usages: &[String]) -> Result<(), String> {
    match signer {
        CLIENT => validate_client(usages),
        KUBELET_CLIENT => {
            is_node_group(request)?;
            for (count, what) in [(request.dns, "DNS"), (request.emails, "Email"), (request.addresses, "IP"), (request.uris, "URI")] {
                if count > 0 {
                    return Err(format!("{what} subjectAltNames are not allowed"));
                }
            }
            is_node_name(request)?;
            usages_are(usages, "client auth")
        }
        KUBELET_SERVING => {
            is_node_group(request)?;
            if request.dns == 0 && request.addresses == 0 {
                return Err("DNS or IP subjectAltName is required".into());
            }
            for (count, what) in [(request.emails, "Email"), (request.uris, "URI")] {
                if count > 0 {
                    return Err(format!("{what} subjectAltNames are not allowed"));
                }
            }
            usages_are(usages, "server auth")?;
            is_node_name(request)
        }
        other => Err(format!("unrecognized signerName: \"{other}\"")),
    }
}

fn validate_client(usages: &[String]) -> Result<(), String> {
    for usage in usages {
        if !matches!(usage.as_str(), "digital signature" | "key encipherment" | "client auth") {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    if usages.iter().any(|usage| usage == "client auth") {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".into())
    }
}

fn is_node_group(request: &Request) -> Result<(), String> {
    let is_it = request.organizations == ["system:nodes"];
    if is_it { Ok(()) } else { Err("subject organization is not system:nodes".into()) }
}

fn is_node_name(request: &Request) -> Result<(), String> {
    let is_it = request.common_name.starts_with("system:node:");
    if is_it { Ok(()) } else { Err("subject common name does not begin with system:node:".into()) }
}

/// Key encipherment is for RSA alone.
fn usages_are(usages: &[String], purpose: &str) -> Result<(), String> {
    let held: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut wanted: BTreeSet<&str> = [purpose, "digital signature"].into();
    if held == wanted {
        return Ok(());
    }
    wanted.insert("key encipherment");
    if held == wanted {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", wanted.into_iter().collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    /// A request for these names by a fresh key; organizations are separated by `+`.
    pub fn made(subject: &str, names: &[&str]) -> CertificateSigningRequest {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        let (organization, common_name) = subject.split_once('/').unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !organization.is_empty() {
            params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        }
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut object = CertificateSigningRequest::default();
        object.spec.request = ByteString(params.serialize_request(&key).unwrap().pem().unwrap().into_bytes());
        object
    }

    #[track_caller]
    fn check(signer: &str, subject: &str, names: &[&str], usages: &str, expected: &str) {
        let request = parse(&made(subject, names)).unwrap();
        let usages: Vec<String> = usages.split(", ").map(str::to_owned).collect();
        assert_eq!(validate(signer, &request, &usages).err().unwrap_or_default(), expected);
    }

    #[test]
    fn what_signers_grant() {
        let client = "digital signature, client auth";
        let serving = "digital signature, key encipherment, server auth";
        check(CLIENT, "devs/jane", &[], client, "");
        check(CLIENT, "devs/jane", &[], "digital signature", "missing required usage for client certificate: client auth");
        check(CLIENT, "devs/jane", &[], "client auth, server auth", "invalid usage for client certificate: server auth");
        check(KUBELET_CLIENT, "system:nodes/system:node:a", &[], client, "");
        check(KUBELET_CLIENT, "/system:node:a", &[], client, "subject organization is not system:nodes");
        check(KUBELET_CLIENT, "system:nodes/a", &[], client, "subject common name does not begin with system:node:");
        check(KUBELET_CLIENT, "system:nodes/system:node:a", &["a.b"], client, "DNS subjectAltNames are not allowed");
        check(KUBELET_CLIENT, "system:nodes/system:node:a", &["10.0.0.1"], client, "IP subjectAltNames are not allowed");
        check(KUBELET_CLIENT, "system:nodes/system:node:a", &[], serving, "usages did not match [client auth digital signature key encipherment]");
        check(KUBELET_SERVING, "system:nodes/system:node:a", &["a", "10.0.0.1"], serving, "");
        check(KUBELET_SERVING, "system:nodes/system:node:a", &[], serving, "DNS or IP subjectAltName is required");
        check("example.com/x", "devs/jane", &[], client, "unrecognized signerName: \"example.com/x\"");
    }
}
