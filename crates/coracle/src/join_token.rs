//! What a new node is told once: which cluster to trust, and the secret that lets it ask for a certificate there.
//!
//! ```text
//! K10<sha256 of the CA's certificate (DER), 64 hexadecimal digits>::<id, 6 characters>.<secret, 16 characters>
//! ```
//!
//! The part after `::` is a bootstrap token as kubeadm makes them. Invariant: the hash is never optional, so that a
//! node never trusts a stranger.

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "K10";
const SEPARATOR: &str = "::";
const HASH_DIGITS: usize = 64;
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub authority_sha256: [u8; 32],
    pub bootstrap: BootstrapToken,
}

#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    pub id: String,
    pub secret: String,
}

impl FromStr for JoinToken {
    type Err = String;

    fn from_str(text: &str) -> Result<JoinToken, String> {
        let hint = "expected K10<hash of the CA>::<id>.<secret>, as coracle token create prints it";
        let text = text.trim();
        if text.parse::<BootstrapToken>().is_ok() {
            return Err(format!("the token lacks the hash of the cluster's CA: {hint}"));
        }
        let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once(SEPARATOR));
        let (hash, bootstrap) = parts.ok_or_else(|| format!("not a join token: {hint}"))?;
        let authority_sha256 = digits(hash).ok_or_else(|| format!("the token's hash of the CA is damaged: {hint}"))?;
        let bootstrap = bootstrap.parse().map_err(|_| format!("the token's secret is damaged: {hint}"))?;
        Ok(JoinToken { authority_sha256, bootstrap })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        for byte in self.authority_sha256 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "{SEPARATOR}{}", self.bootstrap)
    }
}

impl FromStr for BootstrapToken {
    type Err = String;

    fn from_str(text: &str) -> Result<BootstrapToken, String> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        match text.split_once('.') {
            Some((id, secret)) if id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH && plain(id) && plain(secret) => {
                Ok(BootstrapToken { id: id.to_owned(), secret: secret.to_owned() })
            }
            // kubeadm's sentence.
            _ => Err("the bootstrap token is not of the form \"\\\\A([a-z0-9]{6})\\\\.([a-z0-9]{16})\\\\z\"".to_owned()),
        }
    }
}

impl fmt::Display for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

impl BootstrapToken {
    /// From 22 random numbers, each below 36.
    pub fn from_letters(mut letter: impl FnMut() -> u8) -> BootstrapToken {
        const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = |length: usize| (0..length).map(|_| char::from(LETTERS[usize::from(letter() % 36)])).collect();
        BootstrapToken { id: text(ID_LENGTH), secret: text(SECRET_LENGTH) }
    }
}

fn digits(text: &str) -> Option<[u8; 32]> {
    if text.len() != HASH_DIGITS || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_printing_and_damage_is_named() {
        let text = format!("K10{}::abcdef.0123456789abcdef", "0a".repeat(32));
        let token: JoinToken = text.parse().map_err(|problem| panic!("{problem}")).unwrap();
        assert_eq!(token.authority_sha256, [10; 32]);
        assert_eq!(token.to_string(), text);
        for (text, expected) in [
            ("abcdef.0123456789abcdef", "lacks the hash"),
            ("secret", "not a join token"),
            ("K10zz::abcdef.0123456789abcdef", "hash of the CA is damaged"),
            (&text.replace("abcdef.", "ABC."), "secret is damaged"),
        ] {
            let problem = text.parse::<JoinToken>().err().expect("refused");
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn letters_become_a_token() {
        let mut next = 0;
        let token = BootstrapToken::from_letters(|| {
            next += 1;
            next - 1
        });
        assert_eq!(token.to_string(), "abcdef.ghijklmnopqrstuv");
    }
}
