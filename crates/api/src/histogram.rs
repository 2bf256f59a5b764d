//! A Prometheus histogram of so many bounds: what every component's metrics are made of.

use std::fmt::Write;

/// Counts by the smallest bound that holds them; what none holds is in the whole alone.
#[derive(Clone)]
pub struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    buckets: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    pub fn new(bounds: &'static [f64; N]) -> Self {
        Histogram { bounds, buckets: [0; N], count: 0, sum: 0.0 }
    }

    pub fn observe(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        if let Some(at) = self.bounds.iter().position(|bound| value <= *bound) {
            self.buckets[at] += 1;
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// `labels`: `a="b",c="d"`, or nothing.
    pub fn print(&self, out: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut sum = 0;
        for (bound, count) in self.bounds.iter().zip(self.buckets) {
            sum += count;
            writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {sum}", go_float(*bound))?;
        }
        writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", self.count)?;
        writeln!(out, "{name}_sum{{{labels}}} {}", self.sum)?;
        writeln!(out, "{name}_count{{{labels}}} {}", self.count)
    }
}

/// As Go prints it, whom labels are compared with: `1e-08`, `0.005`, `2.592e+06`.
fn go_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if exponent < -4 || exponent >= 6 => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => value.to_string(),
    }
}

/// What stands before the first sample of a name.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_written_as_by_go() {
        for (value, expected) in [
            (0.0, "0"),
            (1e-8, "1e-08"),
            (0.0001, "0.0001"),
            (0.005, "0.005"),
            (604800.0, "604800"),
            (1e6, "1e+06"),
            (31104000.0, "3.1104e+07"),
        ] {
            assert_eq!(go_float(value), expected);
        }
    }

    #[test]
    fn buckets_add_up() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(value);
        }
        let mut out = String::new();
        histogram.print(&mut out, "x", "a=\"b\"").expect("prints");
        assert_eq!(
            out,
            "x_bucket{a=\"b\",le=\"1\"} 2\nx_bucket{a=\"b\",le=\"2\"} 3\nx_bucket{a=\"b\",le=\"+Inf\"} 4\n\
             x_sum{a=\"b\"} 12\nx_count{a=\"b\"} 4\n"
        );
    }
}
