//! Turns the events that are due into as few reports as hold them all.
//!
//! A report that is too long leaves findings out. Of a condition nothing is lost by that, its next report has them
//! again; an event is told once.

use nodemend_domain::{
    condition::ConditionType,
    report::{Body, Finding, MAX_BYTES},
};

use super::report;
use crate::identity::Identity;

/// A report's reader accepts no more findings.
const MAX_FINDINGS: usize = 64;

/// Packs events of one condition, in their order.
pub(super) fn events(
    identity: &Identity,
    condition: &ConditionType,
    findings: Vec<Finding<'static>>,
) -> Vec<Body<'static>> {
    if findings.is_empty() {
        return Vec::new();
    }
    let body = |findings| Body::Event { condition: condition.clone(), findings };
    // An empty list of findings isn't written at all: leave room for its name and brackets.
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
