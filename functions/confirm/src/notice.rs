//! Parses what EC2 and AWS Health announce about instances.
//!
//! EC2 itself announces Spot interruptions and rebalance recommendations. Retirements and maintenance come from AWS Health.

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use nodemend_domain::{
    case::notice::{
        INSTANCE_MAINTENANCE, INSTANCE_RETIREMENT, Notice, REBALANCE_RECOMMENDATION, SPOT_INTERRUPTION,
    },
    ident::InstanceId,
    timestamp,
};
use serde::Deserialize;
use serde_json::Value;

use crate::event::{MAX_TEXT, printable};

/// The most instances of one announcement. A page of AWS Health has up to 10 of them, or 100 of several accounts.
const MAX_INSTANCES: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SpotNotice {
    instance_id: InstanceId,
    #[serde(default)]
    instance_action: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HealthEvent {
    service: String,
    event_type_code: String,
    #[serde(default)]
    status_code: String,
    /// `Sat, 05 Jun 2016 15:10:09 GMT`.
    #[serde(default)]
    start_time: String,
    #[serde(default)]
    affected_entities: Vec<Entity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entity {
    #[serde(default)]
    entity_value: String,
}

/// Reads an announcement; none if the event is about something else, or no longer so.
pub(crate) fn read(
    detail_type: &str,
    time: Option<Timestamp>,
    detail: Value,
) -> Result<Option<(Vec<InstanceId>, Notice)>, String> {
    match detail_type {
        "EC2 Spot Instance Interruption Warning" | "EC2 Instance Rebalance Recommendation" => {
            let spot: SpotNotice = serde_json::from_value(detail).map_err(|error| error.to_string())?;
            let at = time.ok_or("no time")?;
            let (reason, message) = if detail_type == "EC2 Instance Rebalance Recommendation" {
                let message =
                    "EC2 recommends a rebalance: the Spot Instance is at a higher risk of an interruption";
                (REBALANCE_RECOMMENDATION, message.to_owned())
            } else {
                let action = match spot.instance_action.as_str() {
                    "stop" => "stops",
                    "hibernate" => "hibernates",
                    _ => "terminates",
                };
                (SPOT_INTERRUPTION, format!("EC2 {action} the Spot Instance in two minutes: an interruption"))
            };
            Ok(Some((vec![spot.instance_id], Notice { reason, at, effective: at, message })))
        }
        "AWS Health Event" => {
            let event: HealthEvent = serde_json::from_value(detail).map_err(|error| error.to_string())?;
            Ok(scheduled(&event, time))
        }
        _ => Ok(None),
    }
}

/// A retirement or maintenance with its time. AWS Health has hundreds of other events.
fn scheduled(event: &HealthEvent, time: Option<Timestamp>) -> Option<(Vec<InstanceId>, Notice)> {
    let code = event.event_type_code.strip_prefix("AWS_EC2_").filter(|_| event.service == "EC2")?;
    let is_planned = code.ends_with("_SCHEDULED") || code.ends_with("_EXPEDITED");
    let reason = match code {
        _ if !is_planned || event.status_code == "closed" => return None,
        "INSTANCE_STOP_SCHEDULED" | "INSTANCE_TERMINATION_SCHEDULED" => INSTANCE_RETIREMENT,
        _ if code.contains("INSTANCE_RETIREMENT") => INSTANCE_RETIREMENT,
        _ if code.contains("MAINTENANCE") => INSTANCE_MAINTENANCE,
        _ => return None,
    };
    // Without its time, a notice has nothing that an operator could act on.
    let effective = date(&event.start_time)?;
    let instance_ids: Vec<InstanceId> = event
        .affected_entities
        .iter()
        .filter_map(|entity| InstanceId::new(entity.entity_value.rsplit('/').next()?).ok())
        .take(MAX_INSTANCES)
        .collect();
    let what = if reason == INSTANCE_RETIREMENT { "retires the instance" } else { "maintains the instance" };
    let when = timestamp::seconds(effective);
    let message =
        format!("AWS Health: EC2 {what} from {when} on ({})", printable(&event.event_type_code, MAX_TEXT));
    let notice = Notice { reason, at: time.unwrap_or(effective), effective, message };
    (!instance_ids.is_empty()).then_some((instance_ids, notice))
}

fn date(text: &str) -> Option<Timestamp> {
    let parser = DateTimeParser::new().relaxed_weekday(true);
    parser.parse_timestamp(text).ok().or_else(|| text.parse().ok())
}
