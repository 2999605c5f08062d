//! Turns an EventBridge event into what happened to whom.

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::CloudTrailEvent,
    ident::{AccountId, GroupName, InstanceId, Zone},
    timestamp,
};
use serde::Deserialize;
use serde_json::Value;

/// EventBridge carries nothing longer.
const MAX_BYTES: usize = 256 * 1024;

/// What an event tells.
#[derive(Debug, Clone, PartialEq)]
pub enum AutoScalingEvent {
    /// A call that CloudTrail recorded.
    ApiCall(Box<CloudTrailEvent>),
    /// Auto Scaling launched an instance.
    Launched {
        /// Into which group.
        group: GroupName,
        /// Which.
        instance_id: InstanceId,
        /// Where.
        zone: Option<Zone>,
        /// When.
        at: Timestamp,
    },
    /// Auto Scaling could not launch one.
    LaunchFailed {
        /// For which group.
        group: GroupName,
        /// When.
        at: Timestamp,
        /// Why.
        why: String,
    },
    /// An instance is no more.
    Left {
        /// Which.
        instance_id: InstanceId,
        /// When.
        at: Timestamp,
        /// What happened, as one clause.
        how: String,
    },
    /// Nothing that matters here.
    Irrelevant,
}

/// Why an event can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmEventError {
    /// Longer than EventBridge carries.
    #[error("{0} bytes are more than an EventBridge event's {MAX_BYTES}")]
    TooLong(usize),
    /// Not an EventBridge event.
    #[error("not an EventBridge event: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Its detail does not fit its type.
    #[error("detail of {detail_type:?}: {why}")]
    Detail {
        /// The event's `detail-type`.
        detail_type: String,
        /// What is wrong with its detail.
        why: String,
    },
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "detail-type")]
    detail_type: String,
    #[serde(default, with = "timestamp::option")]
    time: Option<Timestamp>,
    /// An account, as a rule. What is none stops no event.
    #[serde(default)]
    account: Value,
    detail: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Activity {
    auto_scaling_group_name: GroupName,
    #[serde(rename = "EC2InstanceId")]
    instance_id: Option<String>,
    #[serde(default, with = "timestamp::option")]
    end_time: Option<Timestamp>,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    status_message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Deserialize, Default)]
struct Details {
    #[serde(rename = "Availability Zone")]
    zone: Option<Zone>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StateChange {
    instance_id: InstanceId,
    state: String,
}

impl AutoScalingEvent {
    /// Reads one event.
    pub fn read(payload: &[u8]) -> Result<Self, ConfirmEventError> {
        Self::read_of_account(payload).map(|(_, happening)| happening)
    }

    /// The same, and of which account it is, if it says so.
    pub fn read_of_account(payload: &[u8]) -> Result<(Option<AccountId>, Self), ConfirmEventError> {
        if payload.len() > MAX_BYTES {
            return Err(ConfirmEventError::TooLong(payload.len()));
        }
        let Envelope { detail_type, time, account, detail } = serde_json::from_slice(payload)?;
        let account = account.as_str().and_then(|account| AccountId::new(account).ok());
        Ok((account, Self::of(detail_type, time, detail)?))
    }

    fn of(detail_type: String, time: Option<Timestamp>, detail: Value) -> Result<Self, ConfirmEventError> {
        let refuse = |why: String| ConfirmEventError::Detail { detail_type: detail_type.clone(), why };
        let when = |known: Option<Timestamp>| known.or(time).ok_or_else(|| refuse("no time".to_owned()));
        match detail_type.as_str() {
            "AWS API Call via CloudTrail" => CloudTrailEvent::try_from(detail)
                .map(|event| Self::ApiCall(Box::new(event)))
                .map_err(|error| refuse(error.to_string())),
            "EC2 Instance Launch Successful"
            | "EC2 Instance Launch Unsuccessful"
            | "EC2 Instance Terminate Successful" => {
                let activity: Activity =
                    serde_json::from_value(detail).map_err(|error| refuse(error.to_string()))?;
                let group = activity.auto_scaling_group_name;
                let at = when(activity.end_time)?;
                if detail_type == "EC2 Instance Launch Unsuccessful" {
                    return Ok(Self::LaunchFailed { group, at, why: printable(&activity.status_message) });
                }
                let instance_id = activity.instance_id.unwrap_or_default();
                let instance_id = InstanceId::new(&instance_id).map_err(|error| refuse(error.to_string()))?;
                Ok(if detail_type == "EC2 Instance Launch Successful" {
                    Self::Launched { group, instance_id, zone: activity.details.zone, at }
                } else {
                    let cause = printable(&activity.cause);
                    Self::Left { instance_id, at, how: format!("Auto Scaling terminated it: {cause}") }
                })
            }
            "EC2 Instance State-change Notification" => {
                let change: StateChange =
                    serde_json::from_value(detail).map_err(|error| refuse(error.to_string()))?;
                match change.state.as_str() {
                    "shutting-down" | "terminated" => Ok(Self::Left {
                        instance_id: change.instance_id,
                        at: when(None)?,
                        how: format!("EC2 says that its instance is {}", change.state),
                    }),
                    _ => Ok(Self::Irrelevant),
                }
            }
            _ => Ok(Self::Irrelevant),
        }
    }
}

/// What ends on an operator's terminal holds no control characters.
fn printable(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
