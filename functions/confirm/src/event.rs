//! Parses the EventBridge events of CloudTrail, Auto Scaling and EC2.

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::CloudTrailEvent,
    case::notice::Notice,
    ident::{AccountId, GroupName, InstanceId, Zone},
    scaling_activity::ScalingActivity,
    timestamp,
};
use nodemend_ports::cause::one_line;
use serde::Deserialize;
use serde_json::Value;

use crate::notice;

/// The most bytes of an EventBridge event.
const MAX_BYTES: usize = 256 * 1024;

/// The most characters of a message.
pub(crate) const MAX_TEXT: usize = 300;
/// The most characters of an activity's cause, as Auto Scaling's API reference has it.
const MAX_CAUSE: usize = 1_023;

/// An event that concerns instances.
#[derive(Debug, Clone, PartialEq)]
pub enum AutoScalingEvent {
    /// A call that CloudTrail recorded.
    ApiCall(Box<CloudTrailEvent>),
    /// Auto Scaling launched an instance into a group, or drew one from its warm pool.
    Launched {
        /// The group.
        group: GroupName,
        /// The new instance.
        instance_id: InstanceId,
        /// Its Availability Zone.
        zone: Option<Zone>,
        /// The end of the launch activity.
        at: Timestamp,
        /// It was in the group's warm pool before.
        from_warm_pool: bool,
    },
    /// An instance is in the warm pool of a group: Auto Scaling launched it there, or returned it to the pool instead of
    /// terminating it.
    Warmed {
        /// The group.
        group: GroupName,
        /// The instance.
        instance_id: InstanceId,
        /// The end of the activity.
        at: Timestamp,
        /// It was in service before.
        returned: bool,
    },
    /// Auto Scaling could not launch an instance.
    LaunchFailed {
        /// The group.
        group: GroupName,
        /// The end of the launch activity.
        at: Timestamp,
        /// Auto Scaling's message.
        why: String,
        /// The instance was to fill the warm pool.
        for_warm_pool: bool,
    },
    /// Instances were returned to service from standby. Auto Scaling has no event of its own for that.
    LeftStandby {
        /// The instances.
        instance_ids: Vec<InstanceId>,
        /// When the call was made.
        at: Timestamp,
    },
    /// An instance was terminated.
    Left {
        /// The instance.
        instance_id: InstanceId,
        /// The time of the event.
        at: Timestamp,
        /// Which event it was, for the log.
        how: String,
        /// The activity that terminated it, of Auto Scaling's event.
        activity: Option<ScalingActivity>,
    },
    /// EC2 or AWS Health announced something about instances.
    Announced {
        /// The instances.
        instance_ids: Vec<InstanceId>,
        /// What is announced.
        notice: Notice,
    },
    /// Any other event.
    Irrelevant,
}

/// Why an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmEventError {
    /// Larger than EventBridge's limit.
    #[error("{0} bytes are more than an EventBridge event's {MAX_BYTES}")]
    TooLong(usize),
    /// Not an EventBridge event.
    #[error("not an EventBridge event")]
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
    /// An account ID. Another value is ignored.
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
    start_time: Option<Timestamp>,
    #[serde(default, with = "timestamp::option")]
    end_time: Option<Timestamp>,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    status_message: String,
    #[serde(default)]
    details: Details,
    #[serde(default)]
    origin: Value,
    #[serde(default)]
    destination: Value,
}

/// What `Origin` and `Destination` have for the warm pool; the others are `EC2` and `AutoScalingGroup`. Events of groups
/// without a pool can lack both.
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pools-eventbridge-events.html>
const WARM_POOL: &str = "WarmPool";

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
        Self::read_of_account(payload).map(|(_, event)| event)
    }

    /// Reads one event, and the account that it is from, if that is valid.
    pub fn read_of_account(payload: &[u8]) -> Result<(Option<AccountId>, Self), ConfirmEventError> {
        if payload.len() > MAX_BYTES {
            return Err(ConfirmEventError::TooLong(payload.len()));
        }
        let Envelope { detail_type, time, account, detail } = serde_json::from_slice(payload)?;
        let account = account.as_str().and_then(|account| AccountId::new(account).ok());
        Ok((account, Self::of(detail_type, time, detail)?))
    }

    fn of(detail_type: String, time: Option<Timestamp>, detail: Value) -> Result<Self, ConfirmEventError> {
        let invalid = |why: String| ConfirmEventError::Detail {
            detail_type: one_line(&detail_type),
            why: one_line(&why),
        };
        let when = |known: Option<Timestamp>| known.or(time).ok_or_else(|| invalid("no time".to_owned()));
        match detail_type.as_str() {
            "AWS API Call via CloudTrail" | "AWS Service Event via CloudTrail" => {
                CloudTrailEvent::try_from(detail)
                    .map(Self::of_api_call)
                    .map_err(|error| invalid(error.to_string()))
            }
            "EC2 Instance Launch Successful"
            | "EC2 Instance Launch Unsuccessful"
            | "EC2 Instance Terminate Successful" => {
                let activity: Activity =
                    serde_json::from_value(detail).map_err(|error| invalid(error.to_string()))?;
                let group = activity.auto_scaling_group_name;
                let at = when(activity.end_time)?;
                let (from_warm_pool, to_warm_pool) =
                    (activity.origin == WARM_POOL, activity.destination == WARM_POOL);
                if detail_type == "EC2 Instance Launch Unsuccessful" {
                    let why = printable(&activity.status_message, MAX_TEXT);
                    return Ok(Self::LaunchFailed { group, at, why, for_warm_pool: to_warm_pool });
                }
                let instance_id = activity.instance_id.unwrap_or_default();
                let instance_id =
                    InstanceId::new(&instance_id).map_err(|error| invalid(error.to_string()))?;
                let launched = detail_type == "EC2 Instance Launch Successful";
                Ok(if to_warm_pool {
                    Self::Warmed { group, instance_id, at, returned: !launched }
                } else if launched {
                    Self::Launched { group, instance_id, zone: activity.details.zone, at, from_warm_pool }
                } else {
                    let (cause, started) = (printable(&activity.cause, MAX_CAUSE), activity.start_time);
                    let activity = ScalingActivity { group, cause, started };
                    Self::Left { instance_id, at, how: activity.sentence(), activity: Some(activity) }
                })
            }
            "EC2 Instance State-change Notification" => {
                let change: StateChange =
                    serde_json::from_value(detail).map_err(|error| invalid(error.to_string()))?;
                match change.state.as_str() {
                    "shutting-down" | "terminated" => Ok(Self::Left {
                        instance_id: change.instance_id,
                        at: when(None)?,
                        how: format!("EC2 reports that its instance is {}", change.state),
                        activity: None,
                    }),
                    _ => Ok(Self::Irrelevant),
                }
            }
            _ => match notice::read(&detail_type, time, detail).map_err(invalid)? {
                Some((instance_ids, notice)) => Ok(Self::Announced { instance_ids, notice }),
                None => Ok(Self::Irrelevant),
            },
        }
    }
}

impl AutoScalingEvent {
    fn of_api_call(event: CloudTrailEvent) -> Self {
        if event.event_name == "ExitStandby" && event.succeeded() {
            return Self::LeftStandby { instance_ids: event.instance_ids(), at: event.event_time };
        }
        Self::ApiCall(Box::new(event))
    }
}

/// Text for an operator's terminal, of so many characters, without control characters.
pub(crate) fn printable(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
