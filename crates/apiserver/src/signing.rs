//! The key that signs service-account tokens: ECDSA P-256 (ES256), which a new cluster makes, or RSA (RS256), which an
//! older one may bring along.
//!
//! Invariant: a token is signed and found good by the one key, whose id is a digest of its public half, as the
//! original's. Deliberately absent: what a token says (`tokens`).

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::error::Unspecified;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Signatures that were found good, by digest.
const VERIFIED_MAX: usize = 4096;

/// What stands in key files, in DER: AlgorithmIdentifier and its like.
mod der {
    pub const SEQUENCE: u8 = 0x30;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const EC_P256: &[u8] = &[
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
        0x01, 0x07,
    ];
    pub const RSA: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    pub const VERSION_0: &[u8] = &[0x02, 0x01, 0x00];

    /// Tag, length, value.
    pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut out = vec![tag];
        if length < 0x80 {
            out.push(length as u8);
        } else {
            let bytes = length.to_be_bytes();
            let significant = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(0)..];
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out
    }
}

#[derive(Debug)]
pub enum TokenError {
    Pem(String),
    Key(String),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenError::Pem(cause) => write!(f, "not PEM: {cause}"),
            TokenError::Key(cause) => write!(f, "neither an ECDSA P-256 key nor an RSA key of 2048 bits or more: {cause}"),
        }
    }
}

impl std::error::Error for TokenError {}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// Signs tokens, and knows those that it has seen.
pub struct SigningKey {
    pair: Pair,
    random: SystemRandom,
    /// `kid`
    id: String,
    verified: Mutex<HashMap<[u8; 32], Value>>,
}

impl SigningKey {
    /// PKCS#8, or the older forms of either kind of key.
    pub fn from_pem(text: &str) -> Result<SigningKey, TokenError> {
        // OpenSSL writes the parameters of a curve before the key.
        let all = pem::parse_many(text).map_err(|cause| TokenError::Pem(cause.to_string()))?;
        let key = all.iter().find(|block| block.tag().ends_with("PRIVATE KEY"));
        let key = key.ok_or_else(|| TokenError::Pem("no private key".into()))?;
        let random = SystemRandom::new();
        let pair = read(key, &random)?;
        let info = pair.public_info();
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(&info));
        Ok(SigningKey { pair, random, id, verified: Mutex::default() })
    }

    /// `ES256` or `RS256`.
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ecdsa(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    pub fn sign(&self, claims: &Value) -> Result<String, Unspecified> {
        let header = json!({"alg": self.algorithm(), "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", encode(&header), encode(claims));
        let signature = match &self.pair {
            Pair::Ecdsa(pair) => pair.sign(&self.random, token.as_bytes())?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &self.random, token.as_bytes(), &mut signature)?;
                signature
            }
        };
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The claims, if this key signed them.
    pub fn verify(&self, token: &str) -> Option<Value> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(claims) = self.verified.lock().get(&digest) {
            return Some(claims.clone());
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header["alg"] != self.algorithm() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.pair.verify(signed.as_bytes(), &signature).ok()?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.clear(); // All are found good again as they come.
        }
        verified.insert(digest, claims.clone());
        Some(claims)
    }

    /// The public half as others read it.
    pub fn jwk(&self) -> Value {
        let mut key = json!({"use": "sig", "kid": self.id, "alg": self.algorithm()});
        let number = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
        match &self.pair {
            Pair::Ecdsa(pair) => {
                let point = pair.public_key().as_ref(); // 0x04, x, y
                key["kty"] = "EC".into();
                key["crv"] = "P-256".into();
                key["x"] = number(&point[1..33]);
                key["y"] = number(&point[33..65]);
            }
            Pair::Rsa(pair) => {
                key["kty"] = "RSA".into();
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                key["n"] = number(&parts.n);
                key["e"] = number(&parts.e);
            }
        }
        key
    }
}

impl Pair {
    fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
        match self {
            Pair::Ecdsa(pair) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key()).verify(signed, signature),
            Pair::Rsa(pair) => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public()).verify(signed, signature),
        }
    }

    /// SubjectPublicKeyInfo.
    fn public_info(&self) -> Vec<u8> {
        let (algorithm, key) = match self {
            Pair::Ecdsa(pair) => (der::EC_P256, pair.public_key().as_ref()),
            Pair::Rsa(pair) => (der::RSA, pair.public().as_ref()),
        };
        let key = der::element(der::BIT_STRING, &[&[0], key]);
        der::element(der::SEQUENCE, &[algorithm, &key])
    }
}

fn read(key: &pem::Pem, random: &SystemRandom) -> Result<Pair, TokenError> {
    let refused = |cause: ring::error::KeyRejected| TokenError::Key(cause.to_string());
    let whole = match key.tag() {
        "EC PRIVATE KEY" => {
            let inner = der::element(der::OCTET_STRING, &[key.contents()]);
            der::element(der::SEQUENCE, &[der::VERSION_0, der::EC_P256, &inner])
        }
        "RSA PRIVATE KEY" => return RsaKeyPair::from_der(key.contents()).map(Pair::Rsa).map_err(refused),
        _ => key.contents().to_vec(),
    };
    match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &whole, random) {
        Ok(pair) => Ok(Pair::Ecdsa(pair)),
        Err(cause) => RsaKeyPair::from_pkcs8(&whole).map(Pair::Rsa).map_err(|_| refused(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For these tests alone, written by `openssl genpkey`, `openssl rsa -traditional` and `openssl ecparam`; ids are
    /// `openssl pkey -pubout -outform DER | sha256sum`.
    const RSA: &str = include_str!("signing/rsa.pem");
    const RSA_OLD: &str = include_str!("signing/rsa_old.pem");
    const EC_OLD: &str = include_str!("signing/ec_old.pem");

    #[track_caller]
    fn check(text: &str, algorithm: &str, id: &str) -> SigningKey {
        let key = SigningKey::from_pem(text).expect("a key");
        assert_eq!((key.algorithm(), key.id.as_str()), (algorithm, id));
        let token = key.sign(&json!({"sub": "me"})).expect("signs");
        assert_eq!(key.verify(&token), Some(json!({"sub": "me"})));
        // Not from memory alone, and not when a letter differs.
        key.verified.lock().clear();
        assert_eq!(key.verify(&token), Some(json!({"sub": "me"})));
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        assert_eq!(key.verify(&format!("{signed}.{first}{}", &signature[1..])), None);
        assert_eq!(key.jwk()["kid"], id);
        key
    }

    #[test]
    fn keys_of_several_kinds_sign() {
        let rsa = check(RSA, "RS256", include_str!("signing/rsa.id").trim());
        let old = check(RSA_OLD, "RS256", include_str!("signing/rsa.id").trim());
        assert_eq!((&rsa.jwk()["kty"], &rsa.jwk()["e"]), (&"RSA".into(), &"AQAB".into()));
        // One key in two spellings: what one signs the other knows.
        let token = rsa.sign(&json!({"a": 1})).expect("signs");
        assert_eq!(old.verify(&token), Some(json!({"a": 1})));
        let ec = check(EC_OLD, "ES256", include_str!("signing/ec.id").trim());
        assert_eq!(ec.verify(&token), None);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let text = |text: &str| SigningKey::from_pem(text).err().map(|cause| cause.to_string()).unwrap_or_default();
        assert_eq!(text(""), "not PEM: no private key");
        let cut = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(text(cut).starts_with("neither an ECDSA P-256 key nor an RSA key of 2048 bits or more: "), "{}", text(cut));
    }
}
