//! Deliberate faults, to see that the simulation finds them. Without the feature `seeded-bugs` there is none of this:
//! [`bug!`](crate::bug) is `false`, and what it guards is not compiled in.

#[cfg(feature = "seeded-bugs")]
mod seeded {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Every fault, and what is wrong with it.
    pub const ALL: &[(&str, &str)] = &[
        ("clock-reset-on-reason-change", "a new reason starts the clock anew"),
        ("clock-reset-on-repeat", "each repeated report starts the clock anew"),
        ("clock-reset-on-agent-restart", "an agent that forgot starts the clock anew"),
        ("clock-of-the-node", "a start is taken from the node's own clock"),
        ("unknown-taken-for-healthy", "Unknown counts as good"),
        ("flapping-resets", "a recovery need not hold"),
        ("recovery-never-counts", "a recovery that held does not end a trouble"),
        ("recovering-is-due", "a node that is well is acted on until its recovery has held"),
        ("boot-fence-ignored", "what was said before a reboot counts"),
        ("stale-report-wins", "the report that comes last counts, not the newest"),
        ("grace-halved", "half the grace has to do"),
        ("lost-race-is-won", "intake does not fold again after a lost race"),
        ("claim-not-conditional", "a case is written whatever its version"),
        ("group-not-conditional", "a group is written whatever its version"),
        ("lease-too-short", "a claim is anybody's after a second"),
        ("disabled-ignored", "a group in which repair is off is repaired"),
        ("calls-twice", "a call without an answer is made again at once"),
        ("reboot-terminates", "a reboot is called for by the wrong name"),
        ("refusal-taken-for-yes", "a refused call counts as made"),
        ("lost-answer-forgotten", "a call whose answer was lost counts as never made"),
        ("in-flight-never-released", "a repair that ended keeps its place"),
        ("limit-off-by-one", "one more at once than the limit allows"),
        ("threshold-ignored", "no number of unhealthy nodes is too many"),
        ("zone-ignored", "a dark zone's nodes are replaced"),
        ("shift-ignored", "a zonal shift stands in nobody's way"),
        ("silence-ignored", "a silent log path stands in nobody's way"),
        ("hold-ignored", "a hold stands in nobody's way"),
        ("window-ignored", "a maintenance window stands in nobody's way"),
        ("rest-ignored", "a group does not rest after failures"),
        ("observe-ignored", "observe mode makes calls"),
        ("set-aside-ignored", "a node on standby is repaired"),
        ("suspended-ignored", "a suspended group is repaired"),
        ("opt-out-ignored", "the opt-out tag means nothing"),
        ("eks-ignored", "what EKS repairs is repaired too"),
        ("failures-not-counted", "a replacement that did not come is nobody's failure"),
        ("newcomers-not-welcomed", "no newcomer takes a place"),
        ("reboot-never-escalates", "what a reboot did not cure waits for ever"),
        ("ended-reboot-forgotten", "what was heard too late to have been cured is rebooted again"),
        ("reboot-escalates-at-once", "a reboot has a minute, not fifteen"),
        ("old-boot-speaks-for-new", "what the old boot said late is taken for the new one's word"),
        ("blocked-for-ever", "what was blocked is not looked at again"),
        ("due-forgotten", "a deadline is not written down"),
        ("record-not-written", "a call is not recorded"),
        ("chain-not-advanced", "a record is chained to the one before the last"),
        ("verdict-forgotten", "CloudTrail's word is not written down"),
        ("missing-never-told", "nobody says that CloudTrail is silent"),
        ("foreign-without-cause", "our own calls are taken for a stranger's"),
    ];

    /// Whether this thread has that fault.
    pub fn is_on(name: &str) -> bool {
        ON.get() == Some(name)
    }

    /// Gives this thread a fault, or none.
    pub fn seed(name: Option<&'static str>) {
        ON.set(name);
    }
}

#[cfg(feature = "seeded-bugs")]
pub use seeded::{ALL, is_on, seed};

/// Whether a deliberate fault is on.
#[cfg(feature = "seeded-bugs")]
#[macro_export]
macro_rules! bug {
    ($name:literal) => {
        $crate::bugs::is_on($name)
    };
}

/// Whether a deliberate fault is on: never.
#[cfg(not(feature = "seeded-bugs"))]
#[macro_export]
macro_rules! bug {
    ($name:literal) => {
        false
    };
}
