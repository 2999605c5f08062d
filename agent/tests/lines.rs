//! Every built-in pattern against real log lines and near misses.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use nodemend_agent::{
    detect::{Detector, Trust},
    finding::FindingChange,
    signal::{LogLine, Origin},
};
use nodemend_domain::catalogue;

const TABLES: [(&str, &str); 6] = [
    ("kernel", include_str!("../fixtures/lines/kernel.txt")),
    ("memory", include_str!("../fixtures/lines/memory.txt")),
    ("storage", include_str!("../fixtures/lines/storage.txt")),
    ("network", include_str!("../fixtures/lines/network.txt")),
    ("runtime", include_str!("../fixtures/lines/runtime.txt")),
    ("accelerator", include_str!("../fixtures/lines/accelerator.txt")),
];

/// Reasons that depend on the rate of lines; they have tests of their own.
const RATES: [&str; 3] = ["LivenessProbeFailures", "ReadinessProbeFailures", "RapidCron"];

struct Row<'a> {
    location: String,
    reasons: &'a str,
    origin: Origin<'a>,
    text: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for (table, content) in TABLES {
        for (number, row) in content.lines().enumerate().filter(|(_, row)| !row.starts_with('#')) {
            let location = format!("{table}.txt:{}", number + 1);
            let [reasons, origin, text] = row.splitn(3, '\t').collect::<Vec<_>>()[..] else {
                panic!("{location} has not three fields");
            };
            rows.push(Row { location, reasons, origin: origin_of(origin), text });
        }
    }
    rows
}

fn origin_of(text: &'static str) -> Origin<'static> {
    match text.split_once(':') {
        None if text == "kernel" => Origin::Kernel { facility: 0, level: 4 },
        Some(("kernel", facility)) => Origin::Kernel { facility: facility.parse().expect(text), level: 4 },
        Some(("unit", unit)) => Origin::Unit(Cow::Borrowed(unit)),
        Some(("file", path)) => Origin::File(Cow::Borrowed(path)),
        _ => panic!("{text} is no origin"),
    }
}

fn raised(detector: &mut Detector, origin: &Origin<'_>, text: &str) -> Vec<String> {
    let line = LogLine { origin: origin.clone(), at: Timestamp::UNIX_EPOCH, text: Cow::Borrowed(text) };
    let mut out = Vec::new();
    detector.detect(&line, &mut out);
    out.into_iter()
        .map(|change| match change {
            FindingChange::Raised(finding) => finding.reason.into_owned(),
            FindingChange::Cleared { reason, .. } => format!("cleared {reason}"),
        })
        .collect()
}

#[test]
fn every_line_raises_its_reasons_and_near_misses_raise_nothing() {
    let mut detector = Detector::new(&[]).expect("a detector");
    let mut mismatches = Vec::new();
    for row in rows() {
        let found = raised(&mut detector, &row.origin, row.text);
        let expected: Vec<&str> = row.reasons.split(',').filter(|reason| *reason != "-").collect();
        let (mut sorted, mut wanted) = (found.clone(), expected.clone());
        sorted.sort_unstable();
        wanted.sort_unstable();
        if sorted != wanted {
            mismatches.push(format!("{}: wanted {expected:?}, found {found:?}: {}", row.location, row.text));
        }
    }
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
}

#[test]
fn every_reason_of_a_detector_is_in_the_catalogue_with_lines_and_near_misses() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for row in rows() {
        for reason in row.reasons.split(',') {
            assert!(reason == "-" || catalogue::lookup(reason).is_some(), "{}: {reason}", row.location);
            *seen.entry(reason).or_default() += 1;
        }
    }
    for reason in Detector::reasons() {
        assert!(catalogue::lookup(reason).is_some(), "{reason} is not in the catalogue");
        let lines = seen.get(reason).copied().unwrap_or(0);
        // Neuron's runtime writes each of its errors in one form only.
        let enough = if reason.starts_with("Neuron") || reason == "NvidiaDoubleBitError" { 1 } else { 2 };
        assert!(lines >= enough || RATES.contains(&reason), "{reason} has {lines} lines");
    }
    assert!(seen["-"] >= 80);
}

/// The reasons in the catalogue that a line can raise. Others are raised by probes, the control plane or the sources.
const BY_LINE: [&str; 36] = [
    "AppBlocked",
    "AppCrash",
    "BlockDeviceIOError",
    "ConntrackExceededKernel",
    "ContainerRuntimeFailed",
    "EtcHostsMountFailed",
    "FilesystemCorruption",
    "ForkFailedOutOfPIDs",
    "HardLockup",
    "IPAMDNoIPs",
    "IPAMDNotReady",
    "IPAMDRepeatedlyRestart",
    "KernelBug",
    "KubeProxyNotReady",
    "KubeletDiskUsageSlow",
    "KubeletFailed",
    "LivenessProbeFailures",
    "MemoryHardwareError",
    "NPABPFRecoveryError",
    "NeuronDMAError",
    "NeuronHBMUncorrectableError",
    "NeuronNCUncorrectableError",
    "NeuronSRAMUncorrectableError",
    "NvidiaDoubleBitError",
    "NvidiaNCCLError",
    "NvidiaNVLinkError",
    "NvidiaPageRetirement",
    "OOMKilling",
    "PodPidsExhausted",
    "PodStuckTerminating",
    "RapidCron",
    "RcuStall",
    "ReadinessProbeFailures",
    "ReadonlyFilesystem",
    "ServiceFailedToStart",
    "SoftLockup",
];

#[test]
fn every_line_based_reason_has_a_detector() {
    assert_eq!(Detector::reasons().into_iter().collect::<Vec<_>>(), BY_LINE);
}

#[test]
fn a_programs_kernel_record_is_trusted_only_in_tests() {
    let program = Origin::Kernel { facility: 1, level: 4 };
    let text = "NVRM: Xid (PCI:0000:00:1e): 79, GPU has fallen off the bus.";
    let mut strict = Detector::new(&[]).expect("a detector");
    assert!(raised(&mut strict, &program, text).is_empty());
    let mut trial = Detector::new(&[]).expect("a detector").with_trust(Trust::AnyFacility);
    assert_eq!(raised(&mut trial, &program, text), ["NvidiaXID79Error"]);
}
