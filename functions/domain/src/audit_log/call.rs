//! Turns an AWS call and its answer into CloudTrail's words: event source, event name, parameters, elements.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Item, Items, RequestParameters, UserIdentity, time};
use crate::{condition::RepairAction, ident::InstanceId};

/// Who we are to AWS: what STS GetCallerIdentity and the SDK's configuration say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account, twelve digits.
    pub account: String,
    /// The region that is called.
    pub region: String,
    /// `arn:aws:sts::…:assumed-role/<role>/<session>` for a Lambda function.
    pub arn: String,
    /// `AROA…:<session>`, STS's `UserId`, where it was asked for.
    pub principal_id: Option<String>,
    /// What the SDK sends as `User-Agent`, where it can be told.
    pub user_agent: Option<String>,
}

impl Caller {
    /// Whether CloudTrail means us: the same role of the same account.
    ///
    /// The session's name is left out on purpose. For a Lambda function it is the function's name, so it changes
    /// with a rename and between functions that share a role; for web identity it is new at each refresh.
    /// The permission to act hangs on the role alone.
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

/// What of an ARN tells one principal from another.
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
            // A user's path is no part of its name, but its name is unique without it.
            Some(("user", path)) => ("IAMUser", path.rsplit('/').next()?),
            Some(("federated-user", name)) => ("FederatedUser", name),
            None if resource == "root" => ("Root", ""),
            _ => return None,
        };
        Some(Self { account, kind, name })
    }
}

/// A call that changes something. There are no others that we make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiCall {
    /// Replace: always with `shouldDecrementDesiredCapacity` false, else the group would shrink by each repair.
    TerminateInstanceInAutoScalingGroup {
        /// Whose replacement is asked for.
        instance_id: InstanceId,
    },
    /// Reboot.
    RebootInstances {
        /// Which is rebooted.
        instance_id: InstanceId,
    },
}

impl ApiCall {
    /// The call that carries an action out. Nothing but a reboot is a reboot; no action is never called for.
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

    /// The instance that it is about.
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

    /// The call as data, for the step that says what would have been called.
    pub fn to_value(&self) -> Value {
        json!({
            "eventSource": self.event_source(),
            "eventName": self.event_name(),
            "requestParameters": self.request_parameters(),
        })
    }
}

/// What came back from AWS.
#[derive(Debug, Clone, PartialEq)]
pub struct CallAnswer {
    /// The request id that the SDK returns, with an error too: what CloudTrail's event is found by.
    pub request_id: Option<String>,
    /// What it said.
    pub outcome: CallOutcome,
}

/// What AWS said to the call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallOutcome {
    /// It is being done.
    Accepted {
        /// Auto Scaling's activity; EC2 has none.
        activity: Option<Activity>,
    },
    /// It was refused.
    Failed {
        /// As the API spells it, which CloudTrail does not always.
        code: String,
        /// As the API says it.
        message: String,
    },
    /// No answer came: a timeout, a broken connection. AWS may have done it all the same.
    Unanswered {
        /// What the SDK said instead.
        why: String,
    },
}

/// Auto Scaling's activity, in the order and the format of a real CloudTrail record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Activity {
    /// What Auto Scaling's own events name too.
    pub activity_id: String,
    /// The group.
    pub auto_scaling_group_name: String,
    /// `Terminating EC2 instance: i-…`.
    pub description: String,
    /// `At … instance i-… was taken out of service in response to a user request.`
    pub cause: String,
    /// When it began. The API tells milliseconds, CloudTrail seconds.
    #[serde(with = "time::medium")]
    pub start_time: Timestamp,
    /// `InProgress` on success.
    pub status_code: String,
    /// In percent.
    pub progress: i32,
    /// JSON in a string, as the API gives it: subnet and zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_no_part_of_who_we_are() {
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
        // An ARN that nobody can read is nobody's, not even its own.
        assert!(!is_same_principal("x", "x"));
    }

    #[test]
    fn a_caller_knows_itself_in_a_real_record() {
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
