//! Parses the EventBridge event of a lifecycle hook that holds a termination.

use jiff::Timestamp;
use nodemend_domain::{
    drain::Hook,
    ident::{GroupName, InstanceId},
    timestamp,
};
use serde::Deserialize;

/// The most bytes of an EventBridge event.
const MAX_BYTES: usize = 256 * 1024;

/// An event of a lifecycle hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookEvent {
    /// A termination is on hold.
    Held(Hook),
    /// Any other event.
    Irrelevant,
}

/// Why an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Larger than EventBridge's limit.
    #[error("{0} bytes are more than an EventBridge event's {MAX_BYTES}")]
    TooLong(usize),
    /// Not an event of a lifecycle action.
    #[error("not an EventBridge event of a lifecycle action")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "detail-type")]
    detail_type: String,
    #[serde(with = "timestamp")]
    time: Timestamp,
    #[serde(borrow)]
    detail: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Action {
    lifecycle_action_token: String,
    auto_scaling_group_name: GroupName,
    lifecycle_hook_name: String,
    #[serde(rename = "EC2InstanceId")]
    instance_id: InstanceId,
    lifecycle_transition: String,
}

impl HookEvent {
    /// Reads one event.
    pub fn read(payload: &[u8]) -> Result<Self, EventError> {
        if payload.len() > MAX_BYTES {
            return Err(EventError::TooLong(payload.len()));
        }
        let Envelope { detail_type, time, detail } = serde_json::from_slice(payload)?;
        if detail_type != "EC2 Instance-terminate Lifecycle Action" {
            return Ok(Self::Irrelevant);
        }
        let action: Action = serde_json::from_str(detail.get())?;
        if action.lifecycle_transition != "autoscaling:EC2_INSTANCE_TERMINATING" {
            return Ok(Self::Irrelevant);
        }
        Ok(Self::Held(Hook {
            name: action.lifecycle_hook_name,
            group: action.auto_scaling_group_name,
            instance_id: action.instance_id,
            token: action.lifecycle_action_token,
            since: time,
        }))
    }
}
