//! What is known of a cluster's sources: how new the newest line of each is, and how far they have been reconciled.
//!
//! - Reconciling writes it every few minutes, and nothing else does. A repair that rests on a source that is behind is
//!   blocked by the guard `SourceBehind`.
//! - A check that is itself old shows nothing: reconciling may have stopped, and verification reads the sources anyway.
//! - What verification need not read again is an [`AppliedLog`].

mod applied_log;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::applied_log::AppliedLog;
use crate::{case::Source, ident::InstanceId, timestamp, verification::VerifiedBy};

/// How long a check counts: three runs of reconciling.
pub const CHECK_VALID_FOR: SignedDuration = SignedDuration::from_mins(15);

/// A source with a line of this age is not behind, however short the settling time is.
pub const CURRENT: SignedDuration = SignedDuration::from_mins(2);

/// The sources of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSources {
    /// Whether the deployment reads the control plane's audit log (parameter ControlPlaneLogs).
    #[serde(default)]
    pub reads_audit_log: bool,
    /// The audit log in its log group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_log: Option<Freshness>,
    /// The agents' log group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Freshness>,
    /// The last list of Nodes that the Kubernetes API returned.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub listed_at: Option<Timestamp>,
    /// The audit log has been read again, and applied, up to then.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub log_read_to: Option<Timestamp>,
    /// Where a reading goes on that reached the limits of one run.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub log_continues_at: Option<Timestamp>,
    /// The part of the audit log that verification need not read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_applied: Option<AppliedLog>,
    /// The instances that had a Node in the last list: one that no later list has was deleted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub nodes: BTreeSet<InstanceId>,
}

/// How new the newest line of a source was when it was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    /// When its newest known line was written; none if none was found.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub newest: Option<Timestamp>,
    /// When it was looked for.
    #[serde(with = "timestamp")]
    pub checked_at: Timestamp,
}

impl Freshness {
    /// The age of the newest line when it was looked for.
    pub fn age(&self) -> Option<SignedDuration> {
        Some(self.checked_at.duration_since(self.newest?))
    }
}

impl ClusterSources {
    /// What is known of the source that a fault rests on. A list of Nodes is as good as the audit log.
    pub fn of(&self, source: Source) -> Option<Freshness> {
        match source {
            Source::Agent => self.agents,
            // A registration that did not arrive is missing in the control plane's source.
            Source::ControlPlane | Source::Inference => {
                let listed = self.listed_at.map(|at| Freshness { newest: Some(at), checked_at: at });
                listed.into_iter().chain(self.audit_log).max_by_key(|known| (known.newest, known.checked_at))
            }
            // It rests on no log.
            Source::Operator => None,
        }
    }

    /// The age of the newest line of a source that is behind by more than the settling time.
    pub fn behind(&self, source: Source, settling: SignedDuration, now: Timestamp) -> Option<Freshness> {
        let known = self.of(source)?;
        let is_current = now.duration_since(known.checked_at) <= CHECK_VALID_FOR;
        (is_current && known.age()? > settling.max(CURRENT)).then_some(known)
    }

    /// Where a fault that the control plane reports can be verified, by the last checks; none if neither the Kubernetes API
    /// nor the audit log could be read lately.
    pub fn verified_by(&self, now: Timestamp) -> Option<VerifiedBy> {
        let is_current = |at: Timestamp| now.duration_since(at) <= CHECK_VALID_FOR;
        if self.listed_at.is_some_and(is_current) {
            return Some(VerifiedBy::KubernetesApi);
        }
        let log = self.audit_log.filter(|log| log.newest.is_some() && is_current(log.checked_at));
        log.filter(|_| self.reads_audit_log).map(|_| VerifiedBy::ControlPlaneLog)
    }

    /// When a source was last read.
    pub fn last_checked(&self) -> Option<Timestamp> {
        let logs = [self.audit_log, self.agents].into_iter().flatten().map(|log| log.checked_at);
        logs.chain(self.listed_at).max()
    }

    /// Whether a list of Nodes stands in for the audit log. Then nobody knows who deleted a Node, flaps that are shorter
    /// than the interval of reconciling are not seen, and no boot ID is attested between two lists.
    pub fn is_without_audit_log(&self) -> bool {
        !self.reads_audit_log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLING: SignedDuration = SignedDuration::from_mins(10);

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minutes * 60).expect("a time")
    }

    fn checked(newest: i64, checked_at: i64) -> Option<Freshness> {
        Some(Freshness { newest: Some(at(newest)), checked_at: at(checked_at) })
    }

    #[test]
    fn a_source_is_behind_when_its_newest_line_was_older_than_the_settling_time() {
        for (newest, is_behind) in [(10, false), (9, true)] {
            let sources = ClusterSources { audit_log: checked(newest, 20), ..ClusterSources::default() };
            for source in [Source::ControlPlane, Source::Inference] {
                assert_eq!(sources.behind(source, SETTLING, at(21)).is_some(), is_behind);
            }
            assert_eq!(sources.behind(Source::Agent, SETTLING, at(21)), None, "never checked");
        }
    }

    #[test]
    fn an_old_check_shows_nothing() {
        let sources = ClusterSources { agents: checked(0, 20), ..ClusterSources::default() };
        assert!(sources.behind(Source::Agent, SETTLING, at(35)).is_some());
        assert_eq!(sources.behind(Source::Agent, SETTLING, at(36)), None);
    }

    #[test]
    fn a_source_without_any_line_shows_nothing() {
        let agents = Some(Freshness { newest: None, checked_at: at(20) });
        let sources = ClusterSources { agents, ..ClusterSources::default() };
        assert_eq!(sources.behind(Source::Agent, SETTLING, at(20)), None);
    }

    #[test]
    fn a_fault_is_verified_in_the_source_that_could_be_read_lately() {
        let none =
            ClusterSources { reads_audit_log: true, agents: checked(19, 20), ..ClusterSources::default() };
        let logged = ClusterSources { audit_log: checked(19, 20), ..none.clone() };
        let listed = ClusterSources { listed_at: Some(at(20)), ..logged.clone() };
        let not_read = ClusterSources { reads_audit_log: false, ..logged.clone() };
        let never_written = Some(Freshness { newest: None, checked_at: at(20) });
        let never_written = ClusterSources { audit_log: never_written, ..none.clone() };
        for (sources, expected) in [
            (&listed, Some(VerifiedBy::KubernetesApi)),
            (&logged, Some(VerifiedBy::ControlPlaneLog)),
            (&none, None),
            (&not_read, None),
            (&never_written, None),
        ] {
            assert_eq!(sources.verified_by(at(35)), expected, "{sources:?}");
            assert_eq!(sources.verified_by(at(36)), None, "the check is old");
            assert_eq!(sources.last_checked(), Some(at(20)));
        }
    }

    #[test]
    fn a_list_of_nodes_is_as_good_as_the_audit_log() {
        let sources = ClusterSources {
            audit_log: checked(0, 20),
            listed_at: Some(at(20)),
            ..ClusterSources::default()
        };
        assert_eq!(sources.behind(Source::ControlPlane, SETTLING, at(20)), None);
    }
}
