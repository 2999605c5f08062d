//! AWS's answers in XML, for the operations that the emulator does not answer as AWS does.

use nodemend_domain::timestamp;

use crate::{
    cloudtrail::{Activity, Identity},
    ids,
};

/// An error of a service with the Query protocol.
pub(super) fn error(code: &str, message: &str, request_id: &str) -> String {
    let message = escaped(message);
    format!(
        "<ErrorResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\n  <Error>\n    <Type>Sender</Type>\n    \
         <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n  <RequestId>{request_id}</RequestId>\n</ErrorResponse>\n"
    )
}

/// The answer to TerminateInstanceInAutoScalingGroup.
pub(super) fn terminate(activity: &Activity, request_id: &str) -> String {
    let Activity { id, group, cause, .. } = activity;
    let (description, details) = (activity.description(), escaped(&activity.details()));
    let (started, cause) = (timestamp::millis(activity.started), escaped(cause));
    format!(
        r#"<TerminateInstanceInAutoScalingGroupResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">
  <TerminateInstanceInAutoScalingGroupResult>
    <Activity>
      <Description>{description}</Description>
      <Cause>{cause}</Cause>
      <ActivityId>{id}</ActivityId>
      <AutoScalingGroupName>{group}</AutoScalingGroupName>
      <Progress>0</Progress>
      <StartTime>{started}</StartTime>
      <Details>{details}</Details>
      <StatusCode>InProgress</StatusCode>
    </Activity>
  </TerminateInstanceInAutoScalingGroupResult>
  <ResponseMetadata>
    <RequestId>{request_id}</RequestId>
  </ResponseMetadata>
</TerminateInstanceInAutoScalingGroupResponse>
"#
    )
}

/// The answer to RebootInstances.
pub(super) fn reboot(request_id: &str) -> String {
    format!(
        r#"<RebootInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
  <requestId>{request_id}</requestId>
  <return>true</return>
</RebootInstancesResponse>
"#
    )
}

/// The answer to GetCallerIdentity.
pub(super) fn caller_identity(identity: &Identity, request_id: &str) -> String {
    let (arn, id, account) = (identity.arn(), identity.principal_id(), ids::ACCOUNT);
    format!(
        r#"<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>{arn}</Arn>
    <UserId>{id}</UserId>
    <Account>{account}</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>{request_id}</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>
"#
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&apos;")
}

/// Decodes the escaped characters.
pub(super) fn unescaped(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&apos;", "'").replace("&#x27;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recorded answer of AWS, with which nodemend-aws is tested too.
    fn recorded(name: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../functions/aws/fixtures/aws")
            .join(name);
        std::fs::read_to_string(path).expect("a fixture")
    }

    #[test]
    fn the_answers_equal_the_recorded_answers_of_aws() {
        let request_id = "355914bb-5d46-4b49-87cc-d2b1522881f4";
        let activity = Activity {
            id: "2c35f15d-17fc-02d7-8d5c-3238170a50e5".to_owned(),
            group: "test-asg".to_owned(),
            route: crate::cloudtrail::Route::Terminated,
            instance_id: "i-07a5806dcc427bd75".to_owned(),
            zone: "ap-southeast-2b".to_owned(),
            subnet: "subnet-7c77841a".to_owned(),
            started: "2021-10-06T20:22:57.536Z".parse().expect("a time"),
            cause: "At 2021-10-06T20:22:57Z instance i-07a5806dcc427bd75 was taken out of service in response to a user request.".to_owned(),
        };
        assert_eq!(terminate(&activity, request_id), recorded("terminate.xml"));
        let request_id = "59dbff89-35bd-4eac-99ed-be587EXAMPLE";
        assert_eq!(reboot(request_id), recorded("reboot.xml"));
        let request_id = "e7abc4ec-8518-11e3-b64f-13b3661c52c1";
        for (message, file) in [
            (super::super::auto_scaling::not_found("i-07a5806dcc427bd75"), "error-not-found.xml"),
            (super::super::auto_scaling::at_minimum("1"), "error-desired-equals-min.xml"),
        ] {
            assert_eq!(error("ValidationError", &message, request_id), recorded(file));
            assert_eq!(unescaped(&escaped(&message)), message);
        }
    }
}
