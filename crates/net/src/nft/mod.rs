//! nf_tables over netlink: tables, chains, sets, maps and rules, changed by transactions.
//!
//! Invariant: a [`Transaction`] is applied as a whole or not at all, and is one system call; packets see the rules
//! before or after it, never between.
//!
//! Deliberately absent: the language of the `nft` command. What is written here can be read with `nft list ruleset`:
//! sets carry the type numbers by which that command prints their elements. Mind that `nft` (and firewalld, which
//! embeds it) aborts on a rule in which what one map yields is the key of another or is stored in a set; such values
//! travel through a field of the packet, from one rule to the next.

mod element;
mod expression;
mod list;
pub mod matching;
mod numbers;
mod transaction;
mod watch;

pub use element::{Element, ElementData, Field, Key};
pub use expression::{
    Compare, ConnectionTracking, DynamicOperation, Expression, FibResult, Header, Meta, NatKind, Register, Reject,
    Verdict,
};
pub use list::{ListedChain, ListedRule, NftSocket};
pub(crate) use transaction::generic_header;
pub use transaction::{Base, Chain, ChainKind, Hook, Set, SetData, Transaction, priority};
pub use watch::TableWatch;

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Ipv4,
    Ipv6,
    /// Both.
    Inet,
}

impl Family {
    pub fn number(self) -> u8 {
        match self {
            Family::Inet => libc::NFPROTO_INET as u8,
            Family::Ipv4 => libc::NFPROTO_IPV4 as u8,
            Family::Ipv6 => libc::NFPROTO_IPV6 as u8,
        }
    }

    pub fn address_field(self) -> Field {
        match self {
            Family::Ipv6 => Field::Ipv6Address,
            Family::Ipv4 | Family::Inet => Field::Ipv4Address,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    pub family: Family,
    pub name: String,
}

impl Table {
    pub fn new(family: Family, name: impl Into<String>) -> Table {
        Table { family, name: name.into() }
    }
}
