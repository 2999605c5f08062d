//! Where the instance comes from that replaces a terminated one: from EC2, from a warm pool, or from nowhere while EC2 has
//! no capacity.
//!
//! The emulator knows only the first. For the others it is made to launch nothing, and what Auto Scaling would do is done
//! here.

use std::sync::{Arc, MutexGuard, PoisonError};

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use jiff::Timestamp;
use nodemend_aws::clock::SystemClock;
use nodemend_domain::timestamp;
use nodemend_ports::clock::Clock;

use super::{
    ApiRequest, AwsEvent, AwsProxy,
    auto_scaling::{VERSION, activity, subnet},
    xml_response,
};
use crate::{
    cloudtrail::{Activity, Route},
    fleet::{IMAGE, INSTANCE_TYPE},
    query_client::{QueryError, element},
};

/// Where the next replacement comes from.
#[derive(Debug, Clone, Default)]
pub(super) enum Source {
    /// The emulator launches it.
    #[default]
    Ec2,
    /// This instance of the warm pool.
    WarmPool { instance_id: String, zone: String },
    /// EC2 has no capacity.
    Nowhere,
}

/// The source of replacements, and how many the group lacks.
#[derive(Debug, Default)]
pub(super) struct Supply {
    pub(super) source: Source,
    missing: u32,
}

/// Controls where the replacements of the emulated AWS come from. Clones share it.
#[derive(Debug, Clone)]
pub struct Capacity(pub(super) Arc<AwsProxy>);

impl Capacity {
    /// Launches an instance into the warm pool of a group, which has had none. It replaces the next instance that is
    /// terminated, and another one is then launched into the pool.
    pub async fn create_warm_pool(&self, group: &str) -> Result<(), QueryError> {
        let _lock = self.0.group_lock.lock().await;
        self.0.fill_pool(group).await
    }

    /// From now on, EC2 has no capacity for new instances.
    pub fn exhaust(&self) {
        self.0.supply().source = Source::Nowhere;
    }

    /// From now on, EC2 has capacity again: Auto Scaling launches what the group lacks.
    pub async fn restore(&self, group: &str) -> Result<(), QueryError> {
        let proxy = &self.0;
        let _lock = proxy.group_lock.lock().await;
        let missing = std::mem::take(&mut *proxy.supply()).missing;
        if missing == 0 {
            return Ok(());
        }
        let (before, at) = (proxy.group(group).await?, SystemClock.now());
        let has = desired_capacity(&before);
        let desired = has + missing;
        let fields = [
            ("Action", "SetDesiredCapacity"),
            VERSION,
            ("AutoScalingGroupName", group),
            ("DesiredCapacity", &desired.to_string()),
        ];
        proxy.emulator.query("autoscaling", &fields).await?;
        let after = proxy.group(group).await?;
        proxy.publish_launches(group, [&before, &after], at, &difference_cause(at, has, desired));
        Ok(())
    }
}

impl AwsProxy {
    pub(super) fn supply(&self) -> MutexGuard<'_, Supply> {
        self.supply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Terminates an instance, and launches none in its place.
    pub(super) async fn terminate_only(&self, instance_id: &str) -> Result<(), QueryError> {
        let fields = [
            ("Action", "TerminateInstanceInAutoScalingGroup"),
            VERSION,
            ("InstanceId", instance_id),
            ("ShouldDecrementDesiredCapacity", "true"),
        ];
        self.emulator.query("autoscaling", &fields).await.map(drop)
    }

    /// Puts an instance of the warm pool into service, and launches another one into the pool.
    pub(super) async fn draw(
        &self,
        group: &str,
        instance_id: &str,
        zone: &str,
        at: Timestamp,
    ) -> Result<(), QueryError> {
        let fields = [
            ("Action", "AttachInstances"),
            VERSION,
            ("AutoScalingGroupName", group),
            ("InstanceIds.member.1", instance_id),
        ];
        self.emulator.query("autoscaling", &fields).await?;
        let described = self.group(group).await?;
        let desired = desired_capacity(&described);
        self.publish(AwsEvent::Launched(Activity {
            cause: difference_cause(at, desired.saturating_sub(1), desired),
            ..activity(&described, group, Route::Drawn, instance_id, zone, at)
        }));
        self.fill_pool(group).await
    }

    async fn fill_pool(&self, group: &str) -> Result<(), QueryError> {
        let (described, at) = (self.group(group).await?, SystemClock.now());
        let fields = [
            ("Action", "RunInstances"),
            ("Version", "2016-11-15"),
            ("ImageId", IMAGE),
            ("InstanceType", INSTANCE_TYPE),
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("SubnetId", subnet(&described)),
        ];
        let launched = self.emulator.query("ec2", &fields).await?;
        let instance_id = element(&launched, "instanceId").to_owned();
        let zone = element(element(&launched, "placement"), "availabilityZone").to_owned();
        // AWS documents no cause for this activity.
        self.publish(AwsEvent::Launched(Activity {
            cause: format!(
                "At {} an instance was launched into the warm pool of the group.",
                timestamp::seconds(at)
            ),
            ..activity(&described, group, Route::Warmed, &instance_id, &zone, at)
        }));
        self.supply().source = Source::WarmPool { instance_id, zone };
        Ok(())
    }

    /// Auto Scaling tries to launch a replacement, and EC2 has no capacity.
    pub(super) async fn fail_launch(&self, group: &str, zone: &str, at: Timestamp) -> Result<(), QueryError> {
        let described = self.group(group).await?;
        let missing = {
            let mut supply = self.supply();
            supply.missing += 1;
            supply.missing
        };
        let has = desired_capacity(&described);
        self.publish(AwsEvent::LaunchFailed(Activity {
            cause: difference_cause(at, has, has + missing),
            ..activity(&described, group, Route::Launched, "", zone, at)
        }));
        Ok(())
    }

    /// The description of groups. The emulator has lowered the desired capacity by what the group lacks; Auto Scaling would
    /// not have.
    pub(super) async fn describe_groups(&self, request: &ApiRequest) -> Result<Response<Body>, QueryError> {
        let answer = self.forward(request).await?;
        let missing = self.supply().missing;
        let text = String::from_utf8_lossy(answer.body());
        match element(&text, "DesiredCapacity").parse::<u32>() {
            Ok(has) if missing > 0 && answer.status() == StatusCode::OK => {
                let [has, desired] =
                    [has, has + missing].map(|number| format!("<DesiredCapacity>{number}</DesiredCapacity>"));
                Ok(xml_response(StatusCode::OK, text.replace(&has, &desired), &request.request_id))
            }
            _ => Ok(answer.map(Body::from)),
        }
    }
}

fn desired_capacity(group: &str) -> u32 {
    element(group, "DesiredCapacity").parse().unwrap_or_default()
}

fn difference_cause(at: Timestamp, from: u32, to: u32) -> String {
    let at = timestamp::seconds(at);
    format!(
        "At {at} an instance was started in response to a difference between desired and actual capacity, increasing the \
         capacity from {from} to {to}."
    )
}
