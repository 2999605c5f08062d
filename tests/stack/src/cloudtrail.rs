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

/// From where an instance goes to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// From EC2 into service.
    Launched,
    /// Out of service, and terminated.
    Terminated,
    /// From EC2 into the warm pool.
    Warmed,
    /// From the warm pool into service.
    Drawn,
}

impl Route {
    /// The fields `Origin` and `Destination` of the event.
    fn ends(self) -> [&'static str; 2] {
        match self {
            Self::Launched => ["EC2", "AutoScalingGroup"],
            Self::Terminated => ["AutoScalingGroup", "EC2"],
            Self::Warmed => ["EC2", "WarmPool"],
            Self::Drawn => ["WarmPool", "AutoScalingGroup"],
        }
    }
}

/// EC2's message if it has no capacity, as Auto Scaling passes it on.
const NO_CAPACITY: &str = "We currently do not have sufficient capacity for the instance type in the Availability Zone that was \
                           requested. Launching EC2 instance failed.";

/// A scaling activity of Auto Scaling for one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// The ID of the activity.
    pub id: String,
    /// The name of the Auto Scaling group.
    pub group: String,
    /// From where the instance goes to where.
    pub route: Route,
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

    /// What Auto Scaling does: `Terminating EC2 instance: i-…`.
    pub fn description(&self) -> String {
        let does = match self.route {
            Route::Launched => "Launching a new EC2 instance",
            Route::Terminated => "Terminating EC2 instance",
            Route::Warmed => "Launching a new EC2 instance into warm pool",
            Route::Drawn => "Launching a new EC2 instance from warm pool",
        };
        format!("{does}: {}", self.instance_id)
    }

    /// The `responseElements` of the call that requested the termination.
    pub fn response_elements(&self) -> Value {
        json!({ "activity": {
            "activityId": self.id,
            "autoScalingGroupName": self.group,
            "description": self.description(),
            "cause": self.cause,
            "startTime": self.started.strftime("%b %-d, %Y, %-I:%M:%S %p").to_string(),
            "statusCode": "InProgress",
            "progress": 0,
            "details": self.details(),
        } })
    }

    /// Auto Scaling's event that the instance was launched or terminated.
    pub fn event(&self, now: Timestamp) -> Value {
        let kind = if self.route == Route::Terminated { "Terminate" } else { "Launch" };
        let detail = self.detail(now, &self.description(), "InProgress", "");
        envelope(&format!("EC2 Instance {kind} Successful"), "autoscaling", now, detail)
    }

    /// Auto Scaling's event that EC2 had no capacity for the instance. There is no instance then.
    pub fn failed_event(&self, now: Timestamp) -> Value {
        let description = format!("Launching a new EC2 instance.  Status Reason: {NO_CAPACITY}");
        let detail = self.detail(now, &description, "Failed", NO_CAPACITY);
        envelope("EC2 Instance Launch Unsuccessful", "autoscaling", now, detail)
    }

    fn detail(&self, now: Timestamp, description: &str, status: &str, message: &str) -> Value {
        let [origin, destination] = self.route.ends();
        json!({
            "AccountId": ids::ACCOUNT,
            "Progress": 50,
            "StatusCode": status,
            "StatusMessage": message,
            "Description": description,
            "AutoScalingGroupName": self.group,
            "ActivityId": self.id,
            "RequestId": self.id,
            "EC2InstanceId": self.instance_id,
            "StartTime": timestamp::millis(self.started),
            "EndTime": timestamp::millis(now),
            "Details": { "Subnet ID": self.subnet, "Availability Zone": self.zone },
            "Origin": origin,
            "Destination": destination,
            "Cause": self.cause,
        })
    }
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

    fn activity(route: Route) -> Activity {
        Activity {
            id: ids::uuid(),
            group: "local-nodes".to_owned(),
            route,
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
        let termination = activity(Route::Terminated);
        let call = RecordedCall {
            at: termination.started,
            identity: Identity::from_access_key(&Identity::access_key_of("nodemend-repair")),
            user_agent: "a test".to_owned(),
            service: "autoscaling",
            name: "TerminateInstanceInAutoScalingGroup".to_owned(),
            request_id: ids::uuid(),
            parameters: json!({ "instanceId": termination.instance_id, "shouldDecrementDesiredCapacity": false }),
            answer: Ok(termination.response_elements()),
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
        let event = |route| activity(route).event(now);
        assert!(matches!(read(event(Route::Terminated)), AutoScalingEvent::Left { at, .. } if at == now));
        for (route, drawn) in [(Route::Launched, false), (Route::Drawn, true)] {
            assert!(matches!(
                read(event(route)),
                AutoScalingEvent::Launched { zone: Some(_), from_warm_pool, .. } if from_warm_pool == drawn
            ));
        }
        assert!(matches!(read(event(Route::Warmed)), AutoScalingEvent::Warmed { .. }));
        assert!(matches!(
            read(activity(Route::Launched).failed_event(now)),
            AutoScalingEvent::LaunchFailed { .. }
        ));
    }
}
