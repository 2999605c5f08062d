//! Injects faults, so that an operator can test the whole pipeline on one of their nodes.
//!
//! Nothing happens without `--yes`, and each command prints how to undo it. A kernel log record that a program writes
//! has another facility than the kernel's, and only an agent started with `--accept-injected` accepts it.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    process::Command,
};

/// One fault that can be injected.
struct Injection {
    reason: &'static str,
    method: InjectionMethod,
}

enum InjectionMethod {
    /// A record written to the kernel log.
    Record(&'static str),
    /// A command, and the command that undoes it.
    Command { make: &'static [&'static str], undo: &'static [&'static str] },
}

const KMSG: &str = "/dev/kmsg";
const BLOCK: &[&str] = &["iptables", "-I", "OUTPUT", "1", "-p", "tcp", "-d", "169.254.169.254", "-j", "DROP"];
const UNBLOCK: &[&str] = &["iptables", "-D", "OUTPUT", "-p", "tcp", "-d", "169.254.169.254", "-j", "DROP"];

const INJECTIONS: [Injection; 12] = [
    Injection {
        reason: "AppBlocked",
        method: InjectionMethod::Record("INFO: task inject:1 blocked for more than 122 seconds."),
    },
    Injection {
        reason: "AppCrash",
        method: InjectionMethod::Record(
            "inject[1]: segfault at 0 ip 000055d4 sp 00007ffc error 4 in inject[55d4+1000]",
        ),
    },
    Injection {
        reason: "BlockDeviceIOError",
        method: InjectionMethod::Record(
            "I/O error, dev nvme1n1, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
        ),
    },
    Injection {
        reason: "ConntrackExceededKernel",
        method: InjectionMethod::Record("nf_conntrack: nf_conntrack: table full, dropping packet"),
    },
    Injection {
        reason: "KernelBug",
        method: InjectionMethod::Record("BUG: unable to handle page fault for address: ffffa1b2c3d4e5f6"),
    },
    Injection {
        reason: "MetadataServiceBlocked",
        method: InjectionMethod::Command { make: BLOCK, undo: UNBLOCK },
    },
    Injection {
        reason: "NeuronHBMUncorrectableError",
        method: InjectionMethod::Record(
            "neuron: NEURON_HW_ERR=HBM_UNCORRECTABLE_ERROR instance-id=i-0123456789abcdef0 neuron-device=0",
        ),
    },
    Injection {
        reason: "NvidiaXID79Error",
        method: InjectionMethod::Record(
            "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=inject, GPU has fallen off the bus.",
        ),
    },
    Injection {
        reason: "NvidiaXID95Error",
        method: InjectionMethod::Record(
            "NVRM: Xid (PCI:0000:3b:00): 95, pid=1204, name=inject, Uncontained ECC error.",
        ),
    },
    Injection {
        reason: "OOMKilling",
        method: InjectionMethod::Record(
            "Out of memory: Killed process 1 (inject) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB",
        ),
    },
    Injection {
        reason: "SoftLockup",
        method: InjectionMethod::Record("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [inject:1]"),
    },
    Injection {
        reason: "UnexpectedRejectRule",
        method: InjectionMethod::Command { make: BLOCK, undo: UNBLOCK },
    },
];

#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The reason is not in the list.
    #[error("{0:?} cannot be injected; `nodemend-agent inject` lists the available reasons")]
    Unknown(String),
    #[error("failed to write {KMSG}: {0}")]
    Record(io::Error),
    /// The command did not start, or failed.
    #[error("failed to run {command}: {why}")]
    Command { command: String, why: String },
    #[error("failed to write the output: {0}")]
    Output(#[from] io::Error),
}

impl InjectError {
    /// Whether the error is wrong usage.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// Injects the fault of a reason, or prints what would be done. Without a reason it prints the list.
pub fn inject(out: &mut impl Write, reason: Option<&str>, yes: bool) -> Result<(), InjectError> {
    let Some(reason) = reason else {
        for injection in &INJECTIONS {
            writeln!(out, "{:28} {}", injection.reason, injection.method.describe())?;
        }
        return Ok(());
    };
    let known = INJECTIONS.iter().find(|injection| injection.reason == reason);
    let injection = known.ok_or_else(|| InjectError::Unknown(reason.chars().take(80).collect()))?;
    if !yes {
        writeln!(out, "would {}", injection.method.describe())?;
        writeln!(out, "nothing was done; use --yes to inject it")?;
        return Ok(());
    }
    match &injection.method {
        InjectionMethod::Record(text) => {
            let mut log = OpenOptions::new().write(true).open(KMSG).map_err(InjectError::Record)?;
            // A record without a trailing line break stays hidden until the next one is written.
            log.write_all(format!("<4>{text}\n").as_bytes()).map_err(InjectError::Record)?;
            writeln!(out, "written; only an agent with --accept-injected accepts it")?;
        }
        InjectionMethod::Command { make, undo } => {
            let output = Command::new(make[0]).args(&make[1..]).output();
            let failed = |why: String| InjectError::Command { command: make.join(" "), why };
            let output = output.map_err(|error| failed(error.to_string()))?;
            if !output.status.success() {
                return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
            }
            writeln!(out, "done; to undo: {}", undo.join(" "))?;
        }
    }
    Ok(())
}

impl InjectionMethod {
    fn describe(&self) -> String {
        match self {
            Self::Record(text) => format!("write to {KMSG}: {text}"),
            Self::Command { make, .. } => format!("run: {}", make.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use nodemend_domain::catalogue;

    use super::*;
    use crate::{
        detect::{Detector, Trust},
        finding::FindingChange,
        signal::{LogLine, Origin},
    };

    #[test]
    fn every_record_is_what_its_detector_sees() {
        let mut detector = Detector::new(&[]).expect("a detector").with_trust(Trust::AnyFacility);
        for injection in &INJECTIONS {
            assert!(catalogue::lookup(injection.reason).is_some(), "{}", injection.reason);
            let InjectionMethod::Record(text) = injection.method else { continue };
            let mut changes = Vec::new();
            let origin = Origin::Kernel { facility: 1, level: 4 };
            detector.detect(
                &LogLine { origin, at: jiff::Timestamp::UNIX_EPOCH, text: text.into() },
                &mut changes,
            );
            let seen = changes.iter().any(|change| match change {
                FindingChange::Raised(finding) => finding.reason == injection.reason,
                FindingChange::Cleared { .. } => false,
            });
            assert!(seen, "{}: {changes:?}", injection.reason);
        }
    }

    #[test]
    fn nothing_is_done_without_yes() {
        let mut out = Vec::new();
        inject(&mut out, Some("UnexpectedRejectRule"), false).expect("printed");
        assert!(String::from_utf8(out).expect("UTF-8").contains("nothing was done"));
        assert!(inject(&mut Vec::new(), Some("Nothing"), true).expect_err("unknown").is_usage());
    }

    #[test]
    fn available_faults_are_listed_in_order() {
        assert!(INJECTIONS.is_sorted_by_key(|injection| injection.reason));
    }
}
