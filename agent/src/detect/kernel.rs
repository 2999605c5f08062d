//! Patterns for kernel log records about the kernel itself and about crashed programs.
//!
//! Records of `/dev/kmsg` carry no timestamp in their text, so a pattern is anchored at the first word. It also ends
//! where the kernel ends the phrase: a process may be named `Oops: 0000 [#1]`, and its name appears in the kernel's
//! records about it.

use super::{
    cgroup,
    pattern::{LineMatch, LinePattern},
    writers::Writers,
};

pub(super) const PATTERNS: &[LinePattern] = &[
    LinePattern::new(
        &["SoftLockup"],
        Writers::KERNEL,
        &["BUG: soft lockup"],
        r"^(?:NMI )?(?:watchdog: )?BUG: soft lockup - (?<subject>CPU#[0-9]+) stuck for [0-9]+s! \[",
    ),
    LinePattern::new(
        &["HardLockup"],
        Writers::KERNEL,
        &["hard LOCKUP"],
        r"^(?:NMI )?(?:watchdog: )?(?:CPU[0-9]+: )?Watchdog detected hard LOCKUP on (?<subject>cpu [0-9]+)",
    ),
    LinePattern::new(
        &["RcuStall"],
        Writers::KERNEL,
        &["detected stall", "detected expedited stall"],
        r"^(?:rcu: )?INFO: rcu_\w+ (?:self-detected stall on CPU|detected (?:expedited )?stalls on (?:CPUs/)?tasks)",
    ),
    // Linux 5.1 reworded the first two, 6.9 put `Oops: ` in front of every exception, and arm64 has its own texts.
    LinePattern::new(
        &["KernelBug"],
        Writers::KERNEL,
        &[
            "BUG: unable to handle",
            "BUG: kernel NULL pointer",
            "kernel BUG at",
            "BUG: Bad page",
            "Oops: ",
            "Oops - ",
            "general protection fault",
            "invalid opcode: ",
            "divide error: ",
            "double fault: ",
            "stack segment: ",
            "int3: ",
            "Unable to handle kernel",
        ],
        concat!(
            r"^(?:BUG: unable to handle (?:kernel |page )",
            r"|BUG: kernel NULL pointer dereference, address: ",
            r"|BUG: Bad page (?:state|map) in process ",
            r"|kernel BUG at \S+:[0-9]+!",
            r"|Unable to handle kernel [A-Za-z ]+ at virtual address ",
            r"|(?:Internal error: )?(?:Oops|general protection fault|invalid opcode|divide error|double fault|stack segment|int3)",
            r"[^\[]*: [0-9a-f]{4,16} \[#[0-9]+\](?: |$))",
        ),
    ),
    LinePattern::new(
        &["AppCrash", "NvidiaNCCLError"],
        Writers::KERNEL,
        &["]: segfault at ", "]: unhandled "],
        r"^(?<subject>.{1,64})\[[0-9]+\]: (?:segfault at [0-9a-f]+ ip |unhandled (?:exception|level [0-9]))",
    )
    .evaluated_by(evaluate_crash),
    LinePattern::new(
        &["AppCrash"],
        Writers::KERNEL,
        &["traps: "],
        r"^traps: (?<subject>.{1,64})\[[0-9]+\] [a-z0-9 ]{1,64} ip:[0-9a-f]+ sp:[0-9a-f]+ error:",
    ),
    LinePattern::new(
        &["AppBlocked"],
        Writers::KERNEL,
        &["INFO: task "],
        r"^INFO: task (?<subject>.{1,64}):[0-9]+ blocked (?:in I/O wait )?for more than [0-9]+ seconds",
    ),
    LinePattern::new(
        &["ConntrackExceededKernel"],
        Writers::KERNEL,
        &["table full"],
        r"^(?:nf_conntrack: )+table full(?: in netns [0-9]+)?, dropping packet",
    ),
    LinePattern::new(
        &["PodPidsExhausted"],
        Writers::KERNEL,
        &["fork rejected by pids controller"],
        r"^cgroup: fork rejected by pids controller in (?<cgroup>/\S+)",
    )
    .evaluated_by(evaluate_pids),
];

fn evaluate_crash(matched: &mut LineMatch<'_>) {
    matched.raise_first();
    if matched.line.text.contains("segfault at ") && matched.line.text.contains(" in libnccl.so") {
        let program = matched.get("subject").map(str::to_owned);
        matched.raise("NvidiaNCCLError", program);
    }
}

/// A host service's limit is set in its own unit file; only a pod's limit is reported.
fn evaluate_pids(matched: &mut LineMatch<'_>) {
    if let Some(pod) = matched.get("cgroup").and_then(cgroup::pod) {
        matched.raise("PodPidsExhausted", Some(pod));
    }
}
