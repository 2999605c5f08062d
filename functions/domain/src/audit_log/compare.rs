//! Compares our record of a call with CloudTrail's event of it.
//!
//! Every field that both have is compared, at any depth. A field that only one has is no difference, with one
//! exception: `errorCode`, whose absence means that the call succeeded.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CloudTrailEvent, Record, call::is_same_principal, time};

/// The fields that are never compared, each with the reason.
pub const NEVER_COMPARED: &[(&str, &str)] = &[
    ("eventID", "CloudTrail and the audit log have their own ids"),
    ("eventVersion", "events of another major version are not parsed, and a minor version only adds fields"),
    (
        "userAgent",
        "the SDK builds it for each attempt, AWS rewrites it for calls through a service, \
         and any caller can send any value: it proves nothing",
    ),
    ("sourceIPAddress", "we do not know the address that AWS sees"),
    ("tlsDetails", "the SDK does not expose what was negotiated"),
    (
        "userIdentity.sessionContext",
        "we do not know when the credentials were issued; the role is in the arn",
    ),
    ("userIdentity.accessKeyId", "audit records have no credentials, and no key ids"),
    ("nodemend", "CloudTrail's events have no such block"),
];

/// How much earlier than our record CloudTrail's event time can be: both are cut to whole seconds, and a Lambda
/// function's clock can be wrong by a second.
const EARLIEST: SignedDuration = SignedDuration::from_secs(-2);

/// How much later it can be: our time is when the first attempt was sent, CloudTrail's is when the last one was
/// handled, and the SDK can wait and retry in between.
const LATEST: SignedDuration = SignedDuration::from_secs(60);

/// The minimum length of a truncated `errorMessage`. CloudTrail truncates long fields of large events.
const MIN_TRUNCATED_MESSAGE: usize = 256;

/// One field that differs between our record and CloudTrail's event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Its path: `responseElements.activity.activityId`, `requestParameters.instancesSet.items[0].instanceId`.
    pub field: String,
    /// Our value; null if we have no such field.
    pub ours: Value,
    /// CloudTrail's value; null if it has no such field.
    pub theirs: Value,
}

/// The result of comparing CloudTrail's event with our record.
#[derive(Debug, Clone, PartialEq)]
pub enum ComparisonOutcome {
    /// The same call, without differences.
    Confirmed,
    /// The same call, with these differences.
    Mismatch(Vec<Difference>),
    /// Another call. If it is our own principal's, it can be an earlier attempt that the SDK retried.
    AnotherCall,
}

impl ComparisonOutcome {
    /// Whether the event is of our call, and if so, whether it matches.
    ///
    /// The request id decides, never the instance: a throttled call's event has none. Only without an answer, and so
    /// without a request id, do principal, event name, instance and time decide.
    pub fn of(ours: &Record, theirs: &CloudTrailEvent) -> Self {
        let is_ours = match (&ours.request_id, &theirs.request_id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (Some(_), None) => false,
            (None, _) => {
                ours.is_unanswered()
                    && ours.event_source == theirs.event_source
                    && ours.event_name == theirs.event_name
                    && is_in_time(ours, theirs)
                    && theirs
                        .user_identity
                        .arn
                        .as_deref()
                        .is_some_and(|arn| is_same_principal(&ours.user_identity.arn, arn))
                    && ours
                        .request_parameters
                        .instance_id()
                        .is_some_and(|instance| theirs.instance_ids().contains(instance))
            }
        };
        if !is_ours {
            return Self::AnotherCall;
        }
        match compare(ours, theirs) {
            differences if differences.is_empty() => Self::Confirmed,
            differences => Self::Mismatch(differences),
        }
    }
}

/// The fields that differ; empty if the record and the event match.
pub fn compare(ours: &Record, theirs: &CloudTrailEvent) -> Vec<Difference> {
    let mut found = Vec::new();
    if !is_in_time(ours, theirs) {
        found.push(Difference {
            field: "eventTime".to_owned(),
            ours: crate::timestamp::seconds(ours.event_time).into(),
            theirs: crate::timestamp::seconds(theirs.event_time).into(),
        });
    }
    if !ours.is_unanswered() && ours.error_code.is_some() != theirs.error_code.is_some() {
        found.push(Difference {
            field: "errorCode".to_owned(),
            ours: ours.error_code.clone().into(),
            theirs: theirs.error_code.clone().into(),
        });
    }
    let (Ok(Value::Object(ours_fields)), Ok(Value::Object(theirs_fields))) =
        (serde_json::to_value(ours), serde_json::to_value(theirs))
    else {
        // Both are structs of plain fields: they serialize as objects, and cannot fail to.
        return found;
    };
    for (field, our_value) in &ours_fields {
        let Some(their_value) = theirs_fields.get(field) else {
            continue;
        };
        match field.as_str() {
            "eventTime" => continue,
            // The event of a failed call has no answer, and mostly no parameters.
            "requestParameters" | "responseElements" if !theirs.succeeded() && their_value.is_null() => {
                continue;
            }
            // Our record has no answer to compare.
            "responseElements" if ours.is_unanswered() => continue,
            _ => walk(field, our_value, their_value, &mut found),
        }
    }
    found
}

fn is_in_time(ours: &Record, theirs: &CloudTrailEvent) -> bool {
    (EARLIEST..=LATEST).contains(&theirs.event_time.duration_since(ours.event_time))
}

fn walk(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<Difference>) {
    if NEVER_COMPARED.iter().any(|(field, _)| *field == path) {
        return;
    }
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (field, our_value) in ours {
                if let Some(their_value) = theirs.get(field) {
                    walk(&format!("{path}.{field}"), our_value, their_value, found);
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (our_value, their_value)) in ours.iter().zip(theirs).enumerate() {
                walk(&format!("{path}[{index}]"), our_value, their_value, found);
            }
        }
        (Value::String(our_text), Value::String(their_text)) if is_same_text(path, our_text, their_text) => {}
        _ if ours == theirs => {}
        _ => found.push(Difference { field: path.to_owned(), ours: ours.clone(), theirs: theirs.clone() }),
    }
}

fn is_same_text(path: &str, ours: &str, theirs: &str) -> bool {
    if ours == theirs {
        return true;
    }
    match path {
        "userIdentity.arn" => is_same_principal(ours, theirs),
        // The role's unique id. The part after the colon is the session name, as in the ARN.
        "userIdentity.principalId" => ours.split(':').next() == theirs.split(':').next(),
        "errorCode" => is_same_error_code(ours, theirs),
        "errorMessage" => is_same_message(ours.trim(), theirs.trim()),
        // Only the answer has times in other formats than ours.
        _ => time::parse(ours).is_some_and(|at| time::parse(theirs) == Some(at)),
    }
}

/// `Throttling` is `ThrottlingException`, `Client.UnauthorizedOperation` is `UnauthorizedOperation`: the API, the SDK
/// and CloudTrail each spell the same error in their own way.
fn is_same_error_code(ours: &str, theirs: &str) -> bool {
    fn stem(code: &str) -> &str {
        let code = ["Client.", "Server."].iter().find_map(|prefix| code.strip_prefix(prefix)).unwrap_or(code);
        ["Exception", "Error", "Fault"]
            .iter()
            .find_map(|suffix| code.strip_suffix(suffix))
            .filter(|stem| !stem.is_empty())
            .unwrap_or(code)
    }
    stem(ours) == stem(theirs)
}

fn is_same_message(ours: &str, theirs: &str) -> bool {
    let theirs = theirs.trim_end_matches('.');
    ours.trim_end_matches('.') == theirs || theirs.len() >= MIN_TRUNCATED_MESSAGE && ours.starts_with(theirs)
}
