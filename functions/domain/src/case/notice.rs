//! What EC2 and AWS Health announce about an instance: Spot interruptions, rebalance recommendations, retirements,
//! maintenance and failed status checks.
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

/// EC2's system status check fails.
pub const SYSTEM_IMPAIRED: &str = "SystemStatusImpaired";
/// EC2's instance status check fails.
pub const INSTANCE_IMPAIRED: &str = "InstanceStatusImpaired";
/// EC2's attached EBS status check fails.
pub const ATTACHED_EBS_IMPAIRED: &str = "AttachedEbsStatusImpaired";

const REASONS: [&str; 7] = [
    SPOT_INTERRUPTION,
    REBALANCE_RECOMMENDATION,
    INSTANCE_RETIREMENT,
    INSTANCE_MAINTENANCE,
    SYSTEM_IMPAIRED,
    INSTANCE_IMPAIRED,
    ATTACHED_EBS_IMPAIRED,
];

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

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::{
        audit_log::Caller,
        condition::RepairAction,
        ident::{ClusterName, InstanceId},
        policy::{Policy, Promotion},
    };

    #[test]
    fn a_notice_is_a_condition_only_if_a_policy_promotes_it() {
        let at = |minute: i64| Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time");
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/repair".to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let mut policy = Policy::eks_defaults();
        let notice = Notice {
            reason: INSTANCE_RETIREMENT,
            at: at(0),
            effective: at(10_000),
            message: "AWS Health: EC2 retires the instance".to_owned(),
        };
        let ctx = TransitionContext { policy: &policy, caller: &caller, now: at(1) };
        assert_eq!(case.record_notice(&notice, &ctx).events.len(), 1);
        assert_eq!(case.record_notice(&notice, &ctx).events.len(), 0, "a repeated notice");
        assert_eq!(case.faults(&policy.default_rules(), &policy, at(2)), []);
        policy.promotions.push(Promotion {
            reason: INSTANCE_RETIREMENT.to_owned(),
            count: 1,
            window: SignedDuration::from_hours(24),
            repair_action: RepairAction::Replace,
        });
        let faults = case.faults(&policy.default_rules(), &policy, at(2));
        let found: Vec<_> = faults.iter().map(|fault| (fault.reason.as_str(), fault.action)).collect();
        assert_eq!(found, [(INSTANCE_RETIREMENT, RepairAction::Replace)]);
        assert!(
            faults[0].deadline.is_some_and(|deadline| deadline >= at(30)),
            "its condition's grace period"
        );
    }
}
