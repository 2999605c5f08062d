//! The answers of Auto Scaling, EC2 and EKS to the requests of a drain.

use nodemend_ports::clock::Clock;
use nodemend_testkit::http::{Answer, Request, answer};
use serde_json::json;

use crate::environment::{Environment, GROUP, HOOK, INSTANCE, TOKEN};

const SCHEMA: &str = "http://autoscaling.amazonaws.com/doc/2011-01-01/";

/// The answer to one request.
pub(crate) fn respond(
    environment: &Environment,
    endpoint: &str,
    authority: &str,
    request: &Request,
) -> Answer {
    if request.path.starts_with("/clusters/") {
        let cluster = json!({ "cluster": {
            "name": request.path.trim_start_matches("/clusters/"),
            "endpoint": endpoint,
            "certificateAuthority": { "data": authority },
        } });
        return answer(200, cluster.to_string());
    }
    let form = request.form();
    let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default().to_owned();
    let now = environment.clock.now();
    let mut state = environment.state();
    let action = of("Action");
    if action.ends_with("Heartbeat") || action == "CompleteLifecycleAction" {
        let parameters =
            ["AutoScalingGroupName", "LifecycleHookName", "LifecycleActionToken", "InstanceId"].map(of);
        assert_eq!(parameters, [GROUP, HOOK, TOKEN, INSTANCE]);
    }
    match action.as_str() {
        "DescribeAutoScalingGroups" => {
            let tag = &state.tag;
            let group = format!(
                "<member><AutoScalingGroupName>{GROUP}</AutoScalingGroupName><Instances/>\
                 <Tags><member><Key>{tag}</Key><Value>owned</Value></member></Tags></member>"
            );
            let known = if tag.is_empty() { "" } else { &group };
            answer(
                200,
                format!(
                    "<DescribeAutoScalingGroupsResponse xmlns=\"{SCHEMA}\"><DescribeAutoScalingGroupsResult>\
                     <AutoScalingGroups>{known}</AutoScalingGroups></DescribeAutoScalingGroupsResult>\
                     </DescribeAutoScalingGroupsResponse>"
                ),
            )
        }
        "DescribeInstances" => {
            let name = &state.private_name;
            let instance = format!(
                "<item><instancesSet><item><instanceId>{INSTANCE}</instanceId>\
                 <privateDnsName>{name}</privateDnsName></item></instancesSet></item>"
            );
            let known = if name.is_empty() { "" } else { &instance };
            answer(
                200,
                format!(
                    "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                     <reservationSet>{known}</reservationSet></DescribeInstancesResponse>"
                ),
            )
        }
        "RecordLifecycleActionHeartbeat" if state.heartbeats_refused => {
            refused("Throttling", "Rate exceeded")
        }
        "RecordLifecycleActionHeartbeat" if state.held => {
            state.heartbeats.push(now);
            done("RecordLifecycleActionHeartbeat")
        }
        "CompleteLifecycleAction" if state.throttled > 0 => {
            state.throttled -= 1;
            refused("Throttling", "Rate exceeded")
        }
        "CompleteLifecycleAction" if state.held => {
            assert_eq!(of("LifecycleActionResult"), "CONTINUE");
            state.completions.push(now);
            state.held = false;
            done("CompleteLifecycleAction")
        }
        "RecordLifecycleActionHeartbeat" | "CompleteLifecycleAction" => {
            let message = format!("No active Lifecycle Action found with instance ID {INSTANCE}");
            refused("ValidationError", &message)
        }
        _ => answer(418, "the test has no answer"),
    }
}

fn done(action: &str) -> Answer {
    answer(200, format!("<{action}Response xmlns=\"{SCHEMA}\"><{action}Result/></{action}Response>"))
}

fn refused(code: &str, message: &str) -> Answer {
    answer(
        400,
        format!(
            "<ErrorResponse xmlns=\"{SCHEMA}\"><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
        ),
    )
}
