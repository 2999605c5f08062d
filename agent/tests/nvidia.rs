//! The agent with a library that implements NVML's binary interface, compiled by the test, because there is no GPU.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The part of `nvml.h` that is used, with its names, numbers and sizes.
const LIBRARY: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
int nvmlInit_v2(void) { if (START == 1) abort(); if (START == 2) for (;;) pause(); return START == 3 ? 18 : 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { return "an error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    static const unsigned long long all[] = REASONS;
    *reasons = all[(long)device - 1];
    return 0;
}
int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) {
    memset(pci, 0, sizeof *pci);
    strcpy(pci->bus_id, (long)device == 1 ? "00000000:10:00.0" : "00000000:11:00.0");
    return 0;
}
"#;

/// HW_THERMAL_SLOWDOWN. Below, HW_POWER_BRAKE_SLOWDOWN.
const THERMAL: &str = "0x40";
const POWER_BRAKE: &str = "0x80";
/// Slowdown without a cause, idle, and software limits: none is a problem.
const ORDINARY: &str = "0x0d";

/// A root of a node with two GPUs, and a library with this behavior.
fn node(start: u8, reasons: [&str; 2]) -> TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (address, vendor, class) in [
        ("0000:00:05.0", "0x1d0f", "0x020000"),
        ("0000:10:00.0", "0x10de", "0x030200"),
        ("0000:11:00.0", "0x10de", "0x030200"),
    ] {
        let directory = root.path().join("sys/bus/pci/devices").join(address);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("vendor"), vendor).expect("a file");
        fs::write(directory.join("class"), class).expect("a file");
    }
    let directory = root.path().join("usr/lib64");
    fs::create_dir_all(&directory).expect("a directory");
    let source = root.path().join("nvml.c");
    fs::write(&source, LIBRARY).expect("a file");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-w", &format!("-DSTART={start}")])
        .arg(format!("-DREASONS={{{}}}", reasons.join(",")))
        .arg("-o")
        .arg(directory.join("libnvidia-ml.so.1"))
        .arg(source)
        .status()
        .expect("a C compiler");
    assert!(made.success());
    root
}

fn scanned(root: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_nodemend-agent"))
        .args(["scan", "--format", "json", "--no-imds", "--root"])
        .arg(root)
        .stdin(Stdio::null())
        .output()
        .expect("a run");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .find(|line| line["probe"] == "nvidia-library")
        .expect("the probe's line")
}

#[test]
fn the_librarys_slowdowns_are_reported_by_gpu() {
    let line = scanned(node(0, [THERMAL, POWER_BRAKE]).path());
    assert_eq!(line["state"], "unhealthy", "{line}");
    let findings: Vec<_> = line["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .map(|finding| (finding["reason"].as_str(), finding["subject"].as_str()))
        .collect();
    assert_eq!(
        findings,
        [(Some("NvidiaThermalError"), Some("0000:10:00")), (Some("NvidiaPowerError"), Some("0000:11:00")),]
    );
}

#[test]
fn ordinary_slowdowns_are_no_problem() {
    let line = scanned(node(0, [ORDINARY, "0"]).path());
    assert_eq!(line["state"], "healthy", "{line}");
}

#[test]
fn a_library_that_fails_crashes_or_hangs_does_not_affect_the_agent() {
    for (start, why) in [
        (1, "it ended with signal: 6"),
        (2, "no response within 1.8 s"),
        (3, "failed to query NVIDIA's library"),
    ] {
        let line = scanned(node(start, ["0", "0"]).path());
        assert_eq!(line["state"], "not checkable", "{line}");
        assert!(line["why"].as_str().expect("why").contains(why), "{start}: {line}");
    }
}

#[test]
fn the_child_process_needs_no_settings() {
    let root = node(0, ["0", "0"]);
    let output = Command::new(env!("CARGO_BIN_EXE_nodemend-agent"))
        .arg("nvidia-library")
        .arg(root.path().join("usr/lib64/libnvidia-ml.so.1"))
        .env("NODEMEND_CONFIG", root.path().join("nowhere.yaml"))
        .output()
        .expect("a run");
    assert!(output.status.success(), "{output:?}");
    let gpus: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(gpus["Ok"].as_array().map(Vec::len), Some(2), "{gpus}");
}
