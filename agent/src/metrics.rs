//! What the agent counts, in Prometheus' text format.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

/// One number that others may read at any time.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Counts more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Says how much there is now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// How much there is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident: $kind:literal, $name:literal, $help:literal;)*) => {
        /// Everything that the agent counts.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $field: Number,)*
        }

        impl Metrics {
            /// The page that Prometheus reads.
            pub fn page(&self) -> String {
                let mut page = String::with_capacity(2_048);
                $(
                    // Writing to a string never fails.
                    let _ = writeln!(
                        page,
                        concat!("# HELP nodemend_agent_", $name, " ", $help, "\n# TYPE nodemend_agent_", $name, " ", $kind, "\nnodemend_agent_", $name, " {}"),
                        self.$field.get()
                    );
                )*
                page
            }
        }
    };
}

metrics! {
    /// Lines that were read.
    lines: "counter", "lines_total", "Log lines read from all sources.";
    /// Lines that were lost before anybody could read them.
    lost: "counter", "lines_lost_total", "Log lines that were overwritten or rotated away before they were read.";
    /// Lines and records that can't be read.
    unreadable: "counter", "lines_unreadable_total", "Log records that could not be read.";
    /// Changes that detectors saw.
    changes: "counter", "changes_total", "Findings raised or cleared by detectors and probes.";
    /// Readings of probes.
    readings: "counter", "probe_readings_total", "Readings of probes.";
    /// Readings that had nothing to say.
    not_checkable: "counter", "probe_not_checkable_total", "Readings of probes that had nothing to read.";
    /// Reports written to the spool.
    reports: "counter", "reports_total", "Reports written to the spool.";
    /// Reports that a sink took.
    delivered: "counter", "reports_delivered_total", "Reports that the sink has taken.";
    /// Reports that a sink will never take.
    refused: "counter", "reports_refused_total", "Reports that the sink refused for good.";
    /// Reports dropped because the spool is full.
    dropped: "counter", "reports_dropped_total", "Reports dropped because the spool was full.";
    /// Failed deliveries.
    failures: "counter", "delivery_failures_total", "Deliveries that failed and are tried again.";
    /// Reports that wait.
    spooled: "gauge", "spool_reports", "Reports that wait for the sink.";
    /// Conditions that are not True now.
    unhealthy: "gauge", "conditions_unhealthy", "Conditions that are not True.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_prometheus_text() {
        let metrics = Metrics::default();
        metrics.lines.add(2);
        metrics.lines.add(1);
        metrics.spooled.set(7);
        let page = metrics.page();
        assert!(page.contains("# TYPE nodemend_agent_lines_total counter\nnodemend_agent_lines_total 3\n"));
        assert!(page.contains("# TYPE nodemend_agent_spool_reports gauge\nnodemend_agent_spool_reports 7\n"));
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').expect("a name and a value");
            assert!(name.starts_with("nodemend_agent_") && value.parse::<u64>().is_ok(), "{line}");
        }
    }
}
