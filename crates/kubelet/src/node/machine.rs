//! What the machine is: processors, memory, identity, read once from /proc and /sys.

use std::fs;

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub cpus: i64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub kernel_version: String,
    pub os_image: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub architecture: String,
    pub swap_bytes: i64,
}

impl Machine {
    /// `data_dir` decides which disk is the node's.
    pub fn read(data_dir: &std::path::Path) -> Machine {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1)),
            memory_bytes: meminfo(&memory, "MemTotal"),
            swap_bytes: meminfo(&memory, "SwapTotal"),
            disk_bytes: disk_bytes(data_dir),
            kernel_version: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&release),
            machine_id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid").to_lowercase(),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned(),
        }
    }
}

fn disk_bytes(directory: &std::path::Path) -> i64 {
    let existing = directory.ancestors().find(|path| path.exists());
    existing
        .and_then(|path| nix::sys::statvfs::statvfs(path).ok())
        .map_or(0, |stat| i64::try_from(stat.blocks().saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX))
}

/// Bytes; the file counts in kibibytes.
pub fn meminfo(text: &str, key: &str) -> i64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok())
        .map_or(0, |kibibytes| kibibytes * 1024)
}

fn os_image(release: &str) -> String {
    release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_recorded_files() {
        assert_eq!(meminfo("MemTotal:        8039364 kB\nMemFree: 1 kB\n", "MemTotal"), 8_039_364 * 1024);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"), "Debian GNU/Linux 12 (bookworm)");
    }
}
