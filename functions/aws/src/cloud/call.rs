//! Turns the answer to one of the two calls that change anything into an [`CallAnswer`]: taken, refused, or lost.
//!
//! Neither call is ever sent twice by the SDK. TerminateInstanceInAutoScalingGroup has no client token: where the first
//! attempt took effect and its answer was lost, a second would be refused with "Instance Id not found", and the
//! trail would hold a refusal of what was done. A second RebootInstances could hit a node that has just come back.
//! The repairer tries again itself, after it has looked where the instance is.

use std::{error::Error, time::Duration};

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_autoscaling::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};
use jiff::Timestamp;
use nodemend_domain::{
    audit_log::{Activity, CallAnswer, CallOutcome},
    ident::InstanceId,
};

use super::{
    ec2::{Ec2, Element, Unreadable},
    error::{causes, one_line},
};

/// The code of our own for a call that never left: neither AWS nor CloudTrail knows of it.
const NOT_SENT: &str = "NotSent";

/// Has an instance's group replace it.
pub(super) async fn terminate(
    client: &aws_sdk_autoscaling::Client,
    instance_id: &InstanceId,
    patience: Duration,
) -> CallAnswer {
    let once = aws_sdk_autoscaling::config::Builder::new()
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(patience));
    let answer = client
        .terminate_instance_in_auto_scaling_group()
        .instance_id(instance_id.as_str())
        .should_decrement_desired_capacity(false)
        .customize()
        .config_override(once)
        .send()
        .await;
    match answer {
        Ok(output) => CallAnswer {
            request_id: output.request_id().map(ToOwned::to_owned),
            outcome: CallOutcome::Accepted { activity: output.activity.and_then(activity) },
        },
        Err(error) => unaccepted(&error),
    }
}

/// Reboots an instance.
pub(super) async fn reboot(client: &Ec2, instance_id: &InstanceId, patience: Duration) -> CallAnswer {
    // Anything else than "no" is a yes: EC2's own client reads none of it.
    let done = |answer: Element<'_, '_>| match answer.text("return") {
        Some("false") => Err(Unreadable("yes")),
        _ => Ok(()),
    };
    let request = client.reboot_instances().field("InstanceId.1", instance_id.as_str());
    match request.once(patience).send(done).await {
        Ok(answered) => {
            CallAnswer { request_id: answered.request_id, outcome: CallOutcome::Accepted { activity: None } }
        }
        Err(error) => unaccepted(&error),
    }
}

fn timeouts(patience: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(patience).operation_timeout(patience).build()
}

/// What AWS made of the call, in CloudTrail's own fields. Of one that lacks what all have, nothing is made up.
fn activity(told: aws_sdk_autoscaling::types::Activity) -> Option<Activity> {
    let began = told.start_time?;
    Some(Activity {
        activity_id: told.activity_id.filter(|id| !id.is_empty())?,
        auto_scaling_group_name: told.auto_scaling_group_name?,
        description: told.description?,
        cause: told.cause?,
        start_time: Timestamp::new(began.secs(), began.subsec_nanos().try_into().ok()?).ok()?,
        status_code: told.status_code?.as_str().to_owned(),
        progress: told.progress?,
        details: told.details,
    })
}

/// Refused, if AWS says so in so many words. Anything else leaves open whether it was done.
fn unaccepted<E>(error: &SdkError<E, HttpResponse>) -> CallAnswer
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    let request_id = error.request_id().map(ToOwned::to_owned);
    let status = error.raw_response().map(|response| response.status().as_u16());
    let outcome = match (error.code(), status) {
        (Some(code), Some(status)) if is_refusal(status, code) => CallOutcome::Failed {
            code: code.to_owned(),
            message: one_line(error.message().unwrap_or_default()),
        },
        (Some(code), _) => CallOutcome::Unanswered {
            why: one_line(&format!("{code}: {}", error.message().unwrap_or_default())),
        },
        (None, None) if was_never_sent(error) => {
            CallOutcome::Failed { code: NOT_SENT.to_owned(), message: causes(error) }
        }
        (None, Some(status)) => {
            CallOutcome::Unanswered { why: one_line(&format!("HTTP {status}: {}", causes(error))) }
        }
        (None, None) => CallOutcome::Unanswered { why: causes(error) },
    };
    CallAnswer { request_id, outcome }
}

/// Whether not a byte of the request left: it could not be made, or there was no connection to send it on.
fn was_never_sent<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> bool {
    let mut causes = std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (**error).source());
    matches!(error, SdkError::ConstructionFailure(_))
        || causes.any(|cause| {
            cause.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|e| e.is_connect())
        })
}

/// Whether an error says that nothing was done. Of the server's own faults (5xx) only those that turn the request
/// away at the door: an `InternalFailure` may come after half of the work.
fn is_refusal(status: u16, code: &str) -> bool {
    let at_the_door =
        matches!(code, "ResourceContention" | "RequestLimitExceeded" | "Throttling" | "ThrottlingException");
    (400..500).contains(&status) || at_the_door
}
