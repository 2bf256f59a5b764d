//! Figures of flow control, under the original's names.

use std::fmt::{Result, Write};
use std::sync::atomic::Ordering;

use super::{FlowControl, REASONS, WAIT_BUCKETS};

impl FlowControl {
    pub fn print(&self, out: &mut String) -> Result {
        let compiled = self.current();
        let by_level = self.figures();
        head(out, "apiserver_flowcontrol_nominal_limit_seats", "gauge", "[BETA] Nominal number of execution seats configured for each priority level")?;
        for level in &by_level {
            writeln!(out, "apiserver_flowcontrol_nominal_limit_seats{{priority_level={:?}}} {}", level.level, level.nominal)?;
        }
        head(out, "apiserver_flowcontrol_lower_limit_seats", "gauge", "[ALPHA] Configured lower bound on number of execution seats available to each priority level")?;
        for level in &by_level {
            writeln!(out, "apiserver_flowcontrol_lower_limit_seats{{priority_level={:?}}} {}", level.level, level.least)?;
        }
        head(out, "apiserver_flowcontrol_upper_limit_seats", "gauge", "[ALPHA] Configured upper bound on number of execution seats available to each priority level")?;
        for level in &by_level {
            writeln!(out, "apiserver_flowcontrol_upper_limit_seats{{priority_level={:?}}} {}", level.level, level.most)?;
        }
        head(out, "apiserver_flowcontrol_current_executing_requests", "gauge", "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem")?;
        for level in &by_level {
            writeln!(out, "apiserver_flowcontrol_current_executing_requests{{priority_level={:?}}} {}", level.level, level.executing)?;
        }
        head(out, "apiserver_flowcontrol_current_executing_seats", "gauge", "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem")?;
        for level in &by_level {
            writeln!(out, "apiserver_flowcontrol_current_executing_seats{{priority_level={:?}}} {}", level.level, level.executing_seats)?;
        }
        head(out, "apiserver_flowcontrol_current_inqueue_requests", "gauge", "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem")?;
        for level in &by_level {
            writeln!(out, "apiserver_flowcontrol_current_inqueue_requests{{priority_level={:?}}} {}", level.level, level.waiting)?;
        }
        head(out, "apiserver_flowcontrol_dispatched_requests_total", "counter", "[BETA] Number of requests executed by API Priority and Fairness subsystem")?;
        for schema in &compiled.schemas {
            let count = schema.counts.dispatched.load(Ordering::Relaxed);
            if count > 0 {
                writeln!(out, "apiserver_flowcontrol_dispatched_requests_total{{flow_schema={:?},priority_level={:?}}} {count}", schema.name, schema.level_name)?;
            }
        }
        head(out, "apiserver_flowcontrol_rejected_requests_total", "counter", "[BETA] Number of requests rejected by API Priority and Fairness subsystem")?;
        for schema in &compiled.schemas {
            for (reason, count) in REASONS.iter().zip(&schema.counts.refused) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    writeln!(out, "apiserver_flowcontrol_rejected_requests_total{{flow_schema={:?},priority_level={:?},reason=\"{reason}\"}} {count}", schema.name, schema.level_name)?;
                }
            }
        }
        head(out, "apiserver_flowcontrol_request_wait_duration_seconds", "histogram", "[BETA] Length of time a request spent waiting in its queue")?;
        for schema in compiled.schemas.iter().filter(|schema| !schema.exempt) {
            let labels = format!("execute=\"true\",flow_schema={:?},priority_level={:?}", schema.name, schema.level_name);
            let mut sum = 0;
            let counts: Vec<u64> = schema.counts.waits.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            let total: u64 = counts.iter().sum();
            if total == 0 {
                continue;
            }
            for (bound, count) in WAIT_BUCKETS.iter().zip(&counts) {
                sum += count;
                writeln!(out, "apiserver_flowcontrol_request_wait_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {sum}")?;
            }
            writeln!(out, "apiserver_flowcontrol_request_wait_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {total}")?;
            let seconds = schema.counts.waited_micros.load(Ordering::Relaxed) as f64 / 1e6;
            writeln!(out, "apiserver_flowcontrol_request_wait_duration_seconds_sum{{{labels}}} {seconds}")?;
            writeln!(out, "apiserver_flowcontrol_request_wait_duration_seconds_count{{{labels}}} {total}")?;
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> Result {
    writeln!(out, "# HELP {name} {help}")?;
    writeln!(out, "# TYPE {name} {kind}")
}
