//! A case that was closed although its instance lives: it opens again at the instance's next report.
//!
//! Departures are reported by others, who can be wrong, and an instance can come back from a warm pool. What arrives of a
//! closed case is kept, and AWS is asked where the instance is before the case opens.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Case, CaseEvent, Effects, IllegalTransition, TransitionContext};
use crate::{
    observation::{Observation, StatusWriter, What},
    repair_event::{RepairEvent, Step},
    timestamp,
};

/// After an answer of AWS that the instance is gone, no other is requested for this long: an instance that is shut down
/// can report for a while.
const CHECK_AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// The end of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// When it was closed.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// The outcome, as one clause.
    pub outcome: String,
    /// When a report arrived after it, until AWS has answered where the instance is.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    reported: Option<Timestamp>,
    /// When AWS last answered that the instance is gone.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    checked: Option<Timestamp>,
}

impl Closed {
    /// The end of a case, then.
    pub fn new(at: Timestamp, outcome: String) -> Self {
        Self { at, outcome, reported: None, checked: None }
    }
}

impl Case {
    /// Notes that the instance has reported, which it cannot do once it is gone.
    pub(super) fn note_sign_of_life(&mut self, arrived: Timestamp) {
        if let Some(closed) = &mut self.closed
            && arrived > closed.at
            && closed.checked.is_none_or(|checked| arrived.duration_since(checked) >= CHECK_AGAIN)
        {
            closed.reported.get_or_insert(arrived);
        }
    }

    /// Whether an observation is one that a closed case ignores: it was made before the end, or is about an end itself.
    pub(super) fn is_about_the_end(&self, observation: &Observation) -> bool {
        let Some(closed) = &self.closed else { return false };
        observation.at <= closed.at || matches!(observation.what, What::Deleted { .. })
    }

    /// Notes an observation that only a running kubelet can cause.
    pub(super) fn note_kubelet_alive(&mut self, observation: &Observation, arrived: Timestamp) {
        let by_its_kubelet = matches!(
            observation.what,
            What::Registered { .. } | What::Conditions { by: StatusWriter::Kubelet, .. }
        );
        if by_its_kubelet && observation.instance_id.as_ref() == Some(&self.instance_id) {
            self.note_sign_of_life(arrived);
        }
    }

    /// When a report arrived after the case was closed, until AWS has answered where the instance is.
    pub fn reported_after_its_end(&self) -> Option<Timestamp> {
        self.closed.as_ref()?.reported
    }

    /// Opens the case again: AWS has the instance.
    pub fn reopen(&mut self, ctx: &TransitionContext<'_>) -> Result<Effects, IllegalTransition> {
        if self.reported_after_its_end().is_none() {
            return Err(self.refused("reopen"));
        }
        let Some(closed) = self.closed.take() else { return Err(self.refused("reopen")) };
        self.end_repair();
        self.silent_since = None;
        let detail = format!(
            "its instance is still there: the case is open again, which ended at {} ({})",
            timestamp::seconds(closed.at),
            closed.outcome
        );
        let mut effects = Effects::of(RepairEvent::new(self, Step::Event, detail, ctx.now));
        if self.unrecorded_node_deletion().is_some() {
            effects.append(self.record_node_deletion(ctx)?);
        }
        self.departure = None;
        let faults = self.faults(&ctx.policy.default_rules(), ctx.policy, ctx.now);
        for fault in faults.iter().filter(|fault| fault.is_bad() && fault.reason != "NodeDeleted") {
            let unhealthy = CaseEvent::Unhealthy(fault.condition.clone());
            effects.events.extend(RepairEvent::of_change(self, unhealthy, ctx.policy, ctx.now));
        }
        Ok(effects)
    }

    /// Leaves the case closed: AWS does not have the instance.
    pub fn stay_closed(&mut self, ctx: &TransitionContext<'_>) -> Result<Effects, IllegalTransition> {
        match &mut self.closed {
            Some(closed) if closed.reported.is_some() => {
                (closed.reported, closed.checked) = (None, Some(ctx.now));
                Ok(Effects::default())
            }
            _ => Err(self.refused("leave closed")),
        }
    }
}
