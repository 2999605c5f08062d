//! The AWS calls that nodemend makes, their answers, and their names and formats in CloudTrail.
//!
//! [`ApiCall`] has all calls that change anything. Terminating never decrements the group's desired capacity.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Item, Items, RequestParameters, UserIdentity, time};
use crate::{condition::RepairAction, ident::InstanceId};

/// Our own principal, from STS GetCallerIdentity and the SDK's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account, twelve digits.
    pub account: String,
    /// The AWS Region of the calls.
    pub region: String,
    /// `arn:aws:sts::…:assumed-role/<role>/<session>` for a Lambda function.
    pub arn: String,
    /// `AROA…:<session>`, STS's `UserId`, if it is known.
    pub principal_id: Option<String>,
    /// The `User-Agent` that the SDK sends, if it is known.
    pub user_agent: Option<String>,
}

impl Caller {
    /// Whether the identity in a CloudTrail event is ours: the same role, or user, of the same account.
    ///
    /// The session name does not count. For a Lambda function it is the function's name, which differs between
    /// functions that share a role; for web identity it is new at each refresh. Permissions depend on the role alone.
    pub fn is_same_principal(&self, identity: &UserIdentity) -> bool {
        identity.arn.as_deref().is_some_and(|arn| is_same_principal(&self.arn, arn))
    }
}

/// Two ARNs of one role (whatever the session), or of one user.
pub(super) fn is_same_principal(one: &str, other: &str) -> bool {
    match (Principal::from_arn(one), Principal::from_arn(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// The part of an ARN that identifies a principal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Principal<'a> {
    account: &'a str,
    /// `userIdentity.type`.
    pub(super) kind: &'static str,
    /// The role's or the user's name; empty for root.
    pub(super) name: &'a str,
}

impl<'a> Principal<'a> {
    pub(super) fn from_arn(arn: &'a str) -> Option<Self> {
        // arn:<partition>:<iam or sts>:<no region>:<account>:<resource>
        let mut parts = arn.splitn(6, ':');
        let ("arn", _partition, "iam" | "sts", "", account, resource) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?)
        else {
            return None;
        };
        let (kind, name) = match resource.split_once('/') {
            Some(("assumed-role", path)) => ("AssumedRole", path.split('/').next()?),
            // The path is not part of a user's name. The name is unique without it.
            Some(("user", path)) => ("IAMUser", path.rsplit('/').next()?),
            Some(("federated-user", name)) => ("FederatedUser", name),
            None if resource == "root" => ("Root", ""),
            _ => return None,
        };
        Some(Self { account, kind, name })
    }
}

/// A call that changes something. nodemend makes no others, except those of the drain function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiCall {
    /// Replace. Always with `shouldDecrementDesiredCapacity` false: otherwise each repair would shrink the group.
    TerminateInstanceInAutoScalingGroup {
        /// The instance to replace.
        instance_id: InstanceId,
    },
    /// Reboot. The request names one instance.
    RebootInstances {
        /// The instance to reboot.
        instance_id: InstanceId,
    },
}

impl ApiCall {
    /// The call of an action. There is no call of NoAction: it must not be passed.
    pub fn of(instance_id: InstanceId, action: RepairAction) -> Self {
        match action {
            RepairAction::Reboot => Self::RebootInstances { instance_id },
            RepairAction::Replace | RepairAction::NoAction => {
                Self::TerminateInstanceInAutoScalingGroup { instance_id }
            }
        }
    }

    /// `eventSource`.
    pub fn event_source(&self) -> &'static str {
        match self {
            Self::TerminateInstanceInAutoScalingGroup { .. } => "autoscaling.amazonaws.com",
            Self::RebootInstances { .. } => "ec2.amazonaws.com",
        }
    }

    /// `eventName`.
    pub fn event_name(&self) -> &'static str {
        match self {
            Self::TerminateInstanceInAutoScalingGroup { .. } => "TerminateInstanceInAutoScalingGroup",
            Self::RebootInstances { .. } => "RebootInstances",
        }
    }

    /// The instance that it changes.
    pub fn instance_id(&self) -> &InstanceId {
        match self {
            Self::TerminateInstanceInAutoScalingGroup { instance_id }
            | Self::RebootInstances { instance_id } => instance_id,
        }
    }

    /// `requestParameters`.
    pub fn request_parameters(&self) -> RequestParameters {
        match self {
            Self::TerminateInstanceInAutoScalingGroup { instance_id } => RequestParameters::Terminate {
                instance_id: instance_id.clone(),
                should_decrement_desired_capacity: false,
            },
            Self::RebootInstances { instance_id } => RequestParameters::Reboot {
                instances_set: Items { items: vec![Item { instance_id: instance_id.clone() }] },
            },
        }
    }

    /// The call as JSON, for the record of observe mode.
    pub fn to_value(&self) -> Value {
        json!({
            "eventSource": self.event_source(),
            "eventName": self.event_name(),
            "requestParameters": self.request_parameters(),
        })
    }
}

/// AWS's answer to a call, or that none came.
#[derive(Debug, Clone, PartialEq)]
pub struct CallAnswer {
    /// AWS's request id, by which CloudTrail's event is matched. Errors have one too.
    pub request_id: Option<String>,
    /// Accepted, refused or unanswered.
    pub outcome: CallOutcome,
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallOutcome {
    /// AWS accepted it.
    Accepted {
        /// Auto Scaling's activity; EC2 has none.
        activity: Option<Activity>,
    },
    /// AWS refused it.
    Failed {
        /// The error code of the API. CloudTrail can spell it differently.
        code: String,
        /// The error message of the API.
        message: String,
    },
    /// No answer came, because of a timeout or a broken connection. The call may have taken effect.
    Unanswered {
        /// The SDK's error.
        why: String,
    },
}

/// Auto Scaling's activity, in the field order and format of CloudTrail's event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Activity {
    /// The activity's id, which Auto Scaling's EventBridge events have too.
    pub activity_id: String,
    /// The Auto Scaling group's name.
    pub auto_scaling_group_name: String,
    /// `Terminating EC2 instance: i-…`.
    pub description: String,
    /// `At … instance i-… was taken out of service in response to a user request.`
    pub cause: String,
    /// When it began. The API has milliseconds, CloudTrail seconds.
    #[serde(with = "time::medium")]
    pub start_time: Timestamp,
    /// `InProgress` on success.
    pub status_code: String,
    /// The progress in percent.
    pub progress: i32,
    /// JSON in a string, as the API returns it: subnet and Availability Zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_name_is_not_part_of_the_principal() {
        let us = "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair";
        for (arn, same) in [
            (us, true),
            ("arn:aws:sts::123456789012:assumed-role/nodemend-repair/other", true),
            ("arn:aws:sts::123456789012:assumed-role/nodemend-intake/nodemend-repair", false),
            ("arn:aws:sts::210987654321:assumed-role/nodemend-repair/nodemend-repair", false),
            ("arn:aws:iam::123456789012:user/nodemend-repair", false),
            ("arn:aws:iam::123456789012:role/nodemend-repair", false),
            ("", false),
        ] {
            assert_eq!(is_same_principal(us, arn), same, "{arn}");
        }
        // An ARN that cannot be parsed equals no other, not even itself.
        assert!(!is_same_principal("x", "x"));
    }

    #[test]
    fn a_caller_is_found_in_a_real_cloudtrail_event() {
        let caller = Caller {
            account: "xxxxxxxxxxxx".to_owned(),
            region: "ap-northeast-1".to_owned(),
            arn: "arn:aws:sts::xxxxxxxxxxxx:assumed-role/AWSServiceRoleForAmazonEKSNodegroup/another"
                .to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let event = crate::audit_log::tests::event("real/terminate-by-eks-node-repair.json");
        assert!(caller.is_same_principal(&event.user_identity));
        assert!(!caller.is_same_principal(&UserIdentity::default()));
    }
}
