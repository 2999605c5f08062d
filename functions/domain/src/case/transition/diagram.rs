//! The state machine as a table: the tests compare the code with it, and `docs/deciding.md` draws it.

use std::fmt::Write as _;

use crate::case::CaseState::{
    self, Acting, Blocked, Claimed, Closed, Confirming, Due, Healthy, Rebooting, Suspect,
};

/// One kind of step from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The method of `Case`, or what happens as time passes or reports arrive.
    pub name: &'static str,
    /// The states that allow it.
    pub from: &'static [CaseState],
    /// The states that it leads to.
    pub to: &'static [CaseState],
}

const fn transition(name: &'static str, from: &'static [CaseState], to: &'static [CaseState]) -> Transition {
    Transition { name, from, to }
}

/// Every step that changes the state of a case.
pub const TRANSITIONS: [Transition; 16] = [
    transition("a condition goes bad", &[Healthy], &[Suspect]),
    transition("it recovers and that holds", &[Suspect, Due, Blocked], &[Healthy]),
    transition("the grace period ends", &[Suspect], &[Due]),
    transition("request repair", &[Healthy, Suspect, Due, Blocked], &[Due]),
    transition("block", &[Due, Claimed, Acting], &[Blocked]),
    transition("claim", &[Due, Blocked, Acting, Rebooting], &[Claimed]),
    transition("begin call", &[Claimed], &[Acting]),
    transition("withdraw call", &[Acting], &[Claimed]),
    transition("record answer", &[Acting], &[Claimed, Confirming, Rebooting]),
    transition("confirm by state", &[Acting], &[Confirming, Rebooting]),
    transition("recognize call", &[Claimed, Blocked], &[Confirming]),
    transition("release", &[Claimed, Blocked, Acting, Rebooting], &[Healthy]),
    transition("close (cured by the reboot)", &[Rebooting], &[Healthy]),
    transition("close (replaced, or no replacement)", &[Confirming], &[Closed]),
    transition(
        "close (the instance is gone)",
        &[Healthy, Suspect, Due, Blocked, Claimed, Acting, Confirming, Rebooting],
        &[Closed],
    ),
    transition("reopen", &[Closed], &[Healthy]),
];

/// The state diagram, in Mermaid's syntax. The instance can disappear in every state; that is drawn once.
pub fn mermaid() -> String {
    let mut diagram = "stateDiagram-v2\n    [*] --> healthy\n".to_owned();
    for transition in TRANSITIONS {
        let from: &[CaseState] =
            if transition.to == [Closed] && transition.from.len() > 1 { &[Healthy] } else { transition.from };
        for from in from {
            for to in transition.to {
                let _ = writeln!(diagram, "    {} --> {}: {}", from.as_str(), to.as_str(), transition.name);
            }
        }
    }
    diagram
}
