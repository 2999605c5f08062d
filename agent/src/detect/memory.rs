//! Turns what the kernel says of memory, used up or broken, into findings.

use jiff::{SignedDuration, Timestamp};

use super::{
    cgroup,
    shape::{Seen, Shape, Writers},
};

/// The kernel names a victim's cgroup right before it kills, and with `memory.oom.group` kills the rest of the
/// group right after.
const SAME_KILL: SignedDuration = SignedDuration::from_secs(5);
/// Bit 61 of a machine check bank's status: uncorrected (Intel SDM volume 3, 17.3.2.2; AMD says the same).
const UNCORRECTED: u64 = 1 << 61;

pub(super) const SHAPES: &[Shape] = &[
    Shape::new(
        &[],
        Writers::KERNEL,
        &["oom-kill:constraint="],
        r"^oom-kill:constraint=CONSTRAINT_\w+,.*,task_memcg=(?<cgroup>/[^,]*),task=.*,pid=[0-9]+,uid=",
    )
    .judged(keep_victim),
    // Before Linux 5.0.
    Shape::new(
        &[],
        Writers::KERNEL,
        &[" killed as a result of limit of "],
        r"^Task in (?<cgroup>/\S*) killed as a result of limit of ",
    )
    .judged(keep_victim),
    Shape::new(
        &["OOMKilling"],
        Writers::KERNEL,
        &["ut of memory"],
        r"^(?:(?<inside>Memory cgroup) out of memory|Out of memory(?: \([^)]*\))?): Kill(?:ed)? process [0-9]+",
    )
    .judged(judge_kill),
    Shape::new(
        &["MemoryHardwareError"],
        Writers::KERNEL,
        &["EDAC "],
        r"^EDAC (?:\w+ )?(?<subject>MC[0-9]+): (?:[0-9]+ )?(?<kind>CE|UE) ",
    )
    .judged(judge_memory_controller),
    Shape::new(
        &["MemoryHardwareError"],
        Writers::KERNEL,
        &["mce: "],
        concat!(
            r"^mce: (?:\[Hardware Error\]: (?:Machine check events logged",
            r"|CPU [0-9]+: Machine Check(?: Exception)?: [0-9a-f]+ Bank [0-9]+: (?<status>[0-9a-f]{1,16})\b)",
            r"|(?<uncorrected>Uncorrected hardware memory error))",
        ),
    )
    .judged(judge_machine_check),
    Shape::new(
        &["MemoryHardwareError"],
        Writers::KERNEL,
        &["Memory failure: "],
        r"^Memory failure: 0x[0-9a-f]+: ",
    ),
];

/// Whose memory the kernel is freeing.
#[derive(Debug, Default)]
pub(super) struct Victim(Option<(Timestamp, String)>);

fn keep_victim(seen: &mut Seen<'_>) {
    let cgroup = seen.get("cgroup").map(str::to_owned);
    seen.state.victim = Victim(cgroup.map(|cgroup| (seen.at(), cgroup)));
}

fn judge_kill(seen: &mut Seen<'_>) {
    let at = seen.at();
    let cgroup = match &seen.state.victim {
        Victim(Some((when, cgroup))) if at.duration_since(*when).abs() <= SAME_KILL => Some(cgroup.clone()),
        Victim(_) => None,
    };
    let more = cgroup.as_ref().map(|cgroup| format!(" (cgroup {cgroup})")).unwrap_or_default();
    // When the host runs out, the host is the subject, whoever pays.
    let subject = if seen.get("inside").is_some() {
        cgroup.map(|cgroup| cgroup::pod(&cgroup).unwrap_or(cgroup))
    } else {
        None
    };
    seen.raise_with(subject, more);
}

fn judge_memory_controller(seen: &mut Seen<'_>) {
    let uncorrected = seen.get("kind") == Some("UE");
    let controller = seen.get("subject").map(str::to_owned);
    raise_error(seen, uncorrected, controller);
}

fn judge_machine_check(seen: &mut Seen<'_>) {
    let status = seen.get("status").and_then(|status| u64::from_str_radix(status, 16).ok()).unwrap_or(0);
    let uncorrected = seen.get("uncorrected").is_some() || status & UNCORRECTED != 0;
    raise_error(seen, uncorrected, None);
}

/// Corrected errors warn; an uncorrected one has cost data.
fn raise_error(seen: &mut Seen<'_>, uncorrected: bool, subject: Option<String>) {
    if uncorrected {
        seen.raise("MemoryHardwareError", subject);
    } else {
        seen.raise_event("MemoryHardwareError", subject);
    }
}
