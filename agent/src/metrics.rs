//! The agent's metrics, in the OpenMetrics text format, which Prometheus scrapes.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge},
    registry::Registry,
};

/// The media type of the page.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Gauge = gauge::Gauge<u64, AtomicU64>;

macro_rules! metrics {
    ($($field:ident: $kind:ident, $name:literal, $help:literal;)*) => {
        /// All metrics of the agent.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(pub $field: $kind,)*
        }

        impl Metrics {
            /// The page that Prometheus scrapes. The names of counters get the suffix `_total`.
            pub fn page(&self) -> String {
                let mut registry = Registry::with_prefix("nodemend_agent");
                $(registry.register($name, $help, self.$field.clone());)*
                let mut page = String::with_capacity(2_048);
                // Writing to a string never fails.
                let _ = encode(&mut page, &registry);
                page
            }
        }
    };
}

metrics! {
    lines: Counter, "lines", "Log lines read from all sources";
    lost: Counter, "lines_lost", "Log lines that were overwritten or rotated away before they were read";
    unreadable: Counter, "lines_unreadable", "Log records that could not be read";
    changes: Counter, "changes", "Findings raised or cleared by detectors and probes";
    readings: Counter, "probe_readings", "Readings of probes";
    not_checkable: Counter, "probe_not_checkable", "Readings of probes that were not checkable";
    reports: Counter, "reports", "Reports written to the spool";
    delivered: Counter, "reports_delivered", "Reports that the sink accepted";
    rejected: Counter, "reports_rejected", "Reports that the sink rejected permanently";
    dropped: Counter, "reports_dropped", "Reports dropped because the spool was full";
    failures: Counter, "delivery_failures", "Deliveries that failed and are retried";
    spooled: Gauge, "spool_reports", "Reports that wait for the sink";
    unhealthy: Gauge, "conditions_unhealthy", "Conditions that are unhealthy";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_every_metric_with_its_type() {
        let metrics = Metrics::default();
        metrics.lines.inc_by(2);
        metrics.lines.inc();
        metrics.spooled.set(7);
        let page = metrics.page();
        assert!(
            page.contains("# TYPE nodemend_agent_lines counter\nnodemend_agent_lines_total 3\n"),
            "{page}"
        );
        assert!(
            page.contains("# TYPE nodemend_agent_spool_reports gauge\nnodemend_agent_spool_reports 7\n"),
            "{page}"
        );
        let values: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(values.len(), 13, "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
