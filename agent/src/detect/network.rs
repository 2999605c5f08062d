//! Turns what the VPC CNI, its network policy agent and kube-proxy log into findings.

use jiff::SignedDuration;

use super::shape::{Seen, Shape, Writers};
use crate::finding::Debounce;

const MINUTES_5: SignedDuration = SignedDuration::from_mins(5);

pub(super) const SHAPES: &[Shape] = &[
    // At boot the daemon may be up before its route: one line is no fault.
    Shape::new(
        &["IPAMDNotReady"],
        Writers::IPAMD,
        &["Unable to reach API Server", "Failed to check API server connectivity"],
        "Unable to reach API Server|Failed to check API server connectivity",
    )
    .debounced(Debounce::Times { count: 3, window: MINUTES_5 })
    .judged(note_unreachable),
    // Either it reached the API server, or it serves pods without it, as it may since 1.19.4.
    Shape::new(
        &[],
        Writers::IPAMD,
        &[
            "Successful communication with the Cluster",
            "Successfully communicated with API Server",
            "API server connectivity established",
            "AddNetworkReply",
            "Reconciling ENI/IP pool info",
            "Reconciled ENI/IP pool",
            "IP pool stats",
            "Serving RPC Handler",
        ],
        concat!(
            "Successful communication with the Cluster|Successfully communicated with API Server",
            "|API server connectivity established|AddNetworkReply:.*err: <nil>",
            "|Reconciling ENI/IP pool info|Reconciled ENI/IP pool|IP pool stats|Serving RPC Handler",
        ),
    )
    .judged(note_activity),
    // With prefix delegation the subnet lacks blocks rather than addresses.
    Shape::new(
        &["IPAMDNoIPs"],
        Writers::IPAMD,
        &["InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks"],
        "InsufficientFreeAddressesInSubnet|InsufficientCidrBlocks",
    ),
    Shape::new(&["IPAMDRepeatedlyRestart"], Writers::IPAMD, &["Starting L-IPAMD"], "Starting L-IPAMD")
        .debounced(Debounce::Times { count: 5, window: SignedDuration::from_mins(30) }),
    // client-go 0.32 and later quote the message and log the failed list as `err`.
    Shape::new(
        &["KubeProxyNotReady"],
        Writers::KUBE_PROXY,
        &["ailed to watch"],
        r#"[Ff]ailed to watch(?: \S+: |".*\berr=")failed to list "#,
    ),
    Shape::new(
        &["NPABPFRecoveryError"],
        Writers::NETWORK_POLICY_AGENT,
        &["BPF state", "BPF State Recovery", "recover global maps", "in-mem map"],
        concat!(
            "Failed to recover the BPF state|BPF State Recovery failed error|failed to recover global maps",
            "|got err for (?:cluster policy )?(?:ingress|egress) in-mem map",
        ),
    )
    .debounced(Debounce::Times { count: 2, window: SignedDuration::from_mins(10) }),
];

/// What the CNI's daemon last said of the API server.
#[derive(Debug, Default)]
pub(super) struct Ipamd {
    unreachable: bool,
}

fn note_unreachable(seen: &mut Seen<'_>) {
    seen.state.ipamd.unreachable = true;
    seen.raise_first();
}

/// Said once per trouble: the daemon is active every few seconds.
fn note_activity(seen: &mut Seen<'_>) {
    if std::mem::take(&mut seen.state.ipamd.unreachable) {
        seen.clear("IPAMDNotReady");
    }
}
