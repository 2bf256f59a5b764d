//! What the node and its pods use: the summary API, and the same as metrics.
//!
//! Rates come from two looks at the same counter; the first look after a start has none, as in the original.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use runtime::cri::ContainerStats;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::node::machine::meminfo;
use crate::pod::spec;
use crate::pod::worker::View;

/// Two looks closer together than this make no rate.
const RATE_LEAST_NANOSECONDS: i64 = 500_000_000;
/// Counters whose owners are gone are forgotten when there are more than this.
const COUNTERS_MAX: usize = 4096;

#[derive(Clone, Copy)]
struct Counter {
    at: i64,
    value: u64,
    rate: Option<u64>,
}

pub struct Stats {
    pub(super) agent: Arc<Agent>,
    counters: Mutex<HashMap<String, Counter>>,
}

impl Stats {
    pub fn new(agent: Arc<Agent>) -> Stats {
        Stats { agent, counters: Mutex::default() }
    }

    pub async fn summary(&self, views: &[View]) -> Value {
        let stats = self.by_container().await;
        let now = self.agent.clock.now();
        let time = now.to_string();
        let pods: Vec<Value> = views.iter().filter(|view| !view.over).map(|view| self.pod(view, &stats, now)).collect();
        let (node_cpu, node_memory, available) = node_usage(self.agent.machine.memory_bytes);
        json!({
            "node": {
                "nodeName": self.agent.node_name,
                "startTime": boot_time().map(|time| time.to_string()),
                "cpu": self.cpu("node", now, node_cpu),
                "memory": {
                    "time": time,
                    "availableBytes": available,
                    "usageBytes": node_memory,
                    "workingSetBytes": node_memory,
                },
                "fs": self.filesystem(&time),
            },
            "pods": pods,
        })
    }

    fn pod(&self, view: &View, stats: &HashMap<String, ContainerStats>, now: Timestamp) -> Value {
        let pod = &view.pod;
        let containers: Vec<Value> = view
            .running
            .iter()
            .filter_map(|(name, id)| {
                let stats = stats.get(id)?;
                Some(json!({
                    "name": name,
                    "startTime": started_at(view, name),
                    "cpu": self.cpu(id, now, stats.cpu_usage_core_nanoseconds),
                    "memory": {
                        "time": now.to_string(),
                        "usageBytes": stats.memory_usage_bytes,
                        "workingSetBytes": stats.memory_working_set_bytes,
                        "rssBytes": stats.memory_rss_bytes,
                    },
                    "rootfs": {"time": now.to_string(), "usedBytes": stats.writable_layer_used_bytes, "inodesUsed": stats.writable_layer_inodes},
                }))
            })
            .collect();
        let running = view.running.values().filter_map(|id| stats.get(id));
        let working_set: u64 = running.clone().map(|stats| stats.memory_working_set_bytes).sum();
        let summed: u64 = running.map(|stats| stats.cpu_usage_core_nanoseconds).sum();
        let (cpu, memory) = self.agent.cgroups.pod_usage(pod).unwrap_or((summed, working_set));
        json!({
            "podRef": {"name": spec::name(pod), "namespace": spec::namespace(pod), "uid": spec::uid(pod)},
            "startTime": view.status.start_time,
            "containers": containers,
            "cpu": self.cpu(spec::uid(pod), now, cpu),
            "memory": {"time": now.to_string(), "usageBytes": memory, "workingSetBytes": working_set},
        })
    }

    fn cpu(&self, owner: &str, now: Timestamp, nanoseconds: u64) -> Value {
        let mut cpu = json!({"time": now.to_string(), "usageCoreNanoSeconds": nanoseconds});
        if let Some(rate) = self.rate(owner, i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX), nanoseconds) {
            cpu["usageNanoCores"] = json!(rate);
        }
        cpu
    }

    fn rate(&self, owner: &str, at: i64, value: u64) -> Option<u64> {
        let mut counters = self.counters.lock();
        if counters.len() > COUNTERS_MAX {
            counters.clear();
        }
        let counter = counters.entry(owner.to_owned()).or_insert(Counter { at, value, rate: None });
        let elapsed = at - counter.at;
        if elapsed >= RATE_LEAST_NANOSECONDS {
            let used = value.saturating_sub(counter.value);
            let rate = u128::from(used) * 1_000_000_000 / u128::try_from(elapsed).unwrap_or(1);
            *counter = Counter { at, value, rate: u64::try_from(rate).ok() };
        }
        counter.rate
    }

    fn filesystem(&self, time: &str) -> Value {
        let existing = self.agent.data_dir.ancestors().find(|path| path.exists());
        let Some(stat) = existing.and_then(|path| nix::sys::statvfs::statvfs(path).ok()) else { return Value::Null };
        let size = stat.fragment_size();
        json!({
            "time": time,
            "availableBytes": stat.blocks_available() * size,
            "capacityBytes": stat.blocks() * size,
            "usedBytes": stat.blocks().saturating_sub(stat.blocks_free()) * size,
            "inodes": stat.files(),
            "inodesFree": stat.files_free(),
            "inodesUsed": stat.files().saturating_sub(stat.files_free()),
        })
    }

    pub(super) async fn by_container(&self) -> HashMap<String, ContainerStats> {
        let stats = self.agent.runtime.list_container_stats().await.unwrap_or_default();
        stats.into_iter().map(|stats| (stats.container_id.clone(), stats)).collect()
    }

    /// The metrics that metrics-server scrapes.
    pub async fn resource_metrics(&self, views: &[View]) -> String {
        let stats = self.by_container().await;
        let millis = self.agent.clock.now().as_millisecond();
        let mut container_cpu = Family::new("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", "counter");
        let mut container_memory = Family::new("container_memory_working_set_bytes", "Current working set of the container in bytes", "gauge");
        let mut container_start = Family::new("container_start_time_seconds", "Start time of the container since unix epoch in seconds", "gauge");
        let mut pod_cpu = Family::new("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", "counter");
        let mut pod_memory = Family::new("pod_memory_working_set_bytes", "Current working set of the pod in bytes", "gauge");
        for view in views.iter().filter(|view| !view.over) {
            let pod = format!("namespace=\"{}\",pod=\"{}\"", spec::namespace(&view.pod), spec::name(&view.pod));
            let (mut cpu, mut memory) = (0, 0);
            for (name, id) in &view.running {
                let Some(stats) = stats.get(id) else { continue };
                let labels = format!("container=\"{name}\",{pod}");
                cpu += stats.cpu_usage_core_nanoseconds;
                memory += stats.memory_working_set_bytes;
                container_cpu.add(&labels, seconds(stats.cpu_usage_core_nanoseconds), millis);
                container_memory.add(&labels, stats.memory_working_set_bytes as f64, millis);
                if let Some(started) = started_at(view, name).and_then(|text| text.parse::<Timestamp>().ok()) {
                    container_start.add(&labels, started.as_millisecond() as f64 / 1000.0, millis);
                }
            }
            pod_cpu.add(&pod, seconds(cpu), millis);
            pod_memory.add(&pod, memory as f64, millis);
        }
        let (node_cpu, node_memory, _) = node_usage(self.agent.machine.memory_bytes);
        let mut all = String::new();
        for family in [container_cpu, container_memory, container_start] {
            all.push_str(&family.text);
        }
        let mut node = Family::new("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", "counter");
        node.add("", seconds(node_cpu), millis);
        all.push_str(&node.text);
        let mut node = Family::new("node_memory_working_set_bytes", "Current working set of the node in bytes", "gauge");
        node.add("", node_memory as f64, millis);
        all.push_str(&node.text);
        all.push_str(&pod_cpu.text);
        all.push_str(&pod_memory.text);
        all.push_str("# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
        all
    }

    /// The agent's own.
    pub fn own_metrics(&self, views: &[View]) -> String {
        let running: usize = views.iter().map(|view| view.running.len()).sum();
        let pods = views.iter().filter(|view| !view.running.is_empty()).count();
        let mut text = String::new();
        let _ = write!(
            text,
            "# HELP kubelet_node_name The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1\n\
             # HELP kubelet_running_containers Number of containers currently running\n# TYPE kubelet_running_containers gauge\n\
             kubelet_running_containers{{container_state=\"running\"}} {running}\n\
             # HELP kubelet_running_pods Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\nkubelet_running_pods {pods}\n",
            self.agent.node_name
        );
        text
    }
}

pub(super) struct Family {
    name: &'static str,
    pub(super) text: String,
}

impl Family {
    pub(super) fn new(name: &'static str, help: &str, kind: &str) -> Family {
        Family { name, text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n") }
    }

    pub(super) fn add(&mut self, labels: &str, value: f64, millis: i64) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.text, "{}{labels} {value} {millis}", self.name);
    }
}

pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

pub(super) fn started_at(view: &View, container: &str) -> Option<String> {
    let status = &view.status;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == container)?;
    let running = found.state.as_ref()?.running.as_ref()?;
    running.started_at.as_ref().map(|time| time.0.to_string())
}

/// CPU nanoseconds since boot, bytes in use, bytes available.
fn node_usage(capacity: i64) -> (u64, u64, u64) {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = u64::try_from(meminfo(&memory, "MemAvailable")).unwrap_or(0);
    let used = u64::try_from(capacity).unwrap_or(0).saturating_sub(available);
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    (busy_nanoseconds(&stat), used, available)
}

/// The first line counts hundredths of seconds: all but idle and waiting for input.
fn busy_nanoseconds(stat: &str) -> u64 {
    let ticks: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let busy: u64 = ticks.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4 | 8 | 9)).map(|(_, ticks)| ticks).sum();
    busy * 10_000_000
}

fn boot_time() -> Option<Timestamp> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_recorded_counters() {
        assert_eq!(busy_nanoseconds("cpu  100 0 50 1000 20 1 2 3 0 0\n"), 156 * 10_000_000);
    }
}
