//! Counters of requests, printed as Prometheus reads them under the original's names.
//!
//! Invariant: label values come from the registry and from fixed lists, so that no client can make the table grow.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::admission_chain::Cluster;
use crate::api_services;
use api::histogram::{Histogram, head};
use crate::http::query::Query;
use crate::http::reply::{Content, Reply};
use crate::http::request_info::RequestInfo;
use crate::kinds::registry;
use crate::server::ApiServer;

/// Upper bounds in seconds; the original's.
static BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
/// Upper bounds in bytes.
static SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Upper bounds in seconds: none, half an hour to a day, days, weeks, months, a year.
static LIFETIMES: [f64; 14] = [
    0.0, 1800.0, 3600.0, 7200.0, 21600.0, 43200.0, 86400.0, 172800.0, 345600.0, 604800.0, 2592000.0, 7776000.0,
    15552000.0, 31104000.0,
];

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    /// `All` or nothing.
    dry_run: &'static str,
}

impl Labels {
    pub fn of(info: &RequestInfo, query: &Query) -> Labels {
        let kind = registry::by_plural(&info.group, &info.version, &info.resource);
        let subresource = kind
            .and_then(|kind| kind.subresources.iter().find(|own| own.name == info.subresource))
            .map_or("", |found| found.name);
        let scope = match kind {
            None => "",
            Some(_) if !info.name.is_empty() => "resource",
            Some(_) if !info.namespace.is_empty() => "namespace",
            Some(_) => "cluster",
        };
        Labels {
            verb: verb(info.verb),
            group: kind.map_or("", |kind| kind.group),
            version: kind.map_or("", |kind| kind.version),
            resource: kind.map_or("", |kind| kind.plural),
            subresource,
            scope,
            dry_run: if query.get("dryRun") == Some("All") { "All" } else { "" },
        }
    }
}

fn verb(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "OTHER",
    }
}

struct Series {
    codes: HashMap<u16, u64>,
    times: Histogram<{ BUCKETS.len() }>,
    /// Of reads.
    sizes: Histogram<{ SIZES.len() }>,
}

pub struct Metrics {
    started: Timestamp,
    series: Mutex<HashMap<Labels, Series>>,
    long_running: Arc<Mutex<HashMap<Labels, i64>>>,
    /// Seconds that the client certificates of requests still had.
    lifetimes: Mutex<Histogram<{ LIFETIMES.len() }>>,
}

/// A long-running request, while it runs.
pub struct LongRunning {
    labels: Labels,
    all: Arc<Mutex<HashMap<Labels, i64>>>,
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        if let Some(count) = self.all.lock().get_mut(&self.labels) {
            *count -= 1;
        }
    }
}

impl Metrics {
    pub fn new(started: Timestamp) -> Self {
        let lifetimes = Mutex::new(Histogram::new(&LIFETIMES));
        Metrics { started, series: Mutex::default(), long_running: Arc::default(), lifetimes }
    }

    /// A request by a client certificate that is good until `expires`.
    pub fn certificate(&self, now: Timestamp, expires: Timestamp) {
        self.lifetimes.lock().observe(expires.duration_since(now).as_secs_f64());
    }

    pub fn long_running(&self, labels: Labels) -> LongRunning {
        *self.long_running.lock().entry(labels).or_default() += 1;
        LongRunning { labels, all: self.long_running.clone() }
    }

    /// `size`: of the answer, where it is known before it is sent. Lists are copied out while they are sent.
    pub fn observe(&self, labels: Labels, code: StatusCode, elapsed: Duration, size: Option<u64>) {
        let mut all = self.series.lock();
        let series = all.entry(labels).or_insert_with(|| Series {
            codes: HashMap::new(),
            times: Histogram::new(&BUCKETS),
            sizes: Histogram::new(&SIZES),
        });
        *series.codes.entry(code.as_u16()).or_default() += 1;
        series.times.observe(elapsed.as_secs_f64());
        if let (Some(size), "GET" | "LIST") = (size, labels.verb) {
            series.sizes.observe(size as f64);
        }
    }

    pub fn print(&self, server: &ApiServer) -> Reply {
        let mut out = String::with_capacity(16 << 10);
        self.print_requests(&mut out).and_then(|()| self.print_rest(server, &mut out)).expect("writing to a String cannot fail");
        if let Some(print) = server.config.more_metrics {
            print(&mut out);
        }
        Reply::ok(Content::Raw { content_type: "text/plain; version=0.0.4; charset=utf-8", bytes: out.into() })
    }

    fn print_requests(&self, out: &mut String) -> std::fmt::Result {
        let all = self.series.lock();
        let mut sorted: Vec<(&Labels, &Series)> = all.iter().collect();
        sorted.sort_by_key(|(labels, _)| **labels);
        let common = |labels: &Labels| {
            format!(
                "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
                labels.group, labels.resource, labels.scope, labels.subresource, labels.verb, labels.version
            )
        };
        writeln!(out, "# HELP apiserver_request_total [STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.")?;
        writeln!(out, "# TYPE apiserver_request_total counter")?;
        for (labels, series) in &sorted {
            for (code, count) in &series.codes {
                writeln!(out, "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"{}\",{}}} {count}", labels.dry_run, common(labels))?;
            }
        }
        for (name, help) in [
            ("apiserver_request_duration_seconds", "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component."),
            // The original leaves out what webhooks take. Watches are no part of it.
            ("apiserver_request_sli_duration_seconds", "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component."),
        ] {
            head(out, name, "histogram", help)?;
            let sli = name.contains("_sli_");
            for (labels, series) in sorted.iter().filter(|(labels, _)| !sli || labels.verb != "WATCH") {
                let dry_run = if sli { String::new() } else { format!("dry_run=\"{}\",", labels.dry_run) };
                series.times.print(out, name, &format!("component=\"apiserver\",{dry_run}{}", common(labels)))?;
            }
        }
        const SIZES_NAME: &str = "apiserver_response_sizes";
        head(out, SIZES_NAME, "histogram", "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.")?;
        for (labels, series) in sorted.iter().filter(|(_, series)| series.sizes.count() > 0) {
            series.sizes.print(out, SIZES_NAME, &format!("component=\"apiserver\",{}", common(labels)))?;
        }
        const DEPRECATED: &str = "apiserver_requested_deprecated_apis";
        head(out, DEPRECATED, "gauge", "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.")?;
        let mut seen: Vec<[&str; 4]> = Vec::new();
        for (labels, _) in &sorted {
            let names = [labels.group, labels.version, labels.resource, labels.subresource];
            let deprecated = registry::by_plural(names[0], names[1], names[2]).is_some_and(|kind| !kind.deprecation.is_empty());
            if deprecated && !seen.contains(&names) {
                seen.push(names);
                let [group, version, resource, subresource] = names;
                writeln!(out, "{DEPRECATED}{{group=\"{group}\",removed_release=\"\",resource=\"{resource}\",subresource=\"{subresource}\",version=\"{version}\"}} 1")?;
            }
        }
        writeln!(out, "# HELP apiserver_longrunning_requests [STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.")?;
        writeln!(out, "# TYPE apiserver_longrunning_requests gauge")?;
        let running = self.long_running.lock();
        let mut sorted: Vec<(&Labels, &i64)> = running.iter().collect();
        sorted.sort_by_key(|(labels, _)| **labels);
        for (labels, count) in sorted {
            writeln!(out, "apiserver_longrunning_requests{{component=\"apiserver\",{}}} {count}", common(labels))?;
        }
        Ok(())
    }

    fn print_rest(&self, server: &ApiServer, out: &mut String) -> std::fmt::Result {
        const LIFETIMES_NAME: &str = "apiserver_client_certificate_expiration_seconds";
        head(out, LIFETIMES_NAME, "histogram", "[ALPHA] Distribution of the remaining lifetime on the certificate used to authenticate a request.")?;
        self.lifetimes.lock().print(out, LIFETIMES_NAME, "")?;
        writeln!(out, "# HELP apiserver_current_inflight_requests [STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.")?;
        writeln!(out, "# TYPE apiserver_current_inflight_requests gauge")?;
        let [reads, writes] = server.flow.at_work();
        writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {reads}")?;
        writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {writes}")?;
        server.flow.print(out)?;
        server.store_times.print(out)?;
        server.admission.times().print(out)?;
        if let Some(auditor) = &server.auditor {
            let (written, lost) = auditor.counts();
            writeln!(out, "# HELP apiserver_audit_event_total [ALPHA] Counter of audit events generated and sent to the audit backend.")?;
            writeln!(out, "# TYPE apiserver_audit_event_total counter")?;
            writeln!(out, "apiserver_audit_event_total {}", written + lost)?;
            writeln!(out, "# HELP apiserver_audit_error_total [ALPHA] Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.")?;
            writeln!(out, "# TYPE apiserver_audit_error_total counter")?;
            writeln!(out, "apiserver_audit_error_total{{plugin=\"log\"}} {lost}")?;
        }
        let mut shelves: Vec<_> = server.cache.shelves().collect();
        shelves.sort_by_key(|shelf| (shelf.kind.plural, shelf.kind.group));
        head(out, "apiserver_storage_objects", "gauge", "[STABLE] Number of stored objects at the time of last check split by kind.")?;
        for shelf in &shelves {
            let dot = if shelf.kind.group.is_empty() { "" } else { "." };
            let resource = format!("{}{dot}{}", shelf.kind.plural, shelf.kind.group);
            writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {}", shelf.len())?;
        }
        head(out, "apiserver_resource_objects", "gauge", "[ALPHA] Number of stored objects at the time of last check split by kind.")?;
        for shelf in &shelves {
            let (group, resource) = (shelf.kind.group, shelf.kind.plural);
            writeln!(out, "apiserver_resource_objects{{group=\"{group}\",resource=\"{resource}\"}} {}", shelf.len())?;
        }
        let services = server.list(api_services::GROUP, api_services::PLURAL, "");
        head(out, "aggregator_unavailable_apiservice", "gauge", "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.")?;
        for service in services {
            let conditions = service["status"]["conditions"].as_array().into_iter().flatten();
            let mut available = conditions.filter(|condition| condition["type"] == "Available");
            let lacking = u8::from(available.all(|condition| condition["status"] != "True"));
            let name = service["metadata"]["name"].as_str().unwrap_or("");
            writeln!(out, "aggregator_unavailable_apiservice{{name=\"{name}\"}} {lacking}")?;
        }
        writeln!(out, "# HELP etcd_debugging_mvcc_current_revision The current revision of store.")?;
        writeln!(out, "# TYPE etcd_debugging_mvcc_current_revision gauge")?;
        writeln!(out, "etcd_debugging_mvcc_current_revision {}", server.cache.applied())?;
        writeln!(out, "# HELP process_start_time_seconds [STABLE] Start time of the process since unix epoch in seconds.")?;
        writeln!(out, "# TYPE process_start_time_seconds gauge")?;
        writeln!(out, "process_start_time_seconds {}", self.started.as_second())?;
        if let Some((resident, virtual_bytes)) = memory() {
            writeln!(out, "# HELP process_resident_memory_bytes Resident memory size in bytes.")?;
            writeln!(out, "# TYPE process_resident_memory_bytes gauge")?;
            writeln!(out, "process_resident_memory_bytes {resident}")?;
            writeln!(out, "# HELP process_virtual_memory_bytes Virtual memory size in bytes.")?;
            writeln!(out, "# TYPE process_virtual_memory_bytes gauge")?;
            writeln!(out, "process_virtual_memory_bytes {virtual_bytes}")?;
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            head(out, "process_open_fds", "gauge", "Number of open file descriptors.")?;
            writeln!(out, "process_open_fds {}", files.count())?;
        }
        if let Some(seconds) = cpu_seconds() {
            writeln!(out, "# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.")?;
            writeln!(out, "# TYPE process_cpu_seconds_total counter")?;
            writeln!(out, "process_cpu_seconds_total {seconds}")?;
        }
        writeln!(out, "# HELP kubernetes_build_info [ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.")?;
        writeln!(out, "# TYPE kubernetes_build_info gauge")?;
        writeln!(out, "kubernetes_build_info{{git_version=\"{}\",major=\"1\",minor=\"35\"}} 1", crate::discovery::GIT_VERSION)
    }
}

/// Resident and virtual bytes.
fn memory() -> Option<(u64, u64)> {
    const PAGE: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').filter_map(|part| part.trim().parse::<u64>().ok());
    let (total, resident) = (pages.next()?, pages.next()?);
    Some((resident * PAGE, total * PAGE))
}

fn cpu_seconds() -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}
