//! Turns CloudTrail's JSON into what we need of it: who called what, on which instances, and whether it worked.
//!
//! Lenient, because AWS adds fields with each minor version and leaves others out: unknown fields are ignored,
//! most are optional. Bounded, because the text comes from outside. Only the major version is insisted upon.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{AuditLogError, MAX_EVENT_BYTES, bounded, call::Principal, time};
use crate::ident::InstanceId;

/// One event of CloudTrail's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudTrailEvent {
    /// `1.x`.
    pub event_version: String,
    /// Who called.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user_identity: UserIdentity,
    /// When AWS handled it, to the second.
    #[serde(with = "time::seconds")]
    pub event_time: Timestamp,
    /// `autoscaling.amazonaws.com`.
    pub event_source: String,
    /// `TerminateInstanceInAutoScalingGroup`.
    pub event_name: String,
    /// The region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_region: Option<String>,
    /// An address, or the service that called for somebody.
    #[serde(rename = "sourceIPAddress", default, skip_serializing_if = "Option::is_none")]
    pub source_ip_address: Option<String>,
    /// What the caller said that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Present if, and only if, the call failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// An object or null; null for most denied and all throttled calls.
    #[serde(default)]
    pub request_parameters: Value,
    /// An object or null. Null alone means nothing: many successful writes have it.
    #[serde(default)]
    pub response_elements: Value,
    /// What our record is found by.
    #[serde(rename = "requestID", default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Tells a repeated delivery.
    #[serde(rename = "eventID", default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Whether it only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// `AwsApiCall`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Whether it is a management event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_event: Option<bool>,
    /// Whose trail it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient_account_id: Option<String>,
    /// `Management`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_category: Option<String>,
}

/// Who called, as far as CloudTrail says; all of it may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserIdentity {
    /// `AssumedRole`, `IAMUser`, `Root`, `AWSService`…
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The unique id, with the session's name behind it.
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
    /// Whose credentials they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_context: Option<SessionContext>,
    /// The AWS service that called for somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<String>,
}

/// Whose credentials a session has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionContext {
    /// The role; an empty object for a user's own session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_issuer: Option<SessionIssuer>,
}

/// Who issued a session.
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
    /// Reads one event: a line of a trail's file, or `detail` of EventBridge's envelope.
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

    /// Whether the call did what it was to do.
    pub fn succeeded(&self) -> bool {
        self.error_code.is_none()
    }

    /// Whether it asked for an instance to be terminated, one of ours or not, with success or without.
    pub fn is_termination(&self) -> bool {
        matches!(
            (self.event_source.as_str(), self.event_name.as_str()),
            ("autoscaling.amazonaws.com", "TerminateInstanceInAutoScalingGroup")
                | ("ec2.amazonaws.com", "TerminateInstances")
        )
    }

    /// The AWS service that made the call, if one did.
    pub fn invoked_by(&self) -> Option<&str> {
        self.user_identity.invoked_by.as_deref()
    }

    /// The instances that the call was about; empty where CloudTrail does not say, or for another kind of call.
    pub fn instance_ids(&self) -> Vec<InstanceId> {
        let ids: Vec<InstanceId> = match (self.event_source.as_str(), self.event_name.as_str()) {
            ("autoscaling.amazonaws.com", "TerminateInstanceInAutoScalingGroup") => {
                instance_id(&self.request_parameters["instanceId"])
                    .or_else(|| {
                        // `Terminating EC2 instance: i-…`
                        let description = self.response_elements["activity"]["description"].as_str()?;
                        InstanceId::new(description.rsplit(' ').next()?).ok()
                    })
                    .into_iter()
                    .collect()
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
            _ => Vec::new(),
        };
        ids
    }

    /// Who called, for people: `alice (IAM user)`, `assumed role Admin/alice`.
    pub fn who(&self) -> String {
        printable(&self.user_identity.who())
    }
}

impl TryFrom<Value> for CloudTrailEvent {
    type Error = AuditLogError;

    /// Takes an event that was read already, under the reader's own bound.
    fn try_from(value: Value) -> Result<Self, AuditLogError> {
        serde_json::from_value::<Self>(value)?.of_known_version()
    }
}

impl UserIdentity {
    fn who(&self) -> String {
        let invoked_by = self.invoked_by.as_deref().filter(|name| !name.is_empty());
        let arn = self.arn.as_deref().unwrap_or_default();
        let user_name = self.user_name.as_deref().filter(|name| !name.is_empty());
        let principal = Principal::from_arn(arn);
        let who = match (&principal, self.kind.as_deref()) {
            (Some(Principal { kind: "AssumedRole", name, .. }), _) => {
                if let Some(service) = service_of_role(name) {
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
                    .unwrap_or("somebody unknown");
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

/// Whether a role is a service's own, and the service's name for people where we have one.
fn service_of_role(role: &str) -> Option<Option<&'static str>> {
    Some(match role {
        // The role is the same for auto repair and for an update of the group: the record does not tell which.
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

/// What a terminal can show on one line: the names are chosen by whoever called.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
