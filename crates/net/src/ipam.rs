//! Which sandbox holds which address of the node's pod range.
//!
//! Invariant: an address is held exactly while a file of its name, with the sandbox's id in it, exists; the file is
//! there before the address is used and goes after it is no longer. A file without an id is what a crash in between
//! leaves, and is removed on opening. Addresses are given out round robin, so that one just released rests longest.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::error::NetError;

/// Where the round stood; losing it is harmless.
const LAST_FILE: &str = "last";

#[derive(Debug)]
pub struct AddressPool {
    directory: PathBuf,
    range: Ipv4Net,
    holders: BTreeMap<Ipv4Addr, String>,
    held: HashMap<String, Ipv4Addr>,
    last: Ipv4Addr,
}

impl AddressPool {
    /// Reads what is held. The network's own address, its first host (the bridge) and the broadcast address are
    /// never given out.
    pub fn open(directory: impl Into<PathBuf>, range: Ipv4Net) -> Result<AddressPool, NetError> {
        let directory = directory.into();
        fs::create_dir_all(&directory).map_err(|source| NetError::io("creating", &directory, source))?;
        let mut pool =
            AddressPool { last: gateway(range), directory, range, holders: BTreeMap::new(), held: HashMap::new() };
        pool.load()?;
        Ok(pool)
    }

    fn load(&mut self) -> Result<(), NetError> {
        let failed = |source| NetError::io("reading", &self.directory, source);
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let content = fs::read_to_string(&path).map_err(|source| NetError::io("reading", &path, source))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name == LAST_FILE {
                self.last = content.trim().parse().unwrap_or(self.last);
                continue;
            }
            let Ok(address) = name.parse::<Ipv4Addr>() else { continue };
            let holder = content.trim();
            if holder.is_empty() || !self.range.contains(&address) {
                fs::remove_file(&path).map_err(|source| NetError::io("removing", &path, source))?;
                continue;
            }
            self.holders.insert(address, holder.to_owned());
            self.held.insert(holder.to_owned(), address);
        }
        if !self.range.contains(&self.last) {
            self.last = gateway(self.range);
        }
        Ok(())
    }

    /// The address that the holder has already, else the next free one.
    pub fn reserve(&mut self, holder: &str) -> Result<Ipv4Addr, NetError> {
        if let Some(address) = self.held.get(holder) {
            return Ok(*address);
        }
        let address = self.next_free().ok_or(NetError::NoFreeAddress { range: self.range.into() })?;
        let path = self.directory.join(address.to_string());
        let write = || {
            // Not truncated: a file that is there although memory knows no holder belongs to somebody else.
            let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.write_all(holder.as_bytes())
        };
        write().map_err(|source| NetError::io("writing", &path, source))?;
        let _ = fs::write(self.directory.join(LAST_FILE), address.to_string());
        self.last = address;
        self.holders.insert(address, holder.to_owned());
        self.held.insert(holder.to_owned(), address);
        Ok(address)
    }

    /// Nothing happens if the holder has none.
    pub fn release(&mut self, holder: &str) -> Result<Option<Ipv4Addr>, NetError> {
        let Some(address) = self.held.get(holder).copied() else { return Ok(None) };
        let path = self.directory.join(address.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(NetError::io("removing", &path, error));
            }
            _ => {}
        }
        self.held.remove(holder);
        self.holders.remove(&address);
        Ok(Some(address))
    }

    pub fn address_of(&self, holder: &str) -> Option<Ipv4Addr> {
        self.held.get(holder).copied()
    }

    pub fn holders(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    fn next_free(&self) -> Option<Ipv4Addr> {
        let first = u32::from(self.range.network()) + 2;
        let end = u32::from(self.range.broadcast());
        let from = (u32::from(self.last) + 1).clamp(first, end);
        (from..end).chain(first..from).map(Ipv4Addr::from).find(|address| !self.holders.contains_key(address))
    }
}

/// The first host of a pod range: the bridge's address, every pod's gateway.
pub fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+a` reserves for a, `-a` releases, `!` opens anew as after a crash. Answers the addresses' last numbers.
    #[track_caller]
    fn check(range: &str, steps: &str, expected: &str) {
        let directory = tempfile::tempdir().unwrap();
        let range = range.parse().unwrap();
        let mut pool = AddressPool::open(directory.path(), range).unwrap();
        let mut seen = Vec::new();
        for step in steps.split_whitespace() {
            match step.split_at(1) {
                ("+", holder) => seen.push(match pool.reserve(holder) {
                    Ok(address) => address.octets()[3].to_string(),
                    Err(error) => error.to_string(),
                }),
                ("-", holder) => {
                    pool.release(holder).unwrap();
                }
                _ => pool = AddressPool::open(directory.path(), range).unwrap(),
            }
        }
        assert_eq!(seen.join(" "), expected);
    }

    #[test]
    fn addresses_go_round() {
        check("10.42.0.0/24", "+a +b +c", "2 3 4");
        check("10.42.0.0/24", "+a -a +b", "2 3");
        check("10.42.0.0/24", "+a +a", "2 2");
        check("10.42.0.0/24", "-nobody +a", "2");
        check("10.42.0.0/29", "+a +b +c +d +e -b +f", "2 3 4 5 6 3");
        check("10.42.0.0/30", "+a +b", "2 no IP addresses available in range 10.42.0.0/30");
    }

    #[test]
    fn a_crash_loses_nothing() {
        check("10.42.0.0/24", "+a ! +b ! +a", "2 3 2");
        check("10.42.0.0/24", "+a -a ! +b", "2 3");
    }

    #[test]
    fn half_written_and_foreign_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("10.42.0.2"), "").unwrap();
        fs::write(directory.path().join("10.9.0.2"), "from-an-older-range").unwrap();
        let mut pool = AddressPool::open(directory.path(), "10.42.0.0/24".parse().unwrap()).unwrap();
        assert_eq!(pool.reserve("a").unwrap(), Ipv4Addr::new(10, 42, 0, 2));
        assert!(!directory.path().join("10.9.0.2").exists());
    }
}
