//! Finds required services that do not run.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::not_checkable;
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::systemd::{self, Unit},
};

const KUBELET_FAILED: &str = "KubeletFailed";
const NPA_NOT_RUNNING: &str = "NPANotRunning";
const KUBELET: &str = "kubelet.service";
const NETWORK_POLICY_AGENT: &str = "aws-network-policy-agent.service";

const INTERVAL: Duration = Duration::from_secs(30);
/// On a new node it starts late, and updates restart it.
const A_QUARTER_HOUR: Debounce = Debounce::Lasting(SignedDuration::from_mins(15));

pub(super) struct Services {
    root: PathBuf,
    latch: ConditionLatch,
}

impl Services {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), latch: ConditionLatch::default() }
    }
}

impl Probe for Services {
    fn name(&self) -> &'static str {
        "services"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[KUBELET_FAILED, NPA_NOT_RUNNING]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let units = systemd::units(&self.root, &[KUBELET, NETWORK_POLICY_AGENT])
            .map_err(|error| not_checkable(error.to_string()))?;
        let evaluated: Vec<Evaluation> = units.iter().filter_map(evaluate).collect();
        if evaluated.is_empty() {
            return Err(not_checkable("none of the monitored services is installed"));
        }
        Ok(self.latch.update(evaluated, now))
    }
}

/// Evaluates a unit. `None` if it is not installed or not enabled.
fn evaluate(unit: &Unit) -> Option<Evaluation> {
    match unit.name.as_str() {
        KUBELET if unit.is_loaded() => {
            Some(Evaluation::new(KUBELET_FAILED, unit.is_failed().then(|| unit.to_string())))
        }
        NETWORK_POLICY_AGENT if unit.is_expected() => {
            let problem = (!unit.is_active()).then(|| unit.to_string());
            Some(Evaluation::new(NPA_NOT_RUNNING, problem).after(A_QUARTER_HOUR))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::systemd::fake;

    fn unit(name: &str, load: &str, active: &str) -> Unit {
        Unit { load_state: load.to_owned(), active_state: active.to_owned(), ..fake::running(name) }
    }

    #[test]
    fn an_installed_service_is_evaluated_by_its_state() {
        for (name, load, active, problem) in [
            (KUBELET, "loaded", "active", Some(false)),
            (KUBELET, "loaded", "failed", Some(true)),
            // Between two starts. Repeated restarts have another reason.
            (KUBELET, "loaded", "activating", Some(false)),
            (KUBELET, "loaded", "inactive", Some(false)),
            (KUBELET, "not-found", "inactive", None),
            (NETWORK_POLICY_AGENT, "loaded", "active", Some(false)),
            (NETWORK_POLICY_AGENT, "loaded", "reloading", Some(false)),
            (NETWORK_POLICY_AGENT, "loaded", "inactive", Some(true)),
            (NETWORK_POLICY_AGENT, "loaded", "failed", Some(true)),
            (NETWORK_POLICY_AGENT, "loaded", "activating", Some(true)),
            (NETWORK_POLICY_AGENT, "masked", "inactive", None),
            (NETWORK_POLICY_AGENT, "not-found", "inactive", None),
        ] {
            let evaluated = evaluate(&unit(name, load, active));
            assert_eq!(evaluated.as_ref().map(Evaluation::is_unhealthy), problem, "{name} {load} {active}");
        }
        let idle = Unit {
            active_enter: None,
            file_state: "disabled".to_owned(),
            ..unit(NETWORK_POLICY_AGENT, "loaded", "inactive")
        };
        assert_eq!(evaluate(&idle), None, "installed with the image, and not used");
    }

    fn reported(units: Vec<Unit>) -> Vec<String> {
        let root = tempfile::tempdir().expect("a directory");
        fake::start(root.path(), units);
        let changes = Services::new(root.path()).read(Timestamp::UNIX_EPOCH).expect("a reading");
        let one = |change: FindingChange| match change {
            FindingChange::Raised(finding) => {
                format!("+{} {:?}: {}", finding.reason, finding.debounce, finding.message)
            }
            FindingChange::Cleared { reason, .. } => format!("-{reason}"),
        };
        changes.into_iter().map(one).collect()
    }

    #[test]
    fn failed_services_are_raised_and_running_ones_cleared() {
        assert_eq!(reported(vec![fake::running(KUBELET)]), ["-KubeletFailed"]);
        let failed = Unit { sub_state: "failed".to_owned(), ..unit(KUBELET, "loaded", "failed") };
        assert_eq!(
            reported(vec![failed, fake::running(NETWORK_POLICY_AGENT)]),
            ["-NPANotRunning", "+KubeletFailed Once: kubelet.service is failed (failed)"]
        );
        let stopped =
            Unit { sub_state: "dead".to_owned(), ..unit(NETWORK_POLICY_AGENT, "loaded", "inactive") };
        assert_eq!(
            reported(vec![fake::running(KUBELET), stopped]),
            [
                "-KubeletFailed".to_owned(),
                format!(
                    "+NPANotRunning {A_QUARTER_HOUR:?}: aws-network-policy-agent.service is inactive (dead)"
                ),
            ]
        );
    }

    #[test]
    fn a_node_with_none_of_them_or_without_systemd_has_nothing_to_check() {
        let root = tempfile::tempdir().expect("a directory");
        let mut probe = Services::new(root.path());
        let none = probe.read(Timestamp::UNIX_EPOCH).expect_err("no systemd");
        assert!(none.why.starts_with("failed to query systemd: "), "{none}");
        fake::start(root.path(), vec![fake::running("sshd.service")]);
        let none = probe.read(Timestamp::UNIX_EPOCH).expect_err("no service");
        assert!(none.why.starts_with("none of the monitored services"), "{none}");
    }
}
