//! Control groups, both versions behind one door: where a container's processes are counted, limited and killed.
//!
//! Invariant: a group is named by one path relative to the root of every hierarchy; what a kernel lacks is left
//! out without an error, except a limit that the user asked for. Deliberately absent: systemd's driver (slices by
//! D-Bus); QoS groups are the kubelet's.

mod devices;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cri::LinuxContainerResources;

pub use devices::DeviceRule;

/// What the host's hierarchies are, found in `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    V1(v1::Hierarchies),
    V2(v2::Root),
}

/// One group, in every hierarchy.
pub struct Group<'a> {
    cgroups: &'a Cgroups,
    path: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanoseconds: u64,
    pub memory_bytes: u64,
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
}

impl Cgroups {
    pub fn detect() -> io::Result<Cgroups> {
        let found = Cgroups::parse(&fs::read_to_string("/proc/self/mountinfo")?);
        found.ok_or_else(|| io::Error::other("no cgroup file system is mounted at /sys/fs/cgroup"))
    }

    /// Version 1 wins when both are there: then version 2 has no controllers of its own.
    fn parse(mountinfo: &str) -> Option<Cgroups> {
        let mut hierarchies = v1::Hierarchies::default();
        let mut unified = None;
        for line in mountinfo.lines() {
            // Mount point is the fifth field; after " - " come type, source and the options of the file system.
            let (Some((left, right)), mut fields) = (line.split_once(" - "), line.split(' ')) else { continue };
            let _ = left;
            let Some(place) = fields.nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup"), Some(options)) => hierarchies.add(place, options.split(',')),
                (Some("cgroup2"), _) => unified = unified.or(Some(place)),
                _ => {}
            }
        }
        match (hierarchies.has_controllers(), unified) {
            (true, unified) => Some(Cgroups::V1(hierarchies.with_unified(unified))),
            (false, Some(root)) => Some(Cgroups::V2(v2::Root(root))),
            (false, None) => None,
        }
    }

    pub fn is_v2(&self) -> bool {
        matches!(self, Cgroups::V2(_))
    }

    pub fn group(&self, path: &str) -> Group<'_> {
        Group { cgroups: self, path: PathBuf::from(path.trim_matches('/')) }
    }

    fn roots(&self) -> Vec<&Path> {
        match self {
            Cgroups::V1(hierarchies) => hierarchies.roots().collect(),
            Cgroups::V2(root) => vec![&root.0],
        }
    }
}

impl Group<'_> {
    /// Where it is not there yet: what `create` will make of it, not counting what is above it.
    pub fn missing(&self) -> Vec<PathBuf> {
        let places = self.cgroups.roots().into_iter().map(|root| root.join(&self.path));
        places.filter(|place| !place.exists()).collect()
    }

    /// Makes it and what is missing above it.
    pub fn create(&self) -> io::Result<()> {
        for root in self.cgroups.roots() {
            let mut directory = root.to_path_buf();
            for part in self.path.components() {
                if let Cgroups::V2(_) = self.cgroups {
                    v2::pass_controllers_down(&directory)?;
                }
                directory.push(part);
                match fs::create_dir(&directory) {
                    Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
                    _ => {}
                }
                if let Cgroups::V1(hierarchies) = self.cgroups {
                    hierarchies.inherit_cpuset(root, &directory)?;
                }
            }
        }
        Ok(())
    }

    pub fn limit(&self, resources: &LinuxContainerResources) -> io::Result<()> {
        match self.cgroups {
            Cgroups::V1(hierarchies) => hierarchies.limit(&self.path, resources),
            Cgroups::V2(root) => root.limit(&self.path, resources),
        }
    }

    /// Only what `rules` allow can be opened or made from now on.
    pub fn allow_devices(&self, rules: &[DeviceRule]) -> io::Result<()> {
        match self.cgroups {
            Cgroups::V1(hierarchies) => hierarchies.allow_devices(&self.path, rules),
            Cgroups::V2(root) => devices::attach(&root.0.join(&self.path), rules),
        }
    }

    /// Moves the calling process into it.
    pub fn join(&self) -> io::Result<()> {
        for root in self.cgroups.roots() {
            fs::write(root.join(&self.path).join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// The processes of this group and of those below it.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        if let Some(root) = self.cgroups.roots().first() {
            collect_processes(&root.join(&self.path), &mut found);
        }
        found
    }

    /// Kills every process of it. They may take a moment to be gone.
    pub fn kill(&self) {
        let unified = match self.cgroups {
            Cgroups::V1(hierarchies) => hierarchies.unified(),
            Cgroups::V2(root) => Some(root.0.as_path()),
        };
        if let Some(root) = unified
            && fs::write(root.join(&self.path).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        /// A process that forks may escape one round, hardly all of them.
        const ROUNDS: usize = 32;
        for _ in 0..ROUNDS {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
            }
        }
    }

    /// Removes it with what is below it. `Err` as long as it has processes.
    pub fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for root in self.cgroups.roots() {
            result = result.and(remove_tree(&root.join(&self.path)));
        }
        result
    }

    /// Takes an empty group out of the hierarchy that merely tracks processes, which nobody else looks after.
    pub fn untrack(&self) {
        if let Cgroups::V1(hierarchies) = self.cgroups
            && let Some(root) = hierarchies.tracking()
        {
            let _ = fs::remove_dir(root.join(&self.path));
        }
    }

    /// How many of its processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let (file, key) = match self.cgroups {
            Cgroups::V1(hierarchies) => {
                (hierarchies.path("memory", &self.path).map(|it| it.join("memory.oom_control")), "oom_kill")
            }
            Cgroups::V2(root) => (Some(root.0.join(&self.path).join("memory.events")), "oom_kill"),
        };
        file.and_then(|file| value_of(&file, key)).unwrap_or(0)
    }

    pub fn usage(&self) -> io::Result<Usage> {
        match self.cgroups {
            Cgroups::V1(hierarchies) => hierarchies.usage(&self.path),
            Cgroups::V2(root) => root.usage(&self.path),
        }
    }

    /// Directories to be shown inside the container: (name below `/sys/fs/cgroup`, path on the host).
    pub fn visible(&self) -> Vec<(String, PathBuf)> {
        match self.cgroups {
            Cgroups::V1(hierarchies) => hierarchies.visible(&self.path),
            Cgroups::V2(_) => Vec::new(),
        }
    }
}

/// Removes groups that only we made, if nothing is left in them.
pub fn remove_empty(directories: &[PathBuf]) {
    for directory in directories {
        let _ = fs::remove_dir(directory);
    }
}

fn collect_processes(directory: &Path, found: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    for child in subdirectories(directory) {
        collect_processes(&child, found);
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in subdirectories(directory) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// The number after `key` in a file of `key number` lines.
fn value_of(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

fn number_in(file: &Path) -> io::Result<u64> {
    fs::read_to_string(file)?.trim().parse().map_err(io::Error::other)
}

/// Writes a limit; the error names the file, as the message is shown to the user.
fn write(file: &Path, value: impl ToString) -> io::Result<()> {
    let value = value.to_string();
    fs::write(file, &value).map_err(|cause| {
        io::Error::new(cause.kind(), format!("failed to write {value:?} to {:?}: {cause}", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_hierarchies() {
        let hybrid = "\
27 1 254:0 / / rw - ext4 /dev/vda rw
31 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 25 0:27 / /sys/fs/cgroup/memory rw,relatime shared:4 - cgroup cgroup rw,memory
33 25 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 25 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let Some(Cgroups::V1(found)) = Cgroups::parse(hybrid) else { panic!("version 1 expected") };
        let roots: Vec<_> = found.roots().map(|root| root.display().to_string()).collect();
        assert_eq!(roots, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"]);

        let pure = "34 25 0:29 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(Cgroups::parse(pure), Some(Cgroups::V2(v2::Root("/sys/fs/cgroup".into()))));
        assert_eq!(Cgroups::parse("27 1 254:0 / / rw - ext4 /dev/vda rw"), None);
    }
}
