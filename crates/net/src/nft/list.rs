//! What the kernel holds: read back to find leftovers, to keep what must survive a restart, and in tests.

use std::time::Duration;

use nix::errno::Errno;

use super::element::{Element, ElementData, Key, NFTA_SET_ELEM_KEY_END};
use super::numbers;
use super::transaction::{NFTNL_UDATA_RULE_COMMENT, generic_header, message_kind};
use super::{Family, Table};
use crate::error::NetError;
use crate::netlink::{Attributes, Batch, Protocol, Socket, Writer, parse_attribute_str};

/// Belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct NftSocket {
    socket: Socket,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChain {
    pub name: String,
    /// Whether packets that no rule decides are dropped; only base chains have a policy.
    pub drops: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRule {
    pub chain: String,
    pub handle: u64,
    pub comment: Option<String>,
}

const HEADER_LENGTH: usize = 4;

impl NftSocket {
    pub fn open() -> Result<NftSocket, NetError> {
        Ok(NftSocket { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// By which the kernel names this socket in its reports of changes.
    pub(super) fn port(&self) -> u32 {
        self.socket.port()
    }

    pub(super) fn transact(&self, batch: &Batch) -> Result<(), NetError> {
        let refusals = self.socket.send_transaction(batch)?;
        match batch.first_error(&refusals) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    pub fn tables(&self) -> Result<Vec<Table>, NetError> {
        let found = self.dump("listing tables", libc::NFT_MSG_GETTABLE, 0, |_| {})?;
        Ok(found
            .iter()
            .filter_map(|body| {
                let family = match i32::from(*body.first()?) {
                    libc::NFPROTO_IPV4 => Family::Ipv4,
                    libc::NFPROTO_IPV6 => Family::Ipv6,
                    libc::NFPROTO_INET => Family::Inet,
                    _ => return None,
                };
                let name = Attributes::after(body, HEADER_LENGTH).value_of(numbers::NFTA_TABLE_NAME)?;
                Some(Table { family, name: parse_attribute_str(name) })
            })
            .collect())
    }

    pub fn chains(&self, table: &Table) -> Result<Vec<ListedChain>, NetError> {
        let found = self.dump("listing chains", libc::NFT_MSG_GETCHAIN, table.family.number(), |_| {})?;
        Ok(found
            .iter()
            .map(|body| Attributes::after(body, HEADER_LENGTH))
            .filter(|chain| text(*chain, numbers::NFTA_CHAIN_TABLE).as_deref() == Some(&table.name))
            .filter_map(|chain| {
                let policy = chain.value_of(numbers::NFTA_CHAIN_POLICY).and_then(number);
                Some(ListedChain {
                    name: text(chain, numbers::NFTA_CHAIN_NAME)?,
                    drops: policy.map(|policy| policy == libc::NF_DROP as u64),
                })
            })
            .collect())
    }

    pub fn rules(&self, table: &Table, chain: &str) -> Result<Vec<ListedRule>, NetError> {
        let found = self.dump("listing rules", libc::NFT_MSG_GETRULE, table.family.number(), |body| {
            body.str(numbers::NFTA_RULE_TABLE, &table.name);
            body.str(numbers::NFTA_RULE_CHAIN, chain);
        })?;
        Ok(found
            .iter()
            .map(|body| Attributes::after(body, HEADER_LENGTH))
            .filter_map(|rule| {
                Some(ListedRule {
                    chain: text(rule, numbers::NFTA_RULE_CHAIN)?,
                    handle: number(rule.value_of(numbers::NFTA_RULE_HANDLE)?)?,
                    comment: rule.value_of(numbers::NFTA_RULE_USERDATA).and_then(comment),
                })
            })
            .collect())
    }

    /// Empty also where table or set do not exist. Verdicts are not read back.
    pub fn elements(&self, table: &Table, set: &str) -> Result<Vec<Element>, NetError> {
        let doing = format!("listing elements of {set}");
        let outcome = self.dump(&doing, libc::NFT_MSG_GETSETELEM, table.family.number(), |body| {
            body.str(numbers::NFTA_SET_ELEM_LIST_TABLE, &table.name);
            body.str(numbers::NFTA_SET_ELEM_LIST_SET, set);
        });
        let found = match outcome {
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(Vec::new()),
            outcome => outcome?,
        };
        let mut elements = Vec::new();
        for body in &found {
            let list = Attributes::after(body, HEADER_LENGTH).nested(numbers::NFTA_SET_ELEM_LIST_ELEMENTS);
            elements.extend(list.filter_map(|element| parse_element(Attributes::new(element.value))));
        }
        Ok(elements)
    }

    fn dump(
        &self,
        doing: &str,
        kind: i32,
        family: u8,
        body: impl FnOnce(&mut Writer<'_>),
    ) -> Result<Vec<Vec<u8>>, NetError> {
        let request = Batch::one(doing, message_kind(kind), libc::NLM_F_DUMP, |writer| {
            generic_header(writer, family, 0);
            body(writer);
        });
        Ok(self.socket.dump(&request)?.into_iter().map(|(_, body)| body).collect())
    }
}

fn parse_element(element: Attributes<'_>) -> Option<Element> {
    let value =
        |kind: u16| element.nested(kind).value_of(numbers::NFTA_DATA_VALUE).map(|bytes| Key::raw(bytes.to_vec()));
    let duration = |kind: u16| element.value_of(kind).and_then(number).map(Duration::from_millis);
    Some(Element {
        key: value(numbers::NFTA_SET_ELEM_KEY)?,
        key_end: value(NFTA_SET_ELEM_KEY_END),
        interval_end: element.value_of(numbers::NFTA_SET_ELEM_FLAGS).and_then(number).is_some_and(|f| f & 1 != 0),
        data: value(numbers::NFTA_SET_ELEM_DATA).map(ElementData::Value),
        timeout: duration(numbers::NFTA_SET_ELEM_TIMEOUT),
        expires_in: duration(numbers::NFTA_SET_ELEM_EXPIRATION),
    })
}

fn text(attributes: Attributes<'_>, kind: u16) -> Option<String> {
    attributes.value_of(kind).map(parse_attribute_str)
}

/// Of 4 or 8 bytes in network order.
fn number(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 | 8 => Some(value.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))),
        _ => None,
    }
}

fn comment(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == NFTNL_UDATA_RULE_COMMENT {
            return Some(parse_attribute_str(value));
        }
        rest = &tail[value.len()..];
    }
    None
}
