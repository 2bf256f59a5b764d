//! Version 1: a hierarchy per controller or group of controllers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{DeviceRule, Usage, number_in, value_of, write};
use crate::cri::LinuxContainerResources;

/// The controllers that containers are put into; others are left alone.
const CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// Mount point and its controllers.
    mounted: Vec<(PathBuf, Vec<String>)>,
    /// The `name=systemd` one, by which systemd knows whose processes these are.
    systemd: Option<PathBuf>,
    /// A version 2 hierarchy without controllers, for `cgroup.kill`.
    unified: Option<PathBuf>,
}

impl Hierarchies {
    pub fn add<'a>(&mut self, place: PathBuf, options: impl Iterator<Item = &'a str>) {
        let mut controllers = Vec::new();
        for option in options {
            if option == "name=systemd" {
                self.systemd = Some(place.clone());
            } else if CONTROLLERS.contains(&option) {
                controllers.push(option.to_string());
            }
        }
        // The same hierarchy may be mounted at a second place.
        if !controllers.is_empty() && !self.mounted.iter().any(|(_, known)| *known == controllers) {
            self.mounted.push((place, controllers));
        }
    }

    pub fn has_controllers(&self) -> bool {
        !self.mounted.is_empty()
    }

    pub fn with_unified(mut self, unified: Option<PathBuf>) -> Hierarchies {
        self.unified = unified;
        self
    }

    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// One hierarchy that tracks processes is enough: the unified one, else systemd's.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        self.mounted.iter().map(|(place, _)| place.as_path()).chain(self.tracking())
    }

    pub fn tracking(&self) -> Option<&Path> {
        self.unified.as_deref().or(self.systemd.as_deref())
    }

    pub fn path(&self, controller: &str, group: &Path) -> Option<PathBuf> {
        let (place, _) = self.mounted.iter().find(|(_, known)| known.iter().any(|it| it == controller))?;
        Some(place.join(group))
    }

    /// A new cpuset has neither processors nor memory and takes no process until it is given both.
    pub fn inherit_cpuset(&self, root: &Path, directory: &Path) -> io::Result<()> {
        let is_cpuset =
            |(place, known): &(PathBuf, Vec<String>)| place == root && known.iter().any(|it| it == "cpuset");
        if !self.mounted.iter().any(is_cpuset) {
            return Ok(());
        }
        let parent = directory.parent().unwrap_or(root);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(directory.join(file))?.trim().is_empty() {
                write(&directory.join(file), fs::read_to_string(parent.join(file))?.trim())?;
            }
        }
        Ok(())
    }

    pub fn limit(&self, group: &Path, resources: &LinuxContainerResources) -> io::Result<()> {
        let set = |controller: &str, file: &str, value: String| match self.path(controller, group) {
            Some(directory) => write(&directory.join(file), value),
            None => Err(io::Error::other(format!("cannot set {file}: the {controller} cgroup is not mounted"))),
        };
        if resources.cpu_shares > 0 {
            set("cpu", "cpu.shares", resources.cpu_shares.max(2).to_string())?;
        }
        if resources.cpu_period > 0 {
            set("cpu", "cpu.cfs_period_us", resources.cpu_period.to_string())?;
        }
        if resources.cpu_quota != 0 {
            set("cpu", "cpu.cfs_quota_us", resources.cpu_quota.to_string())?;
        }
        if resources.memory_limit_in_bytes > 0 {
            let limit = resources.memory_limit_in_bytes.to_string();
            // Memory must stay below memory and swap together: which goes first depends on the direction.
            let with_swap = || set("memory", "memory.memsw.limit_in_bytes", limit.clone());
            if set("memory", "memory.limit_in_bytes", limit.clone()).is_err() {
                let _ = with_swap();
                set("memory", "memory.limit_in_bytes", limit.clone())?;
            }
            let _ = with_swap(); // Kernels without swap accounting lack the file.
        }
        if resources.pids_limit > 0 {
            set("pids", "pids.max", resources.pids_limit.to_string())?;
        }
        if !resources.cpuset_cpus.is_empty() {
            set("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone())?;
        }
        if !resources.cpuset_mems.is_empty() {
            set("cpuset", "cpuset.mems", resources.cpuset_mems.clone())?;
        }
        Ok(())
    }

    pub fn allow_devices(&self, group: &Path, rules: &[DeviceRule]) -> io::Result<()> {
        let Some(directory) = self.path("devices", group) else { return Ok(()) };
        write(&directory.join("devices.deny"), "a")?;
        for rule in rules {
            write(&directory.join("devices.allow"), rule)?;
        }
        Ok(())
    }

    pub fn usage(&self, group: &Path) -> io::Result<Usage> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let cpu = self.path("cpuacct", group).ok_or_else(missing)?;
        let memory = self.path("memory", group).ok_or_else(missing)?;
        let memory_bytes = number_in(&memory.join("memory.usage_in_bytes"))?;
        let statistic = |key| value_of(&memory.join("memory.stat"), key).unwrap_or(0);
        Ok(Usage {
            cpu_nanoseconds: number_in(&cpu.join("cpuacct.usage"))?,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(statistic("total_inactive_file")),
            rss_bytes: statistic("total_rss"),
        })
    }

    pub fn visible(&self, group: &Path) -> Vec<(String, PathBuf)> {
        let name = |place: &Path| Some(place.file_name()?.to_string_lossy().into_owned());
        let shown = |(place, _): &(PathBuf, Vec<String>)| Some((name(place)?, place.join(group)));
        self.mounted.iter().filter_map(shown).collect()
    }
}
