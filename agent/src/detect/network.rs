//! Patterns for log lines of the VPC CNI, its network policy agent and kube-proxy.

use jiff::SignedDuration;

use super::{
    pattern::{LineMatch, LinePattern},
    writers::Writers,
};
use crate::finding::Debounce;

const MINUTES_5: SignedDuration = SignedDuration::from_mins(5);

pub(super) const PATTERNS: &[LinePattern] = &[
    // At boot the daemon may start before its route exists: a single line is not a problem.
    LinePattern::new(
        &["IPAMDNotReady"],
        Writers::IPAMD,
        &["Unable to reach API Server", "Failed to check API server connectivity"],
        "Unable to reach API Server|Failed to check API server connectivity",
    )
    .debounced(Debounce::Times { count: 3, window: MINUTES_5 })
    .evaluated_by(record_unreachable),
    // The daemon either reached the API server, or serves pods without it, which it may do since 1.19.4.
    LinePattern::new(
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
    .evaluated_by(record_activity),
    // With prefix delegation the subnet lacks free blocks rather than addresses.
    LinePattern::new(
        &["IPAMDNoIPs"],
        Writers::IPAMD,
        &["InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks"],
        "InsufficientFreeAddressesInSubnet|InsufficientCidrBlocks",
    ),
    LinePattern::new(&["IPAMDRepeatedlyRestart"], Writers::IPAMD, &["Starting L-IPAMD"], "Starting L-IPAMD")
        .debounced(Debounce::Times { count: 5, window: SignedDuration::from_mins(30) }),
    // client-go 0.32 and later quote the message and log the failed list as `err`.
    LinePattern::new(
        &["KubeProxyNotReady"],
        Writers::KUBE_PROXY,
        &["ailed to watch"],
        r#"[Ff]ailed to watch(?: \S+: |".*\berr=")failed to list "#,
    ),
    LinePattern::new(
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

fn record_unreachable(matched: &mut LineMatch<'_>) {
    matched.state.ipamd.unreachable = true;
    matched.raise_first();
}

/// Clears only after a raise: the daemon logs activity every few seconds.
fn record_activity(matched: &mut LineMatch<'_>) {
    if std::mem::take(&mut matched.state.ipamd.unreachable) {
        matched.clear("IPAMDNotReady");
    }
}
