//! Makes the two calls that change an instance, and classifies the answer: accepted, rejected, or unanswered.
//!
//! The SDK never retries them. TerminateInstanceInAutoScalingGroup has no client token: if the first attempt took
//! effect and its answer was lost, a second one would be rejected with "Instance Id not found", and the audit log would
//! have a rejection of a call that succeeded. A second RebootInstances could hit a node that has just come back. The
//! repairer retries itself, after it has read the instance's state.

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
use nodemend_ports::cause::{chain, one_line};

use super::ec2::{Ec2, Element, Unreadable};

/// Our own error code for a call that was never sent: AWS and CloudTrail have no trace of it.
const NOT_SENT: &str = "NotSent";

/// Terminates an instance, and lets its group replace it.
pub(super) async fn terminate(
    client: &aws_sdk_autoscaling::Client,
    instance_id: &InstanceId,
    timeout: Duration,
) -> CallAnswer {
    let once = aws_sdk_autoscaling::config::Builder::new()
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(timeout));
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
pub(super) async fn reboot(client: &Ec2, instance_id: &InstanceId, timeout: Duration) -> CallAnswer {
    // Only "false" is a failure: EC2's own client ignores this field.
    let read = |answer: Element<'_, '_>| match answer.text("return") {
        Some("false") => Err(Unreadable("return")),
        _ => Ok(()),
    };
    let request = client.reboot_instances().field("InstanceId.1", instance_id.as_str());
    match request.once(timeout).send(read).await {
        Ok(answered) => {
            CallAnswer { request_id: answered.request_id, outcome: CallOutcome::Accepted { activity: None } }
        }
        Err(error) => unaccepted(&error),
    }
}

fn timeouts(timeout: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(timeout).operation_timeout(timeout).build()
}

/// Auto Scaling's activity for the call, in CloudTrail's fields, or `None` if a required one is missing.
fn activity(answered: aws_sdk_autoscaling::types::Activity) -> Option<Activity> {
    let began = answered.start_time?;
    Some(Activity {
        activity_id: answered.activity_id.filter(|id| !id.is_empty())?,
        auto_scaling_group_name: answered.auto_scaling_group_name?,
        description: answered.description?,
        cause: answered.cause?,
        start_time: Timestamp::new(began.secs(), began.subsec_nanos().try_into().ok()?).ok()?,
        status_code: answered.status_code?.as_str().to_owned(),
        progress: answered.progress?,
        details: answered.details,
    })
}

/// Rejected, if AWS clearly answered so. After any other error it is unknown whether the call took effect.
fn unaccepted<E>(error: &SdkError<E, HttpResponse>) -> CallAnswer
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    let request_id = error.request_id().map(ToOwned::to_owned);
    let status = error.raw_response().map(|response| response.status().as_u16());
    let outcome = match (error.code(), status) {
        (Some(code), Some(status)) if is_rejection(status, code) => CallOutcome::Failed {
            code: code.to_owned(),
            message: one_line(error.message().unwrap_or_default()),
        },
        (Some(code), _) => CallOutcome::Unanswered {
            why: one_line(&format!("{code}: {}", error.message().unwrap_or_default())),
        },
        (None, None) if was_never_sent(error) => {
            CallOutcome::Failed { code: NOT_SENT.to_owned(), message: chain(error) }
        }
        (None, Some(status)) => {
            CallOutcome::Unanswered { why: one_line(&format!("HTTP {status}: {}", chain(error))) }
        }
        (None, None) => CallOutcome::Unanswered { why: chain(error) },
    };
    CallAnswer { request_id, outcome }
}

/// Whether nothing was sent: the request could not be built, or there was no connection.
fn was_never_sent<E: Error + 'static>(error: &SdkError<E, HttpResponse>) -> bool {
    let mut sources =
        std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (**error).source());
    matches!(error, SdkError::ConstructionFailure(_))
        || sources.any(|cause| {
            cause.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|e| e.is_connect())
        })
}

/// Whether an error means that the call had no effect. Of the server errors (5xx) only those that reject the request
/// before any work: an `InternalFailure` may come after a part of it.
fn is_rejection(status: u16, code: &str) -> bool {
    let before_any_work =
        matches!(code, "ResourceContention" | "RequestLimitExceeded" | "Throttling" | "ThrottlingException");
    (400..500).contains(&status) || before_any_work
}
