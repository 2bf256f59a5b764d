//! A service-account token judged from within a pod, by what its issuer publishes and nothing else.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Where a pod finds its own credentials.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// `sub` of the token in the file, if its issuer stands for it and it is meant for the audience.
pub async fn judge(path: &str, audience: &str) -> io::Result<String> {
    let token = std::fs::read_to_string(path)?;
    let token = token.trim();
    let wrong = |what: &str| io::Error::other(what.to_owned());
    let (signed, signature) = token.rsplit_once('.').ok_or_else(|| wrong("not three parts"))?;
    let (header, claims) = signed.split_once('.').ok_or_else(|| wrong("not three parts"))?;
    let (header, claims) = (decoded(header)?, decoded(claims)?);
    let issuer = claims["iss"].as_str().ok_or_else(|| wrong("no issuer"))?;

    let document = get(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))).await?;
    if document["issuer"] != issuer {
        return Err(wrong("the issuer calls itself otherwise"));
    }
    let algorithms = &document["id_token_signing_alg_values_supported"];
    if !algorithms.as_array().is_some_and(|list| list.contains(&header["alg"])) {
        return Err(wrong("an algorithm that the issuer does not use"));
    }
    let keys = get(document["jwks_uri"].as_str().ok_or_else(|| wrong("no jwks_uri"))?).await?;
    let key = keys["keys"].as_array().into_iter().flatten().find(|key| key["kid"] == header["kid"]);
    let key = key.ok_or_else(|| wrong("a key that the issuer does not know"))?;
    let number = |field: &str| bytes(key[field].as_str().unwrap_or(""));
    let signature = bytes(signature)?;
    let verified = match key["kty"].as_str() {
        Some("EC") => {
            let point = [vec![4], number("x")?, number("y")?].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature)
        }
        _ => RsaPublicKeyComponents { n: number("n")?, e: number("e")? }
            .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature),
    };
    verified.map_err(|_| wrong("the signature is not the key's"))?;

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    if claims["exp"].as_u64().is_none_or(|end| end <= now) {
        return Err(wrong("it has ended"));
    }
    if !claims["aud"].as_array().is_some_and(|list| list.iter().any(|own| own == audience)) {
        return Err(wrong("it is meant for others"));
    }
    Ok(claims["sub"].as_str().unwrap_or("").to_owned())
}

fn bytes(text: &str) -> io::Result<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).map_err(io::Error::other)
}

fn decoded(text: &str) -> io::Result<Value> {
    serde_json::from_slice(&bytes(text)?).map_err(io::Error::other)
}

/// As the pod's own account, trusting the cluster's authority alone.
async fn get(url: &str) -> io::Result<Value> {
    let rest = url.strip_prefix("https://").ok_or_else(|| io::Error::other(format!("{url}: not https")))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.rsplit_once(':').map_or((authority, 443), |(host, port)| (host, port.parse().unwrap_or(443)));
    let host = host.trim_start_matches('[').trim_end_matches(']');

    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(format!("{ACCOUNT}/ca.crt")).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = tokio::net::TcpStream::connect((host, port)).await?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let token = std::fs::read_to_string(format!("{ACCOUNT}/token"))?;
    let request = format!(
        "GET /{path} HTTP/1.0\r\nhost: {authority}\r\nauthorization: Bearer {}\r\naccept: application/json\r\n\r\n",
        token.trim()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    if let Err(cause) = stream.read_to_end(&mut answer).await
        && cause.kind() != io::ErrorKind::UnexpectedEof
    {
        return Err(cause);
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.lines().next().is_some_and(|line| line.contains(" 200 ")) {
        return Err(io::Error::other(format!("{url}: {answer}")));
    }
    serde_json::from_str(body).map_err(|cause| io::Error::other(format!("{url}: {cause}: {body}")))
}
