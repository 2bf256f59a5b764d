//! Keeps the node alive when it runs out of memory, disk or process IDs: says so, and ends pods, one at a time.
//!
//! Invariant: what to do is a pure function of what was measured. One pod per look goes, the one that takes most
//! beyond what it asked for, and critical ones never: eviction is calm. A condition stays for five minutes after
//! its cause, so that the scheduler does not send new pods into a flapping node.
//! Periodic work of this module: one look every 10 s.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use runtime::cri::ContainerStats;

use crate::agent::Agent;
use crate::dispatch::Dispatch;
use crate::node::NodeAgent;
use crate::node::machine::meminfo;
use crate::node::status::Pressure;
use crate::pod::machine::Event;
use crate::pod::spec;
use crate::pod::worker::View;

const LOOK_EVERY: Duration = Duration::from_secs(10);
const CONDITION_STAYS: SignedDuration = SignedDuration::from_secs(300);
/// Evicted only to save the node itself, which these are part of.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

const MEMORY_LEAST_BYTES: u64 = 100 * 1024 * 1024;
const DISK_LEAST_PERCENT: u64 = 5;
const INODES_LEAST_PERCENT: u64 = 5;
const PIDS_LEAST_PERCENT: u64 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    pub memory_available: u64,
    pub disk_available: u64,
    pub disk_capacity: u64,
    pub inodes_free: u64,
    pub inodes: u64,
    pub pids_used: u64,
    pub pids_max: u64,
}

impl Signals {
    fn read(directory: &Path) -> Signals {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let existing = directory.ancestors().find(|path| path.exists());
        let disk = existing.and_then(|path| nix::sys::statvfs::statvfs(path).ok());
        let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        // `0.1 0.2 0.3 2/345 6789`: the fourth word counts tasks.
        let tasks = loads.split_whitespace().nth(3).and_then(|word| word.split('/').nth(1)?.parse().ok()).unwrap_or(0);
        let most = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default().trim().parse().unwrap_or(0);
        Signals {
            memory_available: u64::try_from(meminfo(&memory, "MemAvailable")).unwrap_or(0),
            disk_available: disk.map_or(0, |disk| disk.blocks_available() * disk.fragment_size()),
            disk_capacity: disk.map_or(0, |disk| disk.blocks() * disk.fragment_size()),
            inodes_free: disk.map_or(0, |disk| disk.files_free()),
            inodes: disk.map_or(0, |disk| disk.files()),
            pids_used: tasks,
            pids_max: most,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    Memory,
    Disk,
    Inodes,
    Pids,
}

impl Shortage {
    fn resource(self) -> &'static str {
        match self {
            Shortage::Memory => "memory",
            Shortage::Disk => "ephemeral-storage",
            Shortage::Inodes => "inodes",
            Shortage::Pids => "pids",
        }
    }
}

pub fn shortages(signals: &Signals) -> Vec<Shortage> {
    let below = |part: u64, whole: u64, percent: u64| whole > 0 && u128::from(part) * 100 < u128::from(whole) * u128::from(percent);
    let mut found = Vec::new();
    if signals.memory_available < MEMORY_LEAST_BYTES {
        found.push(Shortage::Memory);
    }
    if below(signals.disk_available, signals.disk_capacity, DISK_LEAST_PERCENT) {
        found.push(Shortage::Disk);
    }
    if below(signals.inodes_free, signals.inodes, INODES_LEAST_PERCENT) {
        found.push(Shortage::Inodes);
    }
    if below(signals.pids_max.saturating_sub(signals.pids_used), signals.pids_max, PIDS_LEAST_PERCENT) {
        found.push(Shortage::Pids);
    }
    found
}

/// A pod and what it uses of the scarce resource.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub pod: Arc<Pod>,
    pub used: u64,
    pub requested: u64,
}

/// Who goes: beyond its request first, then the least important, then who is furthest beyond.
pub fn choose(candidates: &[Candidate]) -> Option<&Candidate> {
    let priority = |candidate: &Candidate| spec::spec(&candidate.pod).priority.unwrap_or(0);
    candidates.iter().filter(|candidate| priority(candidate) < CRITICAL_PRIORITY).max_by_key(|candidate| {
        let beyond = i128::from(candidate.used) - i128::from(candidate.requested);
        (beyond > 0, std::cmp::Reverse(priority(candidate)), beyond)
    })
}

/// Watches until cancelled.
pub async fn keep_alive(agent: Arc<Agent>, node: Arc<NodeAgent>, dispatch: Arc<Dispatch>) {
    let mut seen: [Option<Timestamp>; 3] = [None; 3];
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let signals = Signals::read(&agent.data_dir);
        let short = shortages(&signals);
        let now = agent.clock.now();
        report(&short, &mut seen, now, &node);
        let views = dispatch.views();
        let limited: Vec<&View> = views.iter().filter(|view| !view.over && has_storage_limit(&view.pod)).collect();
        for view in limited {
            if let Some(message) = storage_excess(&agent, view).await {
                evict(&dispatch, spec::uid(&view.pod), message).await;
            }
        }
        let Some(shortage) = short.first().copied() else { continue };
        // Before any pod: what nobody uses.
        if matches!(shortage, Shortage::Disk | Shortage::Inodes) && remove_unused_images(&agent).await {
            continue;
        }
        let stats = agent.runtime.list_container_stats().await.unwrap_or_default();
        let candidates: Vec<Candidate> = views.iter().filter(|view| !view.over).map(|view| candidate(&agent, view, &stats, shortage)).collect();
        if let Some(chosen) = choose(&candidates) {
            let message = eviction_message(shortage, &signals, chosen);
            evict(&dispatch, spec::uid(&chosen.pod), message).await;
        }
    }
}

fn report(short: &[Shortage], seen: &mut [Option<Timestamp>; 3], now: Timestamp, node: &NodeAgent) {
    let groups = [vec![Shortage::Memory], vec![Shortage::Disk, Shortage::Inodes], vec![Shortage::Pids]];
    for (at, group) in seen.iter_mut().zip(groups) {
        if group.iter().any(|shortage| short.contains(shortage)) {
            *at = Some(now);
        } else if at.is_some_and(|at| now.duration_since(at) > CONDITION_STAYS) {
            *at = None;
        }
    }
    let pressure = Pressure { memory: seen[0].is_some(), disk: seen[1].is_some(), pids: seen[2].is_some() };
    let changed = std::mem::replace(&mut *node.pressure.write(), pressure.clone()) != pressure;
    if changed {
        node.changed.notify_one();
    }
}

async fn evict(dispatch: &Dispatch, uid: &str, message: String) {
    tracing::warn!(uid, message, "evicting a pod");
    dispatch.send(uid, Event::Evicted { reason: "Evicted".to_owned(), message }).await;
}

async fn remove_unused_images(agent: &Agent) -> bool {
    let (Ok(containers), Ok(images)) = (agent.runtime.list_containers().await, agent.images.list_images().await) else { return false };
    let in_use = containers.into_iter().flat_map(|container| [container.image, container.image_ref]).collect();
    let chosen = crate::gc::images_to_remove(&images, &in_use, u64::MAX);
    let mut any = false;
    for id in chosen {
        any |= agent.images.remove_image(&id).await.is_ok();
    }
    any
}

fn candidate(agent: &Agent, view: &View, stats: &[ContainerStats], shortage: Shortage) -> Candidate {
    let own = stats.iter().filter(|stats| view.running.values().any(|id| *id == stats.container_id));
    let used = match shortage {
        Shortage::Memory => own.map(|stats| stats.memory_working_set_bytes).sum(),
        Shortage::Disk => own.map(|stats| stats.writable_layer_used_bytes).sum::<u64>() + disk_usage(&agent.pod_directory(spec::uid(&view.pod))),
        Shortage::Inodes => own.map(|stats| stats.writable_layer_inodes).sum(),
        Shortage::Pids => 0,
    };
    let requested = u64::try_from(spec::pod_request(&view.pod, shortage.resource(), Quantity::value)).unwrap_or(0);
    Candidate { pod: view.pod.clone(), used, requested }
}

fn eviction_message(shortage: Shortage, signals: &Signals, chosen: &Candidate) -> String {
    let (threshold, available) = match shortage {
        Shortage::Memory => (MEMORY_LEAST_BYTES, signals.memory_available),
        Shortage::Disk => (signals.disk_capacity / 100 * DISK_LEAST_PERCENT, signals.disk_available),
        Shortage::Inodes => (signals.inodes / 100 * INODES_LEAST_PERCENT, signals.inodes_free),
        Shortage::Pids => (signals.pids_max / 100 * PIDS_LEAST_PERCENT, signals.pids_max.saturating_sub(signals.pids_used)),
    };
    let resource = shortage.resource();
    let text = |bytes: u64| Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)).to_string();
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        text(threshold),
        text(available / 1024 * 1024)
    );
    if chosen.used > chosen.requested {
        let used = text(chosen.used / 1024 * 1024);
        message.push_str(&format!("Pod was using {used}, request is {}, has larger consumption of {resource}. ", text(chosen.requested)));
    }
    message
}

fn has_storage_limit(pod: &Pod) -> bool {
    let spec = spec::spec(pod);
    let limited_volume = spec.volumes.iter().flatten().any(|volume| {
        volume.empty_dir.as_ref().is_some_and(|source| source.size_limit.is_some() && source.medium.as_deref() != Some("Memory"))
    });
    limited_volume || spec::containers(pod).iter().any(|(_, container)| spec::limit(container.resources.as_ref(), "ephemeral-storage").is_some())
}

/// Which of the pod's own limits of local storage it has passed, if any.
async fn storage_excess(agent: &Agent, view: &View) -> Option<String> {
    let directory = agent.pod_directory(spec::uid(&view.pod));
    for volume in spec::spec(&view.pod).volumes.iter().flatten() {
        let Some(source) = &volume.empty_dir else { continue };
        let Some(limit) = source.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok()) else { continue };
        if source.medium.as_deref() == Some("Memory") || limit.is_zero() {
            continue;
        }
        let used = disk_usage(&directory.join("volumes/kubernetes.io~empty-dir").join(&volume.name));
        if used > u64::try_from(limit.value()).unwrap_or(0) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.to_string()));
        }
    }
    let logs = agent.pod_log_directory(&view.pod);
    for (_, container) in spec::containers(&view.pod) {
        let Some(limit) = spec::limit(container.resources.as_ref(), "ephemeral-storage") else { continue };
        let Some(id) = view.running.get(&container.name) else { continue };
        let layer = agent.runtime.container_stats(id).await.map_or(0, |stats| stats.writable_layer_used_bytes);
        if layer + disk_usage(&logs.join(&container.name)) > u64::try_from(limit.value()).unwrap_or(0) {
            return Some(format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, limit.to_string()));
        }
    }
    None
}

/// Bytes on disk below a directory; other file systems mounted there are left out.
fn disk_usage(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(root) = fs::symlink_metadata(directory) else { return 0 };
    let mut total = 0;
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.dev() != root.dev() {
                continue;
            }
            total += metadata.blocks() * 512;
            if metadata.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(pods: &[(&str, i32, u64, u64)], expected: Option<&str>) {
        let candidates: Vec<Candidate> = pods
            .iter()
            .map(|(name, priority, used, requested)| Candidate {
                pod: Arc::new(
                    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": []}})).expect("a pod"),
                ),
                used: *used,
                requested: *requested,
            })
            .collect();
        assert_eq!(choose(&candidates).map(|chosen| spec::name(&chosen.pod)), expected);
    }

    #[test]
    fn who_goes_first() {
        //      name  priority  used  requested
        check(&[("a", 0, 10, 100), ("b", 0, 20, 10)], Some("b"));
        check(&[("a", 0, 30, 10), ("b", 0, 90, 10)], Some("b"));
        check(&[("a", 100, 90, 10), ("b", 0, 30, 10)], Some("b"));
        check(&[("a", 0, 10, 100), ("b", 100, 90, 10)], Some("b"));
        check(&[("critical", CRITICAL_PRIORITY, 90, 0)], None);
        check(&[], None);
    }

    #[test]
    fn what_is_short() {
        let fine = Signals {
            memory_available: 1 << 30,
            disk_available: 50,
            disk_capacity: 100,
            inodes_free: 50,
            inodes: 100,
            pids_used: 5,
            pids_max: 100,
        };
        assert_eq!(shortages(&fine), []);
        assert_eq!(shortages(&Signals { memory_available: 1 << 20, ..fine }), [Shortage::Memory]);
        assert_eq!(shortages(&Signals { disk_available: 4, pids_used: 99, ..fine }), [Shortage::Disk, Shortage::Pids]);
    }
}
