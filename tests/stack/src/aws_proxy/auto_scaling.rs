//! TerminateInstanceInAutoScalingGroup of Auto Scaling.
//!
//! Only the replacement of the instance is left to the emulator, if EC2 has capacity. Everything else is done here: the
//! emulator answers a request for an unknown instance with an HTML page, shrinks a group below its minimum size, and
//! returns an activity that has an end and no details.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use jiff::Timestamp;
use nodemend_domain::timestamp;
use serde_json::{Value, json};

use super::{ApiRequest, AwsEvent, AwsProxy, capacity::Source, xml, xml_response};
use crate::{
    cloudtrail::{Activity, Route},
    ids,
    query_client::{QueryError, element, elements},
};

pub(super) const VERSION: (&str, &str) = ("Version", "2011-01-01");
const NAME: &str = "TerminateInstanceInAutoScalingGroup";

/// Auto Scaling's message for an instance that is in no group.
pub(super) fn not_found(instance_id: &str) -> String {
    format!("Instance Id not found - No managed instance found for instance ID: {instance_id}")
}

/// Auto Scaling's message for a group that is at its minimum size.
pub(super) fn at_minimum(minimum: &str) -> String {
    format!(
        "Currently, desiredSize equals minSize ({minimum}). Terminating instance without replacement will violate group's \
         min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size."
    )
}

impl AwsProxy {
    pub(super) async fn terminate(
        &self,
        request: &ApiRequest,
        form: &[(String, String)],
    ) -> Result<Response<Body>, QueryError> {
        let field =
            |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        let instance_id = field("InstanceId");
        let decrement = field("ShouldDecrementDesiredCapacity") == "true";
        let parameters = json!({ "instanceId": instance_id, "shouldDecrementDesiredCapacity": decrement });
        let Some((group, zone)) = self.group_of(instance_id).await? else {
            return Ok(self.reject(request, parameters, not_found(instance_id)));
        };
        let before = self.group(&group).await?;
        let (desired, minimum) = (element(&before, "DesiredCapacity"), element(&before, "MinSize"));
        if decrement && desired == minimum {
            return Ok(self.reject(request, parameters, at_minimum(minimum)));
        }
        let source = if decrement { Source::Ec2 } else { self.supply().source.clone() };
        if let Source::Ec2 = source {
            let answer = self.forward(request).await?;
            if answer.status() != StatusCode::OK {
                return Ok(answer.map(Body::from));
            }
        } else {
            self.terminate_only(instance_id).await?;
        }
        let cause = termination_cause(instance_id, request.at);
        let termination = Activity {
            cause,
            ..activity(&before, &group, Route::Terminated, instance_id, &zone, request.at)
        };
        self.record(request, "autoscaling", NAME, parameters, Ok(termination.response_elements()));
        self.publish(AwsEvent::Terminated(termination.clone()));
        match source {
            Source::Ec2 => {
                let after = self.group(&group).await?;
                self.publish_launches(&group, [&before, &after], request.at, &launch_cause(request.at));
            }
            Source::WarmPool { instance_id, zone } => {
                self.draw(&group, &instance_id, &zone, request.at).await?;
            }
            Source::Nowhere => self.fail_launch(&group, &zone, request.at).await?,
        }
        Ok(xml_response(
            StatusCode::OK,
            xml::terminate(&termination, &request.request_id),
            &request.request_id,
        ))
    }

    /// Publishes the launches of the instances that a group has after a change, and had not before.
    pub(super) fn publish_launches(
        &self,
        group: &str,
        [before, after]: [&str; 2],
        at: Timestamp,
        cause: &str,
    ) {
        for (instance_id, zone) in members(after).difference(&members(before)) {
            self.publish(AwsEvent::Launched(Activity {
                cause: cause.to_owned(),
                ..activity(after, group, Route::Launched, instance_id, zone, at)
            }));
        }
    }

    fn reject(&self, request: &ApiRequest, parameters: Value, message: String) -> Response<Body> {
        let body = xml::error("ValidationError", &message, &request.request_id);
        // CloudTrail has another error code than the API: ValidationException.
        self.record(
            request,
            "autoscaling",
            NAME,
            parameters,
            Err(("ValidationException".to_owned(), message)),
        );
        xml_response(StatusCode::BAD_REQUEST, body, &request.request_id)
    }

    /// The group of an instance, and the instance's Availability Zone.
    async fn group_of(&self, instance_id: &str) -> Result<Option<(String, String)>, QueryError> {
        let fields =
            [("Action", "DescribeAutoScalingInstances"), VERSION, ("InstanceIds.member.1", instance_id)];
        let answer = self.emulator.query("autoscaling", &fields).await?;
        let text = |name: &str| element(&answer, name).to_owned();
        let group = text("AutoScalingGroupName");
        Ok((!group.is_empty()).then(|| (group, text("AvailabilityZone"))))
    }

    pub(super) async fn group(&self, name: &str) -> Result<String, QueryError> {
        let fields =
            [("Action", "DescribeAutoScalingGroups"), VERSION, ("AutoScalingGroupNames.member.1", name)];
        self.emulator.query("autoscaling", &fields).await
    }
}

/// A group's instances, each with its Availability Zone.
fn members(group: &str) -> BTreeSet<(String, String)> {
    elements(element(group, "Instances"), "member")
        .map(|member| {
            (element(member, "InstanceId").to_owned(), element(member, "AvailabilityZone").to_owned())
        })
        .collect()
}

/// A subnet of a group.
pub(super) fn subnet(group: &str) -> &str {
    element(group, "VPCZoneIdentifier").split(',').next().unwrap_or_default()
}

/// An activity of a group that begins now. Its cause is left empty.
pub(super) fn activity(
    described: &str,
    group: &str,
    route: Route,
    instance_id: &str,
    zone: &str,
    started: Timestamp,
) -> Activity {
    Activity {
        id: ids::uuid(),
        group: group.to_owned(),
        route,
        instance_id: instance_id.to_owned(),
        zone: zone.to_owned(),
        subnet: subnet(described).to_owned(),
        started,
        cause: String::new(),
    }
}

fn termination_cause(instance_id: &str, at: Timestamp) -> String {
    let at = timestamp::seconds(at);
    format!("At {at} instance {instance_id} was taken out of service in response to a user request.")
}

fn launch_cause(at: Timestamp) -> String {
    let at = timestamp::seconds(at);
    format!("At {at} an instance was launched in response to an unhealthy instance needing to be replaced.")
}
