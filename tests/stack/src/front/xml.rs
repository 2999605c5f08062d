//! AWS's own answers, in its own words, where the emulator has none or others.

use nodemend_domain::timestamp;

use crate::{
    cloudtrail::{Activity, Identity},
    ids,
};

/// An error of a query service.
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
    let (description, details) = (activity.termination(), escaped(&activity.details()));
    let (began, cause) = (timestamp::millis(activity.began), escaped(cause));
    format!(
        r#"<TerminateInstanceInAutoScalingGroupResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">
  <TerminateInstanceInAutoScalingGroupResult>
    <Activity>
      <Description>{description}</Description>
      <Cause>{cause}</Cause>
      <ActivityId>{id}</ActivityId>
      <AutoScalingGroupName>{group}</AutoScalingGroupName>
      <Progress>0</Progress>
      <StartTime>{began}</StartTime>
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
pub(super) fn caller(identity: &Identity, request_id: &str) -> String {
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

/// Undoes the escapes.
pub(super) fn plain(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&apos;", "'").replace("&#x27;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recorded answers that nodemend-aws is tested with.
    fn recorded(name: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../functions/aws/fixtures/aws")
            .join(name);
        std::fs::read_to_string(path).expect("a fixture")
    }

    #[test]
    fn the_answers_are_those_that_aws_gives() {
        let request_id = "355914bb-5d46-4b49-87cc-d2b1522881f4";
        let activity = Activity {
            id: "2c35f15d-17fc-02d7-8d5c-3238170a50e5".to_owned(),
            group: "test-asg".to_owned(),
            instance_id: "i-07a5806dcc427bd75".to_owned(),
            zone: "ap-southeast-2b".to_owned(),
            subnet: "subnet-7c77841a".to_owned(),
            began: "2021-10-06T20:22:57.536Z".parse().expect("a time"),
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
            assert_eq!(plain(&escaped(&message)), message);
        }
    }
}
