//! Why the kernel, or the state directory, refused.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::errno::Errno;

#[derive(Debug)]
pub enum NetError {
    /// A netlink command failed. `detail` is the kernel's own explanation, if it gave one.
    Netlink {
        doing: String,
        errno: Errno,
        detail: Option<String>,
    },
    /// The kernel sent something that is no netlink message.
    Garbled {
        doing: String,
    },
    Io {
        doing: String,
        path: PathBuf,
        source: std::io::Error,
    },
    System {
        doing: String,
        errno: Errno,
    },
    /// Every address of the range is held by a sandbox.
    NoFreeAddress {
        range: IpNet,
    },
    AddressTaken {
        address: IpAddr,
        holder: String,
    },
    NotFound {
        what: String,
    },
    Invalid {
        what: String,
    },
}

impl NetError {
    pub fn io(doing: impl Into<String>, path: impl AsRef<Path>, source: std::io::Error) -> NetError {
        NetError::Io { doing: doing.into(), path: path.as_ref().to_path_buf(), source }
    }

    pub fn system(doing: impl Into<String>, errno: Errno) -> NetError {
        NetError::System { doing: doing.into(), errno }
    }

    /// The kernel's error number, where the error is the kernel's.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetError::Netlink { errno, .. } | NetError::System { errno, .. } => Some(*errno),
            NetError::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetError::Netlink { doing, errno, detail } => {
                write!(f, "{doing}: {}", errno.desc())?;
                if let Some(detail) = detail {
                    write!(f, " ({detail})")?;
                }
                hint(f, *errno)
            }
            NetError::Garbled { doing } => write!(f, "{doing}: the kernel's answer could not be understood"),
            NetError::Io { doing, path, source } => write!(f, "{doing} {}: {source}", path.display()),
            NetError::System { doing, errno } => {
                write!(f, "{doing}: {}", errno.desc())?;
                hint(f, *errno)
            }
            NetError::NoFreeAddress { range } => write!(f, "no IP addresses available in range {range}"),
            NetError::AddressTaken { address, holder } => write!(f, "address {address} is held by {holder}"),
            NetError::NotFound { what } => write!(f, "{what} not found"),
            NetError::Invalid { what } => f.write_str(what),
        }
    }
}

fn hint(f: &mut fmt::Formatter<'_>, errno: Errno) -> fmt::Result {
    match errno {
        Errno::EPERM => f.write_str("; this needs root (CAP_NET_ADMIN)"),
        Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP => f.write_str("; is the kernel module missing?"),
        _ => Ok(()),
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            NetError::Io { source, .. } => Some(source),
            NetError::Netlink { errno, .. } | NetError::System { errno, .. } => Some(errno),
            _ => None,
        }
    }
}
