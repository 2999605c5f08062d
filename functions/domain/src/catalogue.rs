//! stub until the real one is merged
#![allow(missing_docs)]
use crate::condition::*;
pub struct Found {
    pub severity: Severity,
    pub action: RepairAction,
    pub meaning: &'static str,
}
pub fn lookup(reason: &str) -> Option<Found> {
    let action = match reason {
        "NvidiaXID95Error" => RepairAction::Reboot,
        _ => RepairAction::Replace,
    };
    Some(Found { severity: Severity::Condition, action, meaning: "" })
}
pub fn default_grace(condition: &ConditionType) -> Option<jiff::SignedDuration> {
    match condition {
        ConditionType::AcceleratedHardwareReady => Some(jiff::SignedDuration::from_mins(10)),
        ConditionType::Other(_) => None,
        _ => Some(jiff::SignedDuration::from_mins(30)),
    }
}
