//! Every reason that a node can be bad for: its condition, how much it weighs, what is done, how it ends.
//!
//! Names are those that EKS's node monitoring agent documents, so that dashboards and `nodeRepairConfigOverrides`
//! that know them go on to work; `ours` marks the rest. `docs/catalogue.md` is generated from this.

mod table;

use std::fmt::Write as _;

use jiff::SignedDuration;

pub use self::table::ENTRIES;
use crate::condition::{ConditionType, RepairAction, Severity};

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonEntry {
    /// Its name.
    pub reason: &'static str,
    /// The condition that it belongs to.
    pub condition: ConditionType,
    /// How much it weighs, at most.
    pub severity: Severity,
    /// It may also weigh less: an event.
    pub may_be_event: bool,
    /// What is done by default.
    pub action: RepairAction,
    /// How it ends.
    pub clears: &'static [Clear],
    /// What it means, for whoever is woken by it.
    pub meaning: &'static str,
    /// EKS's agent doesn't know it.
    pub ours: bool,
}

/// How a finding ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    /// The next healthy reading.
    Probe,
    /// It was not seen for so many minutes.
    Quiet(u16),
    /// The next boot.
    Boot,
    /// A later line says so.
    Line,
}

/// What the catalogue says of a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownReason {
    /// The condition that it belongs to.
    pub condition: ConditionType,
    /// How much it weighs, at most.
    pub severity: Severity,
    /// What is done by default.
    pub action: RepairAction,
    /// How it ends.
    pub clears: &'static [Clear],
    /// What it means.
    pub meaning: &'static str,
}

/// XIDs after which NVIDIA and EKS ask for a reboot first.
const REBOOT_XIDS: [u32; 15] = [46, 48, 62, 63, 64, 95, 109, 110, 119, 120, 136, 143, 155, 156, 158];
/// XIDs after which the instance is replaced.
const REPLACE_XIDS: [u32; 6] = [54, 74, 79, 140, 142, 151];

/// Looks a reason up: by its name, or by the family that its name shows.
pub fn lookup(reason: &str) -> Option<KnownReason> {
    if let Ok(place) = ENTRIES.binary_search_by(|entry| entry.reason.cmp(reason)) {
        let entry = &ENTRIES[place];
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
    let rest = reason.strip_prefix("NvidiaXID")?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u32 = rest[..digits].parse().ok()?;
    let found = |severity, action, clears, meaning| KnownReason {
        condition: ConditionType::AcceleratedHardwareReady,
        severity,
        action,
        clears,
        meaning,
    };
    match (&rest[digits..], xid_action(number)) {
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

/// Whatever DCGM says is told and never acted on: its host engine has cost people good nodes.
fn dcgm(reason: &str) -> Option<KnownReason> {
    reason.starts_with("DCGM").then_some(KnownReason {
        condition: ConditionType::AcceleratedHardwareReady,
        severity: Severity::Condition,
        action: RepairAction::NoAction,
        clears: &[Clear::Probe],
        meaning: "DCGM reports a GPU problem; it is told, never acted on",
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

/// How long EKS waits before it repairs a condition; none: it never does.
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
    /// As one clause.
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
    fn an_event_is_never_acted_on_and_a_condition_always() {
        for entry in ENTRIES {
            let acted_on = entry.action != RepairAction::NoAction;
            assert_eq!(acted_on, entry.severity == Severity::Condition, "{}", entry.reason);
            assert!(!entry.clears.is_empty(), "{} never clears", entry.reason);
            assert!(default_grace(&entry.condition).is_some(), "{}", entry.reason);
        }
    }

    #[test]
    fn families_are_known_by_their_names() {
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
    fn the_documented_table_is_the_codes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/catalogue.md");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, markdown()).expect("docs/catalogue.md is written");
        }
        let documented = std::fs::read_to_string(path).expect("docs/catalogue.md");
        assert!(documented == markdown(), "docs/catalogue.md differs: UPDATE_GOLDEN=1 cargo test writes it");
    }
}
