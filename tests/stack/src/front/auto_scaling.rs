//! Turns TerminateInstanceInAutoScalingGroup into what AWS does and answers.
//!
//! The emulator replaces the instance, and that is all that is left to it: it answers an unknown instance with a page
//! of HTML, shrinks a group below its minimum, and gives its activity an end and no details.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use jiff::Timestamp;
use nodemend_domain::timestamp;
use serde_json::{Value, json};

use super::{Asked, Front, Happened, with_id, xml};
use crate::{
    cloudtrail::Activity,
    ids,
    wire::{WireError, element, elements},
};

const VERSION: (&str, &str) = ("Version", "2011-01-01");
const NAME: &str = "TerminateInstanceInAutoScalingGroup";

/// Auto Scaling's words for an instance that is in no group.
pub(super) fn not_found(instance_id: &str) -> String {
    format!("Instance Id not found - No managed instance found for instance ID: {instance_id}")
}

/// Its words where a group may not become smaller.
pub(super) fn at_minimum(minimum: &str) -> String {
    format!(
        "Currently, desiredSize equals minSize ({minimum}). Terminating instance without replacement will violate group's \
         min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size."
    )
}

impl Front {
    pub(super) async fn terminate(
        &self,
        asked: &Asked,
        form: &[(String, String)],
    ) -> Result<Response<Body>, WireError> {
        let field =
            |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        let instance_id = field("InstanceId");
        let decrement = field("ShouldDecrementDesiredCapacity") == "true";
        let parameters = json!({ "instanceId": instance_id, "shouldDecrementDesiredCapacity": decrement });
        let Some((group, zone)) = self.group_of(instance_id).await? else {
            return Ok(self.refuse(asked, parameters, not_found(instance_id)));
        };
        let before = self.group(&group).await?;
        let (desired, minimum) = (element(&before, "DesiredCapacity"), element(&before, "MinSize"));
        if decrement && desired == minimum {
            return Ok(self.refuse(asked, parameters, at_minimum(minimum)));
        }
        let answer = self.pass(asked).await?;
        if answer.status() != StatusCode::OK {
            return Ok(answer.map(Body::from));
        }
        let subnets = element(&before, "VPCZoneIdentifier");
        let activity = |instance_id: &str, zone: String, cause: String| Activity {
            id: ids::uuid(),
            group: group.clone(),
            instance_id: instance_id.to_owned(),
            zone,
            subnet: subnets.split(',').next().unwrap_or_default().to_owned(),
            began: asked.at,
            cause,
        };
        let ended = activity(instance_id, zone, taken_out(instance_id, asked.at));
        self.record(asked, "autoscaling", NAME, parameters, Ok(ended.elements()));
        self.tell(Happened::Terminated(ended.clone()));
        let after = self.group(&group).await?;
        for (new, zone) in members(&after).difference(&members(&before)) {
            self.tell(Happened::Launched(activity(new, zone.clone(), launched(asked.at))));
        }
        Ok(with_id(StatusCode::OK, xml::terminate(&ended, &asked.request_id), &asked.request_id))
    }

    fn refuse(&self, asked: &Asked, parameters: Value, message: String) -> Response<Body> {
        let body = xml::error("ValidationError", &message, &asked.request_id);
        // CloudTrail spells it in its own way.
        self.record(asked, "autoscaling", NAME, parameters, Err(("ValidationException".to_owned(), message)));
        with_id(StatusCode::BAD_REQUEST, body, &asked.request_id)
    }

    /// The group of an instance, and its zone.
    async fn group_of(&self, instance_id: &str) -> Result<Option<(String, String)>, WireError> {
        let fields =
            [("Action", "DescribeAutoScalingInstances"), VERSION, ("InstanceIds.member.1", instance_id)];
        let answer = self.emulator.query("autoscaling", &fields).await?;
        let text = |name: &str| element(&answer, name).to_owned();
        let group = text("AutoScalingGroupName");
        Ok((!group.is_empty()).then(|| (group, text("AvailabilityZone"))))
    }

    async fn group(&self, name: &str) -> Result<String, WireError> {
        let fields =
            [("Action", "DescribeAutoScalingGroups"), VERSION, ("AutoScalingGroupNames.member.1", name)];
        self.emulator.query("autoscaling", &fields).await
    }
}

/// A group's instances, each with its zone.
fn members(group: &str) -> BTreeSet<(String, String)> {
    elements(element(group, "Instances"), "member")
        .map(|member| {
            (element(member, "InstanceId").to_owned(), element(member, "AvailabilityZone").to_owned())
        })
        .collect()
}

fn taken_out(instance_id: &str, at: Timestamp) -> String {
    let at = timestamp::seconds(at);
    format!("At {at} instance {instance_id} was taken out of service in response to a user request.")
}

fn launched(at: Timestamp) -> String {
    let at = timestamp::seconds(at);
    format!("At {at} an instance was launched in response to an unhealthy instance needing to be replaced.")
}
