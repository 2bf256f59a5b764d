//! As much of DER as an X.509 certificate takes.
//!
//! Why not a library: subject, key and alternative names are to be copied as they were asked for, byte for byte,
//! several organizations included.

use jiff::Timestamp;

pub const SEQUENCE: u8 = 0x30;
pub const BOOLEAN: u8 = 0x01;
pub const OCTET_STRING: u8 = 0x04;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Tag, length, content.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut encoded = vec![tag];
    let length = content.len();
    if length < 0x80 {
        encoded.push(length as u8);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        encoded.push(0x80 | bytes.len() as u8);
        encoded.extend(bytes);
    }
    encoded.extend_from_slice(content);
    encoded
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

/// A positive integer; leading zeros are dropped.
pub fn integer(bytes: &[u8]) -> Vec<u8> {
    let mut content: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    if content.first().is_none_or(|first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    element(INTEGER, &content)
}

/// `unused`: bits at the end that do not count.
pub fn bit_string(bytes: &[u8], unused: u8) -> Vec<u8> {
    let mut content = vec![unused];
    content.extend_from_slice(bytes);
    element(BIT_STRING, &content)
}

/// From the arcs, e.g. `[2, 5, 29, 15]`.
pub fn object_identifier(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let first = arcs.first().copied().unwrap_or(0) * 40 + arcs.get(1).copied().unwrap_or(0);
    for arc in std::iter::once(first).chain(arcs.iter().skip(2).copied()) {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(groups.into_iter().rev());
    }
    element(OBJECT_IDENTIFIER, &content)
}

/// RFC 5280: two digits for the year until 2049.
pub fn time(time: Timestamp) -> Vec<u8> {
    let year: i32 = time.strftime("%Y").to_string().parse().unwrap_or(0);
    if (1950..2050).contains(&year) {
        element(UTC_TIME, time.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        element(GENERALIZED_TIME, time.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(encoded: Vec<u8>, expected: &str) {
        assert_eq!(encoded.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    }

    #[test]
    fn encodings() {
        check(integer(&[0, 0, 1]), "020101");
        check(integer(&[0x80]), "02020080");
        check(integer(&[]), "020100");
        check(object_identifier(&[2, 5, 29, 15]), "0603551d0f");
        check(object_identifier(&[1, 2, 840, 10045, 4, 3, 2]), "06082a8648ce3d040302");
        check(bit_string(&[0xa0], 5), "030205a0");
        check(time("2026-03-01T12:00:00Z".parse().unwrap()), "170d3236303330313132303030305a");
        check(time("2051-03-01T12:00:00Z".parse().unwrap()), "180f32303531303330313132303030305a");
        assert_eq!(element(OCTET_STRING, &[0; 200])[..3], [4, 0x81, 200]);
    }
}
