//! The largest list of Nodes that Kubernetes supports is decoded in little memory beside its own text.
//!
//! A test binary of its own: the peak of a process is measured, and other tests would count.
#![cfg(target_os = "linux")]

use std::fs;

use nodemend_domain::node_snapshot::NodeSnapshot;
use serde_json::json;

/// Each snapshot has its name, its IDs and five conditions: about one KiB. Far less than the 8 KiB of its object.
const MAX_KIB: u64 = 12 * 1024;

/// The largest memory that this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// A list of 5,000 Nodes of 8 KiB each, most of which are the names of images.
fn list() -> Vec<u8> {
    let image = "0123456789abcdef".repeat(16);
    // Allocated once: a larger peak while it grows would hide the peak of decoding it.
    let mut text = Vec::with_capacity(64 << 20);
    text.extend(br#"{"kind":"NodeList","apiVersion":"v1","items":["#);
    for number in 0..5_000 {
        let condition = |kind: &str| {
            json!({
                "type": kind, "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
                "lastTransitionTime": "2026-08-20T10:00:00Z", "lastHeartbeatTime": "2026-08-20T10:00:00Z",
            })
        };
        let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "KernelReady"];
        let node = json!({
            "metadata": {
                "name": format!("ip-10-0-{}-{}.ec2.internal", number / 250, number % 250),
                "uid": format!("00000000-0000-4000-8000-{number:012}"),
                "creationTimestamp": "2026-08-20T09:00:00Z",
            },
            "spec": { "providerID": format!("aws:///us-east-1a/i-{number:017x}") },
            "status": {
                "conditions": kinds.map(condition),
                "images": vec![json!({ "names": [image] }); 25],
                "nodeInfo": { "bootID": "3e5696ab-eba1-4b55-bf1c-9a80963b1cab" },
            },
        });
        if number > 0 {
            text.push(b',');
        }
        text.extend(node.to_string().into_bytes());
    }
    text.extend(b"]}");
    text
}

#[test]
fn a_list_of_5_000_nodes_takes_little_memory_beside_its_text() {
    let list = list();
    assert!((35..64).contains(&(list.len() >> 20)), "{} bytes", list.len());
    let before = peak_kib();
    let nodes = NodeSnapshot::read_list(&list).expect("a list");
    let more = peak_kib() - before;
    assert_eq!(nodes.len(), 5_000);
    assert!(more > 0, "the peak is that of decoding");
    assert!(more <= MAX_KIB, "{more} KiB more than the text");
}
