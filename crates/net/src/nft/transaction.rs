//! Changes, collected and then committed at once.

use super::element::{Element, Field, length, type_number};
use super::expression::Expression;
use super::numbers;
use super::{NftSocket, Table};
use crate::error::NetError;
use crate::netlink::{Batch, Writer};

/// A message of elements is cut at this size: the list is one attribute, and attributes end at 64 KiB.
const ELEMENTS_BYTES_MAX: usize = 48 << 10;

const CREATE: i32 = libc::NLM_F_CREATE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
    /// A change of mark makes the packet be routed again.
    Route,
}

/// Where a base chain stands among others on its hook.
pub mod priority {
    pub const MANGLE: i32 = -150;
    pub const DESTINATION_NAT: i32 = -100;
    pub const FILTER: i32 = 0;
    pub const SOURCE_NAT: i32 = 100;
}

/// What makes a chain begin at a hook. The policy is always to accept: what is not ours is not our business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    pub base: Option<Base>,
}

impl Chain {
    pub fn regular(name: impl Into<String>) -> Chain {
        Chain { name: name.into(), base: None }
    }

    pub fn base(name: impl Into<String>, kind: ChainKind, hook: Hook, priority: i32) -> Chain {
        Chain { name: name.into(), base: Some(Base { kind, hook, priority }) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetData {
    /// A set.
    None,
    /// A map to values.
    Fields(Vec<Field>),
    /// A map to verdicts.
    Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: Vec<Field>,
    pub data: SetData,
    /// Elements may be ranges.
    pub interval: bool,
    /// Rules add elements, which time out; the number bounds how many.
    pub dynamic: Option<u32>,
}

impl Set {
    pub fn new(name: impl Into<String>, key: &[Field]) -> Set {
        Set { name: name.into(), key: key.to_vec(), data: SetData::None, interval: false, dynamic: None }
    }

    pub fn map(name: impl Into<String>, key: &[Field], data: &[Field]) -> Set {
        Set { data: SetData::Fields(data.to_vec()), ..Set::new(name, key) }
    }

    pub fn verdict_map(name: impl Into<String>, key: &[Field]) -> Set {
        Set { data: SetData::Verdict, ..Set::new(name, key) }
    }

    pub fn with_intervals(self) -> Set {
        Set { interval: true, ..self }
    }

    pub fn filled_by_rules(self, elements_max: u32) -> Set {
        Set { dynamic: Some(elements_max), ..self }
    }
}

/// Commands are carried out in their order, so what is referred to must have been added before.
#[derive(Debug)]
pub struct Transaction {
    batch: Batch,
    sets: u32,
}

impl Default for Transaction {
    fn default() -> Transaction {
        Transaction::new()
    }
}

impl Transaction {
    pub fn new() -> Transaction {
        let mut batch = Batch::new();
        batch.add("committing firewall rules", libc::NFNL_MSG_BATCH_BEGIN as u16, 0, |writer| {
            generic_header(writer, libc::AF_UNSPEC as u8, libc::NFNL_SUBSYS_NFTABLES as u16);
        });
        Transaction { batch, sets: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.batch.len() == 1
    }

    /// In bytes, as sent to the kernel.
    pub fn size(&self) -> usize {
        self.batch.size()
    }

    /// A table that exists already stays as it is.
    pub fn add_table(&mut self, table: &Table) {
        self.command("adding table", &table.name, libc::NFT_MSG_NEWTABLE, CREATE, table, |body| {
            body.str(numbers::NFTA_TABLE_NAME, &table.name);
        });
    }

    /// With everything in it, whether it exists or not.
    pub fn delete_table(&mut self, table: &Table) {
        self.add_table(table);
        self.command("deleting table", &table.name, libc::NFT_MSG_DELTABLE, 0, table, |body| {
            body.str(numbers::NFTA_TABLE_NAME, &table.name);
        });
    }

    /// An empty table of this name, whatever was there before.
    pub fn replace_table(&mut self, table: &Table) {
        self.delete_table(table);
        self.add_table(table);
    }

    pub fn add_chain(&mut self, table: &Table, chain: &Chain) {
        self.command("adding chain", &chain.name, libc::NFT_MSG_NEWCHAIN, CREATE, table, |body| {
            body.str(numbers::NFTA_CHAIN_TABLE, &table.name);
            body.str(numbers::NFTA_CHAIN_NAME, &chain.name);
            if let Some(base) = &chain.base {
                body.nest(numbers::NFTA_CHAIN_HOOK, |hook| {
                    hook.be32(numbers::NFTA_HOOK_HOOKNUM, base.hook as u32);
                    hook.be32(numbers::NFTA_HOOK_PRIORITY, base.priority as u32);
                });
                body.be32(numbers::NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32);
                let kind = match base.kind {
                    ChainKind::Filter => "filter",
                    ChainKind::Nat => "nat",
                    ChainKind::Route => "route",
                };
                body.str(numbers::NFTA_CHAIN_TYPE, kind);
            }
        });
    }

    /// An empty chain of this name, whatever was there before: the kernel changes no priority of one that exists.
    /// Nothing may refer to it.
    pub fn replace_chain(&mut self, table: &Table, chain: &Chain) {
        self.add_chain(table, &Chain::regular(&chain.name));
        self.delete_chain(table, &chain.name);
        self.add_chain(table, chain);
    }

    /// With its rules. Nothing may refer to it any more.
    pub fn delete_chain(&mut self, table: &Table, chain: &str) {
        self.flush_chain(table, chain);
        self.command("deleting chain", chain, libc::NFT_MSG_DELCHAIN, 0, table, |body| {
            body.str(numbers::NFTA_CHAIN_TABLE, &table.name);
            body.str(numbers::NFTA_CHAIN_NAME, chain);
        });
    }

    pub fn flush_chain(&mut self, table: &Table, chain: &str) {
        self.command("flushing chain", chain, libc::NFT_MSG_DELRULE, 0, table, |body| {
            body.str(numbers::NFTA_RULE_TABLE, &table.name);
            body.str(numbers::NFTA_RULE_CHAIN, chain);
        });
    }

    /// At the chain's end.
    pub fn add_rule(&mut self, table: &Table, chain: &str, expressions: &[Expression]) {
        self.rule(table, chain, expressions, None, CREATE | libc::NLM_F_APPEND);
    }

    /// At the chain's beginning, with a comment by which [`NftSocket::rules`] finds it again.
    pub fn insert_rule(&mut self, table: &Table, chain: &str, expressions: &[Expression], comment: &str) {
        self.rule(table, chain, expressions, Some(comment), CREATE);
    }

    fn rule(&mut self, table: &Table, chain: &str, expressions: &[Expression], comment: Option<&str>, flags: i32) {
        self.command("adding a rule to chain", chain, libc::NFT_MSG_NEWRULE, flags, table, |body| {
            body.str(numbers::NFTA_RULE_TABLE, &table.name);
            body.str(numbers::NFTA_RULE_CHAIN, chain);
            body.nest(numbers::NFTA_RULE_EXPRESSIONS, |list| {
                expressions.iter().for_each(|expression| expression.write(list));
            });
            if let Some(comment) = comment {
                body.bytes(numbers::NFTA_RULE_USERDATA, &comment_bytes(comment));
            }
        });
    }

    pub fn delete_rule(&mut self, table: &Table, chain: &str, handle: u64) {
        self.command("deleting a rule of chain", chain, libc::NFT_MSG_DELRULE, 0, table, |body| {
            body.str(numbers::NFTA_RULE_TABLE, &table.name);
            body.str(numbers::NFTA_RULE_CHAIN, chain);
            body.be64(numbers::NFTA_RULE_HANDLE, handle);
        });
    }

    pub fn add_set(&mut self, table: &Table, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        self.command("adding set", &set.name, libc::NFT_MSG_NEWSET, CREATE, table, |body| {
            body.str(numbers::NFTA_SET_TABLE, &table.name);
            body.str(numbers::NFTA_SET_NAME, &set.name);
            body.be32(numbers::NFTA_SET_ID, id);
            body.be32(numbers::NFTA_SET_FLAGS, set_flags(set));
            body.be32(numbers::NFTA_SET_KEY_TYPE, type_number(&set.key));
            body.be32(numbers::NFTA_SET_KEY_LEN, length(&set.key));
            match &set.data {
                SetData::None => {}
                SetData::Fields(fields) => {
                    body.be32(numbers::NFTA_SET_DATA_TYPE, type_number(fields));
                    body.be32(numbers::NFTA_SET_DATA_LEN, length(fields));
                }
                SetData::Verdict => body.be32(numbers::NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT),
            }
            body.bytes(numbers::NFTA_SET_USERDATA, &byte_order_bytes(set));
            if set.dynamic.is_some() || (set.interval && set.key.len() > 1) {
                body.nest(numbers::NFTA_SET_DESC, |description| write_set_description(description, set));
            }
        });
    }

    pub fn delete_set(&mut self, table: &Table, set: &str) {
        self.command("deleting set", set, libc::NFT_MSG_DELSET, 0, table, |body| {
            body.str(numbers::NFTA_SET_TABLE, &table.name);
            body.str(numbers::NFTA_SET_NAME, set);
        });
    }

    pub fn add_elements(&mut self, table: &Table, set: &str, elements: &[Element]) {
        self.elements("adding elements to", libc::NFT_MSG_NEWSETELEM, CREATE, table, set, elements);
    }

    /// Every one must exist.
    pub fn delete_elements(&mut self, table: &Table, set: &str, elements: &[Element]) {
        self.elements("deleting elements of", libc::NFT_MSG_DELSETELEM, 0, table, set, elements);
    }

    pub fn flush_set(&mut self, table: &Table, set: &str) {
        self.command("flushing", set, libc::NFT_MSG_DELSETELEM, 0, table, |body| {
            body.str(numbers::NFTA_SET_ELEM_LIST_TABLE, &table.name);
            body.str(numbers::NFTA_SET_ELEM_LIST_SET, set);
        });
    }

    /// Nothing is sent where nothing is to be changed.
    pub fn commit(mut self, socket: &NftSocket) -> Result<(), NetError> {
        if self.is_empty() {
            return Ok(());
        }
        self.batch.acknowledge_latest();
        self.batch.add("committing firewall rules", libc::NFNL_MSG_BATCH_END as u16, 0, |writer| {
            generic_header(writer, libc::AF_UNSPEC as u8, libc::NFNL_SUBSYS_NFTABLES as u16);
        });
        socket.transact(&self.batch)
    }

    fn command(
        &mut self,
        verb: &str,
        object: &str,
        kind: i32,
        flags: i32,
        table: &Table,
        body: impl FnOnce(&mut Writer<'_>),
    ) {
        let doing = format!("{verb} {object}");
        self.batch.add(doing, message_kind(kind), flags, |writer| {
            generic_header(writer, table.family.number(), 0);
            body(writer);
        });
    }

    fn elements(&mut self, verb: &str, kind: i32, flags: i32, table: &Table, set: &str, mut elements: &[Element]) {
        while !elements.is_empty() {
            let mut size = 0;
            let fitting = elements
                .iter()
                .take_while(|element| {
                    size += element.size_max();
                    size <= ELEMENTS_BYTES_MAX
                })
                .count()
                .max(1);
            let (chunk, rest) = elements.split_at(fitting);
            self.command(verb, set, kind, flags, table, |body| {
                body.str(numbers::NFTA_SET_ELEM_LIST_TABLE, &table.name);
                body.str(numbers::NFTA_SET_ELEM_LIST_SET, set);
                body.nest(numbers::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    chunk.iter().for_each(|element| element.write(list));
                });
            });
            elements = rest;
        }
    }
}

pub(super) fn message_kind(kind: i32) -> u16 {
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | kind) as u16
}

/// `struct nfgenmsg`.
pub(crate) fn generic_header(writer: &mut Writer<'_>, family: u8, resource: u16) {
    let resource = resource.to_be_bytes();
    writer.raw(&[family, libc::NFNETLINK_V0 as u8, resource[0], resource[1]]);
}

fn set_flags(set: &Set) -> u32 {
    let mut flags = 0;
    if set.data != SetData::None {
        flags |= libc::NFT_SET_MAP;
    }
    if set.interval {
        flags |= libc::NFT_SET_INTERVAL;
    }
    if set.dynamic.is_some() {
        flags |= libc::NFT_SET_TIMEOUT | libc::NFT_SET_EVAL;
    }
    let concatenated = if set.interval && set.key.len() > 1 { NFT_SET_CONCAT } else { 0 };
    flags as u32 | concatenated
}

fn write_set_description(description: &mut Writer<'_>, set: &Set) {
    if let Some(size) = set.dynamic {
        description.be32(numbers::NFTA_SET_DESC_SIZE, size);
    }
    if set.interval && set.key.len() > 1 {
        description.nest(NFTA_SET_DESC_CONCAT, |fields| {
            for field in &set.key {
                fields.nest(numbers::NFTA_LIST_ELEM, |list| list.be32(NFTA_SET_FIELD_LEN, field.length()));
            }
        });
    }
}

/// nft's own notes on a set: whether keys and data are numbers in the host's byte order, for printing.
fn byte_order_bytes(set: &Set) -> Vec<u8> {
    let order = |fields: &[Field]| if fields == [Field::Number] { HOST_ENDIAN } else { BIG_ENDIAN };
    let mut bytes = vec![NFTNL_UDATA_SET_KEYBYTEORDER, 4];
    bytes.extend_from_slice(&order(&set.key).to_ne_bytes());
    if let SetData::Fields(fields) = &set.data {
        bytes.extend_from_slice(&[NFTNL_UDATA_SET_DATABYTEORDER, 4]);
        bytes.extend_from_slice(&order(fields).to_ne_bytes());
    }
    bytes
}

/// nft's own encoding of a rule's comment.
pub(super) fn comment_bytes(comment: &str) -> Vec<u8> {
    const COMMENT_BYTES_MAX: usize = 127;
    let text = &comment.as_bytes()[..comment.len().min(COMMENT_BYTES_MAX)];
    let mut bytes = vec![NFTNL_UDATA_RULE_COMMENT, text.len() as u8 + 1];
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes
}

pub(super) const NFTNL_UDATA_RULE_COMMENT: u8 = 0;
const NFTNL_UDATA_SET_KEYBYTEORDER: u8 = 0;
const NFTNL_UDATA_SET_DATABYTEORDER: u8 = 1;
const HOST_ENDIAN: u32 = 1;
const BIG_ENDIAN: u32 = 2;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
const NFT_SET_CONCAT: u32 = 0x80;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;
