//! Makes what a detector should see, so that people can try the way from fault to report on a node of theirs.
//!
//! Nothing is done without `--yes`, and each says how it is undone. A kernel record that a program writes is not
//! the kernel's, and only an agent that was told so believes it (`--accept-injected`).

use std::{
    fs::OpenOptions,
    io::{self, Write},
    process::Command,
};

/// One thing that can be made.
struct Injection {
    reason: &'static str,
    what: What,
}

enum What {
    /// A record in the kernel's log.
    Record(&'static str),
    /// A command, and the one that undoes it.
    Command { make: &'static [&'static str], undo: &'static [&'static str] },
}

const KMSG: &str = "/dev/kmsg";
const BLOCK: &[&str] = &["iptables", "-I", "OUTPUT", "1", "-p", "tcp", "-d", "169.254.169.254", "-j", "DROP"];
const UNBLOCK: &[&str] = &["iptables", "-D", "OUTPUT", "-p", "tcp", "-d", "169.254.169.254", "-j", "DROP"];

const INJECTIONS: [Injection; 12] = [
    Injection {
        reason: "AppBlocked",
        what: What::Record("INFO: task inject:1 blocked for more than 122 seconds."),
    },
    Injection {
        reason: "AppCrash",
        what: What::Record("inject[1]: segfault at 0 ip 000055d4 sp 00007ffc error 4 in inject[55d4+1000]"),
    },
    Injection {
        reason: "BlockDeviceIOError",
        what: What::Record(
            "I/O error, dev nvme1n1, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
        ),
    },
    Injection {
        reason: "ConntrackExceededKernel",
        what: What::Record("nf_conntrack: nf_conntrack: table full, dropping packet"),
    },
    Injection {
        reason: "KernelBug",
        what: What::Record("BUG: unable to handle page fault for address: ffffa1b2c3d4e5f6"),
    },
    Injection { reason: "MetadataServiceBlocked", what: What::Command { make: BLOCK, undo: UNBLOCK } },
    Injection {
        reason: "NeuronHBMUncorrectableError",
        what: What::Record(
            "neuron: NEURON_HW_ERR=HBM_UNCORRECTABLE_ERROR instance-id=i-0123456789abcdef0 neuron-device=0",
        ),
    },
    Injection {
        reason: "NvidiaXID79Error",
        what: What::Record(
            "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=inject, GPU has fallen off the bus.",
        ),
    },
    Injection {
        reason: "NvidiaXID95Error",
        what: What::Record("NVRM: Xid (PCI:0000:3b:00): 95, pid=1204, name=inject, Uncontained ECC error."),
    },
    Injection {
        reason: "OOMKilling",
        what: What::Record(
            "Out of memory: Killed process 1 (inject) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB",
        ),
    },
    Injection {
        reason: "SoftLockup",
        what: What::Record("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [inject:1]"),
    },
    Injection { reason: "UnexpectedRejectRule", what: What::Command { make: BLOCK, undo: UNBLOCK } },
];

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// No such thing.
    #[error("{0:?} can't be injected; nodemend-agent inject lists what can")]
    Unknown(String),
    /// The kernel's log can't be written.
    #[error("failed to write {KMSG}: {0}")]
    Record(io::Error),
    /// The command did not run, or failed.
    #[error("failed to run {command}: {why}")]
    Command {
        /// Which.
        command: String,
        /// Why.
        why: String,
    },
    /// The output can't be written.
    #[error("failed to write the output: {0}")]
    Output(#[from] io::Error),
}

impl InjectError {
    /// Whether the command line is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// Makes it, or says what would be made.
pub fn inject(out: &mut impl Write, reason: Option<&str>, yes: bool) -> Result<(), InjectError> {
    let Some(reason) = reason else {
        for injection in &INJECTIONS {
            writeln!(out, "{:28} {}", injection.reason, injection.what.describe())?;
        }
        return Ok(());
    };
    let known = INJECTIONS.iter().find(|injection| injection.reason == reason);
    let injection = known.ok_or_else(|| InjectError::Unknown(reason.chars().take(80).collect()))?;
    if !yes {
        writeln!(out, "would: {}", injection.what.describe())?;
        writeln!(out, "nothing was done; --yes does it")?;
        return Ok(());
    }
    match &injection.what {
        What::Record(text) => {
            let mut log = OpenOptions::new().write(true).open(KMSG).map_err(InjectError::Record)?;
            // Without its line break a record stays hidden until the next one is written.
            log.write_all(format!("<4>{text}\n").as_bytes()).map_err(InjectError::Record)?;
            writeln!(out, "written; only an agent with --accept-injected believes it")?;
        }
        What::Command { make, undo } => {
            let output = Command::new(make[0]).args(&make[1..]).output();
            let failed = |why: String| InjectError::Command { command: make.join(" "), why };
            let output = output.map_err(|error| failed(error.to_string()))?;
            if !output.status.success() {
                return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
            }
            writeln!(out, "done; undo it with: {}", undo.join(" "))?;
        }
    }
    Ok(())
}

impl What {
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
        finding::Change,
        signal::{Line, Origin},
    };

    #[test]
    fn every_record_is_what_its_detector_sees() {
        let mut detector = Detector::new(&[]).expect("a detector").trusting(Trust::AnyFacility);
        for injection in &INJECTIONS {
            assert!(catalogue::lookup(injection.reason).is_some(), "{}", injection.reason);
            let What::Record(text) = injection.what else { continue };
            let mut changes = Vec::new();
            let origin = Origin::Kernel { facility: 1, level: 4 };
            detector
                .detect(&Line { origin, at: jiff::Timestamp::UNIX_EPOCH, text: text.into() }, &mut changes);
            let seen = changes.iter().any(|change| match change {
                Change::Raised(finding) => finding.reason == injection.reason,
                Change::Cleared { .. } => false,
            });
            assert!(seen, "{}: {changes:?}", injection.reason);
        }
    }

    #[test]
    fn nothing_is_done_without_yes() {
        let mut out = Vec::new();
        inject(&mut out, Some("UnexpectedRejectRule"), false).expect("said");
        assert!(String::from_utf8(out).expect("UTF-8").contains("nothing was done"));
        assert!(inject(&mut Vec::new(), Some("Nothing"), true).expect_err("unknown").is_usage());
    }

    #[test]
    fn what_can_be_made_is_listed_in_order() {
        assert!(INJECTIONS.is_sorted_by_key(|injection| injection.reason));
    }
}
