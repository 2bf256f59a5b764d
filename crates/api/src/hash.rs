//! Hashes and name suffixes in the original's alphabet.
//!
//! Deliberately absent: hashing a Go value as the original does (it prints the struct with `spew`); names that
//! only we compute and compare need a stable hash, not that one.

use serde_json::Value;

/// Consonants and digits that make no words: `rand.SafeEncodeString`'s alphabet.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// 32-bit FNV-1a.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// 64-bit FNV-1a.
pub fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Every byte replaced by a letter that is safe in names.
pub fn safe_encode_string(text: &str) -> String {
    text.bytes()
        .map(|byte| char::from(SAFE[usize::from(byte) % SAFE.len()]))
        .collect()
}

/// The letters of generated names (`web-x7k2p`), from random numbers that the caller hands in.
pub fn random_suffix(length: usize, mut random: impl FnMut() -> u32) -> String {
    (0..length)
        .map(|_| char::from(SAFE[random() as usize % SAFE.len()]))
        .collect()
}

/// The `pod-template-hash` of a template: equal templates have equal hashes, and a collision count moves on to the next.
pub fn pod_template_hash(template: &Value, collision_count: Option<i32>) -> String {
    // Keys of a `Value` are sorted, so its text is canonical.
    let mut bytes = template.to_string().into_bytes();
    if let Some(count) = collision_count {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    safe_encode_string(&fnv32a(&bytes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_values() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"foobar"), 0xbf9c_f968);
        assert_eq!(fnv64a(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(safe_encode_string("0123456789"), "456789bcdf");
    }

    #[test]
    fn templates() {
        let template = json!({"spec": {"containers": [{"name": "a", "image": "b"}]}});
        assert_eq!(
            pod_template_hash(&template, None),
            pod_template_hash(&template.clone(), None)
        );
        assert_ne!(
            pod_template_hash(&template, None),
            pod_template_hash(&template, Some(0))
        );
        assert_ne!(
            pod_template_hash(&template, None),
            pod_template_hash(&json!({}), None)
        );
    }
}
