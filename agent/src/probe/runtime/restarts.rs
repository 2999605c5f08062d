//! Finds services that restart repeatedly, from systemd's restart counters.
//!
//! A counter may be old, so only its growth between two readings counts.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::catalogue;

use super::not_checkable;
use crate::{
    finding::{Clears, Debounce, DetectedFinding, FindingChange},
    probe::{NotCheckable, Probe},
    source::systemd,
};

const NPA_RESTARTS: &str = "NPARepeatedlyRestart";
const NETWORK_POLICY_AGENT: &str = "aws-network-policy-agent.service";

const INTERVAL: Duration = Duration::from_secs(60);
/// Up to this many restarts are not reported.
const FEW: u32 = 3;
const FIVE_IN_FIVE_MINUTES: Debounce = Debounce::Times { count: 5, window: SignedDuration::from_mins(5) };
const FIVE: u32 = 5;
const QUIET: SignedDuration = SignedDuration::from_mins(15);
const NPA_QUIET: SignedDuration = SignedDuration::from_mins(10);
/// The maximum length of a reason in a report.
const MAX_NAME: usize = 100;
/// The maximum number of services in one reading: if more restart, they have a common cause.
const MAX_FINDINGS: usize = 16;

pub(super) struct Restarts {
    root: PathBuf,
    /// The counters at the last reading.
    known: Option<HashMap<String, u32>>,
}

impl Restarts {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), known: None }
    }
}

impl Probe for Restarts {
    fn name(&self) -> &'static str {
        "service-restarts"
    }

    fn reasons(&self) -> &'static [&'static str] {
        // One reason of a family that has a member for every service.
        &["KubeletRepeatedRestart", NPA_RESTARTS]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let counts = systemd::restarts(&self.root).map_err(|error| not_checkable(error.to_string()))?;
        if counts.is_empty() {
            return Err(not_checkable("systemd has no restart counters"));
        }
        let counts: HashMap<String, u32> = counts.into_iter().collect();
        let findings = self.known.as_ref().map(|known| evaluate(known, &counts, now)).unwrap_or_default();
        self.known = Some(counts);
        Ok(findings.into_iter().map(FindingChange::Raised).collect())
    }
}

fn evaluate(
    known: &HashMap<String, u32>,
    counts: &HashMap<String, u32>,
    now: Timestamp,
) -> Vec<DetectedFinding> {
    let mut grown: Vec<(&str, u32, u32)> = counts
        .iter()
        .filter_map(|(name, count)| {
            // A counter that decreased was reset by a manual start. A service that is new in the list may have
            // restarted before, unread.
            let before = known.get(name)?;
            let more = if count < before { *count } else { count - before };
            (more > 0).then_some((name.as_str(), *count, more))
        })
        .collect();
    grown.sort_unstable_by_key(|(name, count, _)| (std::cmp::Reverse(*count), *name));
    let mut findings = Vec::new();
    for (name, count, more) in grown {
        let message =
            || format!("systemd restarted {name} {count} times, {more} of them since the last reading");
        if name == NETWORK_POLICY_AGENT {
            // Each restart counts separately; more than five change nothing.
            for _ in 0..more.min(FIVE) {
                findings.extend(finding(
                    Cow::Borrowed(NPA_RESTARTS),
                    name,
                    message(),
                    FIVE_IN_FIVE_MINUTES,
                    NPA_QUIET,
                    now,
                ));
            }
        } else if count > FEW && findings.len() < MAX_FINDINGS {
            findings.extend(
                reason(name).and_then(|reason| {
                    finding(Cow::Owned(reason), name, message(), Debounce::Once, QUIET, now)
                }),
            );
        }
    }
    findings
}

fn finding(
    reason: Cow<'static, str>,
    name: &str,
    message: String,
    debounce: Debounce,
    quiet: SignedDuration,
    at: Timestamp,
) -> Option<DetectedFinding> {
    let found = catalogue::lookup(&reason)?;
    Some(DetectedFinding {
        reason,
        condition: found.condition,
        severity: found.severity,
        subject: Some(name.to_owned()),
        message,
        at,
        debounce,
        clears: Clears::Quiet(quiet),
    })
}

/// The reason for a service: `AmazonSsmAgentRepeatedRestart` for `amazon-ssm-agent.service`.
fn reason(name: &str) -> Option<String> {
    let unit = name.strip_suffix(".service")?;
    let mut reason = String::new();
    for word in unit.split(|c: char| !c.is_ascii_alphanumeric()) {
        let mut letters = word.chars();
        reason.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        reason.push_str(letters.as_str());
    }
    reason.truncate(MAX_NAME);
    (!reason.is_empty()).then(|| format!("{reason}RepeatedRestart"))
}

#[cfg(test)]
mod tests {
    use nodemend_domain::condition::{ConditionType, Severity};

    use super::*;
    use crate::source::systemd::{Unit, fake};

    #[test]
    fn a_reason_is_named_after_its_service() {
        for (name, expected) in [
            ("kubelet.service", Some("KubeletRepeatedRestart")),
            ("amazon-ssm-agent.service", Some("AmazonSsmAgentRepeatedRestart")),
            ("getty@tty1.service", Some("GettyTty1RepeatedRestart")),
            ("systemd-fsck@dev-disk-by\\x2duuid.service", Some("SystemdFsckDevDiskByX2duuidRepeatedRestart")),
            ("-.service", None),
            ("kubelet.socket", None),
        ] {
            let reason = reason(name);
            assert_eq!(reason.as_deref(), expected);
            assert!(reason.is_none_or(|reason| catalogue::lookup(&reason).is_some()), "{name}");
        }
        let long = reason(&format!("{}.service", "a".repeat(250))).expect("a reason");
        assert!(long.len() <= 128 && catalogue::lookup(&long).is_some());
    }

    fn raised(before: &[(&str, u32)], after: &[(&str, u32)]) -> Vec<String> {
        let map = |counts: &[(&str, u32)]| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let findings = evaluate(&map(before), &map(after), Timestamp::UNIX_EPOCH);
        findings.into_iter().map(|finding| finding.reason.into_owned()).collect()
    }

    #[test]
    fn more_than_three_restarts_count_while_they_grow() {
        let kubelet = "kubelet.service";
        for (before, after, is_raised) in [
            (2, 3, false),
            (3, 4, true),
            (0, 4, true),
            (4, 4, false),
            (900, 900, false),
            (900, 901, true),
            // Started manually in between.
            (900, 0, false),
            (900, 2, false),
            (900, 5, true),
            (u32::MAX, 0, false),
        ] {
            let expected: &[&str] = if is_raised { &["KubeletRepeatedRestart"] } else { &[] };
            assert_eq!(raised(&[(kubelet, before)], &[(kubelet, after)]), expected, "{before} {after}");
        }
        assert!(raised(&[], &[(kubelet, 900)]).is_empty(), "seen for the first time");
        assert!(raised(&[(kubelet, 900)], &[]).is_empty(), "gone");
    }

    #[test]
    fn each_restart_of_the_network_policy_agent_is_seen() {
        let agent = NETWORK_POLICY_AGENT;
        assert!(raised(&[(agent, 7)], &[(agent, 7)]).is_empty());
        assert_eq!(raised(&[(agent, 0)], &[(agent, 2)]), [NPA_RESTARTS; 2]);
        assert_eq!(raised(&[(agent, 0)], &[(agent, 70)]), [NPA_RESTARTS; 5]);
    }

    #[test]
    fn a_node_on_which_everything_restarts_reports_some() {
        let names: Vec<String> = (0..300).map(|index| format!("s{index}.service")).collect();
        let counts = |count| names.iter().map(|name| (name.as_str(), count)).collect::<Vec<_>>();
        assert_eq!(raised(&counts(4), &counts(5)).len(), MAX_FINDINGS);
    }

    #[test]
    fn the_first_reading_only_takes_note() {
        let root = tempfile::tempdir().expect("a directory");
        let mut probe = Restarts::new(root.path());
        probe.read(Timestamp::UNIX_EPOCH).expect_err("no systemd");
        let flapping = Unit { n_restarts: Some(9), ..fake::running("flap.service") };
        fake::start(root.path(), vec![fake::running("sshd.service"), flapping]);
        assert_eq!(probe.read(Timestamp::UNIX_EPOCH), Ok(Vec::new()));
        probe.known.as_mut().expect("counts").insert("flap.service".to_owned(), 8);
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        let [FindingChange::Raised(finding)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(finding.reason, "FlapRepeatedRestart");
        assert_eq!(finding.subject.as_deref(), Some("flap.service"));
        assert_eq!(finding.condition, ConditionType::ContainerRuntimeReady);
        assert_eq!(finding.severity, Severity::Event);
        assert_eq!(finding.clears, Clears::Quiet(QUIET));
        assert_eq!(
            finding.message,
            "systemd restarted flap.service 9 times, 1 of them since the last reading"
        );
    }
}
