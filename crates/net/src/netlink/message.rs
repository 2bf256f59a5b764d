//! Writing and reading netlink messages: headers, and attributes nested in attributes.

use nix::errno::Errno;

use super::Refusal;
use crate::error::NetError;

pub(super) const HEADER_LENGTH: usize = 16;
const ATTRIBUTE_HEADER_LENGTH: usize = 4;
const NESTED: u16 = 1 << 15;
const KIND_MASK: u16 = 0x3fff;

/// Messages that go to the kernel in one call, each with the words that describe it in an error.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message does, for error messages. A message of set elements has one entry like any other.
    doing: Vec<String>,
    /// The last message that asks for an acknowledgement; in a transaction there is one such.
    acknowledged: usize,
    /// Where the latest message begins.
    latest: usize,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    /// A batch of this one message.
    pub fn one(doing: impl Into<String>, kind: u16, flags: i32, body: impl FnOnce(&mut Writer)) -> Batch {
        let mut batch = Batch::new();
        batch.add(doing, kind, flags, body);
        batch
    }

    /// Appends a message. NLM_F_REQUEST is implied; sequence numbers are the messages' indexes.
    pub fn add(&mut self, doing: impl Into<String>, kind: u16, flags: i32, body: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.latest = start;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&(self.doing.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(&mut Writer { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        if flags & libc::NLM_F_ACK != 0 {
            self.acknowledged = self.doing.len();
        }
        self.doing.push(doing.into());
    }

    /// Asks for an acknowledgement of the latest message.
    pub fn acknowledge_latest(&mut self) {
        let Some(index) = self.doing.len().checked_sub(1) else { return };
        let flags = &mut self.bytes[self.latest + 6..self.latest + 8];
        let value = u16::from_ne_bytes([flags[0], flags[1]]) | libc::NLM_F_ACK as u16;
        flags.copy_from_slice(&value.to_ne_bytes());
        self.acknowledged = index;
    }

    pub fn len(&self) -> usize {
        self.doing.len()
    }

    pub fn is_empty(&self) -> bool {
        self.doing.is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn describe(&self, index: usize) -> String {
        self.doing.get(index).cloned().unwrap_or_default()
    }

    pub(super) fn acknowledged_index(&self) -> usize {
        self.acknowledged
    }

    pub(crate) fn error(&self, refusal: &Refusal) -> NetError {
        NetError::Netlink { doing: self.describe(refusal.index), errno: refusal.errno, detail: refusal.detail.clone() }
    }

    /// The error of a transaction: the first refusal that names a cause. ECANCELED-like followers come later.
    pub(crate) fn first_error(&self, refusals: &[Refusal]) -> Option<NetError> {
        refusals
            .iter()
            .min_by_key(|refusal| (refusal.errno == Errno::EINTR, refusal.index == 0))
            .map(|refusal| self.error(refusal))
    }
}

/// Writes the body of one message.
pub struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Writer<'_> {
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER_LENGTH + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub fn flag(&mut self, kind: u16) {
        self.bytes(kind, &[]);
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Network order, as nf_tables and conntrack want their numbers.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// With the zero byte that the kernel expects at a string's end.
    pub fn str(&mut self, kind: u16, value: &str) {
        let length = (ATTRIBUTE_HEADER_LENGTH + value.len() + 1) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// An attribute whose value is attributes. Its value must stay below 64 KiB: callers chunk long lists.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(&mut Writer { bytes: self.bytes });
        let length = self.bytes.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "attribute {kind} of {length} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

/// Reads attributes; stops at the first that is malformed.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: bytes }
    }

    /// Of a message body that begins with a fixed header of this length.
    pub fn after(body: &'a [u8], header_length: usize) -> Attributes<'a> {
        Attributes { rest: body.get(header_length..).unwrap_or_default() }
    }

    pub fn value_of(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
    }

    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes { rest: self.value_of(kind).unwrap_or_default() }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let header = self.rest.get(..ATTRIBUTE_HEADER_LENGTH)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let value = self.rest.get(ATTRIBUTE_HEADER_LENGTH..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

/// The text up to the zero byte.
pub fn parse_attribute_str(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub fn parse_attribute_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let batch = Batch::one("testing", 7, libc::NLM_F_ACK, |writer| {
            writer.raw(&[1, 2, 3, 4]);
            writer.str(1, "eth0");
            writer.nest(2, |inner| {
                inner.u8(3, 9);
                inner.be16(4, 80);
            });
        });
        let attributes = Attributes::after(batch.bytes(), HEADER_LENGTH + 4);
        assert_eq!(parse_attribute_str(attributes.value_of(1).unwrap()), "eth0");
        assert_eq!(attributes.nested(2).value_of(3), Some(&[9][..]));
        assert_eq!(attributes.nested(2).value_of(4), Some(&[0, 80][..]));
        assert_eq!(batch.acknowledged_index(), 0);
        assert_eq!(batch.size() % 4, 0);
    }

    #[test]
    fn garbage_ends_the_reading() {
        for garbage in [&[][..], &[1], &[3, 0, 1, 0], &[200, 0, 1, 0, 5], &[0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Attributes::new(garbage).next(), None, "{garbage:?}");
        }
    }
}
