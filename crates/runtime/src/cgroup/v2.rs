//! Version 2: one hierarchy; a group has a controller's files only where its parent passes the controller down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Usage, number_in, value_of, write};
use crate::cri::LinuxContainerResources;

const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(pub PathBuf);

/// Lets the groups directly below `directory` have the controllers that it has itself.
pub fn pass_controllers_down(directory: &Path) -> io::Result<()> {
    let available = fs::read_to_string(directory.join("cgroup.controllers"))?;
    let file = directory.join("cgroup.subtree_control");
    let passed = fs::read_to_string(&file)?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|it| it == name);
    for controller in CONTROLLERS.iter().filter(|name| has(&available, name) && !has(&passed, name)) {
        write(&file, format!("+{controller}"))?;
    }
    Ok(())
}

impl Root {
    pub fn limit(&self, group: &Path, resources: &LinuxContainerResources) -> io::Result<()> {
        let directory = self.0.join(group);
        let set = |file: &str, value: String| write(&directory.join(file), value);
        if resources.cpu_shares > 0 {
            set("cpu.weight", weight(resources.cpu_shares as u64).to_string())?;
        }
        if resources.cpu_quota != 0 || resources.cpu_period > 0 {
            let quota = match resources.cpu_quota {
                quota if quota > 0 => quota.to_string(),
                _ => "max".to_string(),
            };
            let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
            set("cpu.max", format!("{quota} {period}"))?;
        }
        if resources.memory_limit_in_bytes > 0 {
            set("memory.max", resources.memory_limit_in_bytes.to_string())?;
            if directory.join("memory.swap.max").exists() {
                set("memory.swap.max", "0".to_string())?;
            }
        }
        if directory.join("memory.oom.group").exists() {
            // A container dies as a whole: half of one is worse than none.
            set("memory.oom.group", "1".to_string())?;
        }
        if resources.pids_limit > 0 {
            set("pids.max", resources.pids_limit.to_string())?;
        }
        if !resources.cpuset_cpus.is_empty() {
            set("cpuset.cpus", resources.cpuset_cpus.clone())?;
        }
        if !resources.cpuset_mems.is_empty() {
            set("cpuset.mems", resources.cpuset_mems.clone())?;
        }
        Ok(())
    }

    pub fn usage(&self, group: &Path) -> io::Result<Usage> {
        let directory = self.0.join(group);
        let memory_bytes = number_in(&directory.join("memory.current"))?;
        let statistic = |key| value_of(&directory.join("memory.stat"), key).unwrap_or(0);
        Ok(Usage {
            cpu_nanoseconds: value_of(&directory.join("cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(statistic("inactive_file")),
            rss_bytes: statistic("anon"),
        })
    }
}

/// Version 1's shares (2 to 262144, 1024 by default) as version 2's weight (1 to 10000, 100 by default): the curve
/// that the OCI runtimes agreed upon, through (2, 1), (1024, 100) and (262144, 10000).
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Cgroups;

    #[test]
    fn weighs_shares_as_other_runtimes_do() {
        for (shares, expected) in [(0, 1), (2, 1), (3, 2), (102, 17), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    /// The files of a real machine's groups, as far as they are read or written here.
    fn recorded() -> (tempfile::TempDir, Cgroups) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (group, controllers) in
            [("", "cpuset cpu io memory hugetlb pids rdma"), ("kubepods", "cpuset cpu io memory hugetlb pids")]
        {
            let path = directory.path().join(group);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.controllers"), controllers).unwrap();
            fs::write(path.join("cgroup.subtree_control"), "memory pids").unwrap();
        }
        let cgroups = Cgroups::V2(Root(directory.path().into()));
        (directory, cgroups)
    }

    #[test]
    fn creates_and_limits() {
        let (directory, cgroups) = recorded();
        let group = cgroups.group("/kubepods/c1");
        let made = directory.path().join("kubepods/c1");
        assert_eq!(group.missing(), std::slice::from_ref(&made));
        group.create().unwrap();
        assert_eq!(group.missing(), Vec::<PathBuf>::new());
        assert!(made.is_dir());
        // A plain file keeps only the last of the words that the kernel would add up.
        let passed = fs::read_to_string(directory.path().join("kubepods/cgroup.subtree_control")).unwrap();
        assert_eq!(passed, "+io");

        for file in ["memory.swap.max", "memory.oom.group"] {
            fs::write(made.join(file), "max").unwrap();
        }
        let resources = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            pids_limit: 100,
            cpuset_cpus: "0-1".into(),
            ..Default::default()
        };
        group.limit(&resources).unwrap();
        let expected = "cpu.max=50000 100000 cpu.weight=59 cpuset.cpus=0-1 memory.max=67108864 \
                        memory.oom.group=1 memory.swap.max=0 pids.max=100";
        let mut found: Vec<_> = fs::read_dir(&made)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                format!("{name}={}", fs::read_to_string(&path).unwrap())
            })
            .collect();
        found.sort();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn reads_usage_and_oom_kills() {
        let (directory, cgroups) = recorded();
        let made = directory.path().join("kubepods/c1");
        fs::create_dir(&made).unwrap();
        fs::write(made.join("cpu.stat"), "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n").unwrap();
        fs::write(made.join("memory.current"), "5000\n").unwrap();
        fs::write(made.join("memory.stat"), "anon 3000\nfile 2000\ninactive_file 1500\n").unwrap();
        fs::write(made.join("memory.events"), "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 0\n").unwrap();
        let group = cgroups.group("kubepods/c1");
        assert_eq!(
            group.usage().unwrap(),
            Usage { cpu_nanoseconds: 1_234_000, memory_bytes: 5000, working_set_bytes: 3500, rss_bytes: 3000 }
        );
        assert_eq!(group.oom_kills(), 2);
        fs::write(made.join("cgroup.procs"), "12\n13\n").unwrap();
        assert_eq!(group.processes(), [12, 13]);
    }
}
