//! Turns a call that the stack's AWS answered into CloudTrail's event of it, and what Auto Scaling did into its own
//! events, in EventBridge's envelope.
//!
//! Nothing here comes from what nodemend recorded: only so can the comparison of the two find anything.

use jiff::Timestamp;
use nodemend_domain::timestamp;
use serde_json::{Value, json};

use super::ids;

/// Who called, as the access key tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A function, under its role.
    Role(String),
    /// Anybody else.
    Operator,
}

impl Identity {
    /// The access key that a role's function has.
    pub fn key_of(role: &str) -> String {
        format!("ASIALOCAL-{role}")
    }

    /// Whose access key it is.
    pub fn of(key: &str) -> Self {
        key.strip_prefix("ASIALOCAL-").map_or(Self::Operator, |role| Self::Role(role.to_owned()))
    }

    /// Its ARN to STS.
    pub fn arn(&self) -> String {
        match self {
            Self::Role(role) => format!("arn:aws:sts::{}:assumed-role/{role}/{role}", ids::ACCOUNT),
            Self::Operator => format!("arn:aws:iam::{}:user/operator", ids::ACCOUNT),
        }
    }

    /// Its unique id.
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

/// A call and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// When it was handled.
    pub at: Timestamp,
    /// By whom.
    pub identity: Identity,
    /// With which program.
    pub user_agent: String,
    /// `autoscaling` or `ec2`.
    pub service: &'static str,
    /// The operation.
    pub name: String,
    /// The request's id, as the answer gave it.
    pub request_id: String,
    /// What was asked for.
    pub parameters: Value,
    /// What was answered, or the error's code and message.
    pub answer: Result<Value, (String, String)>,
}

impl Called {
    /// Whether it did something to this instance.
    pub fn hit(&self, instance_id: &str) -> bool {
        let named =
            [&self.parameters["instanceId"], &self.parameters["instancesSet"]["items"][0]["instanceId"]];
        self.answer.is_ok() && named.into_iter().any(|named| named == instance_id)
    }

    /// CloudTrail's event of it, as EventBridge delivers it.
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

/// What Auto Scaling did to one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Its id.
    pub id: String,
    /// The group.
    pub group: String,
    /// The instance.
    pub instance_id: String,
    /// Its zone.
    pub zone: String,
    /// Its subnet.
    pub subnet: String,
    /// When it began.
    pub began: Timestamp,
    /// Why.
    pub cause: String,
}

impl Activity {
    /// As the API answers, and CloudTrail after it: JSON in a string.
    pub fn details(&self) -> String {
        format!(r#"{{"Subnet ID":"{}","Availability Zone":"{}"}}"#, self.subnet, self.zone)
    }

    /// `Terminating EC2 instance: i-…`.
    pub fn termination(&self) -> String {
        format!("Terminating EC2 instance: {}", self.instance_id)
    }

    /// `responseElements` of the call that asked for it.
    pub fn elements(&self) -> Value {
        json!({ "activity": {
            "activityId": self.id,
            "autoScalingGroupName": self.group,
            "description": self.termination(),
            "cause": self.cause,
            "startTime": self.began.strftime("%b %-d, %Y, %-I:%M:%S %p").to_string(),
            "statusCode": "InProgress",
            "progress": 0,
            "details": self.details(),
        } })
    }

    /// Auto Scaling's event that the instance was terminated.
    pub fn terminated(&self, now: Timestamp) -> Value {
        let event = self.event("EC2 Instance Terminate Successful", &self.termination(), now);
        with_way(event, "AutoScalingGroup", "EC2")
    }

    /// Auto Scaling's event that the instance was launched.
    pub fn launched(&self, now: Timestamp) -> Value {
        let description = format!("Launching a new EC2 instance: {}", self.instance_id);
        with_way(self.event("EC2 Instance Launch Successful", &description, now), "EC2", "AutoScalingGroup")
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
            "StartTime": timestamp::millis(self.began),
            "EndTime": timestamp::millis(now),
            "Details": { "Subnet ID": self.subnet, "Availability Zone": self.zone },
            "Cause": self.cause,
        });
        envelope(kind, "autoscaling", now, detail)
    }
}

fn with_way(mut event: Value, origin: &str, destination: &str) -> Value {
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
            began: "2026-08-20T10:31:07.536Z".parse().expect("a time"),
            cause: "At 2026-08-20T10:31:07Z instance i-0ab76e62066c9730c was taken out of service in response to a user request.".to_owned(),
        }
    }

    /// The real record of a replacement is what our own must look like, field for field.
    #[test]
    fn a_call_is_told_with_the_fields_of_a_real_record() {
        let real = include_str!("../../../events/templates/cloudtrail-terminate-by-eks-node-repair.json");
        let real: Value = serde_json::from_str(real).expect("JSON");
        let called = Called {
            at: activity().began,
            identity: Identity::of(&Identity::key_of("nodemend-repair")),
            user_agent: "a test".to_owned(),
            service: "autoscaling",
            name: "TerminateInstanceInAutoScalingGroup".to_owned(),
            request_id: ids::uuid(),
            parameters: json!({ "instanceId": activity().instance_id, "shouldDecrementDesiredCapacity": false }),
            answer: Ok(activity().elements()),
        };
        let ours = &called.event()["detail"];
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
    fn audit_reads_what_auto_scaling_did() {
        let now = "2026-08-20T10:33:00Z".parse().expect("a time");
        let read = |event: Value| AutoScalingEvent::read(event.to_string().as_bytes()).expect("a happening");
        assert!(matches!(read(activity().terminated(now)), AutoScalingEvent::Left { at, .. } if at == now));
        assert!(matches!(read(activity().launched(now)), AutoScalingEvent::Launched { zone: Some(_), .. }));
    }
}
