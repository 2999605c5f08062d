//! Turns what the kernel says of itself and of crashed programs into findings.
//!
//! Records of `/dev/kmsg` carry no timestamp in their text, so a pattern starts with the first word. It also
//! ends a phrase where the kernel does: a process may be called `Oops: 0000 [#1]`, and its name stands in the
//! kernel's lines about it.

use super::{
    cgroup,
    shape::{Seen, Shape, Writers},
};

pub(super) const SHAPES: &[Shape] = &[
    Shape::new(
        &["SoftLockup"],
        Writers::KERNEL,
        &["BUG: soft lockup"],
        r"^(?:NMI )?(?:watchdog: )?BUG: soft lockup - (?<subject>CPU#[0-9]+) stuck for [0-9]+s! \[",
    ),
    Shape::new(
        &["HardLockup"],
        Writers::KERNEL,
        &["hard LOCKUP"],
        r"^(?:NMI )?(?:watchdog: )?(?:CPU[0-9]+: )?Watchdog detected hard LOCKUP on (?<subject>cpu [0-9]+)",
    ),
    Shape::new(
        &["RcuStall"],
        Writers::KERNEL,
        &["detected stall", "detected expedited stall"],
        r"^(?:rcu: )?INFO: rcu_\w+ (?:self-detected stall on CPU|detected (?:expedited )?stalls on (?:CPUs/)?tasks)",
    ),
    // Linux 5.1 reworded the first two, 6.9 put `Oops: ` before every kind of death, arm64 has words of its own.
    Shape::new(
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
    Shape::new(
        &["AppCrash", "NvidiaNCCLError"],
        Writers::KERNEL,
        &["]: segfault at ", "]: unhandled "],
        r"^(?<subject>.{1,64})\[[0-9]+\]: (?:segfault at [0-9a-f]+ ip |unhandled (?:exception|level [0-9]))",
    )
    .judged(judge_crash),
    Shape::new(
        &["AppCrash"],
        Writers::KERNEL,
        &["traps: "],
        r"^traps: (?<subject>.{1,64})\[[0-9]+\] [a-z0-9 ]{1,64} ip:[0-9a-f]+ sp:[0-9a-f]+ error:",
    ),
    Shape::new(
        &["AppBlocked"],
        Writers::KERNEL,
        &["INFO: task "],
        r"^INFO: task (?<subject>.{1,64}):[0-9]+ blocked (?:in I/O wait )?for more than [0-9]+ seconds",
    ),
    Shape::new(
        &["ConntrackExceededKernel"],
        Writers::KERNEL,
        &["table full"],
        r"^(?:nf_conntrack: )+table full(?: in netns [0-9]+)?, dropping packet",
    ),
    Shape::new(
        &["PodPidsExhausted"],
        Writers::KERNEL,
        &["fork rejected by pids controller"],
        r"^cgroup: fork rejected by pids controller in (?<cgroup>/\S+)",
    )
    .judged(judge_pids),
];

fn judge_crash(seen: &mut Seen<'_>) {
    seen.raise_first();
    if seen.line.text.contains("segfault at ") && seen.line.text.contains(" in libnccl.so") {
        let program = seen.get("subject").map(str::to_owned);
        seen.raise("NvidiaNCCLError", program);
    }
}

/// A service of the host has its limit by its own unit file; only a pod's matters here.
fn judge_pids(seen: &mut Seen<'_>) {
    if let Some(pod) = seen.get("cgroup").and_then(cgroup::pod) {
        seen.raise("PodPidsExhausted", Some(pod));
    }
}
