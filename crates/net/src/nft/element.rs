//! Keys and values of sets and maps: fields side by side, each in whole 32-bit words as the kernel's registers are.

use std::net::IpAddr;
use std::time::Duration;

use super::expression::{Verdict, write_data, write_verdict};
use super::numbers;
use crate::netlink::Writer;
use crate::route::octets;

/// The type of one field. The numbers are those by which `nft` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    Ipv4Address,
    Ipv6Address,
    /// TCP, UDP, ...
    Protocol,
    Port,
    /// A plain number of 32 bits; `nft` prints it as a packet mark.
    Number,
    InterfaceName,
}

impl Field {
    fn type_number(self) -> u32 {
        match self {
            Field::Ipv4Address => 7,
            Field::Ipv6Address => 8,
            Field::Protocol => 12,
            Field::Port => 13,
            Field::Number => 19,
            Field::InterfaceName => 41,
        }
    }

    /// In bytes, without the padding.
    pub fn length(self) -> u32 {
        match self {
            Field::Ipv4Address | Field::Number => 4,
            Field::Ipv6Address | Field::InterfaceName => 16,
            Field::Protocol => 1,
            Field::Port => 2,
        }
    }

    /// Registers of 32 bits that it fills.
    pub fn words(self) -> u32 {
        self.length().div_ceil(4)
    }
}

/// nft's number for a type, or for types side by side.
pub(super) fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| (number << 6) | field.type_number())
}

/// A single field is not padded, several are each padded to whole words.
pub(super) fn length(fields: &[Field]) -> u32 {
    match fields {
        [field] => field.length(),
        fields => fields.iter().map(|field| field.words() * 4).sum(),
    }
}

/// Bytes of a key or value, built field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new() -> Key {
        Key(Vec::with_capacity(20))
    }

    pub fn address(mut self, address: IpAddr) -> Key {
        self.pad();
        self.0.extend_from_slice(&octets(address));
        self
    }

    pub fn protocol(mut self, protocol: u8) -> Key {
        self.pad();
        self.0.push(protocol);
        self
    }

    pub fn port(mut self, port: u16) -> Key {
        self.pad();
        self.0.extend_from_slice(&port.to_be_bytes());
        self
    }

    pub fn number(mut self, number: u32) -> Key {
        self.pad();
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    pub fn raw(bytes: Vec<u8>) -> Key {
        Key(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Fields begin at whole words; the last one keeps its length if it stands alone.
    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// As the kernel wants it: a lone field in its own length, several in whole words.
    fn padded(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        if bytes.len() > 4 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementData {
    Value(Key),
    Verdict(Verdict),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Key,
    /// Last key of a range, inclusive, for interval sets of several fields.
    pub key_end: Option<Key>,
    /// Marks the end (exclusive) of the range begun by the element before, for interval sets of one field.
    pub interval_end: bool,
    pub data: Option<ElementData>,
    /// How long it lives without being updated, and how much of that is left.
    pub timeout: Option<Duration>,
    pub expires_in: Option<Duration>,
}

impl Element {
    pub fn key(key: Key) -> Element {
        Element { key, key_end: None, interval_end: false, data: None, timeout: None, expires_in: None }
    }

    pub fn mapping(key: Key, value: Key) -> Element {
        Element { data: Some(ElementData::Value(value)), ..Element::key(key) }
    }

    pub fn verdict(key: Key, verdict: Verdict) -> Element {
        Element { data: Some(ElementData::Verdict(verdict)), ..Element::key(key) }
    }

    /// Every key between the two, both included; for sets of several fields.
    pub fn range(first: Key, last: Key) -> Element {
        Element { key_end: Some(last), ..Element::key(first) }
    }

    /// Upper bound of what [`Element::write`] appends.
    pub(super) fn size_max(&self) -> usize {
        let data = match &self.data {
            None => 0,
            Some(ElementData::Value(value)) => 12 + value.0.len(),
            Some(ElementData::Verdict(_)) => 64,
        };
        72 + self.key.0.len() + self.key_end.as_ref().map_or(0, |key| key.0.len()) + data
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.nest(numbers::NFTA_LIST_ELEM, |element| {
            element.nest(numbers::NFTA_SET_ELEM_KEY, |key| write_data(key, &self.key.padded()));
            if let Some(end) = &self.key_end {
                element.nest(NFTA_SET_ELEM_KEY_END, |key| write_data(key, &end.padded()));
            }
            if self.interval_end {
                element.be32(numbers::NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            }
            match &self.data {
                None => {}
                Some(ElementData::Value(value)) => {
                    element.nest(numbers::NFTA_SET_ELEM_DATA, |data| write_data(data, &value.padded()));
                }
                Some(ElementData::Verdict(verdict)) => {
                    element.nest(numbers::NFTA_SET_ELEM_DATA, |data| write_verdict(data, verdict));
                }
            }
            if let Some(timeout) = self.timeout {
                element.be64(numbers::NFTA_SET_ELEM_TIMEOUT, timeout.as_millis() as u64);
            }
            if let Some(left) = self.expires_in {
                element.be64(numbers::NFTA_SET_ELEM_EXPIRATION, left.as_millis() as u64);
            }
        });
    }
}

pub(super) const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_in_whole_words() {
        let key = Key::new().address("10.0.0.1".parse().unwrap()).protocol(6).port(80);
        assert_eq!(key.padded(), [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(Key::new().port(80).padded(), [0, 80]);
        assert_eq!(length(&[Field::Port]), 2);
        assert_eq!(length(&[Field::Protocol, Field::Port]), 8);
        assert_eq!(type_number(&[Field::Ipv4Address, Field::Protocol, Field::Port]), (7 << 12) | (12 << 6) | 13);
    }
}
