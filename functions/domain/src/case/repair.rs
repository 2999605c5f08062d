//! One repair of a node: its phase, the calls it made, and whether CloudTrail confirmed each of them.
//!
//! Its fields change only in [`transition`](super::transition) and [`confirmation`](super::confirmation).

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    case::Fault,
    condition::RepairAction,
    ident::{GroupName, InstanceId},
    policy::Policy,
    timestamp,
    verification::{VALID_FOR, Verification},
};

/// How long a claim belongs to one process after its last write. Then another process may take the repair over.
/// Longer than any call to AWS can last, so that no two calls are in flight at once.
pub const LEASE: SignedDuration = SignedDuration::from_secs(120);

/// How long a new node may at least take to become Ready, from its registration.
pub const READY_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);

/// After so many denied reboots the node is replaced instead. With the pauses between them, 35 minutes after the first.
const MAX_DENIED_REBOOTS: usize = 3;

/// How many calls of one repair are kept: DynamoDB's limit for an item is 400 KB.
const MAX_CALLS: usize = 64;

/// A repair, from its claim to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    pub(super) action: RepairAction,
    pub(super) group: GroupName,
    pub(super) fault: Fault,
    #[serde(with = "timestamp")]
    pub(super) claimed_at: Timestamp,
    pub(super) phase: Phase,
    /// What showed, right before the claim, that the fault was still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) verification: Option<Verification>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) calls: Vec<Call>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) stashed_events: Vec<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replacement: Option<Replacement>,
}

/// The phase of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// It holds a slot of its group. The process that claimed it takes the next step; after `until`, any process does.
    Claimed {
        /// End of the lease, or of the pause after AWS refused a call.
        #[serde(with = "timestamp")]
        until: Timestamp,
    },
    /// A call is in flight. If the lease ends first, it is unknown whether the call took effect.
    Acting {
        /// End of the lease.
        #[serde(with = "timestamp")]
        until: Timestamp,
    },
    /// AWS is terminating the instance; its replacement and CloudTrail's event are awaited.
    Confirming,
    /// The instance is rebooting.
    Rebooting,
}

/// One call to AWS. It is identified by its time, to the millisecond: no two calls of a case share one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    #[serde(default)]
    pub(super) repair: u32,
    pub(super) action: RepairAction,
    #[serde(with = "timestamp")]
    pub(super) at: Timestamp,
    pub(super) result: CallResult,
    /// AWS refused it for good: an operator must change something before it can succeed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) denied: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) confirmation: Option<Confirmation>,
}

/// The result of a call, as far as its caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallResult {
    /// It is in flight.
    Pending,
    /// AWS accepted it.
    Accepted,
    /// AWS refused it.
    Refused,
    /// No answer came: the call may have taken effect.
    Unanswered,
}

/// How CloudTrail's event compares with our record of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Confirmation {
    /// The same as our record, in every shared field.
    Confirmed,
    /// At least one shared field differs.
    Mismatch,
    /// No event within the policy's `confirmationTimeout`.
    Missing,
}

/// The instance that replaced a terminated one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// The new instance.
    pub instance_id: InstanceId,
    /// Its node's name, or its id while it has none.
    pub label: String,
    /// When its node registered.
    #[serde(with = "timestamp")]
    pub registered: Timestamp,
    /// When its node became Ready.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
}

impl Repair {
    pub(super) fn new(action: RepairAction, group: GroupName, fault: Fault, claimed_at: Timestamp) -> Self {
        Self {
            action,
            group,
            fault,
            claimed_at,
            phase: Phase::Claimed { until: claimed_at },
            verification: None,
            calls: Vec::new(),
            stashed_events: Vec::new(),
            replacement: None,
        }
    }

    /// Replace or Reboot.
    pub fn action(&self) -> RepairAction {
        self.action
    }

    /// The group whose slot it holds.
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// The fault that it repairs.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// What showed, right before the claim, that the fault was still there.
    pub fn verification(&self) -> Option<&Verification> {
        self.verification.as_ref()
    }

    /// Whether its verification is too old for a call: it is verified again first.
    pub fn must_be_verified_again(&self, now: Timestamp) -> bool {
        self.verification.as_ref().is_some_and(|verification| now.duration_since(verification.at) > VALID_FOR)
    }

    /// When it was claimed.
    pub fn claimed_at(&self) -> Timestamp {
        self.claimed_at
    }

    /// Its phase: what happens next.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its calls, oldest first.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// CloudTrail's events that arrived before the call's answer was recorded, as JSON.
    pub fn stashed_events(&self) -> &[serde_json::Value] {
        &self.stashed_events
    }

    /// The instance that replaced this one, once it registered.
    pub fn replacement(&self) -> Option<&Replacement> {
        self.replacement.as_ref()
    }

    /// The latest call.
    pub fn last_call(&self) -> Option<&Call> {
        self.calls.last()
    }

    /// When the last call that took effect, or may have, was made.
    pub fn effective_at(&self) -> Option<Timestamp> {
        self.calls.iter().rev().find(|call| call.is_effective()).map(|call| call.at)
    }

    /// How many calls in a row AWS has refused since it accepted one.
    pub fn refusals(&self) -> u32 {
        let refused = self.calls.iter().rev().take_while(|call| call.result == CallResult::Refused);
        u32::try_from(refused.count()).unwrap_or(u32::MAX)
    }

    /// Whether no call awaits its confirmation.
    pub fn is_confirmed(&self) -> bool {
        !self.calls.iter().any(Call::awaits_confirmation)
    }

    /// Whether its latest call has no answer yet.
    pub fn has_pending_call(&self) -> bool {
        self.last_call().is_some_and(|call| call.result == CallResult::Pending)
    }

    /// Whether it replaces a node that its own reboot did not cure. A reboot that AWS refused does not count.
    pub fn has_escalated(&self) -> bool {
        self.action == RepairAction::Replace
            && self.calls.iter().any(|call| call.action == RepairAction::Reboot && call.is_effective())
    }

    /// Whether AWS has denied its reboots so often that no other is tried. None of them took effect.
    pub fn is_denied_a_reboot(&self) -> bool {
        let mut reboots = self.calls.iter().filter(|call| call.action == RepairAction::Reboot);
        let denied = reboots.clone().filter(|call| call.denied).count();
        denied >= MAX_DENIED_REBOOTS && !reboots.any(Call::is_effective)
    }

    /// Whether it replaces a node that a reboot did not cure: its own reboot, or that of an earlier repair.
    pub fn follows_reboot(&self) -> bool {
        self.has_escalated() || self.fault.rebooted
    }

    /// Adds a call that is about to be made. AWS may refuse for days: beyond the limit, the oldest refused call
    /// that CloudTrail has confirmed is dropped. Its record stays in the audit log.
    pub(super) fn push_call(&mut self, call: Call) {
        if self.calls.len() >= MAX_CALLS {
            let old = |call: &Call| call.result == CallResult::Refused && !call.awaits_confirmation();
            if let Some(position) = self.calls.iter().position(old) {
                self.calls.remove(position);
            }
        }
        self.calls.push(call);
    }

    /// When this repair must be evaluated next, by itself. The confirmations that it waits for are not part of this: their
    /// due time is the case's. What it awaits of a replacement depends on the case, too.
    pub(super) fn next_evaluation(&self, now: Timestamp, late: Option<Timestamp>) -> Option<Timestamp> {
        match &self.phase {
            Phase::Claimed { until } | Phase::Acting { until } => Some(*until),
            Phase::Confirming => match &self.replacement {
                Some(replacement) if replacement.ready.is_some() => self.is_confirmed().then_some(now),
                _ => late,
            },
            // When it is known to have failed depends on the boots of the case.
            Phase::Rebooting => None,
        }
    }
}

impl Call {
    /// The number of the repair that made it, from 1 within its case.
    pub fn repair(&self) -> u32 {
        self.repair
    }

    /// Replace or Reboot.
    pub fn action(&self) -> RepairAction {
        self.action
    }

    /// When it was made. This identifies it within the case.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Its result, as far as its caller knows.
    pub fn result(&self) -> CallResult {
        self.result
    }

    /// AWS's request id, if the answer had one.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The sequence number of its audit record, once it has one.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// How CloudTrail's event compares with its record; none while that is awaited.
    pub fn confirmation(&self) -> Option<Confirmation> {
        self.confirmation
    }

    /// Whether it took effect, or may have.
    pub fn is_effective(&self) -> bool {
        matches!(self.result, CallResult::Accepted | CallResult::Unanswered)
    }

    /// Whether CloudTrail's event is still awaited.
    pub fn awaits_confirmation(&self) -> bool {
        self.confirmation.is_none() && self.result != CallResult::Pending
    }

    /// When CloudTrail's event is overdue, while it is awaited.
    pub fn confirmation_due(&self, policy: &Policy) -> Option<Timestamp> {
        if self.awaits_confirmation() { self.at.checked_add(policy.confirmation_timeout).ok() } else { None }
    }
}
