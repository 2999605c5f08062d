//! One repair: how far it is, which calls it made, and what CloudTrail says of each.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    case::Fault,
    condition::RepairAction,
    ident::{GroupName, InstanceId},
    policy::Policy,
    stamp,
};

/// How long a function may take from one write to the next before another may take the repair up.
/// Longer than any call of ours may last, so that no two are on their way at once.
pub const LEASE: SignedDuration = SignedDuration::from_secs(120);

/// How long a registered replacement is given to become ready before the case closes on its registration.
pub const READY_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);

/// How many calls one repair remembers.
const MAX_CALLS: usize = 64;

/// A repair from its claim to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// What is done.
    pub action: RepairAction,
    /// To an instance of which group.
    pub group: GroupName,
    /// Why.
    pub fault: Fault,
    /// When it was claimed.
    #[serde(with = "stamp")]
    pub claimed_at: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// Every call, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// What CloudTrail told before the call's own answer was known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sightings: Vec<serde_json::Value>,
    /// What came in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
}

/// How far a repair is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// It has its place in the group. The next step is taken by whoever holds the lease, or after `until`
    /// by anybody.
    Claimed {
        /// End of the lease, or of a pause after a refusal.
        #[serde(with = "stamp")]
        until: Timestamp,
    },
    /// A call is being made. After the lease nobody knows whether it took effect.
    Acting {
        /// End of the lease.
        #[serde(with = "stamp")]
        until: Timestamp,
    },
    /// The instance is being terminated; its replacement and CloudTrail's word are awaited.
    Confirming,
    /// The instance is rebooting.
    Rebooting,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Which of the case's repairs made it.
    #[serde(default)]
    pub repair: u32,
    /// What was called for.
    pub action: RepairAction,
    /// When.
    #[serde(with = "stamp")]
    pub at: Timestamp,
    /// What came of it.
    pub result: CallResult,
    /// The request's id, where an answer gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Its record in the trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// What CloudTrail says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<CallVerdict>,
}

/// What came of a call, as far as its caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallResult {
    /// It is on its way.
    Pending,
    /// AWS took it.
    Accepted,
    /// AWS refused it.
    Refused,
    /// No answer came.
    Lost,
}

/// What CloudTrail says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallVerdict {
    /// The same in every shared field.
    Confirmed,
    /// Something differs.
    Mismatch,
    /// Nothing, for too long.
    Missing,
}

/// What came in an instance's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// The new instance.
    pub instance_id: InstanceId,
    /// Its node's name.
    pub label: String,
    /// When it registered.
    #[serde(with = "stamp")]
    pub registered: Timestamp,
    /// When it was ready.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
}

impl Repair {
    /// The last call.
    pub fn last_call(&self) -> Option<&Call> {
        self.calls.last()
    }

    /// When the last call that took effect, or may have, was made.
    pub fn effective_at(&self) -> Option<Timestamp> {
        self.calls.iter().rev().find(|call| call.is_effective()).map(|call| call.at)
    }

    /// How many calls have been refused since one was accepted.
    pub fn refusals(&self) -> u32 {
        let refused = self.calls.iter().rev().take_while(|call| call.result == CallResult::Refused);
        u32::try_from(refused.count()).unwrap_or(u32::MAX)
    }

    /// Whether every call has its verdict.
    pub fn is_confirmed(&self) -> bool {
        !self.calls.iter().any(Call::awaits_verdict)
    }

    /// Whether it replaces what its reboot did not cure. One that AWS refused was none.
    pub fn has_escalated(&self) -> bool {
        self.action == RepairAction::Replace
            && self.calls.iter().any(|call| call.action == RepairAction::Reboot && call.is_effective())
    }

    /// Whether it replaces what a reboot did not cure: its own, or that of a repair before it.
    pub fn follows_reboot(&self) -> bool {
        self.has_escalated() || self.fault.rebooted
    }

    /// Notes a call that is about to be made. AWS may refuse for days, and an item has its limit: of long series, the
    /// oldest refusals are forgotten once CloudTrail has told of them. Their records stay.
    pub fn begin_call(&mut self, call: Call) {
        if self.calls.len() >= MAX_CALLS {
            let old = |call: &Call| call.result == CallResult::Refused && !call.awaits_verdict();
            if let Some(place) = self.calls.iter().position(old) {
                self.calls.remove(place);
            }
        }
        self.calls.push(call);
    }

    /// When this repair needs somebody next; what stands in the way of its next call does so until `blocked`.
    /// When CloudTrail should have told of its calls, the case knows.
    pub fn next_look(
        &self,
        policy: &Policy,
        blocked: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let after_call = |length: SignedDuration| self.effective_at()?.checked_add(length).ok();
        match &self.phase {
            Phase::Claimed { until } | Phase::Acting { until } => Some(*until),
            Phase::Confirming => match &self.replacement {
                Some(replacement) if replacement.ready.is_some() && self.is_confirmed() => Some(now),
                Some(replacement) => {
                    let given_up = replacement.registered.checked_add(READY_TIMEOUT).ok();
                    if self.is_confirmed() { given_up } else { None }
                }
                None => after_call(policy.replacement_timeout),
            },
            Phase::Rebooting => {
                after_call(policy.reboot_timeout).map(|late| blocked.map_or(late, |at| at.max(late)))
            }
        }
    }
}

impl Call {
    /// Whether it took effect, or may have.
    pub fn is_effective(&self) -> bool {
        matches!(self.result, CallResult::Accepted | CallResult::Lost)
    }

    /// Whether CloudTrail has yet to tell of it.
    pub fn awaits_verdict(&self) -> bool {
        self.verdict.is_none() && self.result != CallResult::Pending
    }

    /// When CloudTrail should have told of it, if it has not.
    pub fn verdict_due(&self, policy: &Policy) -> Option<Timestamp> {
        if self.awaits_verdict() { self.at.checked_add(policy.confirmation_timeout).ok() } else { None }
    }
}
