//! Patterns for log records of GPU and Neuron drivers.
//!
//! The drivers log from the kernel, so their records have facility 0. NVIDIA lists its numbers in the [XID
//! catalog](https://docs.nvidia.com/deploy/xid-errors/). Our catalogue decides which of them make the node unhealthy.

use std::borrow::Cow;

use nodemend_domain::catalogue;

use super::{
    pattern::{LineMatch, LinePattern},
    writers::Writers,
};

pub(super) const PATTERNS: &[LinePattern] = &[
    // `(PCI:0000:00:1e)`; old drivers leave `PCI:` out, and MIG adds the instance: `(PCI:0000:01:00 GPU-I:05)`.
    LinePattern::new(
        &["NvidiaNVLinkError", "NvidiaDoubleBitError", "NvidiaPageRetirement"],
        Writers::KERNEL,
        &["NVRM: Xid "],
        r"^NVRM: Xid \((?:PCI:)?(?<subject>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9])?(?: [^)]*)?\): (?<xid>[0-9]{1,5}),(?<rest>.*)",
    )
    .evaluated_by(evaluate_xid),
    LinePattern::new(
        &["NvidiaNVLinkError"],
        Writers::KERNEL,
        &["SXid ("],
        r"^nvidia-nvswitch[0-9]*: SXid \(PCI:(?<subject>[0-9a-fA-F:.]+)\): [0-9]+, Fatal\b",
    ),
    // Links that retrain repeatedly are degraded, not broken. Only an error that the driver itself calls fatal makes
    // the condition False.
    LinePattern::new(
        &["NvidiaNVLinkError"],
        Writers::KERNEL,
        &["NVLink", "nvlink", "NVLINK"],
        r"(?i)^NVRM: .*\bnvlink\b.*\b(?:fatal|failed|failure|errors?)\b",
    )
    .evaluated_by(evaluate_link),
    // The Neuron driver logs this line for its runtime, sometimes after a second timestamp.
    LinePattern::new(
        &[
            "NeuronSRAMUncorrectableError",
            "NeuronNCUncorrectableError",
            "NeuronHBMUncorrectableError",
            "NeuronDMAError",
        ],
        Writers::KERNEL,
        &["NEURON_HW_ERR="],
        r"(?:^|\s)NEURON_HW_ERR=(?<kind>[A-Z_]+)(?:\s.*?\b(?<subject>nd-id=[0-9]+)|\s|$)",
    )
    .evaluated_by(evaluate_neuron),
];

fn evaluate_xid(matched: &mut LineMatch<'_>) {
    let Some(xid) = matched.get("xid").and_then(|xid| xid.parse::<u32>().ok()) else { return };
    let gpu = matched.get("subject").map(str::to_owned);
    let family = if catalogue::xid_action(xid).is_some() { "Error" } else { "Warning" };
    matched.raise(Cow::Owned(format!("NvidiaXID{xid}{family}")), gpu.clone());
    match xid {
        48 => matched.raise("NvidiaDoubleBitError", gpu),
        74 => matched.raise("NvidiaNVLinkError", gpu),
        // A row or page that waits for the next reset or reboot. The same XIDs also report failures.
        63 | 64 if is_pending(matched.get("rest").unwrap_or_default()) => {
            matched.raise("NvidiaPageRetirement", gpu);
        }
        _ => {}
    }
}

fn is_pending(text: &str) -> bool {
    text.contains("to activate") || text.to_ascii_lowercase().contains("pending")
}

fn evaluate_link(matched: &mut LineMatch<'_>) {
    let text = matched.line.text.to_ascii_lowercase();
    if text.starts_with("nvrm: xid ") {
        return;
    }
    let is_fatal = text.replace("non-fatal", "").replace("nonfatal", "").contains("fatal");
    if is_fatal {
        matched.raise("NvidiaNVLinkError", None);
    } else {
        matched.raise_event("NvidiaNVLinkError", None);
    }
}

fn evaluate_neuron(matched: &mut LineMatch<'_>) {
    let reason = match matched.get("kind") {
        Some("SRAM_UNCORRECTABLE_ERROR") => "NeuronSRAMUncorrectableError",
        Some("NC_UNCORRECTABLE_ERROR") => "NeuronNCUncorrectableError",
        Some("HBM_UNCORRECTABLE_ERROR") => "NeuronHBMUncorrectableError",
        Some("DMA_ERROR") => "NeuronDMAError",
        _ => return,
    };
    let device = matched.get("subject").map(str::to_owned);
    matched.raise(reason, device);
}
