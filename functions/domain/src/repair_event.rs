//! Repair events: what happened to a case, as logs, the event bus and the timeline show it.
//!
//! All of them are built here, so that the same change reads the same everywhere. The names of the steps are stable.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    audit_log::Record,
    case::{Case, CaseEvent, Fault, Source},
    condition::{ConditionType, Health, RepairAction},
    guard,
    ident::{ClusterName, InstanceId, NodeName},
    observation::Deleter,
    policy::Policy,
    timestamp,
};

/// What happened to a case. The values are stable: programs match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Information only: it starts no repair.
    Event,
    /// A condition went bad: its grace period runs.
    Suspect,
    /// The condition is healthy again, or the repair is no longer needed.
    Recovered,
    /// The grace period is over.
    Due,
    /// A repair is due, and guards block it.
    Blocked,
    /// A repair acquired a slot of its group.
    Claimed,
    /// AWS answered the call.
    Called,
    /// CloudTrail's event matches the audit record.
    Confirmed,
    /// CloudTrail's event differs from the audit record.
    Mismatch,
    /// CloudTrail recorded no event of the call in time.
    Missing,
    /// Another principal terminated the instance.
    Foreign,
    /// A replacement registered.
    Replaced,
    /// The repair ended.
    Closed,
}

impl Step {
    /// All steps, in the order in which a repair takes them.
    pub const ALL: [Self; 13] = [
        Self::Event,
        Self::Suspect,
        Self::Recovered,
        Self::Due,
        Self::Blocked,
        Self::Claimed,
        Self::Called,
        Self::Confirmed,
        Self::Mismatch,
        Self::Missing,
        Self::Foreign,
        Self::Replaced,
        Self::Closed,
    ];

    /// The name in logs and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Suspect => "suspect",
            Self::Recovered => "recovered",
            Self::Due => "due",
            Self::Blocked => "blocked",
            Self::Claimed => "claimed",
            Self::Called => "called",
            Self::Confirmed => "confirmed",
            Self::Mismatch => "mismatch",
            Self::Missing => "missing",
            Self::Foreign => "foreign",
            Self::Replaced => "replaced",
            Self::Closed => "closed",
        }
    }
}

/// One event of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairEvent {
    /// When it happened, by our clock.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// The cluster of the node.
    pub cluster: ClusterName,
    /// The node, once it has a name.
    pub node: Option<NodeName>,
    /// The id of its EC2 instance.
    pub instance_id: InstanceId,
    /// The id of the case, by which logs are searched: `i-0123456789abcdef0#1`.
    pub case: String,
    /// The kind of event.
    pub step: Step,
    /// The condition, where it is about one.
    pub condition: Option<ConditionType>,
    /// The reason, where there is one.
    pub reason: Option<String>,
    /// The details, as one sentence.
    pub detail: String,
    /// The names of the guards that block it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<String>,
    /// The audit record of the step, as it is in the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Box<Record>>,
}

impl RepairEvent {
    /// An event of a case's current repair.
    pub fn new(case: &Case, step: Step, detail: String, now: Timestamp) -> Self {
        let fault = case.repair().map(|repair| repair.fault());
        Self {
            at: now,
            cluster: case.cluster().clone(),
            node: case.node().cloned(),
            instance_id: case.instance_id().clone(),
            case: case.id(),
            step,
            condition: fault.map(|fault| fault.condition.clone()),
            reason: fault.map(|fault| fault.reason.clone()),
            detail,
            guards: Vec::new(),
            record: None,
        }
    }

    /// The same, about a fault for which no repair is claimed yet.
    #[must_use]
    pub fn about(self, fault: &Fault) -> Self {
        Self { condition: Some(fault.condition.clone()), reason: Some(fault.reason.clone()), ..self }
    }

    /// The same, with its audit record.
    #[must_use]
    pub fn with_record(self, record: Record) -> Self {
        Self { record: Some(Box::new(record)), ..self }
    }

    /// Whether its metric counts it, and alarms see it: not if guards block a repair that nobody wants.
    pub fn is_counted(&self) -> bool {
        !(self.step == Step::Blocked && guard::is_unwanted(&self.guards))
    }

    /// The grace period of a fault is over.
    pub fn due(case: &Case, fault: &Fault, now: Timestamp) -> Self {
        if fault.source == Source::Operator {
            let detail = format!("{} is due, as requested by {}", fault.action.as_str(), fault.message);
            return Self::new(case, Step::Due, detail, now).about(fault);
        }
        let detail = format!(
            "{} is due: bad for {}{}",
            fault.action.as_str(),
            timestamp::duration(now.duration_since(fault.since)),
            fault.meaning().map(|meaning| format!("; {meaning}")).unwrap_or_default(),
        );
        Self::new(case, Step::Due, detail, now).about(fault)
    }

    /// The event of a change that a report or an observation made to a case. None if another event has the same
    /// content.
    pub fn of_change(case: &Case, change: CaseEvent, policy: &Policy, now: Timestamp) -> Option<Self> {
        let about = |step, condition, reason, detail| Self {
            condition,
            reason,
            ..Self::new(case, step, detail, now)
        };
        let plain = |detail: String| about(Step::Event, None, None, detail);
        Some(match change {
            CaseEvent::FindingReported { condition, reason, message } => {
                about(Step::Event, Some(condition), Some(reason), message)
            }
            CaseEvent::Unhealthy(condition) => Self::unhealthy(case, condition, policy, now)?,
            CaseEvent::Recovered(condition) => {
                let called = case.repair().and_then(|repair| repair.effective_at());
                match called.filter(|_| case.action() == Some(RepairAction::Replace)) {
                    Some(called) => {
                        let at = timestamp::seconds(called);
                        let detail = format!("healthy again, but it was terminated at {at}");
                        about(Step::Event, Some(condition), None, detail)
                    }
                    None => {
                        let hold = timestamp::duration(policy.recovery_hold);
                        let detail = format!("healthy again; its case ends when this has held for {hold}");
                        about(Step::Recovered, Some(condition), None, detail)
                    }
                }
            }
            CaseEvent::Registered => plain("the kubelet registered the node".to_owned()),
            CaseEvent::Created { user } => plain(format!("{user} created the Node object")),
            CaseEvent::Ready => plain("the node is Ready".to_owned()),
            CaseEvent::Rebooted => plain("the node rebooted".to_owned()),
            CaseEvent::AgentReporting => plain("the agent reports again".to_owned()),
            CaseEvent::Deleted { by, user } => plain(match by {
                Deleter::Manual => format!("{user} deleted the Node object"),
                Deleter::CloudController => {
                    "the cloud controller deleted the node: its instance is gone".to_owned()
                }
                Deleter::Karpenter => "Karpenter deleted the node".to_owned(),
                Deleter::Eks => format!("EKS ({user}) deleted the node"),
            }),
        })
    }

    fn unhealthy(case: &Case, condition: ConditionType, policy: &Policy, now: Timestamp) -> Option<Self> {
        let faults = case.faults(&policy.default_rules(), policy, now);
        let fault = faults.iter().find(|fault| fault.condition == condition && fault.is_bad())?;
        let (step, detail) = match fault.deadline {
            // The pressure conditions become Unknown together with Ready: one event is enough.
            None if fault.health == Health::Unknown => return None,
            None => (Step::Event, fault.message.clone()),
            Some(deadline) => {
                let message = fault.message.trim_end_matches('.');
                let detail = format!(
                    "{message}{}{} due {}, {} after {}",
                    if message.is_empty() { "" } else { "; " },
                    fault.action.as_str(),
                    timestamp::seconds(deadline),
                    timestamp::duration(deadline.duration_since(fault.since)),
                    timestamp::seconds(fault.since),
                );
                (Step::Suspect, detail)
            }
        };
        Some(Self {
            condition: Some(condition),
            reason: Some(fault.reason.clone()),
            ..Self::new(case, step, detail, now)
        })
    }
}
