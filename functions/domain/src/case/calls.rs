//! The calls of a case: those of its current repair, and those of ended repairs.
//!
//! A call outlives its repair: CloudTrail delivers the event minutes later, when the node may have recovered or left. A
//! call is identified by its time, to the millisecond, as it is stored. No two calls of a case share one.

use jiff::Timestamp;

use super::Case;
use crate::{
    condition::RepairAction,
    policy::Policy,
    repair::{Call, CallResult, Phase},
};

/// How many calls of ended repairs are kept. The oldest one that awaits no confirmation is dropped first.
const MAX_PAST_CALLS: usize = 32;

impl Case {
    /// Every call that is kept, oldest first.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.past_calls.iter().chain(self.repair.iter().flat_map(|repair| &repair.calls))
    }

    /// The call that was made at this time.
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

    /// The call that awaits its answer, if there is one.
    pub fn pending_call(&self) -> Option<&Call> {
        self.calls().find(|call| call.result == CallResult::Pending)
    }

    /// The first call whose CloudTrail event is overdue.
    pub fn overdue_confirmation(&self, policy: &Policy, now: Timestamp) -> Option<&Call> {
        self.calls().find(|call| call.confirmation_due(policy).is_some_and(|due| due <= now))
    }

    /// When the next CloudTrail event will be overdue.
    pub(super) fn next_confirmation_due(&self, policy: &Policy) -> Option<Timestamp> {
        self.calls().filter_map(|call| call.confirmation_due(policy)).min()
    }

    /// Ends the current repair. Its calls are kept, because CloudTrail's events of them may still arrive.
    pub(super) fn end_repair(&mut self) {
        let Some(repair) = self.repair.take() else { return };
        self.past_calls.extend(repair.calls);
        while self.past_calls.len() > MAX_PAST_CALLS {
            let settled = self.past_calls.iter().position(|call| !call.awaits_confirmation());
            self.past_calls.remove(settled.unwrap_or(0));
        }
    }

    /// If the reboot of an earlier repair did not cure a fault that began at `since`: when the timeout of that reboot
    /// ends. That repair has ended, because all reports so far showed a healthy node: the report of the new boot, or of
    /// the problem in it, arrived later.
    pub(super) fn failed_reboot_timeout(&self, since: Timestamp, policy: &Policy) -> Option<Timestamp> {
        let boot = self.boot.as_ref()?;
        let after = |at: Timestamp, duration| at.checked_add(duration).ok();
        // The reboot cured the node if the new boot was healthy for the recovery hold: a later problem is a new fault.
        after(boot.first_seen, policy.recovery_hold).filter(|cured| since < *cured)?;
        let reboots = self.past_calls.iter().rev();
        let mut reboots = reboots.filter(|call| call.action == RepairAction::Reboot && call.is_effective());
        // A boot long after the call has another cause.
        let late = policy.reboot_timeout.saturating_add(policy.recovery_hold);
        let reboot = reboots.find(|call| {
            boot.first_seen > call.at && after(call.at, late).is_some_and(|latest| since < latest)
        })?;
        after(reboot.at, policy.reboot_timeout)
    }

    /// The id of the repair that made a call, which need not be the current one.
    pub fn id_of(&self, call: &Call) -> String {
        format!("{}#{}", self.instance_id, call.repair.max(1))
    }
}
