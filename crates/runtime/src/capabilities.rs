//! Linux capabilities by name, and the set that a container gets.

/// In the kernel's order: the position is the number.
const NAMES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd gives a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
];

pub const COUNT: u32 = NAMES.len() as u32;
pub const ALL: u64 = (1 << NAMES.len()) - 1;
pub const SYS_ADMIN: u64 = 1 << 21;

/// The bit of a capability written as `NET_ADMIN`, `CAP_NET_ADMIN` or in lower case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|it| *it == plain).map(|number| 1 << number)
}

/// The set of a container; `Err` names the capability that does not exist.
pub fn of_container(privileged: bool, add: &[String], drop: &[String]) -> Result<u64, String> {
    if privileged {
        return Ok(ALL);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let bits = |names: &[String]| -> Result<u64, String> {
        let mut mask = 0;
        for name in names.iter().filter(|name| !is_all(name)) {
            mask |= bit(name).ok_or_else(|| format!("unknown capability \"CAP_{}\"", name.to_uppercase()))?;
        }
        Ok(mask)
    };
    let mut set: u64 = DEFAULT.iter().filter_map(|name| bit(name)).sum();
    // As containerd has it: ALL goes first, the single ones after, and additions before removals.
    if add.iter().any(is_all) {
        set = ALL;
    }
    if drop.iter().any(is_all) {
        set = 0;
    }
    Ok((set | bits(add)?) & !bits(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(privileged: bool, add: &str, drop: &str, expected: &str) {
        let names = |list: &str| list.split_whitespace().map(String::from).collect::<Vec<_>>();
        let found = match of_container(privileged, &names(add), &names(drop)) {
            Ok(mask) => format!("{mask:016x}"),
            Err(problem) => problem,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn makes_the_set() {
        check(false, "", "", "00000000a80425fb");
        check(true, "", "ALL", "000001ffffffffff");
        check(false, "NET_ADMIN", "", "00000000a80435fb");
        check(false, "cap_net_admin", "NET_RAW", "00000000a80415fb");
        check(false, "NET_BIND_SERVICE", "ALL", "0000000000000400");
        check(false, "ALL", "SYS_ADMIN", "000001ffffdfffff");
        check(false, "FLY", "", "unknown capability \"CAP_FLY\"");
    }
}
