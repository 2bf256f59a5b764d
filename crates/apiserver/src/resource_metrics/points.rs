//! Counters as kubelets tell them (`/metrics/resource`), and rates between two looks. Arithmetic only.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A container younger than this gives no rate from its start.
const FRESH_SECONDS: f64 = 1.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    pub taken_millis: i64,
    pub cpu_seconds: f64,
    pub memory_bytes: f64,
    /// Containers only; seconds since 1970, 0 when unknown.
    pub started: f64,
}

/// By namespace and pod, then by container.
pub type Pods<T> = BTreeMap<(String, String), BTreeMap<String, T>>;

/// One look at one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    pub node: Point,
    pub pods: Pods<Point>,
}

/// Lines of the text format that matter here; others are passed over.
pub fn parse(text: &str, now_millis: i64) -> Look {
    let mut look = Look::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value, time)) = sample(line) else { continue };
        let point = match name.split_once('_') {
            Some(("node", _)) => &mut look.node,
            Some(("container", _)) => {
                let label = |name: &str| labels.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
                let (Some(namespace), Some(pod), Some(container)) = (label("namespace"), label("pod"), label("container"))
                else {
                    continue;
                };
                look.pods.entry((namespace, pod)).or_default().entry(container).or_default()
            }
            _ => continue,
        };
        match name.split_once('_').map_or("", |(_, rest)| rest) {
            "cpu_usage_seconds_total" => {
                point.cpu_seconds = value;
                point.taken_millis = time.unwrap_or(now_millis);
            }
            "memory_working_set_bytes" => point.memory_bytes = value,
            "start_time_seconds" => point.started = value,
            _ => {}
        }
    }
    look
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// `name{a="b",c="d"} value [milliseconds]`; label values here hold no quotes.
fn sample(line: &str) -> Option<(&str, Labels<'_>, f64, Option<i64>)> {
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = rest.split_once('}')?;
            (name, labels, rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, "", rest)
        }
    };
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    let labels = pairs.map(|(name, value)| (name, value.trim_matches('"'))).collect();
    let mut words = rest.split_whitespace();
    let value = words.next()?.parse().ok()?;
    Some((name, labels, value, words.next().and_then(|word| word.parse().ok())))
}

/// What was used between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub taken_millis: i64,
    pub window_seconds: f64,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

impl Usage {
    pub fn value(&self) -> Value {
        json!({"cpu": self.cpu_text(), "memory": self.memory_text()})
    }

    /// As metrics-server: `1234n`, zero plainly.
    pub fn cpu_text(&self) -> String {
        if self.cpu_nanocores == 0 { "0".into() } else { format!("{}n", self.cpu_nanocores) }
    }

    pub fn memory_text(&self) -> String {
        format!("{}Ki", self.memory_bytes / 1024)
    }

    pub fn taken_text(&self) -> String {
        Timestamp::from_second(self.taken_millis / 1000).unwrap_or_default().to_string()
    }

    /// As Go prints durations below and above a minute.
    pub fn window_text(&self) -> String {
        let millis = (self.window_seconds * 1e3).round() as u64;
        let (minutes, seconds) = (millis / 60_000, (millis % 60_000) as f64 / 1e3);
        if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
    }
}

/// The sum of a NodeMetrics' or PodMetrics' usage.
pub fn containers_total(object: &Value) -> Usage {
    let each = object["containers"].as_array().into_iter().flatten().chain([object]).map(|part| &part["usage"]);
    let mut total = Usage::default();
    for usage in each {
        let parsed = |name: &str| Quantity::parse(usage[name].as_str().unwrap_or_default()).ok();
        total.cpu_nanocores += parsed("cpu").map_or(0, |quantity| (quantity.as_f64() * 1e9).round() as u64);
        total.memory_bytes += parsed("memory").map_or(0, |quantity| quantity.as_f64() as u64);
    }
    total
}

/// `old` is what the counter was before, if it is the same counter.
pub fn rate(old: Option<&Point>, new: &Point) -> Option<Usage> {
    let usage = |seconds: f64, cpu: f64| {
        (seconds > 0.0).then(|| Usage {
            taken_millis: new.taken_millis,
            window_seconds: seconds,
            cpu_nanocores: (cpu.max(0.0) / seconds * 1e9) as u64,
            memory_bytes: new.memory_bytes as u64,
        })
    };
    match old.filter(|old| old.cpu_seconds <= new.cpu_seconds && old.started == new.started) {
        Some(old) => usage((new.taken_millis - old.taken_millis) as f64 / 1e3, new.cpu_seconds - old.cpu_seconds),
        // Started since the last look: since its start, then.
        None if new.started > 0.0 => {
            let age = new.taken_millis as f64 / 1e3 - new.started;
            usage(age, new.cpu_seconds).filter(|_| age >= FRESH_SECONDS)
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE container_cpu_usage_seconds_total counter\n\
        container_cpu_usage_seconds_total{container=\"main\",namespace=\"a\",pod=\"web\"} 1.5 10000\n\
        container_memory_working_set_bytes{container=\"main\",namespace=\"a\",pod=\"web\"} 2.048e+06 10000\n\
        container_start_time_seconds{container=\"main\",namespace=\"a\",pod=\"web\"} 4\n\
        node_cpu_usage_seconds_total 100.25 10000\n\
        node_memory_working_set_bytes 4096 10000\n\
        scrape_error 0\n";

    #[test]
    fn counters_become_rates() {
        let look = parse(TEXT, 0);
        assert_eq!((look.node.cpu_seconds, look.node.memory_bytes), (100.25, 4096.0));
        let new = &look.pods[&("a".to_owned(), "web".to_owned())]["main"];
        assert_eq!(*new, Point { taken_millis: 10_000, cpu_seconds: 1.5, memory_bytes: 2_048_000.0, started: 4.0 });

        let at = |taken_millis: i64, cpu_seconds: f64, started: f64| Point { taken_millis, cpu_seconds, started, ..*new };
        //                         before                     rate and window
        let check = |old: Option<Point>, expected: &str| {
            let text = rate(old.as_ref(), new).map(|usage| format!("{} {}", usage.cpu_text(), usage.window_text()));
            assert_eq!(text.as_deref().unwrap_or("none"), expected);
        };
        check(Some(at(8_000, 0.5, 4.0)), "500000000n 2s");
        check(None, "250000000n 6s"); // Since its start.
        check(Some(at(8_000, 9.5, 4.0)), "250000000n 6s"); // The counter began anew.
        check(Some(at(8_000, 0.5, 1.0)), "250000000n 6s"); // Another container of that name.
        assert_eq!(rate(None, &look.node), None);
        assert_eq!(Usage { window_seconds: 75.5, ..Usage::default() }.window_text(), "1m15.5s");
    }
}
