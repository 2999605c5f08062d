//! Makes CloudTrail's event of an API call, and Auto Scaling's events of its activities, in EventBridge's
//! envelope.
//!
//! Nothing here is read from nodemend's audit log. Otherwise the comparison of the two could not find a
//! difference.

use jiff::Timestamp;
use nodemend_domain::timestamp;
use serde_json::{Value, json};

use super::ids;

/// The principal of a call, as identified by its access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A function, with its IAM role.
    Role(String),
    /// An operator: every other access key.
    Operator,
}

impl Identity {
    /// The access key of a role's function.
    pub fn access_key_of(role: &str) -> String {
        format!("ASIALOCAL-{role}")
    }

    /// The principal with this access key.
    pub fn from_access_key(key: &str) -> Self {
        key.strip_prefix("ASIALOCAL-").map_or(Self::Operator, |role| Self::Role(role.to_owned()))
    }

    /// The principal's ARN, as STS returns it.
    pub fn arn(&self) -> String {
        match self {
            Self::Role(role) => format!("arn:aws:sts::{}:assumed-role/{role}/{role}", ids::ACCOUNT),
            Self::Operator => format!("arn:aws:iam::{}:user/operator", ids::ACCOUNT),
        }
    }

    /// The principal's unique ID.
    pub fn principal_id(&self) -> String {
        match self {
            Self::Role(role) => format!("AROALOCAL{}:{role}", role.replace('-', "").to_ascii_uppercase()),
            Self::Operator => "AIDALOCALOPERATOR".to_owned(),
        }
    }

    fn to_value(&self, now: Timestamp) -> Value {
        let mut identity = json!({
            "type": "IAMUser",
            "principalId": self.principal_id(),
            "arn": self.arn(),
            "accountId": ids::ACCOUNT,
        });
        match self {
            Self::Operator => identity["userName"] = "operator".into(),
            Self::Role(role) => {
                identity["type"] = "AssumedRole".into();
                identity["sessionContext"] = json!({
                    "sessionIssuer": {
                        "type": "Role",
                        "principalId": self.principal_id().split(':').next(),
                        "arn": format!("arn:aws:iam::{}:role/{role}", ids::ACCOUNT),
                        "accountId": ids::ACCOUNT,
                        "userName": role,
                    },
                    "attributes": { "creationDate": timestamp::seconds(now), "mfaAuthenticated": "false" },
                });
            }
        }
        identity
    }
}

/// An API call and its answer, with what CloudTrail records of them.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedCall {
    /// When the request arrived.
    pub at: Timestamp,
    /// The principal that called.
    pub identity: Identity,
    /// The user agent of the request.
    pub user_agent: String,
    /// The service: `autoscaling` or `ec2`.
    pub service: &'static str,
    /// The name of the operation.
    pub name: String,
    /// The request ID, as the answer has it.
    pub request_id: String,
    /// The `requestParameters`.
    pub parameters: Value,
    /// The `responseElements`, or the error's code and message.
    pub answer: Result<Value, (String, String)>,
}

impl RecordedCall {
    /// Whether the call succeeded and its target is this instance.
    pub fn affects(&self, instance_id: &str) -> bool {
        let named =
            [&self.parameters["instanceId"], &self.parameters["instancesSet"]["items"][0]["instanceId"]];
        self.answer.is_ok() && named.into_iter().any(|named| named == instance_id)
    }

    /// CloudTrail's event of the call, as EventBridge delivers it.
    pub fn event(&self) -> Value {
        let mut detail = json!({
            "eventVersion": "1.11",
            "userIdentity": self.identity.to_value(self.at),
            "eventTime": timestamp::seconds(self.at),
            "eventSource": format!("{}.amazonaws.com", self.service),
            "eventName": self.name,
            "awsRegion": ids::REGION,
            "sourceIPAddress": "127.0.0.1",
            "userAgent": self.user_agent,
            "requestParameters": self.parameters,
            "responseElements": self.answer.as_ref().unwrap_or(&Value::Null),
            "requestID": self.request_id,
            "eventID": ids::uuid(),
            "readOnly": false,
            "eventType": "AwsApiCall",
            "managementEvent": true,
            "recipientAccountId": ids::ACCOUNT,
            "eventCategory": "Management",
        });
        if let Err((code, message)) = &self.answer {
            detail["errorCode"] = code.as_str().into();
            detail["errorMessage"] = message.as_str().into();
        }
        let mut event = envelope("AWS API Call via CloudTrail", self.service, self.at, detail);
        event["time"] = timestamp::seconds(self.at).into();
        event
    }
}

/// A scaling activity of Auto Scaling for one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// The ID of the activity.
    pub id: String,
    /// The name of the Auto Scaling group.
    pub group: String,
    /// The ID of the instance.
    pub instance_id: String,
    /// The Availability Zone of the instance.
    pub zone: String,
    /// The subnet of the instance.
    pub subnet: String,
    /// When the activity started.
    pub started: Timestamp,
    /// The cause, as one or more sentences.
    pub cause: String,
}

impl Activity {
    /// The field `Details`: JSON in a string, in the API's answer and in CloudTrail's event.
    pub fn details(&self) -> String {
        format!(r#"{{"Subnet ID":"{}","Availability Zone":"{}"}}"#, self.subnet, self.zone)
    }

    /// The description of a termination: `Terminating EC2 instance: i-…`.
    pub fn termination_description(&self) -> String {
        format!("Terminating EC2 instance: {}", self.instance_id)
    }

    /// The `responseElements` of the call that requested the termination.
    pub fn response_elements(&self) -> Value {
        json!({ "activity": {
            "activityId": self.id,
            "autoScalingGroupName": self.group,
            "description": self.termination_description(),
            "cause": self.cause,
            "startTime": self.started.strftime("%b %-d, %Y, %-I:%M:%S %p").to_string(),
            "statusCode": "InProgress",
            "progress": 0,
            "details": self.details(),
        } })
    }

    /// Auto Scaling's event that the instance was terminated.
    pub fn terminated_event(&self, now: Timestamp) -> Value {
        let event = self.event("EC2 Instance Terminate Successful", &self.termination_description(), now);
        with_route(event, "AutoScalingGroup", "EC2")
    }

    /// Auto Scaling's event that the instance was launched.
    pub fn launched_event(&self, now: Timestamp) -> Value {
        let description = format!("Launching a new EC2 instance: {}", self.instance_id);
        with_route(self.event("EC2 Instance Launch Successful", &description, now), "EC2", "AutoScalingGroup")
    }

    fn event(&self, kind: &str, description: &str, now: Timestamp) -> Value {
        let detail = json!({
            "AccountId": ids::ACCOUNT,
            "Progress": 50,
            "StatusCode": "InProgress",
            "StatusMessage": "",
            "Description": description,
            "AutoScalingGroupName": self.group,
            "ActivityId": self.id,
            "RequestId": self.id,
            "EC2InstanceId": self.instance_id,
            "StartTime": timestamp::millis(self.started),
            "EndTime": timestamp::millis(now),
            "Details": { "Subnet ID": self.subnet, "Availability Zone": self.zone },
            "Cause": self.cause,
        });
        envelope(kind, "autoscaling", now, detail)
    }
}

/// The same event, with where the instance comes from and where it goes.
fn with_route(mut event: Value, origin: &str, destination: &str) -> Value {
    event["detail"]["Origin"] = origin.into();
    event["detail"]["Destination"] = destination.into();
    event
}

fn envelope(kind: &str, service: &str, at: Timestamp, detail: Value) -> Value {
    json!({
        "version": "0",
        "id": ids::uuid(),
        "detail-type": kind,
        "source": format!("aws.{service}"),
        "account": ids::ACCOUNT,
        "time": timestamp::seconds(at),
        "region": ids::REGION,
        "resources": [],
        "detail": detail,
    })
}

#[cfg(test)]
mod tests {
    use nodemend_confirm::AutoScalingEvent;

    use super::*;

    fn activity() -> Activity {
        Activity {
            id: ids::uuid(),
            group: "local-nodes".to_owned(),
            instance_id: "i-0ab76e62066c9730c".to_owned(),
            zone: "us-east-1a".to_owned(),
            subnet: "subnet-1".to_owned(),
            started: "2026-08-20T10:31:07.536Z".parse().expect("a time"),
            cause: "At 2026-08-20T10:31:07Z instance i-0ab76e62066c9730c was taken out of service in response to a user request.".to_owned(),
        }
    }

    /// The captured CloudTrail record of a replacement has the same fields as the emulated one.
    #[test]
    fn an_event_has_the_fields_of_a_captured_cloudtrail_record() {
        let real = include_str!("../../../events/templates/cloudtrail-terminate-by-eks-node-repair.json");
        let real: Value = serde_json::from_str(real).expect("JSON");
        let call = RecordedCall {
            at: activity().started,
            identity: Identity::from_access_key(&Identity::access_key_of("nodemend-repair")),
            user_agent: "a test".to_owned(),
            service: "autoscaling",
            name: "TerminateInstanceInAutoScalingGroup".to_owned(),
            request_id: ids::uuid(),
            parameters: json!({ "instanceId": activity().instance_id, "shouldDecrementDesiredCapacity": false }),
            answer: Ok(activity().response_elements()),
        };
        let ours = &call.event()["detail"];
        let fields = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
        for path in ["", "/requestParameters", "/responseElements", "/responseElements/activity"] {
            let (ours, real) = (ours.pointer(path).expect(path), real.pointer(path).expect(path));
            let (ours, mut real) = (fields(ours).expect("fields"), fields(real).expect("fields"));
            real.retain(|field| field != "eventContext" && field != "tlsDetails");
            let sorted = |mut fields: Vec<String>| {
                fields.sort();
                fields
            };
            assert_eq!(sorted(ours), sorted(real), "{path}");
        }
        assert_eq!(ours["responseElements"]["activity"]["startTime"], "Aug 20, 2026, 10:31:07 AM");
    }

    #[test]
    fn confirm_reads_the_events_of_auto_scaling() {
        let now = "2026-08-20T10:33:00Z".parse().expect("a time");
        let read = |event: Value| AutoScalingEvent::read(event.to_string().as_bytes()).expect("an event");
        assert!(
            matches!(read(activity().terminated_event(now)), AutoScalingEvent::Left { at, .. } if at == now)
        );
        assert!(matches!(
            read(activity().launched_event(now)),
            AutoScalingEvent::Launched { zone: Some(_), .. }
        ));
    }
}
