//! Parses CloudTrail events: who made which call, on which instances, and whether it succeeded.
//!
//! AWS adds and leaves out fields with each minor version: unknown fields are ignored, and most are optional. Only the
//! major version must match. The length is bounded, because the text comes from outside.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{AuditLogError, MAX_EVENT_BYTES, bounded, call::Principal, time};
use crate::ident::InstanceId;

/// One CloudTrail event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudTrailEvent {
    /// `1.x`.
    pub event_version: String,
    /// The principal that made the call.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user_identity: UserIdentity,
    /// When AWS handled it, to the second.
    #[serde(with = "time::seconds")]
    pub event_time: Timestamp,
    /// `autoscaling.amazonaws.com`.
    pub event_source: String,
    /// `TerminateInstanceInAutoScalingGroup`.
    pub event_name: String,
    /// The AWS Region of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_region: Option<String>,
    /// The caller's IP address, or the AWS service that called for it.
    #[serde(rename = "sourceIPAddress", default, skip_serializing_if = "Option::is_none")]
    pub source_ip_address: Option<String>,
    /// The `User-Agent` that the caller sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Present if, and only if, the call failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// The message of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// An object or null; null for most denied and all throttled calls.
    #[serde(default)]
    pub request_parameters: Value,
    /// An object or null. Null does not mean failure: many successful writes have it.
    #[serde(default)]
    pub response_elements: Value,
    /// What an event has that no call caused: `instanceIdSet` of a Spot interruption.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub service_event_details: Value,
    /// The request id, by which our record is matched.
    #[serde(rename = "requestID", default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The event's id: the same for a repeated delivery.
    #[serde(rename = "eventID", default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Whether the call only reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// `AwsApiCall`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Whether it is a management event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_event: Option<bool>,
    /// The account that received the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient_account_id: Option<String>,
    /// `Management`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_category: Option<String>,
}

/// The caller, as CloudTrail records it. Every field can be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserIdentity {
    /// `AssumedRole`, `IAMUser`, `Root`, `AWSService`…
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The unique id, with the session name after a colon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// The ARN of the session, or of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// The caller's account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// A user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// The origin of a session's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_context: Option<SessionContext>,
    /// The AWS service that called for the principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<String>,
}

/// The origin of a session's credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionContext {
    /// The role. An empty object for a session of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_issuer: Option<SessionIssuer>,
}

/// The role or user that issued a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionIssuer {
    /// `Role`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The role's ARN, with its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// The role's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl CloudTrailEvent {
    /// Parses one event: a record of a CloudTrail log file, or `detail` of an EventBridge event.
    ///
    /// # Errors
    ///
    /// If it is too long, not an event, or of another major version.
    pub fn read(text: &str) -> Result<Self, AuditLogError> {
        serde_json::from_str::<Self>(bounded(text, MAX_EVENT_BYTES)?)?.of_known_version()
    }

    fn of_known_version(self) -> Result<Self, AuditLogError> {
        // 1.05, 1.08, 1.09, 1.10, 1.11: a minor version only adds fields.
        match self.event_version.split_once('.') {
            Some(("1", minor)) if !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(self)
            }
            _ => Err(AuditLogError::Version { found: self.event_version.chars().take(20).collect() }),
        }
    }

    /// Whether the call succeeded.
    pub fn succeeded(&self) -> bool {
        self.error_code.is_none()
    }

    /// Whether it is of a call to terminate instances, successful or not, of our clusters or not, or of a Spot
    /// interruption.
    pub fn is_termination(&self) -> bool {
        matches!(
            (self.event_source.as_str(), self.event_name.as_str()),
            ("autoscaling.amazonaws.com", "TerminateInstanceInAutoScalingGroup")
                | ("ec2.amazonaws.com", "TerminateInstances")
        ) || self.is_spot_interruption()
    }

    /// The AWS service that made the call, if one did.
    pub fn invoked_by(&self) -> Option<&str> {
        self.user_identity.invoked_by.as_deref()
    }

    /// The instances of the call. Empty if CloudTrail does not record them, or for another kind of call.
    pub fn instance_ids(&self) -> Vec<InstanceId> {
        let ids: Vec<InstanceId> = match (self.event_source.as_str(), self.event_name.as_str()) {
            ("autoscaling.amazonaws.com", "TerminateInstanceInAutoScalingGroup") => {
                let one = instance_id(&self.request_parameters["instanceId"]).or_else(|| {
                    // `Terminating EC2 instance: i-…`
                    let description = self.response_elements["activity"]["description"].as_str()?;
                    InstanceId::new(description.rsplit(' ').next()?).ok()
                });
                let several = self.request_parameters["instanceIds"].as_array().into_iter().flatten();
                one.into_iter().chain(several.filter_map(instance_id)).collect()
            }
            ("ec2.amazonaws.com", "BidEvictedEvent") => {
                let ids = self.service_event_details["instanceIdSet"].as_array().into_iter().flatten();
                ids.filter_map(instance_id).collect()
            }
            (
                "ec2.amazonaws.com",
                "TerminateInstances" | "RebootInstances" | "StopInstances" | "StartInstances",
            ) => [&self.request_parameters, &self.response_elements]
                .into_iter()
                .filter_map(|side| side["instancesSet"]["items"].as_array())
                .map(|items| items.iter().filter_map(|item| instance_id(&item["instanceId"])).collect())
                .find(|ids: &Vec<InstanceId>| !ids.is_empty())
                .unwrap_or_default(),
            ("autoscaling.amazonaws.com", "ExitStandby") => {
                let ids = self.request_parameters["instanceIds"].as_array();
                ids.into_iter().flatten().filter_map(instance_id).collect()
            }
            _ => Vec::new(),
        };
        ids
    }

    /// The caller as text for operators: `alice (IAM user)`, `assumed role Admin/alice`.
    pub fn who(&self) -> String {
        printable(&self.user_identity.who(self.service().is_some()))
    }
}

impl TryFrom<Value> for CloudTrailEvent {
    type Error = AuditLogError;

    /// Converts an event that was parsed already, within the parser's own bound.
    fn try_from(value: Value) -> Result<Self, AuditLogError> {
        serde_json::from_value::<Self>(value)?.of_known_version()
    }
}

impl UserIdentity {
    fn who(&self, is_service: bool) -> String {
        let invoked_by = self.invoked_by.as_deref().filter(|name| !name.is_empty());
        let arn = self.arn.as_deref().unwrap_or_default();
        let user_name = self.user_name.as_deref().filter(|name| !name.is_empty());
        let principal = Principal::from_arn(arn);
        let who = match (&principal, self.kind.as_deref()) {
            (Some(Principal { kind: "AssumedRole", name, .. }), _) => {
                if let Some(service) = service_of_role(name).filter(|_| is_service) {
                    return format!("{} ({name})", service.or(invoked_by).unwrap_or("an AWS service"));
                }
                let session = arn.split_once("assumed-role/").map_or(*name, |(_, session)| session);
                format!("assumed role {session}")
            }
            (Some(Principal { kind: "IAMUser", name, .. }), _) => format!("{name} (IAM user)"),
            (Some(Principal { kind: "FederatedUser", name, .. }), _) => format!("{name} (federated user)"),
            (_, Some("Root")) | (Some(Principal { kind: "Root", .. }), _) => {
                format!("root of account {}", self.account_id.as_deref().unwrap_or("unknown"))
            }
            (_, Some("AWSService")) => return format!("{} (AWS service)", invoked_by.unwrap_or("unknown")),
            (_, kind) => {
                let name = user_name
                    .or(Some(arn).filter(|arn| !arn.is_empty()))
                    .or(self.principal_id.as_deref())
                    .unwrap_or("an unknown caller");
                match kind {
                    Some(kind) => format!("{name} ({kind})"),
                    None => name.to_owned(),
                }
            }
        };
        match invoked_by {
            Some(service) => format!("{who} via {service}"),
            None => who,
        }
    }
}

/// Whether a role is a service-linked role, and a readable name of its service if we have one.
fn service_of_role(role: &str) -> Option<Option<&'static str>> {
    // A customer can have a role of Auto Scaling with a suffix: AWSServiceRoleForAutoScaling_other.
    Some(match role.split('_').next().unwrap_or(role) {
        // Node auto repair and node group updates use the same role: the event does not show which it was.
        "AWSServiceRoleForAmazonEKSNodegroup" => Some("EKS node auto repair or node group update"),
        "AWSServiceRoleForAutoScaling" => Some("EC2 Auto Scaling"),
        "AWSServiceRoleForEC2Spot" => Some("EC2 Spot"),
        _ if role.starts_with("AWSServiceRoleFor") => None,
        _ => return None,
    })
}

fn instance_id(value: &Value) -> Option<InstanceId> {
    InstanceId::new(value.as_str()?).ok()
}

/// Removes control characters and shortens the text: the caller chooses its own session name.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
