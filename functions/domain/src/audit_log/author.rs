//! Whose act a termination in CloudTrail is: Auto Scaling's, which carries an activity out, that of a service or a
//! controller that terminates nodes as planned, or anybody else's.
//!
//! AWS alone writes `invokedBy` and the path of a service-linked role. A role's name and the User-Agent are the caller's
//! own word: they name a controller that runs in the cluster, and prove nothing (ADR 47).

use super::CloudTrailEvent;
use crate::ident::InstanceId;

/// Whose act a termination is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// Auto Scaling carries an activity out. Its own event of the activity has the cause.
    AutoScaling,
    /// A service or a controller, in an activity that is known: `EKS … terminated it`.
    Planned(String),
    /// Anybody else.
    Other,
}

/// AWS's services that terminate nodes as a part of their work, as `invokedBy` and the paths of roles have them.
const SERVICES: [&str; 5] = [
    "eks-nodegroup.amazonaws.com",
    "eks.amazonaws.com",
    "spot.amazonaws.com",
    "spotfleet.amazonaws.com",
    "ec2fleet.amazonaws.com",
];

impl CloudTrailEvent {
    /// Whose act this termination is.
    pub fn author(&self) -> Author {
        if self.is_spot_interruption() {
            return Author::Planned("EC2 Spot interrupted it".to_owned());
        }
        match self.service() {
            Some("autoscaling.amazonaws.com") => return Author::AutoScaling,
            Some(service) if SERVICES.contains(&service) => {
                return Author::Planned(format!("{} terminated it", self.who()));
            }
            // The call of another service may be a person's, who has it make the call.
            Some(_) => return Author::Other,
            None => {}
        }
        let is_role = self.user_identity.kind.as_deref() == Some("AssumedRole");
        let agent = self.user_agent.as_deref().filter(|_| is_role).unwrap_or_default();
        let is_agent = |name: &str| agent.split_whitespace().any(|token| token.starts_with(name));
        let shrinks = self.request_parameters["shouldDecrementDesiredCapacity"] == true;
        if is_agent("cluster-autoscaler/") && shrinks {
            return Author::Planned(format!("cluster-autoscaler ({}) terminated it: a scale-in", self.who()));
        }
        if (is_agent("karpenter.sh-") || is_agent("karpenter.sh/")) && self.event_name == "TerminateInstances"
        {
            return Author::Planned(format!("Karpenter ({}) terminated it", self.who()));
        }
        Author::Other
    }

    /// The AWS service whose own act the call is: by its service-linked role, or as an AWS service. None for a call that a
    /// service makes with the permissions of somebody else.
    pub(super) fn service(&self) -> Option<&str> {
        let identity = &self.user_identity;
        let invoked_by = identity.invoked_by.as_deref().filter(|by| by.ends_with(".amazonaws.com"));
        if identity.kind.as_deref() == Some("AWSService") {
            return invoked_by;
        }
        let issuer = identity.session_context.as_ref().and_then(|context| context.session_issuer.as_ref());
        match issuer.and_then(|issuer| issuer.arn.as_deref()) {
            // arn:aws:iam::<account>:role/aws-service-role/<service>/<name>: no customer can create one under this path.
            Some(arn) if arn.contains(":role/") => {
                let (_, path) = arn.split_once(":role/aws-service-role/")?;
                path.split('/').next()
            }
            _ => {
                let (_, role) = identity.arn.as_deref()?.split_once(":assumed-role/")?;
                invoked_by.filter(|_| role.starts_with("AWSServiceRoleFor"))
            }
        }
    }

    /// Whether it is CloudTrail's event of a Spot interruption, which no caller makes.
    pub fn is_spot_interruption(&self) -> bool {
        (self.event_source.as_str(), self.event_name.as_str()) == ("ec2.amazonaws.com", "BidEvictedEvent")
            && self.event_type.as_deref() == Some("AwsServiceEvent")
    }

    /// Whether the instance was shutting down or terminated before this call: EC2 accepts a repeated call, which ends
    /// nothing.
    pub fn ended_before(&self, instance_id: &InstanceId) -> bool {
        let items = self.response_elements["instancesSet"]["items"].as_array();
        items.into_iter().flatten().filter(|item| item["instanceId"] == instance_id.as_str()).any(|item| {
            matches!(item["previousState"]["name"].as_str(), Some("shutting-down" | "terminated"))
        })
    }
}
