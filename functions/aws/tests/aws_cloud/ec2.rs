//! EC2 through our own client, which must behave as the SDK's crate for EC2 does.

use aws_config::retry::RetryConfig;
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use nodemend_aws::cloud::AwsCloud;
use nodemend_domain::{
    audit_log::{ApiCall, CallOutcome},
    group::InstanceLocation,
};
use nodemend_ports::{cause::chain, cloud::Cloud};

use crate::{
    aws, config, instance,
    service::{Reply, Service},
};

const REBOOT: &str = "RebootInstances";
const INSTANCES: &str = "DescribeInstances";
const ID: &str = "i-07a5806dcc427bd75";
const THROTTLED: Reply = Reply::File(503, "ec2-error-request-limit-exceeded.xml");

fn reboot() -> ApiCall {
    ApiCall::RebootInstances { instance_id: instance(ID) }
}

/// No instance is in a group, so that EC2 is queried.
fn ungrouped(answers: impl IntoIterator<Item = Reply>) -> Vec<(&'static str, Reply)> {
    let groups = ("DescribeAutoScalingInstances", Reply::File(200, "auto-scaling-instances-none.xml"));
    std::iter::once(groups).chain(answers.into_iter().map(|answer| (INSTANCES, answer))).collect()
}

#[tokio::test]
async fn a_request_has_the_api_version_and_is_signed_with_the_session_token() {
    let service = Service::start(&[
        ("GetCallerIdentity", Reply::File(200, "caller.xml")),
        (REBOOT, Reply::File(200, "reboot.xml")),
    ])
    .await;
    let session =
        Credentials::new("ASIAEXAMPLE", "secret", Some("the/token+of=it".to_owned()), None, "the test");
    let shared = config(service.address)
        .to_builder()
        .credentials_provider(SharedCredentialsProvider::new(session))
        .build();
    let cloud = AwsCloud::connect(&shared).await.expect("a caller");
    assert!(matches!(cloud.call(&reboot()).await.outcome, CallOutcome::Accepted { .. }));
    let received = &service.received(REBOOT)[0];
    assert_eq!(received.form["Version"], "2016-11-15");
    assert_eq!((received.key.as_str(), received.session.as_str()), ("ASIAEXAMPLE", "the/token+of=it"));
    assert!(
        received.user_agent.starts_with("aws-sdk-rust/"),
        "CloudTrail records it: {}",
        received.user_agent
    );
}

#[tokio::test]
async fn an_invalid_answer_to_a_reboot_is_unanswered_and_not_retried() {
    for (reply, why) in [
        (Reply::Text(200, "<html><h1>Log in</h1></html>"), "HTTP 200"),
        (Reply::Text(200, "<html><br></html>"), "HTTP 200"),
        (Reply::Text(200, ""), "HTTP 200"),
        (
            Reply::Text(200, "<RebootInstancesResponse><return>false</return></RebootInstancesResponse>"),
            "HTTP 200",
        ),
        (Reply::File(200, "instances-1.xml"), "HTTP 200"),
        (Reply::Text(403, "<html><h1>A proxy</h1></html>"), "HTTP 403"),
        (Reply::Text(502, ""), "HTTP 502"),
        (
            Reply::Text(
                500,
                "<Response><Errors><Error><Code>InternalError</Code></Error></Errors></Response>",
            ),
            "InternalError",
        ),
    ] {
        let (cloud, service) = aws(&[(REBOOT, reply.clone())]).await;
        let CallOutcome::Unanswered { why: reported } = cloud.call(&reboot()).await.outcome else {
            panic!("{reply:?} is no answer");
        };
        assert!(reported.starts_with(why), "{reply:?}: {reported}");
        assert_eq!(service.received(REBOOT).len(), 1, "{reply:?}");
    }
}

#[tokio::test]
async fn a_read_is_tried_three_times_and_then_fails_with_the_code_of_ec2() {
    let found = Reply::File(200, "instances-others.xml");
    let running = instance("i-00000000000000001");
    let (cloud, service) = aws(&ungrouped([THROTTLED, Reply::Closed, found])).await;
    assert_eq!(
        cloud.describe_instances(std::slice::from_ref(&running)).await,
        Ok(vec![InstanceLocation::Ungrouped])
    );
    assert_eq!(service.received(INSTANCES).len(), 3);

    let (cloud, service) = aws(&ungrouped([THROTTLED, THROTTLED, THROTTLED])).await;
    let error = cloud.describe_instances(std::slice::from_ref(&running)).await.expect_err("throttled");
    assert_eq!((error.code.as_str(), service.received(INSTANCES).len()), ("RequestLimitExceeded", 3));

    let service = Service::start(&ungrouped([THROTTLED])).await;
    let shared = config(service.address).to_builder().retry_config(RetryConfig::disabled()).build();
    let once = AwsCloud::with_caller(&shared, cloud.caller().clone());
    once.describe_instances(&[running]).await.expect_err("throttled");
    assert_eq!(service.received(INSTANCES).len(), 1);
}

#[tokio::test]
async fn an_invalid_list_of_instances_is_an_error_and_no_instance_is_gone() {
    for (reply, code) in [
        (Reply::Text(200, ""), "NoAnswer"),
        (Reply::Text(200, "<html></html>"), "NoAnswer"),
        (Reply::Text(200, "<DescribeInstancesResponse/>"), "NoAnswer"),
        (
            Reply::Text(
                200,
                "<DescribeInstancesResponse><reservationSet><item><instancesSet><item/></instancesSet></item>\
                 </reservationSet></DescribeInstancesResponse>",
            ),
            "NoAnswer",
        ),
        (
            Reply::Text(
                200,
                "<!DOCTYPE a [<!ENTITY b \"cc\">]><DescribeInstancesResponse>&b;</DescribeInstancesResponse>",
            ),
            "NoAnswer",
        ),
    ] {
        let (cloud, _) = aws(&ungrouped([reply.clone()])).await;
        let error = cloud.describe_instances(&[instance(ID)]).await.expect_err("no list");
        assert_eq!(error.code, code, "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn pages_that_never_end_are_an_error() {
    let again = Reply::File(200, "instances-1.xml");
    let (cloud, service) = aws(&ungrouped([again.clone(), again.clone(), again])).await;
    let error = cloud.describe_instances(&[instance(ID)]).await.expect_err("no end");
    assert!(chain(&error).contains("same page"), "{error}");
    let received = service.received(INSTANCES);
    assert_eq!(received.len(), 2);
    assert_eq!(
        (received[0].form.get("NextToken"), received[1].form["NextToken"].as_str()),
        (None, "the-rest")
    );
    assert_eq!(
        (received[0].form["MaxResults"].as_str(), received[1].form["Filter.1.Value.1"].as_str()),
        ("250", ID)
    );
}
