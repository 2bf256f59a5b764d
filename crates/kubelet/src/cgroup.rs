//! The pods' cgroups: `<root>/kubepods[/burstable|/besteffort]/pod<uid>`, on version 2 or on each hierarchy of version 1.
//!
//! Invariant: making and removing are idempotent. The runtime makes the containers' own cgroups below.
//! Deliberately absent: CPU and memory managers, huge pages.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::container::resources::{QUOTA_PERIOD_MICROSECONDS, cpu_quota, cpu_shares};
use crate::pod::spec::{self, QosClass};

/// What version 1 mounts one by one and the agent uses.
const V1_CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer"];
const V2_CONTROLLERS: &str = "+cpu +cpuset +memory +pids +io";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

pub struct Cgroups {
    mount: PathBuf,
    /// Of this node, e.g. `/` or `/coracle-1f`: two nodes on one machine have one each.
    root: String,
    version: Version,
    pids_limit: i64,
    /// CPU that burstable pods ask for, by UID: their common cgroup weighs as much as they do together.
    burstable_millis: Mutex<BTreeMap<String, i64>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Limits {
    cpu_shares: i64,
    cpu_quota: i64,
    memory_bytes: i64,
    pids: i64,
}

impl Cgroups {
    pub fn detect(root: &str, pids_limit: i64) -> Cgroups {
        Cgroups::at(Path::new("/sys/fs/cgroup"), root, pids_limit)
    }

    fn at(mount: &Path, root: &str, pids_limit: i64) -> Cgroups {
        let version = if mount.join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 };
        let root = format!("/{}", root.trim_matches('/'));
        Cgroups { mount: mount.to_owned(), root, version, pids_limit, burstable_millis: Mutex::default() }
    }

    /// Relative to each hierarchy's root, as the runtime wants it.
    pub fn pod_path(&self, pod: &Pod) -> String {
        let root = if self.root == "/" { "" } else { &self.root };
        let class = match spec::qos_class(pod) {
            QosClass::Guaranteed => "",
            QosClass::Burstable => "/burstable",
            QosClass::BestEffort => "/besteffort",
        };
        format!("{root}/kubepods{class}/pod{}", spec::uid(pod))
    }

    pub fn make_pod(&self, pod: &Pod) -> io::Result<()> {
        let path = self.pod_path(pod);
        let limits = self.pod_limits(pod);
        match self.version {
            Version::V2 => self.make_v2(&path, &limits)?,
            Version::V1 => self.make_v1(&path, &limits)?,
        }
        if spec::qos_class(pod) == QosClass::Burstable {
            let millis = spec::pod_request(pod, "cpu", Quantity::milli_value);
            self.burstable_millis.lock().insert(spec::uid(pod).to_owned(), millis);
        }
        self.weigh_classes()
    }

    /// Best-effort pods share the least there is; burstable ones as much as they asked for.
    fn weigh_classes(&self) -> io::Result<()> {
        let burstable: i64 = self.burstable_millis.lock().values().sum();
        for (class, shares) in [("besteffort", cpu_shares(0)), ("burstable", cpu_shares(burstable))] {
            let below = format!("{}/kubepods/{class}", self.root.trim_end_matches('/'));
            let (directory, file, value) = match self.version {
                Version::V1 => (self.mount.join("cpu"), "cpu.shares", shares),
                Version::V2 => (self.mount.clone(), "cpu.weight", cpu_weight(shares)),
            };
            let directory = directory.join(below.trim_start_matches('/'));
            if directory.is_dir() {
                put_if_there(&directory, file, &value.to_string())?;
            }
        }
        Ok(())
    }

    fn pod_limits(&self, pod: &Pod) -> Limits {
        let millis = spec::pod_request(pod, "cpu", Quantity::milli_value);
        Limits {
            cpu_shares: cpu_shares(millis),
            cpu_quota: cpu_quota(spec::pod_limit(pod, "cpu", Quantity::milli_value).unwrap_or(0)),
            memory_bytes: spec::pod_limit(pod, "memory", Quantity::value).unwrap_or(0),
            pids: self.pids_limit,
        }
    }

    fn make_v1(&self, path: &str, limits: &Limits) -> io::Result<()> {
        for controller in V1_CONTROLLERS {
            let hierarchy = self.mount.join(controller);
            if !hierarchy.is_dir() {
                continue;
            }
            let directory = hierarchy.join(path.trim_start_matches('/'));
            if controller == "cpuset" {
                make_cpuset(&hierarchy, &directory)?;
            }
            fs::create_dir_all(&directory)?;
            match controller {
                "cpu" => {
                    put(&directory, "cpu.shares", &limits.cpu_shares.to_string())?;
                    if limits.cpu_quota > 0 {
                        put(&directory, "cpu.cfs_period_us", &QUOTA_PERIOD_MICROSECONDS.to_string())?;
                        put(&directory, "cpu.cfs_quota_us", &limits.cpu_quota.to_string())?;
                    }
                }
                "memory" => {
                    // Without it, limits of containers below would not add up.
                    let _ = put(&directory, "memory.use_hierarchy", "1");
                    if limits.memory_bytes > 0 {
                        put(&directory, "memory.limit_in_bytes", &limits.memory_bytes.to_string())?;
                    }
                }
                "pids" if limits.pids > 0 => put(&directory, "pids.max", &limits.pids.to_string())?,
                _ => {}
            }
        }
        Ok(())
    }

    fn make_v2(&self, path: &str, limits: &Limits) -> io::Result<()> {
        let mut directory = self.mount.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            enable_controllers(&directory);
            directory.push(part);
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        enable_controllers(&directory);
        put_if_there(&directory, "cpu.weight", &cpu_weight(limits.cpu_shares).to_string())?;
        if limits.cpu_quota > 0 {
            put_if_there(&directory, "cpu.max", &format!("{} {QUOTA_PERIOD_MICROSECONDS}", limits.cpu_quota))?;
        }
        if limits.memory_bytes > 0 {
            put_if_there(&directory, "memory.max", &limits.memory_bytes.to_string())?;
        }
        if limits.pids > 0 {
            put_if_there(&directory, "pids.max", &limits.pids.to_string())?;
        }
        Ok(())
    }

    /// Fails while processes are left in it.
    pub fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        self.directories(&self.pod_path(pod)).iter().try_for_each(|directory| remove_tree(directory))?;
        self.burstable_millis.lock().remove(spec::uid(pod));
        self.weigh_classes()
    }

    /// The cgroups of pods that exist on the node, by UID: what is left over from pods that are gone is among them.
    pub fn pod_uids(&self) -> Vec<(String, PathBuf)> {
        let root = if self.root == "/" { "" } else { &self.root };
        let mut found = Vec::new();
        for class in ["", "/burstable", "/besteffort"] {
            for directory in self.directories(&format!("{root}/kubepods{class}")) {
                for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                    if let Some(uid) = entry.file_name().to_string_lossy().strip_prefix("pod") {
                        found.push((uid.to_owned(), entry.path()));
                    }
                }
            }
        }
        found
    }

    fn directories(&self, path: &str) -> Vec<PathBuf> {
        let below = path.trim_start_matches('/');
        match self.version {
            Version::V2 => vec![self.mount.join(below)],
            Version::V1 => V1_CONTROLLERS.iter().map(|controller| self.mount.join(controller).join(below)).collect(),
        }
    }

    /// CPU nanoseconds and bytes of memory in use by the pod and all in it.
    pub fn pod_usage(&self, pod: &Pod) -> Option<(u64, u64)> {
        let below = self.pod_path(pod);
        let below = below.trim_start_matches('/');
        let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        match self.version {
            Version::V1 => Some((
                number(self.mount.join("cpuacct").join(below).join("cpuacct.usage"))?,
                number(self.mount.join("memory").join(below).join("memory.usage_in_bytes"))?,
            )),
            Version::V2 => {
                let stat = fs::read_to_string(self.mount.join(below).join("cpu.stat")).ok()?;
                let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.parse::<u64>().ok()?;
                Some((micros * 1000, number(self.mount.join(below).join("memory.current"))?))
            }
        }
    }
}

/// Version 1's shares (2 to 262144) as version 2's weight (1 to 10000).
fn cpu_weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A cpuset takes no process before it has CPUs and memory nodes: they are the parent's, level by level.
fn make_cpuset(hierarchy: &Path, directory: &Path) -> io::Result<()> {
    let mut level = hierarchy.to_owned();
    for part in directory.strip_prefix(hierarchy).map(|path| path.components()).into_iter().flatten() {
        let parent = level.clone();
        level.push(part);
        fs::create_dir_all(&level)?;
        for name in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(level.join(name)).unwrap_or_default().trim().is_empty() {
                let inherited = fs::read_to_string(parent.join(name)).unwrap_or_default();
                put(&level, name, inherited.trim())?;
            }
        }
    }
    Ok(())
}

/// One by one: a kernel without one of them refuses them all.
fn enable_controllers(directory: &Path) {
    for controller in V2_CONTROLLERS.split(' ') {
        let _ = put(directory, "cgroup.subtree_control", controller);
    }
}

fn put(directory: &Path, name: &str, value: &str) -> io::Result<()> {
    fs::write(directory.join(name), value)
}

fn put_if_there(directory: &Path, name: &str, value: &str) -> io::Result<()> {
    if directory.join(name).exists() { put(directory, name, value) } else { Ok(()) }
}

pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u1"}, "spec": {"containers": [{"name": "a", "resources": resources}]}}))
            .expect("a pod")
    }

    #[test]
    fn paths() {
        let cgroups = Cgroups::at(Path::new("/x"), "/", 0);
        assert_eq!(cgroups.pod_path(&pod(json!({}))), "/kubepods/besteffort/podu1");
        let cgroups = Cgroups::at(Path::new("/x"), "coracle-2", 0);
        assert_eq!(cgroups.pod_path(&pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), "/coracle-2/kubepods/podu1");
    }

    /// A recorded tree of each version, as files.
    #[test]
    fn makes_and_removes_both_versions() {
        for version in [Version::V1, Version::V2] {
            let mount = std::env::temp_dir().join(format!("coracle-cgroup-{}", uuid::Uuid::new_v4()));
            fs::create_dir_all(mount.join("cpu")).expect("made");
            fs::create_dir_all(mount.join("cpuset")).expect("made");
            fs::write(mount.join("cpuset/cpuset.cpus"), "0-1\n").expect("written");
            fs::write(mount.join("cpuset/cpuset.mems"), "0\n").expect("written");
            if version == Version::V2 {
                fs::write(mount.join("cgroup.controllers"), "cpu memory pids").expect("written");
            }
            let cgroups = Cgroups::at(&mount, "/n1/", 0);
            assert_eq!(cgroups.version, version);
            let pod = pod(json!({"requests": {"cpu": "500m"}}));
            cgroups.make_pod(&pod).expect("made");
            if version == Version::V1 {
                let directory = mount.join("cpu/n1/kubepods/burstable/podu1");
                assert_eq!(fs::read_to_string(directory.join("cpu.shares")).expect("read"), "512");
                let cpuset = mount.join("cpuset/n1/kubepods/cpuset.cpus");
                assert_eq!(fs::read_to_string(cpuset).expect("read"), "0-1");
            } else {
                assert!(mount.join("n1/kubepods/burstable/podu1").is_dir());
            }
            assert_eq!(cgroups.pod_uids()[0].0, "u1");
            fs::remove_dir_all(mount).expect("removed");
        }
        assert_eq!((cpu_weight(2), cpu_weight(1024), cpu_weight(262_144)), (1, 39, 10_000));
    }
}
