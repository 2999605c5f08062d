//! The two calls that change something: TerminateInstanceInAutoScalingGroup and RebootInstances.

use std::time::Duration;

use aws_config::Region;
use aws_sdk_sts::config::Credentials;
use nodemend_aws::{cloud::AwsCloud, sdk};
use nodemend_domain::{
    audit_log::{Activity, ApiCall, CallAnswer, CallOutcome, Caller},
    aws_error::AwsErrorKind,
    ident::AccountId,
};
use nodemend_ports::{cause::chain, cloud::Cloud, config::environment::Members};

use crate::{
    aws, config, instance,
    service::{REQUEST_ID, Reply, Service},
};

const TERMINATE: &str = "TerminateInstanceInAutoScalingGroup";
const REBOOT: &str = "RebootInstances";
const ID: &str = "i-07a5806dcc427bd75";

fn terminate() -> ApiCall {
    ApiCall::TerminateInstanceInAutoScalingGroup { instance_id: instance(ID) }
}

fn reboot() -> ApiCall {
    ApiCall::RebootInstances { instance_id: instance(ID) }
}

#[tokio::test]
async fn the_caller_is_read_from_sts_once() {
    let (cloud, service) = aws(&[]).await;
    let expected = Caller {
        account: "123456789012".to_owned(),
        region: "us-west-2".to_owned(),
        arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
        principal_id: Some("AROAEXAMPLEROLEID0000:nodemend-repair".to_owned()),
        user_agent: None,
    };
    assert_eq!((cloud.caller(), cloud.caller()), (&expected, &expected));
    assert_eq!(service.received("GetCallerIdentity").len(), 1);
}

#[tokio::test]
async fn connecting_fails_if_sts_denies_the_caller() {
    let service = Service::start(&[("GetCallerIdentity", Reply::File(403, "error-access-denied.xml"))]).await;
    let error = AwsCloud::connect(&config(service.address)).await.expect_err("refused");
    assert_eq!(error.code, "AccessDenied");
}

#[tokio::test]
async fn a_member_account_is_reached_through_its_role() {
    let script = [
        ("GetCallerIdentity", Reply::File(200, "caller.xml")),
        ("AssumeRole", Reply::File(200, "assume-role.xml")),
        (TERMINATE, Reply::File(200, "terminate.xml")),
        (TERMINATE, Reply::File(200, "terminate.xml")),
        (REBOOT, Reply::File(200, "reboot.xml")),
        (REBOOT, Reply::File(200, "reboot.xml")),
    ];
    let service = Service::start(&script).await;
    let credentials = Credentials::new("AKIAEXAMPLE", "secret", None, None, "the test");
    let shared = sdk::defaults()
        .endpoint_url(format!("http://{}", service.address))
        .region(Region::from_static("us-west-2"))
        .credentials_provider(credentials)
        .load()
        .await;
    let roles = Members { role: "nodemend/member".to_owned(), calls_as: "nodemend/member".to_owned() };
    let ours = AwsCloud::connect(&shared).await.expect("a caller").with_members(&shared, Some(roles));
    let other = AccountId::new("222222222222").expect("an id");
    assert_eq!(ours.in_account(None).await.expect("ours").caller(), ours.caller());
    let own = AccountId::new(&ours.caller().account).expect("an id");
    assert_eq!(ours.in_account(Some(&own)).await.expect("ours").caller(), ours.caller());
    assert_eq!(service.received("AssumeRole").len(), 0, "the own account needs no role");
    for _ in 0..2 {
        let theirs = ours.in_account(Some(&other)).await.expect("access");
        assert_eq!(theirs.caller().arn, "arn:aws:sts::222222222222:assumed-role/member/nodemend");
        for call in [terminate(), reboot()] {
            assert!(matches!(theirs.call(&call).await.outcome, CallOutcome::Accepted { .. }));
        }
    }
    let assumed = service.received("AssumeRole");
    assert_eq!(assumed.len(), 1, "credentials are kept until they expire");
    assert_eq!(assumed[0].form["RoleArn"], "arn:aws:iam::222222222222:role/nodemend/member");
    assert_eq!(assumed[0].form["RoleSessionName"], "nodemend");
    for call in [TERMINATE, REBOOT] {
        let keys: Vec<String> = service.received(call).into_iter().map(|received| received.key).collect();
        assert_eq!(keys, ["ASIAMEMBER", "ASIAMEMBER"], "{call}");
    }
}

#[tokio::test]
async fn the_error_names_an_account_without_a_role() {
    let (cloud, _service) = aws(&[]).await;
    let other = AccountId::new("222222222222").expect("an id");
    let error = cloud.in_account(Some(&other)).await.expect_err("no access");
    assert!(chain(&error).contains("222222222222"), "{}", chain(&error));
}

#[tokio::test]
async fn a_termination_keeps_the_desired_capacity_and_returns_its_activity() {
    let (cloud, service) = aws(&[(TERMINATE, Reply::File(200, "terminate.xml"))]).await;
    let expected = CallAnswer {
        request_id: Some(REQUEST_ID.to_owned()),
        outcome: CallOutcome::Accepted {
            activity: Some(Activity {
                activity_id: "2c35f15d-17fc-02d7-8d5c-3238170a50e5".to_owned(),
                auto_scaling_group_name: "test-asg".to_owned(),
                description: format!("Terminating EC2 instance: {ID}"),
                cause: format!(
                    "At 2021-10-06T20:22:57Z instance {ID} was taken out of service in response to a user request."
                ),
                start_time: "2021-10-06T20:22:57.536Z".parse().expect("a time"),
                status_code: "InProgress".to_owned(),
                progress: 0,
                details: Some(
                    r#"{"Subnet ID":"subnet-7c77841a","Availability Zone":"ap-southeast-2b"}"#.to_owned(),
                ),
            }),
        },
    };
    assert_eq!(cloud.call(&terminate()).await, expected);
    let received = service.received(TERMINATE);
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].form["InstanceId"], ID);
    assert_eq!(received[0].form["ShouldDecrementDesiredCapacity"], "false");
    assert_eq!(received[0].scope, "us-west-2/autoscaling/aws4_request");
}

#[tokio::test]
async fn a_reboot_is_for_one_instance() {
    let (cloud, service) = aws(&[(REBOOT, Reply::File(200, "reboot.xml"))]).await;
    let expected = CallAnswer {
        request_id: Some(REQUEST_ID.to_owned()),
        outcome: CallOutcome::Accepted { activity: None },
    };
    assert_eq!(cloud.call(&reboot()).await, expected);
    let received = service.received(REBOOT);
    assert_eq!(received.len(), 1);
    let instances: Vec<_> =
        received[0].form.iter().filter(|(name, _)| name.starts_with("Instance")).collect();
    assert_eq!(instances, [(&"InstanceId.1".to_owned(), &ID.to_owned())]);
    assert_eq!(received[0].scope, "us-west-2/ec2/aws4_request");
}

#[tokio::test]
async fn a_refused_call_has_the_code_and_message_of_aws_and_is_sent_once() {
    for (call, status, file, code, message, kind) in [
        (
            terminate(),
            400,
            "error-not-found.xml",
            "ValidationError",
            "Instance Id not found",
            AwsErrorKind::NotFound,
        ),
        (
            terminate(),
            400,
            "error-desired-equals-min.xml",
            "ValidationError",
            "Currently, desiredSize equals minSize (1)",
            AwsErrorKind::Denied,
        ),
        (
            terminate(),
            400,
            "error-scaling-activity-in-progress.xml",
            "ScalingActivityInProgress",
            "Scaling Activity",
            AwsErrorKind::InProgress,
        ),
        (
            terminate(),
            500,
            "error-resource-contention.xml",
            "ResourceContention",
            "You already have a pending update",
            AwsErrorKind::InProgress,
        ),
        (terminate(), 400, "error-throttling.xml", "Throttling", "Rate exceeded", AwsErrorKind::Throttled),
        (
            terminate(),
            403,
            "error-access-denied.xml",
            "AccessDenied",
            "User: arn:aws:sts",
            AwsErrorKind::Denied,
        ),
        (
            reboot(),
            400,
            "ec2-error-not-found.xml",
            "InvalidInstanceID.NotFound",
            "The instance ID",
            AwsErrorKind::NotFound,
        ),
        (
            reboot(),
            400,
            "ec2-error-incorrect-state.xml",
            "IncorrectState",
            "The instance",
            AwsErrorKind::NotFound,
        ),
        (
            reboot(),
            503,
            "ec2-error-request-limit-exceeded.xml",
            "RequestLimitExceeded",
            "Request limit exceeded.",
            AwsErrorKind::Throttled,
        ),
        (
            reboot(),
            403,
            "ec2-error-unauthorized.xml",
            "UnauthorizedOperation",
            "You are not authorized",
            AwsErrorKind::Denied,
        ),
    ] {
        let (cloud, service) = aws(&[(call.event_name(), Reply::File(status, file))]).await;
        let answer = cloud.call(&call).await;
        assert_eq!(answer.request_id.as_deref(), Some(REQUEST_ID), "{file}");
        let CallOutcome::Failed { code: failed_with, message: text } = answer.outcome else {
            panic!("{file}: {:?}", answer.outcome);
        };
        assert_eq!(failed_with, code);
        assert!(text.starts_with(message), "{file}: {text}");
        assert_eq!(AwsErrorKind::of(&failed_with, &text), kind, "{file}");
        assert_eq!(service.received(call.event_name()).len(), 1, "{file}: never a second attempt");
    }
}

#[tokio::test]
async fn an_answer_that_may_follow_a_call_is_unanswered_and_not_retried() {
    for (reply, why) in [
        (Reply::Closed, "dispatch failure"),
        (Reply::Text(500, ""), "HTTP 500"),
        (Reply::Text(502, "<html><h1>Bad Gateway</h1></html>"), "HTTP 502"),
        (Reply::Text(403, "<html><h1>A proxy</h1></html>"), "HTTP 403"),
        (Reply::Text(200, "<html><h1>Log in</h1></html>"), "HTTP 200"),
        (Reply::Text(200, ""), "HTTP 200"),
        (Reply::File(500, "error-internal-failure.xml"), "InternalFailure: The request processing"),
    ] {
        let (cloud, service) = aws(&[(TERMINATE, reply.clone())]).await;
        let CallOutcome::Unanswered { why: reported } = cloud.call(&terminate()).await.outcome else {
            panic!("{reply:?} is no answer");
        };
        assert!(reported.starts_with(why), "{reply:?}: {reported}");
        assert_eq!(service.received(TERMINATE).len(), 1, "{reply:?}");
    }
    let (cloud, service) = aws(&[(REBOOT, Reply::Closed)]).await;
    assert!(matches!(cloud.call(&reboot()).await.outcome, CallOutcome::Unanswered { .. }));
    assert_eq!(service.received(REBOOT).len(), 1);
}

#[tokio::test]
async fn a_call_without_an_answer_in_time_is_unanswered() {
    let (cloud, service) = aws(&[(TERMINATE, Reply::Hang), (REBOOT, Reply::Hang)]).await;
    let cloud = cloud.with_patience(Duration::from_secs(1));
    let (terminate, reboot) = (terminate(), reboot());
    let (terminated, rebooted) = tokio::join!(cloud.call(&terminate), cloud.call(&reboot));
    for answer in [terminated, rebooted] {
        let CallOutcome::Unanswered { why } = answer.outcome else { panic!("no answer came") };
        assert!(why.contains("timeout"), "{why}");
    }
    assert_eq!((service.received(TERMINATE).len(), service.received(REBOOT).len()), (1, 1));
}

#[tokio::test]
async fn a_call_without_a_connection_has_failed_as_not_sent() {
    let (cloud, _) = aws(&[]).await;
    let closed_port = {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        closed.local_addr().expect("an address")
    };
    let cloud = AwsCloud::with_caller(&config(closed_port), cloud.caller().clone());
    for call in [terminate(), reboot()] {
        let CallOutcome::Failed { code, message } = cloud.call(&call).await.outcome else {
            panic!("nothing was sent");
        };
        assert_eq!(code, "NotSent");
        assert!(message.contains("refused"), "{message}");
    }
}
