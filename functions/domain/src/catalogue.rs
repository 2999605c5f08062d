//! The catalogue: every reason for which a node can be unhealthy, with its condition, severity, action and clearing
//! rule.
//!
//! Names are those of EKS's node monitoring agent, so that existing dashboards and `nodeRepairConfigOverrides` keep
//! working; `ours` marks all others. Every reason has a clearing rule. `docs/catalogue.md` is generated from this.

mod table;

use std::fmt::Write as _;

use jiff::SignedDuration;

pub use self::table::ENTRIES;
use crate::condition::{ConditionType, RepairAction, Severity};

/// One row of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonEntry {
    /// Its name, as reports have it.
    pub reason: &'static str,
    /// The condition that it belongs to.
    pub condition: ConditionType,
    /// Its severity, or the higher one if it can have both.
    pub severity: Severity,
    /// It is also reported with severity Event.
    pub may_be_event: bool,
    /// The default repair action.
    pub action: RepairAction,
    /// When it clears; at least one.
    pub clears: &'static [Clear],
    /// What it means, for the on-call engineer.
    pub meaning: &'static str,
    /// EKS's agent does not report it.
    pub ours: bool,
}

/// When a finding clears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    /// At the next healthy reading.
    Probe,
    /// When it was not seen for this many minutes.
    Quiet(u16),
    /// At the next boot.
    Boot,
    /// When a later log line reports the recovery.
    Line,
}

/// The catalogue's entry for a reason, of the table or of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownReason {
    /// The condition that it belongs to.
    pub condition: ConditionType,
    /// Its severity, or the higher one if it can have both.
    pub severity: Severity,
    /// The default repair action.
    pub action: RepairAction,
    /// When it clears; at least one.
    pub clears: &'static [Clear],
    /// What it means, as one clause.
    pub meaning: &'static str,
}

/// XIDs for which NVIDIA and EKS recommend a reboot first.
const REBOOT_XIDS: [u32; 15] = [46, 48, 62, 63, 64, 95, 109, 110, 119, 120, 136, 143, 155, 156, 158];
/// XIDs after which the instance is replaced.
const REPLACE_XIDS: [u32; 6] = [54, 74, 79, 140, 142, 151];

/// Finds a reason by its name, in the table or in a family. None for an unknown reason.
pub fn lookup(reason: &str) -> Option<KnownReason> {
    if let Ok(index) = ENTRIES.binary_search_by(|entry| entry.reason.cmp(reason)) {
        let entry = &ENTRIES[index];
        return Some(KnownReason {
            condition: entry.condition.clone(),
            severity: entry.severity,
            action: entry.action,
            clears: entry.clears,
            meaning: entry.meaning,
        });
    }
    xid(reason).or_else(|| dcgm(reason)).or_else(|| repeated_restart(reason))
}

/// The default action after an NVIDIA XID of severity Condition; none for one that is an event.
pub fn xid_action(xid: u32) -> Option<RepairAction> {
    if REBOOT_XIDS.contains(&xid) {
        Some(RepairAction::Reboot)
    } else if REPLACE_XIDS.contains(&xid) {
        Some(RepairAction::Replace)
    } else {
        None
    }
}

fn xid(reason: &str) -> Option<KnownReason> {
    let suffix = reason.strip_prefix("NvidiaXID")?;
    let digits = suffix.len() - suffix.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u32 = suffix[..digits].parse().ok()?;
    let found = |severity, action, clears, meaning| KnownReason {
        condition: ConditionType::AcceleratedHardwareReady,
        severity,
        action,
        clears,
        meaning,
    };
    match (&suffix[digits..], xid_action(number)) {
        ("Error", Some(action)) => Some(found(
            Severity::Condition,
            action,
            &[Clear::Boot, Clear::Probe],
            "the driver lost a GPU to a hardware or firmware fault; jobs on it fail",
        )),
        ("Warning", None) => Some(found(
            Severity::Event,
            RepairAction::NoAction,
            &[Clear::Quiet(10)],
            "the driver reported a GPU error that is mostly an application's own",
        )),
        _ => None,
    }
}

/// DCGM's findings are reported and never repaired: findings of its host engine have led to replacements of
/// healthy nodes.
fn dcgm(reason: &str) -> Option<KnownReason> {
    reason.starts_with("DCGM").then_some(KnownReason {
        condition: ConditionType::AcceleratedHardwareReady,
        severity: Severity::Condition,
        action: RepairAction::NoAction,
        clears: &[Clear::Probe],
        meaning: "DCGM reports a GPU problem; it is only reported",
    })
}

fn repeated_restart(reason: &str) -> Option<KnownReason> {
    let unit = reason.strip_suffix("RepeatedRestart")?;
    let is_name = !unit.is_empty() && unit.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name.then_some(KnownReason {
        condition: ConditionType::ContainerRuntimeReady,
        severity: Severity::Event,
        action: RepairAction::NoAction,
        clears: &[Clear::Quiet(15)],
        meaning: "a systemd service restarts again and again",
    })
}

/// EKS's grace period of a condition. None: EKS never repairs it.
pub fn default_grace(condition: &ConditionType) -> Option<SignedDuration> {
    match condition {
        ConditionType::AcceleratedHardwareReady => Some(SignedDuration::from_mins(10)),
        ConditionType::Ready
        | ConditionType::KernelReady
        | ConditionType::NetworkingReady
        | ConditionType::StorageReady
        | ConditionType::ContainerRuntimeReady => Some(SignedDuration::from_mins(30)),
        ConditionType::Other(_) => None,
    }
}

/// The catalogue as `docs/catalogue.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# What nodemend detects\n\nGenerated from `functions/domain/src/catalogue/table.rs`. **+** marks a reason that EKS's\n\
         node monitoring agent does not report. A `Condition` starts the grace period. An `Event` is only\n\
         reported, unless a policy promotes it.\n",
    );
    let conditions = ConditionType::AGENT.into_iter().chain([ConditionType::Ready]);
    for condition in conditions {
        let grace = default_grace(&condition).map_or(0, |grace| grace.as_mins());
        let _ = write!(
            text,
            "\n## {condition}\n\nGrace period: {grace} minutes.\n\n| Reason | Severity | Action | Clears | Meaning |\n|---|---|---|---|---|\n"
        );
        for entry in ENTRIES.iter().filter(|entry| entry.condition == condition) {
            let _ = writeln!(
                text,
                "| {}{} | {}{} | {} | {} | {} |",
                entry.reason,
                if entry.ours { " **+**" } else { "" },
                if entry.severity == Severity::Condition { "Condition" } else { "Event" },
                if entry.may_be_event { " or Event" } else { "" },
                entry.action.as_str(),
                entry.clears.iter().map(|clear| clear.describe()).collect::<Vec<_>>().join(", "),
                entry.meaning,
            );
        }
    }
    let list = |xids: &[u32]| xids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let _ = write!(
        text,
        "\n## Families\n\n- `NvidiaXID<n>Error`: Reboot for {};\n  Replace for {}.\n  A node that is not healthy 15 minutes after a reboot is replaced.\n\
         - `NvidiaXID<n>Warning`: any other XID; an event.\n- `DCGM*`: reported, no action.\n- `<Unit>RepeatedRestart`: an event.\n",
        list(&REBOOT_XIDS),
        list(&REPLACE_XIDS)
    );
    text
}

impl Clear {
    /// The rule as one clause, for the documentation.
    pub fn describe(self) -> String {
        match self {
            Self::Probe => "next healthy reading".to_owned(),
            Self::Quiet(minutes) => format!("quiet {minutes} min"),
            Self::Boot => "next boot".to_owned(),
            Self::Line => "a later log line".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_each_reason_once() {
        assert!(
            ENTRIES.windows(2).all(|pair| pair[0].reason < pair[1].reason),
            "not sorted, or a reason twice"
        );
    }

    #[test]
    fn an_event_is_never_repaired_and_a_condition_always() {
        for entry in ENTRIES {
            let is_repaired = entry.action != RepairAction::NoAction;
            assert_eq!(is_repaired, entry.severity == Severity::Condition, "{}", entry.reason);
            assert!(!entry.clears.is_empty(), "{} never clears", entry.reason);
            assert!(default_grace(&entry.condition).is_some(), "{}", entry.reason);
        }
    }

    #[test]
    fn families_are_found_by_their_names() {
        for (reason, expected) in [
            ("NvidiaXID79Error", Some((Severity::Condition, RepairAction::Replace))),
            ("NvidiaXID95Error", Some((Severity::Condition, RepairAction::Reboot))),
            ("NvidiaXID13Warning", Some((Severity::Event, RepairAction::NoAction))),
            ("NvidiaXID13Error", None),
            ("NvidiaXID79Warning", None),
            ("NvidiaXIDError", None),
            ("NvidiaXID99999999999Error", None),
            ("DCGMHealthFailure", Some((Severity::Condition, RepairAction::NoAction))),
            ("KubeletRepeatedRestart", Some((Severity::Event, RepairAction::NoAction))),
            ("RepeatedRestart", None),
            ("InterfaceNotUp", Some((Severity::Condition, RepairAction::Replace))),
            ("OOMKilling", Some((Severity::Event, RepairAction::NoAction))),
            ("Nonsense", None),
        ] {
            assert_eq!(lookup(reason).map(|found| (found.severity, found.action)), expected, "{reason}");
        }
    }

    #[test]
    fn the_documented_table_equals_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/catalogue.md");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, markdown()).expect("docs/catalogue.md is written");
        }
        let documented = std::fs::read_to_string(path).expect("docs/catalogue.md");
        assert!(documented == markdown(), "docs/catalogue.md differs: UPDATE_GOLDEN=1 cargo test writes it");
    }
}
