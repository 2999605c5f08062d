//! Turns what the drivers of accelerators write to the kernel's log into findings.
//!
//! The drivers print from the kernel, so their records have facility 0. NVIDIA's numbers are listed in its
//! [XID catalogue](https://docs.nvidia.com/deploy/xid-errors/); which of them cost the node is the catalogue's
//! word, not this file's.

use std::borrow::Cow;

use nodemend_domain::catalogue;

use super::shape::{Seen, Shape, Writers};

pub(super) const SHAPES: &[Shape] = &[
    // `(PCI:0000:00:1e)`; old drivers leave `PCI:` out, and MIG adds the instance: `(PCI:0000:01:00 GPU-I:05)`.
    Shape::new(
        &["NvidiaNVLinkError", "NvidiaDoubleBitError", "NvidiaPageRetirement"],
        Writers::KERNEL,
        &["NVRM: Xid "],
        r"^NVRM: Xid \((?:PCI:)?(?<subject>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-9])?(?: [^)]*)?\): (?<xid>[0-9]{1,5}),(?<rest>.*)",
    )
    .judged(judge_xid),
    Shape::new(
        &["NvidiaNVLinkError"],
        Writers::KERNEL,
        &["SXid ("],
        r"^nvidia-nvswitch[0-9]*: SXid \(PCI:(?<subject>[0-9a-fA-F:.]+)\): [0-9]+, Fatal\b",
    ),
    // Links that are trained and trained again fail at length; what the driver itself calls fatal is a fault.
    Shape::new(
        &["NvidiaNVLinkError"],
        Writers::KERNEL,
        &["NVLink", "nvlink", "NVLINK"],
        r"(?i)^NVRM: .*\bnvlink\b.*\b(?:fatal|failed|failure|errors?)\b",
    )
    .judged(judge_link),
    // The runtime has its driver print this, sometimes behind a time of its own.
    Shape::new(
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
    .judged(judge_neuron),
];

fn judge_xid(seen: &mut Seen<'_>) {
    let Some(xid) = seen.get("xid").and_then(|xid| xid.parse::<u32>().ok()) else { return };
    let gpu = seen.get("subject").map(str::to_owned);
    let family = if catalogue::xid_action(xid).is_some() { "Error" } else { "Warning" };
    seen.raise(Cow::Owned(format!("NvidiaXID{xid}{family}")), gpu.clone());
    match xid {
        48 => seen.raise("NvidiaDoubleBitError", gpu),
        74 => seen.raise("NvidiaNVLinkError", gpu),
        // A row or page that waits for the next reset or boot; the same numbers also tell of failures.
        63 | 64 if is_pending(seen.get("rest").unwrap_or_default()) => {
            seen.raise("NvidiaPageRetirement", gpu)
        }
        _ => {}
    }
}

fn is_pending(text: &str) -> bool {
    text.contains("to activate") || text.to_ascii_lowercase().contains("pending")
}

fn judge_link(seen: &mut Seen<'_>) {
    let text = seen.line.text.to_ascii_lowercase();
    if text.starts_with("nvrm: xid ") {
        return;
    }
    let is_fatal = text.replace("non-fatal", "").replace("nonfatal", "").contains("fatal");
    if is_fatal {
        seen.raise("NvidiaNVLinkError", None);
    } else {
        seen.raise_event("NvidiaNVLinkError", None);
    }
}

fn judge_neuron(seen: &mut Seen<'_>) {
    let reason = match seen.get("kind") {
        Some("SRAM_UNCORRECTABLE_ERROR") => "NeuronSRAMUncorrectableError",
        Some("NC_UNCORRECTABLE_ERROR") => "NeuronNCUncorrectableError",
        Some("HBM_UNCORRECTABLE_ERROR") => "NeuronHBMUncorrectableError",
        Some("DMA_ERROR") => "NeuronDMAError",
        _ => return,
    };
    let device = seen.get("subject").map(str::to_owned);
    seen.raise(reason, device);
}
