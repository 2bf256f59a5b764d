//! How long admission takes, by plugin and as a whole, under the original's names.
//!
//! Invariant: bounded by the plugins, of which there is a fixed number.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::admission_chain::Attributes;
use api::histogram::{Histogram, head};

/// Upper bounds in seconds; the original's.
static BUCKETS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

type Times = Histogram<{ BUCKETS.len() }>;

/// Plugin (empty: all of them), `admit` or `validate`, operation, whether it refused.
type Labels = (&'static str, &'static str, &'static str, bool);

#[derive(Default)]
pub struct AdmissionTimes(Mutex<BTreeMap<Labels, Times>>);

/// One pass over the plugins.
pub struct Step<'t> {
    times: &'t AdmissionTimes,
    kind: &'static str,
    operation: &'static str,
    began: Instant,
}

impl AdmissionTimes {
    pub fn begin(&self, kind: &'static str, attributes: &Attributes<'_>) -> Step<'_> {
        Step { times: self, kind, operation: attributes.operation.name(), began: Instant::now() }
    }

    pub fn print(&self, out: &mut String) -> std::fmt::Result {
        let all = self.0.lock();
        for (name, help, whole) in [
            (
                "apiserver_admission_controller_admission_duration_seconds",
                "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                false,
            ),
            (
                "apiserver_admission_step_admission_duration_seconds",
                "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
                true,
            ),
        ] {
            head(out, name, "histogram", help)?;
            for ((plugin, kind, operation, rejected), times) in all.iter().filter(|(labels, _)| labels.0.is_empty() == whole) {
                let own = if whole { String::new() } else { format!("name=\"{plugin}\",") };
                let labels = format!("{own}operation=\"{operation}\",rejected=\"{rejected}\",type=\"{kind}\"");
                times.print(out, name, &labels)?;
            }
        }
        Ok(())
    }
}

impl Step<'_> {
    pub fn plugin(&self, name: &'static str, elapsed: Duration, rejected: bool) {
        let mut all = self.times.0.lock();
        let times = all.entry((name, self.kind, self.operation, rejected)).or_insert_with(|| Histogram::new(&BUCKETS));
        times.observe(elapsed.as_secs_f64());
    }

    pub fn end(&self, rejected: bool) {
        self.plugin("", self.began.elapsed(), rejected);
    }
}
