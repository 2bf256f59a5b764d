//! Kernel settings under /proc/sys. Those below `net` are of the calling thread's network namespace.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::NetError;

/// Sets `net.ipv4.ip_forward` and the like, unless it has the value already (a read-only /proc/sys with the right
/// value is fine). Names are paths: `net/ipv4/ip_forward`, since interface names may contain dots.
pub fn ensure(name: &str, value: &str) -> Result<(), NetError> {
    let path = path(name);
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetError::io("setting", &path, source))
}

pub fn read(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|value| value.trim().to_owned())
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Packets that a bridge forwards between its own ports must pass the firewall too, or traffic from a pod to a
/// Service whose endpoint is on the same bridge comes back from an address that the client never spoke to.
pub fn ensure_bridge_traffic_is_filtered() -> Result<(), NetError> {
    const CALL_IPTABLES: &str = "net/bridge/bridge-nf-call-iptables";
    if read(CALL_IPTABLES).is_none() {
        // Built in or loaded already everywhere but on a freshly booted host; then there is no other way to load it.
        let _ = Command::new("modprobe")
            .arg("br_netfilter")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    ensure(CALL_IPTABLES, "1")?;
    // Absent where the kernel has no IPv6.
    let _ = ensure("net/bridge/bridge-nf-call-ip6tables", "1");
    Ok(())
}
