//! Patterns for kernel log records about memory: out of memory, and hardware errors.

use super::{
    cgroup,
    pattern::{LineMatch, LinePattern},
    writers::Writers,
};

/// Bit 61 of a machine check bank's status: uncorrected (Intel SDM volume 3, 17.3.2.2; AMD defines it the same).
const UNCORRECTED: u64 = 1 << 61;

pub(super) const PATTERNS: &[LinePattern] = &[
    LinePattern::new(
        &[],
        Writers::KERNEL,
        &["oom-kill:constraint="],
        r"^oom-kill:constraint=CONSTRAINT_\w+,.*,task_memcg=(?<cgroup>/[^,]*),task=.*,pid=[0-9]+,uid=",
    )
    .evaluated_by(store_victim),
    // Linux before 5.0.
    LinePattern::new(
        &[],
        Writers::KERNEL,
        &[" killed as a result of limit of "],
        r"^Task in (?<cgroup>/\S*) killed as a result of limit of ",
    )
    .evaluated_by(store_victim),
    LinePattern::new(
        &["OOMKilling"],
        Writers::KERNEL,
        &["ut of memory"],
        r"^(?:(?<inside>Memory cgroup) out of memory|Out of memory(?: \([^)]*\))?): Kill(?:ed)? process [0-9]+",
    )
    .evaluated_by(evaluate_kill),
    LinePattern::new(
        &["MemoryHardwareError"],
        Writers::KERNEL,
        &["EDAC "],
        r"^EDAC (?:\w+ )?(?<subject>MC[0-9]+): (?:[0-9]+ )?(?<kind>CE|UE) ",
    )
    .evaluated_by(evaluate_memory_controller),
    LinePattern::new(
        &["MemoryHardwareError"],
        Writers::KERNEL,
        &["mce: "],
        concat!(
            r"^mce: (?:\[Hardware Error\]: (?:Machine check events logged",
            r"|CPU [0-9]+: Machine Check(?: Exception)?: [0-9a-f]+ Bank [0-9]+: (?<status>[0-9a-f]{1,16})\b)",
            r"|(?<uncorrected>Uncorrected hardware memory error))",
        ),
    )
    .evaluated_by(evaluate_machine_check),
    LinePattern::new(
        &["MemoryHardwareError"],
        Writers::KERNEL,
        &["Memory failure: "],
        r"^Memory failure: 0x[0-9a-f]+: ",
    ),
];

fn store_victim(matched: &mut LineMatch<'_>) {
    let cgroup = matched.get("cgroup").map(str::to_owned);
    let at = matched.at();
    matched.state.oom_victim.store(cgroup, at);
}

fn evaluate_kill(matched: &mut LineMatch<'_>) {
    let at = matched.at();
    let cgroup = matched.state.oom_victim.cgroup(at).map(str::to_owned);
    let more = cgroup.as_ref().map(|cgroup| format!(" (cgroup {cgroup})")).unwrap_or_default();
    // If the host itself is out of memory, the finding is about the host, not about the victim's cgroup.
    let subject = if matched.get("inside").is_some() {
        cgroup.map(|cgroup| cgroup::pod(&cgroup).unwrap_or(cgroup))
    } else {
        None
    };
    matched.raise_with(subject, more);
}

fn evaluate_memory_controller(matched: &mut LineMatch<'_>) {
    let uncorrected = matched.get("kind") == Some("UE");
    let controller = matched.get("subject").map(str::to_owned);
    raise_error(matched, uncorrected, controller);
}

fn evaluate_machine_check(matched: &mut LineMatch<'_>) {
    let status = matched.get("status").and_then(|status| u64::from_str_radix(status, 16).ok()).unwrap_or(0);
    let uncorrected = matched.get("uncorrected").is_some() || status & UNCORRECTED != 0;
    raise_error(matched, uncorrected, None);
}

/// A corrected error is an event; an uncorrected one has cost data and makes the condition False.
fn raise_error(matched: &mut LineMatch<'_>, uncorrected: bool, subject: Option<String>) {
    if uncorrected {
        matched.raise("MemoryHardwareError", subject);
    } else {
        matched.raise_event("MemoryHardwareError", subject);
    }
}
