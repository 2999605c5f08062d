//! Packs due events into as few reports as possible.
//!
//! A report that is too long drops findings. For a condition nothing is lost, since the next report has them again;
//! an event is reported once.

use nodemend_domain::{
    condition::ConditionType,
    report::{Body, Finding, MAX_BYTES},
};

use super::report;
use crate::identity::NodeIdentity;

/// A reader of reports accepts no more findings.
const MAX_FINDINGS: usize = 64;

/// Packs the events of one condition, in order.
pub(super) fn events(
    identity: &NodeIdentity,
    condition: &ConditionType,
    findings: Vec<Finding<'static>>,
) -> Vec<Body<'static>> {
    if findings.is_empty() {
        return Vec::new();
    }
    let body = |findings| Body::Event { condition: condition.clone(), findings };
    // An empty list is omitted from the JSON, so reserve space for its name and brackets.
    let room = MAX_BYTES.saturating_sub(report(identity, body(Vec::new())).encode().len() + 32);
    let mut packs: Vec<Vec<Finding<'static>>> = Vec::new();
    let mut left = 0;
    for finding in findings {
        let length = serde_json::to_string(&finding).map_or(room, |text| text.len() + 1);
        match packs.last_mut().filter(|pack| length <= left && pack.len() < MAX_FINDINGS) {
            Some(pack) => {
                left -= length;
                pack.push(finding);
            }
            None => {
                left = room.saturating_sub(length);
                packs.push(vec![finding]);
            }
        }
    }
    packs.into_iter().map(body).collect()
}
