//! `/metrics/cadvisor`: usage under the names that cAdvisor gave it, which dashboards and alerts know.
//!
//! One series per container, and one per pod with `container=""`, as cgroups lie below one another.
//! Deliberately absent: per-interface network, block devices, and the cgroups of the host's own services.

use k8s_openapi::api::core::v1::Container;
use runtime::cri::ContainerStats;

use super::stats::{Family, Stats, seconds, started_at};
use crate::container::resources::{QUOTA_PERIOD_MICROSECONDS, cpu_quota, cpu_shares};
use crate::pod::spec;
use crate::pod::worker::View;
use api::quantity::Quantity;

impl Stats {
    pub async fn cadvisor_metrics(&self, views: &[View]) -> String {
        let stats = self.by_container().await;
        let millis = self.agent.clock.now().as_millisecond();
        let mut told = Families::new();
        for view in views.iter().filter(|view| !view.over) {
            let pod = &view.pod;
            let (namespace, name) = (spec::namespace(pod), spec::name(pod));
            let path = self.agent.cgroups.pod_path(pod);
            if let Some((cpu, memory)) = self.agent.cgroups.pod_usage(pod) {
                let labels = |cpu: &str| format!("container=\"\",{cpu}id=\"{path}\",image=\"\",name=\"\",namespace=\"{namespace}\",pod=\"{name}\"");
                told.cpu.add(&labels("cpu=\"total\","), seconds(cpu), millis);
                told.usage.add(&labels(""), memory as f64, millis);
            }
            for (container, id) in &view.running {
                let Some(stats) = stats.get(id) else { continue };
                let Some((_, wanted)) = spec::container(pod, container) else { continue };
                let image = image_of(view, container);
                let labels = |cpu: &str| {
                    format!("container=\"{container}\",{cpu}id=\"{path}/{id}\",image=\"{image}\",name=\"{id}\",namespace=\"{namespace}\",pod=\"{name}\"")
                };
                let started = started_at(view, container).and_then(|text| text.parse::<jiff::Timestamp>().ok());
                told.cpu.add(&labels("cpu=\"total\","), seconds(stats.cpu_usage_core_nanoseconds), millis);
                told.container(&labels(""), stats, &wanted, millis);
                if let Some(started) = started {
                    told.start.add(&labels(""), started.as_millisecond() as f64 / 1000.0, millis);
                }
            }
        }
        let machine = &self.agent.machine;
        told.cores.add("", machine.cpus as f64, millis);
        told.capacity.add("", machine.memory_bytes as f64, millis);
        told.text()
    }
}

fn image_of(view: &View, container: &str) -> String {
    let status = &view.status;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == container);
    found.map(|status| status.image.clone()).unwrap_or_default()
}

struct Families {
    cpu: Family,
    usage: Family,
    working_set: Family,
    rss: Family,
    written: Family,
    start: Family,
    shares: Family,
    quota: Family,
    period: Family,
    limit: Family,
    cores: Family,
    capacity: Family,
}

impl Families {
    fn new() -> Families {
        Families {
            cpu: Family::new("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "counter"),
            usage: Family::new("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", "gauge"),
            working_set: Family::new("container_memory_working_set_bytes", "Current working set in bytes.", "gauge"),
            rss: Family::new("container_memory_rss", "Size of RSS in bytes.", "gauge"),
            written: Family::new("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", "gauge"),
            start: Family::new("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", "gauge"),
            shares: Family::new("container_spec_cpu_shares", "CPU share of the container.", "gauge"),
            quota: Family::new("container_spec_cpu_quota", "CPU quota of the container.", "gauge"),
            period: Family::new("container_spec_cpu_period", "CPU period of the container.", "gauge"),
            limit: Family::new("container_spec_memory_limit_bytes", "Memory limit for the container.", "gauge"),
            cores: Family::new("machine_cpu_cores", "Number of logical CPU cores.", "gauge"),
            capacity: Family::new("machine_memory_bytes", "Amount of memory installed on the machine.", "gauge"),
        }
    }

    fn container(&mut self, labels: &str, stats: &ContainerStats, wanted: &Container, millis: i64) {
        self.usage.add(labels, stats.memory_usage_bytes as f64, millis);
        self.working_set.add(labels, stats.memory_working_set_bytes as f64, millis);
        self.rss.add(labels, stats.memory_rss_bytes as f64, millis);
        self.written.add(labels, stats.writable_layer_used_bytes as f64, millis);
        let resources = wanted.resources.clone().unwrap_or_default();
        let amount = |list: &Option<std::collections::BTreeMap<String, _>>, name: &str| -> Option<Quantity> {
            let text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity = list.as_ref()?.get(name)?;
            Quantity::parse(&text.0).ok()
        };
        let request = amount(&resources.requests, "cpu").map_or(0, |cpu| cpu.milli_value());
        self.shares.add(labels, cpu_shares(request) as f64, millis);
        self.period.add(labels, QUOTA_PERIOD_MICROSECONDS as f64, millis);
        if let Some(limit) = amount(&resources.limits, "cpu") {
            self.quota.add(labels, cpu_quota(limit.milli_value()) as f64, millis);
        }
        self.limit.add(labels, amount(&resources.limits, "memory").map_or(0, |memory| memory.value()) as f64, millis);
    }

    fn text(self) -> String {
        let all = [
            self.cpu, self.usage, self.working_set, self.rss, self.written, self.start, self.shares, self.quota,
            self.period, self.limit, self.cores, self.capacity,
        ];
        all.into_iter().map(|family| family.text).collect()
    }
}
