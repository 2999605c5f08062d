//! The format of an audit record: one step of a repair, in CloudTrail's envelope.
//!
//! The same record always has the same bytes, because its hash is in the next record. Only [`Record::call`] builds
//! records of AWS calls; all others have `eventSource` `nodemend`.

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

/// The case of a record: its decision, guards and evidence, and the end of its chain.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// The case's id.
    pub case: String,
    /// The end of the chain, which this record follows.
    pub chain: Chain,
    /// What was decided.
    pub decision: Value,
    /// Every guard that was evaluated, passed or not.
    pub guards: Vec<GuardNote>,
    /// What it was decided from.
    pub evidence: Value,
}

/// A guard's answer, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardNote {
    /// The guard's name.
    pub guard: String,
    /// Whether it passed.
    pub passed: bool,
    /// Why it blocks, as one clause; empty if it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// A step of a repair. Only `Called` is an AWS call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordStep {
    /// AWS was called. [`Record::call`] builds this.
    Called,
    /// A repair run claimed the case and a slot in its group.
    Claimed,
    /// The claim was released: the repair is no longer needed.
    Released,
    /// Observe mode: the call that would have been made.
    Observed,
    /// CloudTrail's event matches our record.
    Confirmed,
    /// CloudTrail's event differs from our record.
    Mismatch,
    /// CloudTrail delivered no event of the call in time.
    Missing,
    /// Another principal terminated the instance.
    Foreign,
    /// The repair ended.
    Closed,
}

impl RecordStep {
    /// `eventName` of a step that is not an AWS call.
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

/// One record of the audit log. The fields have the order of CloudTrail's events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The version of CloudTrail's format that this follows.
    pub event_version: String,
    /// The principal that took the step: ours.
    pub user_identity: Identity,
    /// When we sent the call or took the step, to the second. In CloudTrail's event: when AWS handled the call.
    #[serde(with = "time::seconds")]
    pub event_time: Timestamp,
    /// The called service, or `nodemend` for a step that is not an AWS call.
    pub event_source: String,
    /// The API's name, or `Repair…`.
    pub event_name: String,
    /// The AWS Region of the call.
    pub aws_region: String,
    /// The `User-Agent` that the SDK sends, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Only if AWS refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Only if AWS refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The parameters of the call. Kept for a failed call too, although CloudTrail has null for most denied and
    /// throttled calls.
    pub request_parameters: RequestParameters,
    /// AWS's answer, or the step's data.
    pub response_elements: Option<ResponseElements>,
    /// AWS's request id, by which CloudTrail's event is matched. None for a step, or without an answer.
    #[serde(rename = "requestID", default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Our own, not CloudTrail's. The same step of the same case has the same id, so that a record written twice shows.
    #[serde(rename = "eventID")]
    pub event_id: String,
    /// Always false.
    pub read_only: bool,
    /// `AwsApiCall` or `NodemendStep`.
    pub event_type: String,
    /// Always true.
    pub management_event: bool,
    /// The caller's account.
    pub recipient_account_id: String,
    /// `Management`.
    pub event_category: String,
    /// What CloudTrail's event does not have.
    pub nodemend: Nodemend,
}

/// `userIdentity` of our own principal. Without `sessionContext`, which GetCallerIdentity does not return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// `AssumedRole` or `IAMUser`, from the ARN; none for an ARN of another form.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `AROA…:<session>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// The caller's ARN.
    pub arn: String,
    /// The caller's account id.
    pub account_id: String,
}

/// `requestParameters` of each kind of record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum RequestParameters {
    /// Those of `TerminateInstanceInAutoScalingGroup`.
    Terminate {
        /// The instance to replace.
        instance_id: InstanceId,
        /// Always false.
        should_decrement_desired_capacity: bool,
    },
    /// Those of `RebootInstances`.
    Reboot {
        /// The instances to reboot: always one.
        instances_set: Items,
    },
    /// Those of a step that is not an AWS call.
    RecordStep {
        /// The instance that the step is about.
        instance_id: InstanceId,
    },
}

impl RequestParameters {
    /// The instance of the record.
    pub fn instance_id(&self) -> Option<&InstanceId> {
        match self {
            Self::Terminate { instance_id, .. } | Self::RecordStep { instance_id } => Some(instance_id),
            Self::Reboot { instances_set } => instances_set.items.first().map(|item| &item.instance_id),
        }
    }
}

/// A list in CloudTrail's format for EC2: `{"items": […]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Items {
    /// The members of the list.
    pub items: Vec<Item>,
}

/// A member of such a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// The instance's id.
    pub instance_id: InstanceId,
}

/// `responseElements` of each kind of record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ResponseElements {
    /// The answer of Auto Scaling.
    Activity(ActivityElement),
    /// The answer of EC2.
    Done(DoneElement),
    /// A step's data.
    RecordStep(Value),
}

/// `{"activity": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivityElement {
    /// The scaling activity that the call started.
    pub activity: Activity,
}

/// `{"requestId": "…", "_return": true}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DoneElement {
    /// EC2 repeats the request id here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Always true.
    #[serde(rename = "_return")]
    pub done: bool,
}

/// The block with what CloudTrail's event does not have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nodemend {
    /// The case's id.
    pub case: String,
    /// The sequence number in the chain, from 1.
    pub sequence: u64,
    /// The step of the repair.
    pub step: RecordStep,
    /// `eventTime` to the millisecond.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// Why no answer came. Not in `errorCode`, which would mean that AWS refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// What was decided.
    pub decision: Value,
    /// Every guard that was evaluated.
    pub guards: Vec<GuardNote>,
    /// What it was decided from.
    pub evidence: Value,
    /// The SHA-256 of the line before this one, [`GENESIS`](super::GENESIS) for the first.
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

    /// The record of a step that is not an AWS call. `data` is the step's own data, or null.
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

    /// Parses a line that [`Record::to_json_line`] wrote.
    ///
    /// # Errors
    ///
    /// If the line is too long, or not a record.
    pub fn read(line: &str) -> Result<Self, AuditLogError> {
        Ok(serde_json::from_str(bounded(line, MAX_RECORD_BYTES)?)?)
    }

    /// The record as one line of JSON, without a line break. The same record always has the same bytes.
    pub fn to_json_line(&self) -> String {
        // Every field is a string, a number, a bool, a list of these or a Value: none can fail to serialize.
        serde_json::to_string(self).expect("a record is always JSON")
    }

    /// Whether no answer to the call came. Then its answer is not compared with CloudTrail's.
    pub fn is_unanswered(&self) -> bool {
        self.nodemend.lost.is_some()
    }
}

/// A UUID (version 8: custom) that depends only on the case and the sequence number.
fn event_id(case: &str, sequence: u64) -> String {
    let mut hash = Sha256::new();
    // The prefix is part of the ids in stored records.
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
