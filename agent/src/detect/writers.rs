//! The writers of log lines, and which of them are trusted.

use crate::signal::Origin;

/// A set of log writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writers(u16);

impl Writers {
    pub(super) const NONE: Self = Self(0);
    pub(super) const KERNEL: Self = Self(1);
    pub(super) const KUBELET: Self = Self(1 << 1);
    pub(super) const CONTAINERD: Self = Self(1 << 2);
    pub(super) const CRON: Self = Self(1 << 3);
    pub(super) const IPAMD: Self = Self(1 << 4);
    pub(super) const KUBE_PROXY: Self = Self(1 << 5);
    pub(super) const NETWORK_POLICY_AGENT: Self = Self(1 << 6);
    /// systemd logs about a unit under that unit's name, so any unit's lines may contain systemd's messages.
    pub(super) const ANY_UNIT: Self = Self(1 << 7);

    /// The union of two sets.
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The writers of lines with this origin.
    pub(super) fn of(origin: &Origin<'_>) -> Self {
        match origin {
            Origin::Kernel { .. } => Self::KERNEL,
            Origin::Unit(unit) => Self::ANY_UNIT.or(match unit.strip_suffix(".service").unwrap_or(unit) {
                "kubelet" => Self::KUBELET,
                "containerd" => Self::CONTAINERD,
                "crond" | "cron" | "cronie" => Self::CRON,
                "ipamd" | "aws-k8s-agent" => Self::IPAMD,
                "kube-proxy" => Self::KUBE_PROXY,
                "aws-network-policy-agent" => Self::NETWORK_POLICY_AGENT,
                _ => Self::NONE,
            }),
            Origin::File(path) => Self::of_file(path),
        }
    }

    fn of_file(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        if name.starts_with("ipamd.log") || path.contains("/aws-node/") {
            Self::IPAMD
        } else if name.starts_with("network-policy-agent.log") || path.contains("/aws-eks-nodeagent/") {
            Self::NETWORK_POLICY_AGENT
        } else if path.contains("/kube-proxy/") || name.starts_with("kube-proxy") {
            Self::KUBE_PROXY
        } else if name == "cron.log" || name == "cron" {
            Self::CRON
        } else {
            Self::NONE
        }
    }
}

/// Which writers of kernel log records are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Records with facility 0, which the kernel reserves for itself: a program that writes to `/dev/kmsg` cannot use
    /// it.
    #[default]
    KernelOnly,
    /// Records with any facility. For tests on a node, where a person writes the records.
    AnyFacility,
}
