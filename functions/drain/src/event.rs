//! Turns an EventBridge event into the termination that a hook holds.

use jiff::Timestamp;
use nodemend_domain::{
    drain::Hook,
    ident::{GroupName, InstanceId},
    timestamp,
};
use serde::Deserialize;

/// EventBridge carries nothing longer.
const MAX_BYTES: usize = 256 * 1024;

/// What an event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A termination is held.
    Held(Hook),
    /// Nothing that matters here.
    Irrelevant,
}

/// Why an event can't be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Longer than EventBridge carries.
    #[error("{0} bytes are more than an EventBridge event's {MAX_BYTES}")]
    TooLong(usize),
    /// Not an event, or not such a one.
    #[error("not an EventBridge event of a lifecycle action: {0}")]
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

impl Heard {
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
