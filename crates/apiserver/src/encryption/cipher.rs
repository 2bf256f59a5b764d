//! The ciphers of encryption at rest, in the original's layout.

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{AesGcm, aead::consts::U12};
use bytes::{BufMut, Bytes, BytesMut};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use crypto_secretbox::XSalsa20Poly1305;
use ring::rand::{SecureRandom, SystemRandom};

/// Where sealed values begin.
const SEALED: &[u8] = b"k8s:enc:";
const GCM_NONCE: usize = 12;
const CBC_IV: usize = 16;
const BOX_NONCE: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    AesCbc,
    AesGcm,
    Secretbox,
}

impl Cipher {
    pub fn name(self) -> &'static str {
        match self {
            Cipher::AesCbc => "aescbc",
            Cipher::AesGcm => "aesgcm",
            Cipher::Secretbox => "secretbox",
        }
    }

    /// Lengths of keys, in bytes.
    pub fn key_sizes(self) -> &'static [usize] {
        match self {
            Cipher::AesCbc | Cipher::AesGcm => &[16, 24, 32],
            Cipher::Secretbox => &[32],
        }
    }
}

/// One key of one cipher, or none at all.
pub enum Provider {
    Identity,
    Key { cipher: Cipher, prefix: Vec<u8>, key: Vec<u8> },
}

impl Provider {
    pub fn key(cipher: Cipher, name: &str, key: Vec<u8>) -> Provider {
        Provider::Key { cipher, prefix: format!("k8s:enc:{}:v1:{name}:", cipher.name()).into_bytes(), key }
    }

    pub fn seal(&self, at: &[u8], plain: Bytes) -> Result<Bytes, String> {
        let Provider::Key { cipher, prefix, key } = self else { return Ok(plain) };
        let mut nonce = [0; BOX_NONCE];
        SystemRandom::new().fill(&mut nonce).map_err(|_| "no randomness from the operating system".to_owned())?;
        let (nonce, sealed) = match cipher {
            Cipher::AesGcm => (&nonce[..GCM_NONCE], gcm(key, &nonce[..GCM_NONCE], at, &plain, true)?),
            Cipher::AesCbc => (&nonce[..CBC_IV], cbc_seal(key, &nonce[..CBC_IV], &plain)?),
            Cipher::Secretbox => (&nonce[..], secretbox(key, &nonce, &plain, true)?),
        };
        let mut out = BytesMut::with_capacity(prefix.len() + nonce.len() + sealed.len());
        out.put_slice(prefix);
        out.put_slice(nonce);
        out.put_slice(&sealed);
        Ok(out.freeze())
    }

    /// None: sealed by another provider.
    pub fn open(&self, at: &[u8], stored: &Bytes) -> Result<Option<Bytes>, String> {
        let Provider::Key { cipher, prefix, key } = self else {
            return Ok((!stored.starts_with(SEALED)).then(|| stored.clone()));
        };
        let Some(sealed) = stored.strip_prefix(prefix.as_slice()) else { return Ok(None) };
        let split = |at: usize| sealed.split_at_checked(at).ok_or("the stored data was shorter than the required size");
        let plain = match cipher {
            Cipher::AesGcm => {
                let (nonce, sealed) = split(GCM_NONCE)?;
                gcm(key, nonce, at, sealed, false)?
            }
            Cipher::AesCbc => {
                let (nonce, sealed) = split(CBC_IV)?;
                cbc_open(key, nonce, sealed)?
            }
            Cipher::Secretbox => {
                let (nonce, sealed) = split(BOX_NONCE)?;
                secretbox(key, nonce, sealed, false)?
            }
        };
        Ok(Some(plain.into()))
    }
}

fn gcm(key: &[u8], nonce: &[u8], at: &[u8], text: &[u8], seal: bool) -> Result<Vec<u8>, String> {
    fn run<C: Aead + KeyInit>(key: &[u8], nonce: &[u8], payload: Payload<'_, '_>, seal: bool) -> Result<Vec<u8>, String> {
        let cipher = C::new_from_slice(key).map_err(|_| wrong_key())?;
        let nonce = nonce.try_into().map_err(|_| wrong_key())?;
        let result = if seal { cipher.encrypt(nonce, payload) } else { cipher.decrypt(nonce, payload) };
        result.map_err(|_| "cipher: message authentication failed".to_owned())
    }
    let payload = Payload { msg: text, aad: at };
    match key.len() {
        16 => run::<AesGcm<Aes128, U12>>(key, nonce, payload, seal),
        24 => run::<AesGcm<Aes192, U12>>(key, nonce, payload, seal),
        _ => run::<AesGcm<Aes256, U12>>(key, nonce, payload, seal),
    }
}

fn cbc_seal(key: &[u8], iv: &[u8], plain: &[u8]) -> Result<Vec<u8>, String> {
    fn run<C: KeyIvInit + BlockModeEncrypt>(key: &[u8], iv: &[u8], plain: &[u8]) -> Result<Vec<u8>, String> {
        let cipher = C::new_from_slices(key, iv).map_err(|_| wrong_key())?;
        Ok(cipher.encrypt_padded_vec::<Pkcs7>(plain))
    }
    match key.len() {
        16 => run::<cbc::Encryptor<Aes128>>(key, iv, plain),
        24 => run::<cbc::Encryptor<Aes192>>(key, iv, plain),
        _ => run::<cbc::Encryptor<Aes256>>(key, iv, plain),
    }
}

fn cbc_open(key: &[u8], iv: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
    fn run<C: KeyIvInit + BlockModeDecrypt>(key: &[u8], iv: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        let cipher = C::new_from_slices(key, iv).map_err(|_| wrong_key())?;
        cipher.decrypt_padded_vec::<Pkcs7>(sealed).map_err(|_| "invalid padding on input".to_owned())
    }
    match key.len() {
        16 => run::<cbc::Decryptor<Aes128>>(key, iv, sealed),
        24 => run::<cbc::Decryptor<Aes192>>(key, iv, sealed),
        _ => run::<cbc::Decryptor<Aes256>>(key, iv, sealed),
    }
}

fn secretbox(key: &[u8], nonce: &[u8], text: &[u8], seal: bool) -> Result<Vec<u8>, String> {
    use crypto_secretbox::aead::{Aead as _, KeyInit as _};
    let cipher = XSalsa20Poly1305::new_from_slice(key).map_err(|_| wrong_key())?;
    let nonce = crypto_secretbox::Nonce::from_slice(nonce);
    let result = if seal { cipher.encrypt(nonce, text) } else { cipher.decrypt(nonce, text) };
    result.map_err(|_| "output array was not large enough for encryption".to_owned())
}

/// Keys are measured when the configuration is read.
fn wrong_key() -> String {
    "a key of a wrong size".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    #[test]
    fn published_vectors() {
        // NIST SP 800-38A F.2.5, first block; the padding block follows.
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        let sealed = cbc_seal(&key, &iv, &hex("6bc1bee22e409f96e93d7e117393172a")).expect("seals");
        assert_eq!(&sealed[..16], hex("f58c4c04d6e5f1ba779eabfb5f7bfbd6"));
        assert_eq!(sealed.len(), 32);
        // McGrew and Viega, test case 14: AES-256, zero key and nonce.
        let sealed = gcm(&[0; 32], &[0; 12], &[], &[0; 16], true).expect("seals");
        assert_eq!(sealed, hex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"));
        // The secretbox of NaCl's own tests: the tag stands before the text.
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let plain = hex("be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705");
        let sealed = secretbox(&key, &nonce, &plain, true).expect("seals");
        assert_eq!(&sealed[..16], hex("f3ffc7703f9400e52a7dfb4b3d3305d9"));
    }

    #[test]
    fn all_key_sizes_and_a_changed_byte() {
        for cipher in [Cipher::AesCbc, Cipher::AesGcm, Cipher::Secretbox] {
            for size in cipher.key_sizes() {
                let provider = Provider::key(cipher, "k", vec![7; *size]);
                let sealed = provider.seal(b"/at", Bytes::from_static(b"text")).expect("seals");
                assert_eq!(provider.open(b"/at", &sealed).expect("opens").expect("is its own"), "text");
                assert!(provider.open(b"/at", &sealed.slice(..sealed.len() - 1)).is_err());
            }
        }
        assert_eq!(Provider::Identity.open(b"", &Bytes::from_static(b"k8s:enc:aesgcm:v1:x:")).expect("no error"), None);
    }
}
