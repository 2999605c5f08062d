//! The state of a case in one word, as `nodemend status` shows it.
//!
//! It is computed from the repair, the block and the faults of a case, and never stored.

use jiff::Timestamp;
use serde::Serialize;

use super::{Blocked, Case, Fault};
use crate::{
    guard,
    policy::{Policy, Rules},
    repair::{Phase, Repair},
};

/// The state of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseState {
    /// No condition that starts a repair is bad.
    Healthy,
    /// The agent has stopped reporting; no other source reports a problem.
    Silent,
    /// The node is healthy again, but not yet for the recovery hold.
    Recovering,
    /// A condition is bad, and its grace period runs.
    Suspect,
    /// The grace period is over.
    Due,
    /// The grace period is over, and a guard blocks the repair.
    Blocked,
    /// A repair has claimed the case, and a slot in its group.
    Claimed,
    /// The call to AWS is in progress.
    Acting,
    /// The instance was terminated; the CloudTrail event and the replacement are awaited.
    Confirming,
    /// The instance is rebooting.
    Rebooting,
    /// The instance is gone.
    Closed,
}

impl CaseState {
    /// The name in tables and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Silent => "silent",
            Self::Recovering => "recovering",
            Self::Suspect => "suspect",
            Self::Due => "due",
            Self::Blocked => "blocked",
            Self::Claimed => "claimed",
            Self::Acting => "acting",
            Self::Confirming => "confirming",
            Self::Rebooting => "rebooting",
            Self::Closed => "closed",
        }
    }

    /// Whether a node in this state is listed as unhealthy.
    pub fn is_unhealthy(self) -> bool {
        !matches!(self, Self::Healthy | Self::Closed)
    }
}

impl Blocked {
    /// Whether nobody wants this repair, whatever else blocks it.
    pub fn is_unwanted(&self) -> bool {
        guard::is_unwanted(&self.guards)
    }
}

impl Case {
    /// Its state and its faults, the earliest deadline first. Without `rules` (which need the group's tags from AWS),
    /// the rules with the earliest deadline count, as for its due time.
    pub fn state_and_faults(
        &self,
        rules: Option<&Rules<'_>>,
        policy: &Policy,
        now: Timestamp,
    ) -> (CaseState, Vec<Fault>) {
        let faults = match rules {
            Some(rules) => self.faults(rules, policy, now),
            None => self.earliest_faults(policy, now),
        };
        (self.state(&faults, now), faults)
    }

    /// Since when a due repair has waited for a call that AWS accepts: it is blocked, or it is claimed and AWS refuses
    /// the calls. None if no repair waits, or if nobody wants it.
    pub fn pending_since(&self) -> Option<Timestamp> {
        if self.closed.is_some() || self.blocked.as_ref().is_some_and(Blocked::is_unwanted) {
            return None;
        }
        let blocked = self.blocked.as_ref().map(|blocked| blocked.since);
        match self.repair.as_deref() {
            Some(Repair { phase: Phase::Claimed { .. } | Phase::Acting { .. }, claimed_at, .. }) => {
                Some(blocked.map_or(*claimed_at, |since| since.min(*claimed_at)))
            }
            Some(_) => None,
            None => blocked,
        }
    }

    fn state(&self, faults: &[Fault], now: Timestamp) -> CaseState {
        if self.closed.is_some() {
            return CaseState::Closed;
        }
        if let Some(repair) = &self.repair {
            return phase_state(&repair.phase, self.blocked.is_some());
        }
        let mut acting = faults.iter().filter(|fault| fault.deadline.is_some());
        if acting.clone().any(|fault| fault.is_due(now)) {
            return if self.blocked.is_some() { CaseState::Blocked } else { CaseState::Due };
        }
        if acting.clone().any(Fault::is_bad) {
            return CaseState::Suspect;
        }
        if acting.next().is_some() {
            return CaseState::Recovering;
        }
        if self.silent_since.is_some() { CaseState::Silent } else { CaseState::Healthy }
    }
}

/// The state of a case whose repair is in this phase.
pub(super) fn phase_state(phase: &Phase, blocked: bool) -> CaseState {
    match phase {
        Phase::Claimed { .. } if blocked => CaseState::Blocked,
        Phase::Claimed { .. } => CaseState::Claimed,
        Phase::Acting { .. } => CaseState::Acting,
        Phase::Confirming => CaseState::Confirming,
        Phase::Rebooting => CaseState::Rebooting,
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::{
        case::{Closed, Source},
        condition::{ConditionType, Health, RepairAction},
        guard::Guard,
        ident::{ClusterName, GroupName, InstanceId},
    };

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time")
    }

    fn case() -> Case {
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        Case::new(ClusterName::new("prod").expect("a name"), id)
    }

    fn blocked(guards: &[Guard]) -> Option<Blocked> {
        let guards = guards.iter().map(|guard| guard.name()).collect();
        Some(Blocked { since: at(10), guards, until: at(11), observed: false })
    }

    fn repair(phase: Phase) -> Option<Box<Repair>> {
        let fault = Fault {
            condition: ConditionType::Ready,
            reason: "KubeletNotReady".to_owned(),
            message: String::new(),
            source: Source::ControlPlane,
            health: Health::Bad,
            since: at(0),
            heals_at: None,
            action: RepairAction::Replace,
            deadline: Some(at(0) + SignedDuration::from_mins(30)),
            arrived: None,
            rebooted: false,
        };
        Some(Box::new(Repair {
            action: RepairAction::Replace,
            group: GroupName::new("workers").expect("a name"),
            fault,
            claimed_at: at(40),
            phase,
            verification: None,
            calls: Vec::new(),
            stashed_events: Vec::new(),
            replacement: None,
        }))
    }

    #[test]
    fn a_repair_is_pending_while_it_is_blocked_or_not_yet_accepted_by_aws() {
        let claimed = || repair(Phase::Claimed { until: at(41) });
        for (case, since) in [
            (case(), None),
            (Case { blocked: blocked(&[Guard::Held]), ..case() }, Some(at(10))),
            (Case { blocked: blocked(&[Guard::ParallelLimit, Guard::Unverified]), ..case() }, Some(at(10))),
            (Case { repair: claimed(), ..case() }, Some(at(40))),
            (Case { repair: repair(Phase::Acting { until: at(41) }), ..case() }, Some(at(40))),
            (Case { repair: claimed(), blocked: blocked(&[Guard::Held]), ..case() }, Some(at(10))),
            (Case { repair: repair(Phase::Confirming), ..case() }, None),
            (Case { repair: repair(Phase::Rebooting), ..case() }, None),
        ] {
            assert_eq!(case.pending_since(), since, "{:?} {:?}", case.blocked, case.repair);
        }
    }

    #[test]
    fn a_repair_that_nobody_wants_or_that_has_ended_is_not_pending() {
        for choice in
            [Guard::Disabled, Guard::EksRepairEnabled, Guard::OptedOut, Guard::NotInGroup, Guard::ObserveMode]
        {
            for guards in [&[choice][..], &[choice, Guard::Held], &[Guard::UnhealthyThreshold, choice]] {
                let unwanted = Case { blocked: blocked(guards), ..case() };
                assert_eq!(unwanted.pending_since(), None, "{guards:?}");
                let claimed = repair(Phase::Claimed { until: at(41) });
                let claimed = Case { repair: claimed, blocked: blocked(guards), ..case() };
                assert_eq!(claimed.pending_since(), None, "{guards:?}");
            }
        }
        let closed = Some(Closed::new(at(50), "gone".to_owned()));
        let ended = Case { closed, blocked: blocked(&[Guard::Held]), ..case() };
        assert_eq!(ended.pending_since(), None);
    }
}
