//! Turns one step of a repair into a line of the audit trail, in CloudTrail's envelope.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    Activity, ApiCall, AuditLogError, CallAnswer, CallOutcome, Caller, Chain, MAX_RECORD_BYTES, bounded,
    call::Principal, time,
};
use crate::{ident::InstanceId, timestamp};

const EVENT_VERSION: &str = "1.11";

/// Why we did it, and where in the case's chain this record stands.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// The case's id.
    pub case: String,
    /// The chain up to here; [`Chain::follow`] the written line for the next record.
    pub chain: Chain,
    /// What was decided.
    pub decision: Value,
    /// Every guard that was asked, whether or not it stood in the way.
    pub guards: Vec<GuardNote>,
    /// What it was decided from.
    pub evidence: Value,
}

/// A guard's answer, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardNote {
    /// The guard's name.
    pub guard: String,
    /// Whether it let the repair pass.
    pub passed: bool,
    /// One sentence for the reader, where it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// A step of a repair. `Called` is an AWS call; no other step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordStep {
    /// AWS was called: what [`Record::call`] writes.
    Called,
    /// The case and a place in the group's in-flight set are ours.
    Claimed,
    /// The claim was given back without a call: the node recovered, or a guard said no at the last moment.
    Released,
    /// Observe mode: this is what would have been called.
    Observed,
    /// CloudTrail holds the call as we wrote it.
    Confirmed,
    /// CloudTrail holds the call otherwise.
    Mismatch,
    /// CloudTrail did not tell of the call in time.
    Missing,
    /// Somebody else terminated the instance.
    Foreign,
    /// The case is over.
    Closed,
}

impl RecordStep {
    /// `eventName` of a step that is no AWS call.
    pub fn event_name(self) -> &'static str {
        match self {
            Self::Called => "RepairCalled",
            Self::Claimed => "RepairClaimed",
            Self::Released => "RepairReleased",
            Self::Observed => "RepairObserved",
            Self::Confirmed => "RepairConfirmed",
            Self::Mismatch => "RepairMismatch",
            Self::Missing => "RepairMissing",
            Self::Foreign => "RepairForeign",
            Self::Closed => "RepairClosed",
        }
    }
}

/// One line of the trail. The fields' order is that of CloudTrail's records, so that a line reads like one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The version of CloudTrail's format that this follows.
    pub event_version: String,
    /// Us.
    pub user_identity: Identity,
    /// When we sent the call or took the step; CloudTrail's is when AWS handled it.
    #[serde(with = "time::seconds")]
    pub event_time: Timestamp,
    /// The service called, or `nodemend`, so that nobody takes a step for an AWS call.
    pub event_source: String,
    /// The API's name, or `Repair…`.
    pub event_name: String,
    /// The region.
    pub aws_region: String,
    /// What the SDK sends, where it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Only if AWS refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Only if AWS refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// What was asked for: kept when it failed, although CloudTrail nulls it for most denied and throttled calls.
    pub request_parameters: RequestParameters,
    /// What AWS answered, or the step's data.
    pub response_elements: Option<ResponseElements>,
    /// What CloudTrail's event is found by. None for a step, or where no answer came.
    #[serde(rename = "requestID", default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Ours, not CloudTrail's: the same for the same step of the same case, so that a record written twice shows.
    #[serde(rename = "eventID")]
    pub event_id: String,
    /// Never.
    pub read_only: bool,
    /// `AwsApiCall` or `NodemendStep`.
    pub event_type: String,
    /// Always.
    pub management_event: bool,
    /// The account.
    pub recipient_account_id: String,
    /// `Management`.
    pub event_category: String,
    /// What CloudTrail cannot know.
    pub nodemend: Nodemend,
}

/// `userIdentity`, as far as we know ourselves. `sessionContext` is left out: GetCallerIdentity does not tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Read off the ARN; none if its kind is unknown.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `AROA…:<session>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// The caller's ARN.
    pub arn: String,
    /// The account.
    pub account_id: String,
}

/// `requestParameters` of each kind of record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum RequestParameters {
    /// TerminateInstanceInAutoScalingGroup's.
    Terminate {
        /// Whose replacement is asked for.
        instance_id: InstanceId,
        /// Always false.
        should_decrement_desired_capacity: bool,
    },
    /// RebootInstances'.
    Reboot {
        /// EC2's way to write a list.
        instances_set: Items,
    },
    /// A step's.
    RecordStep {
        /// The instance that the step is about.
        instance_id: InstanceId,
    },
}

impl RequestParameters {
    /// The one instance that every record is about.
    pub fn instance_id(&self) -> Option<&InstanceId> {
        match self {
            Self::Terminate { instance_id, .. } | Self::RecordStep { instance_id } => Some(instance_id),
            Self::Reboot { instances_set } => instances_set.items.first().map(|item| &item.instance_id),
        }
    }
}

/// A list as EC2 writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Items {
    /// Its members.
    pub items: Vec<Item>,
}

/// A member of such a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// The instance.
    pub instance_id: InstanceId,
}

/// `responseElements` of each kind of record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ResponseElements {
    /// Auto Scaling's.
    Activity(ActivityElement),
    /// EC2's.
    Done(DoneElement),
    /// A step's data.
    RecordStep(Value),
}

/// `{"activity": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivityElement {
    /// The activity.
    pub activity: Activity,
}

/// `{"requestId": "…", "_return": true}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DoneElement {
    /// EC2 repeats the request id here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// True.
    #[serde(rename = "_return")]
    pub done: bool,
}

/// The block that CloudTrail has nothing like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nodemend {
    /// The case's id.
    pub case: String,
    /// 1, 2, 3… within the case.
    pub sequence: u64,
    /// Which step.
    pub step: RecordStep,
    /// `eventTime` to the millisecond.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// Why no answer came. It stands here and not in `errorCode`, which would say that AWS refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// What was decided.
    pub decision: Value,
    /// Every guard that was asked.
    pub guards: Vec<GuardNote>,
    /// What it was decided from.
    pub evidence: Value,
    /// SHA-256 of the case's line before this one, [`GENESIS`](super::GENESIS) for the first.
    pub previous_sha256: String,
}

impl Record {
    /// The record of a call that was sent at `at`.
    pub fn call(caller: &Caller, call: &ApiCall, answer: CallAnswer, at: Timestamp, about: About) -> Self {
        let mut record = Self::envelope(caller, RecordStep::Called, call.request_parameters(), at, about);
        call.event_source().clone_into(&mut record.event_source);
        call.event_name().clone_into(&mut record.event_name);
        "AwsApiCall".clone_into(&mut record.event_type);
        match answer.outcome {
            CallOutcome::Accepted { activity } => {
                record.response_elements = match call {
                    ApiCall::TerminateInstanceInAutoScalingGroup { .. } => activity.map(|mut activity| {
                        activity.start_time = time::whole_second(activity.start_time);
                        ResponseElements::Activity(ActivityElement { activity })
                    }),
                    ApiCall::RebootInstances { .. } => Some(ResponseElements::Done(DoneElement {
                        request_id: answer.request_id.clone(),
                        done: true,
                    })),
                };
            }
            CallOutcome::Failed { code, message } => {
                record.error_code = Some(code);
                record.error_message = Some(message);
            }
            CallOutcome::Unanswered { why } => record.nodemend.lost = Some(why),
        }
        record.request_id = answer.request_id;
        record
    }

    /// The record of a step that is no AWS call; `data` is null or what the step has to say.
    pub fn step(
        caller: &Caller,
        step: RecordStep,
        instance_id: &InstanceId,
        data: Value,
        at: Timestamp,
        about: About,
    ) -> Self {
        let parameters = RequestParameters::RecordStep { instance_id: instance_id.clone() };
        let mut record = Self::envelope(caller, step, parameters, at, about);
        if !data.is_null() {
            record.response_elements = Some(ResponseElements::RecordStep(data));
        }
        record
    }

    fn envelope(
        caller: &Caller,
        step: RecordStep,
        request_parameters: RequestParameters,
        at: Timestamp,
        about: About,
    ) -> Self {
        let sequence = about.chain.next_sequence();
        Self {
            event_version: EVENT_VERSION.to_owned(),
            user_identity: Identity {
                kind: Principal::from_arn(&caller.arn).map(|principal| principal.kind.to_owned()),
                principal_id: caller.principal_id.clone(),
                arn: caller.arn.clone(),
                account_id: caller.account.clone(),
            },
            event_time: time::whole_second(at),
            event_source: "nodemend".to_owned(),
            event_name: step.event_name().to_owned(),
            aws_region: caller.region.clone(),
            user_agent: caller.user_agent.clone(),
            error_code: None,
            error_message: None,
            request_parameters,
            response_elements: None,
            request_id: None,
            event_id: event_id(&about.case, sequence),
            read_only: false,
            event_type: "NodemendStep".to_owned(),
            management_event: true,
            recipient_account_id: caller.account.clone(),
            event_category: "Management".to_owned(),
            nodemend: Nodemend {
                case: about.case,
                sequence,
                step,
                at: Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at),
                lost: None,
                decision: about.decision,
                guards: about.guards,
                evidence: about.evidence,
                previous_sha256: about.chain.sha256().to_owned(),
            },
        }
    }

    /// Reads a line that [`Record::to_json_line`] wrote.
    pub fn read(line: &str) -> Result<Self, AuditLogError> {
        Ok(serde_json::from_str(bounded(line, MAX_RECORD_BYTES)?)?)
    }

    /// The record as one line, without the line break: the same bytes for the same record, always.
    pub fn to_json_line(&self) -> String {
        // Every field is a string, a number, a bool, a list of such or a Value: none of them can fail.
        serde_json::to_string(self).expect("a record is always JSON")
    }

    /// Whether the call's answer never came, so that nothing of CloudTrail's answer can contradict us.
    pub fn is_lost(&self) -> bool {
        self.nodemend.lost.is_some()
    }
}

/// A UUID (version 8: of our own making) that the case and the sequence determine.
fn event_id(case: &str, sequence: u64) -> String {
    let mut hash = Sha256::new();
    hash.update(b"nodemend trail eventID\0");
    hash.update(case.as_bytes());
    hash.update([0]);
    hash.update(sequence.to_be_bytes());
    let digest = hash.finalize();
    let mut high = u128::from_be_bytes(std::array::from_fn(|index| digest[index]));
    high = high & !(0xf << 76) | 0x8 << 76;
    high = high & !(0x3 << 62) | 0x2 << 62;
    let hex = format!("{high:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_is_a_uuid_and_depends_on_case_and_sequence_alone() {
        let id = event_id("case", 1);
        assert_eq!(id, event_id("case", 1));
        assert_ne!(id, event_id("case", 2));
        assert_ne!(id, event_id("casf", 1));
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'8', "{id}");
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
    }
}
