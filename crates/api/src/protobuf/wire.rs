//! The wire format: varints, tags, lengths.

use crate::json::DecodeError;

/// Writes one message; fields in the order of the calls.
#[derive(Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub fn starting_with(bytes: &[u8]) -> Self {
        Writer {
            out: bytes.to_vec(),
        }
    }

    pub(super) fn with_capacity(bytes: usize) -> Self {
        Writer {
            out: Vec::with_capacity(bytes),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    pub fn integer(&mut self, tag: u32, value: i64) {
        self.varint(u64::from(tag) << 3);
        self.varint(value as u64);
    }

    pub fn double(&mut self, tag: u32, value: f64) {
        self.varint(u64::from(tag) << 3 | 1);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, tag: u32, value: &[u8]) {
        self.varint(u64::from(tag) << 3 | 2);
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// The start of a nested message of that length, which is written elsewhere.
    pub(super) fn begin_message(&mut self, tag: u32, length: usize) {
        self.varint(u64::from(tag) << 3 | 2);
        self.varint(length as u64);
    }

    /// A nested message. Its length is known afterwards: one byte is kept for it, and the rare long one makes room.
    pub fn message(&mut self, tag: u32, content: impl FnOnce(&mut Writer)) {
        self.varint(u64::from(tag) << 3 | 2);
        let start = self.out.len();
        self.out.push(0);
        content(self);
        let mut length = self.out.len() - start - 1;
        if length >= 0x80 {
            let more = length.ilog2() as usize / 7;
            self.out.extend_from_slice(&[0; 10][..more]);
            self.out.copy_within(start + 1..start + 1 + length, start + 1 + more);
        }
        for byte in &mut self.out[start..] {
            *byte = length as u8 & 0x7f;
            length >>= 7;
            if length == 0 {
                return;
            }
            *byte |= 0x80;
        }
    }
}

/// A cursor over one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    /// No field of the API has it.
    Fixed32,
    Bytes(&'a [u8]),
}

pub(super) fn malformed(problem: &str) -> DecodeError {
    DecodeError::Syntax(format!("proto: {problem}"))
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's tag and value.
    pub fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3)
            .ok()
            .filter(|tag| *tag > 0)
            .ok_or_else(|| malformed("illegal tag"))?;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| unexpected_end())?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.fixed::<4>().map(|_| Wire::Fixed32)?,
            other => return Err(malformed(&format!("illegal wireType {other}"))),
        };
        Ok(Some((tag, value)))
    }

    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or_else(unexpected_end)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("integer overflow"))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)
            .map(|bytes| bytes.try_into().expect("N bytes were taken"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(unexpected_end)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn unexpected_end() -> DecodeError {
    DecodeError::Syntax("unexpected EOF".to_owned())
}
