//! Turns the state of the services that a node needs into those that do not run.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::not_checkable;
use crate::{
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::systemd::{self, Unit},
};

const KUBELET_FAILED: &str = "KubeletFailed";
const NPA_NOT_RUNNING: &str = "NPANotRunning";
const KUBELET: &str = "kubelet.service";
const NETWORK_POLICY_AGENT: &str = "aws-network-policy-agent.service";

const INTERVAL: Duration = Duration::from_secs(30);
/// It is set up late on a new node, and restarted by updates.
const A_QUARTER_HOUR: Debounce = Debounce::Lasting(SignedDuration::from_mins(15));

pub(super) struct Services {
    root: PathBuf,
    standing: Standing,
}

impl Services {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), standing: Standing::default() }
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let units = systemd::units(&self.root, &[KUBELET, NETWORK_POLICY_AGENT])
            .map_err(|error| not_checkable(error.to_string()))?;
        let judged: Vec<Judged> = units.iter().filter_map(judge).collect();
        if judged.is_empty() {
            return Err(not_checkable("none of the services that are looked after is installed"));
        }
        Ok(self.standing.update(judged, now))
    }
}

/// None if there is nothing to say of a unit: it is not installed, or nobody wants it to run.
fn judge(unit: &Unit) -> Option<Judged> {
    match unit.name.as_str() {
        KUBELET if unit.is_loaded() => {
            Some(Judged::when(KUBELET_FAILED, unit.is_failed().then(|| unit.to_string())))
        }
        NETWORK_POLICY_AGENT if unit.is_wanted() => {
            let wrong = (!unit.is_active()).then(|| unit.to_string());
            Some(Judged::when(NPA_NOT_RUNNING, wrong).after(A_QUARTER_HOUR))
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
    fn a_service_is_judged_by_its_state_where_it_is_installed() {
        for (name, load, active, wrong) in [
            (KUBELET, "loaded", "active", Some(false)),
            (KUBELET, "loaded", "failed", Some(true)),
            // Between two starts; that it restarts again and again is another reason's business.
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
            let judged = judge(&unit(name, load, active));
            assert_eq!(judged.as_ref().map(Judged::is_wrong), wrong, "{name} {load} {active}");
        }
        let idle = Unit {
            active_enter: None,
            file_state: "disabled".to_owned(),
            ..unit(NETWORK_POLICY_AGENT, "loaded", "inactive")
        };
        assert_eq!(judge(&idle), None, "installed with the image, and not used");
    }

    fn told(units: Vec<Unit>) -> Vec<String> {
        let root = tempfile::tempdir().expect("a folder");
        fake::start(root.path(), units);
        let changes = Services::new(root.path()).read(Timestamp::UNIX_EPOCH).expect("a reading");
        let one = |change: Change| match change {
            Change::Raised(finding) => {
                format!("+{} {:?}: {}", finding.reason, finding.debounce, finding.message)
            }
            Change::Cleared { reason, .. } => format!("-{reason}"),
        };
        changes.into_iter().map(one).collect()
    }

    #[test]
    fn what_fails_is_raised_and_what_runs_is_cleared() {
        assert_eq!(told(vec![fake::running(KUBELET)]), ["-KubeletFailed"]);
        let failed = Unit { sub_state: "failed".to_owned(), ..unit(KUBELET, "loaded", "failed") };
        assert_eq!(
            told(vec![failed, fake::running(NETWORK_POLICY_AGENT)]),
            ["-NPANotRunning", "+KubeletFailed Once: kubelet.service is failed (failed)"]
        );
        let stopped =
            Unit { sub_state: "dead".to_owned(), ..unit(NETWORK_POLICY_AGENT, "loaded", "inactive") };
        assert_eq!(
            told(vec![fake::running(KUBELET), stopped]),
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
        let root = tempfile::tempdir().expect("a folder");
        let mut probe = Services::new(root.path());
        let none = probe.read(Timestamp::UNIX_EPOCH).expect_err("no systemd");
        assert!(none.why.starts_with("systemd can't be asked: "), "{none}");
        fake::start(root.path(), vec![fake::running("sshd.service")]);
        let none = probe.read(Timestamp::UNIX_EPOCH).expect_err("no service");
        assert!(none.why.starts_with("none of the services"), "{none}");
    }
}
