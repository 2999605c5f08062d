//! What EC2 and AWS Health announce about an instance: Spot interruptions, rebalance recommendations, retirements and
//! maintenance.
//!
//! They are events of the node: counted, published, and without an action unless a policy promotes them. Only AWS
//! announces them: an agent's report of one of these reasons is ignored.

use jiff::Timestamp;

use super::{Case, Effects, EventCounter, MAX_COUNTERS, TransitionContext};
use crate::{
    condition::ConditionType,
    repair_event::{RepairEvent, Step},
};

/// EC2 interrupts a Spot Instance in two minutes.
pub const SPOT_INTERRUPTION: &str = "SpotInterruption";
/// A Spot Instance is at a higher risk of an interruption.
pub const REBALANCE_RECOMMENDATION: &str = "RebalanceRecommendation";
/// EC2 will stop or terminate the instance, because its host is failing.
pub const INSTANCE_RETIREMENT: &str = "InstanceRetirement";
/// EC2 will reboot the instance, or interrupt its network or power.
pub const INSTANCE_MAINTENANCE: &str = "InstanceMaintenance";

const REASONS: [&str; 4] =
    [SPOT_INTERRUPTION, REBALANCE_RECOMMENDATION, INSTANCE_RETIREMENT, INSTANCE_MAINTENANCE];

/// Whether only AWS announces this reason.
pub(super) fn is_announced(reason: &str) -> bool {
    REASONS.contains(&reason)
}

/// One announcement about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its reason in the catalogue.
    pub reason: &'static str,
    /// When AWS announced it.
    pub at: Timestamp,
    /// When it takes effect: the same notice has the same time, however often it is repeated.
    pub effective: Timestamp,
    /// What is announced, as one clause.
    pub message: String,
}

impl Case {
    /// Records a notice. No effects if it is known already, or the case is closed.
    pub fn record_notice(&mut self, notice: &Notice, ctx: &TransitionContext<'_>) -> Effects {
        if self.closed.is_some() {
            return Effects::default();
        }
        let position = self.counters.iter().position(|counter| *counter.reason == *notice.reason);
        let position = position.unwrap_or_else(|| {
            if self.counters.len() >= MAX_COUNTERS {
                self.counters.remove(0);
            }
            self.counters.push(EventCounter::new(ConditionType::Ready, notice.reason, false));
            self.counters.len() - 1
        });
        if !self.counters[position].note_notice(notice, ctx.now) {
            return Effects::default();
        }
        let event = RepairEvent::new(self, Step::Event, notice.message.clone(), ctx.now);
        Effects::of(RepairEvent {
            condition: Some(ConditionType::Ready),
            reason: Some(notice.reason.to_owned()),
            ..event
        })
    }
}
