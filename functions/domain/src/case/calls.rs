//! Turns a case's repairs, the one that goes on and those that are over, into the calls that CloudTrail has yet to tell of.
//!
//! A call outlives its repair: CloudTrail tells of it minutes later, when the node may have recovered or left. A call
//! is known by its time, to the millisecond, as it is stored; no two of one case have the same.

use jiff::Timestamp;

use super::Case;
use crate::{
    condition::RepairAction,
    policy::Policy,
    repair::{Call, CallResult, Phase},
};

/// How many calls of earlier repairs are kept. Those that have their verdict go first.
const MAX_PAST_CALLS: usize = 32;

impl Case {
    /// Every call that is known, in order.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.past_calls.iter().chain(self.repair.iter().flat_map(|repair| &repair.calls))
    }

    /// One call, by its time.
    pub fn call(&self, at: Timestamp) -> Option<&Call> {
        self.calls().find(|call| call.at.as_millisecond() == at.as_millisecond())
    }

    pub(super) fn call_mut(&mut self, at: Timestamp) -> Option<&mut Call> {
        let present = self.repair.iter_mut().flat_map(|repair| &mut repair.calls);
        self.past_calls.iter_mut().chain(present).find(|call| call.at.as_millisecond() == at.as_millisecond())
    }

    /// When the lease of the claim or of the call in flight ends.
    pub fn lease_end(&self) -> Option<Timestamp> {
        match self.repair.as_ref()?.phase {
            Phase::Claimed { until } | Phase::Acting { until } => Some(until),
            Phase::Confirming | Phase::Rebooting => None,
        }
    }

    /// The call without an answer, if there is one.
    pub fn pending_call(&self) -> Option<&Call> {
        self.calls().find(|call| call.result == CallResult::Pending)
    }

    /// The first call of which CloudTrail should have told by now.
    pub fn overdue_confirmation(&self, policy: &Policy, now: Timestamp) -> Option<&Call> {
        self.calls().find(|call| call.confirmation_due(policy).is_some_and(|due| due <= now))
    }

    /// When CloudTrail should have told of the next call.
    pub(super) fn next_confirmation_due(&self, policy: &Policy) -> Option<Timestamp> {
        self.calls().filter_map(|call| call.confirmation_due(policy)).min()
    }

    /// Ends the repair that goes on. Its calls are kept: CloudTrail's word on them may be on its way.
    pub(super) fn end_repair(&mut self) {
        let Some(repair) = self.repair.take() else { return };
        self.past_calls.extend(repair.calls);
        while self.past_calls.len() > MAX_PAST_CALLS {
            let settled = self.past_calls.iter().position(|call| !call.awaits_confirmation());
            self.past_calls.remove(settled.unwrap_or(0));
        }
    }

    /// If a trouble is what the reboot of an earlier repair did not cure, when the time of that reboot is up. Such a repair
    /// ended all the same: the node was well by all that was known, and word of the boot that came of it, or of what is
    /// bad in it, arrived after that.
    pub(super) fn outlived_reboot(&self, since: Timestamp, policy: &Policy) -> Option<Timestamp> {
        let boot = self.boot.as_ref()?;
        let after = |at: Timestamp, length| at.checked_add(length).ok();
        // A boot that was well for as long as a recovery must hold was a cure, and what breaks in it is another trouble.
        after(boot.first_seen, policy.recovery_hold).filter(|cured| since < *cured)?;
        let reboots = self.past_calls.iter().rev();
        let mut reboots = reboots.filter(|call| call.action == RepairAction::Reboot && call.is_effective());
        // Whoever boots it long after is somebody else.
        let late = policy.reboot_timeout.saturating_add(policy.recovery_hold);
        let reboot = reboots.find(|call| {
            boot.first_seen > call.at && after(call.at, late).is_some_and(|latest| since < latest)
        })?;
        after(reboot.at, policy.reboot_timeout)
    }

    /// The name of the repair that made a call, whichever goes on now.
    pub fn id_of(&self, call: &Call) -> String {
        format!("{}#{}", self.instance_id, call.repair.max(1))
    }
}
