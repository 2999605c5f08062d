//! What can be said of a node: a condition, its health, and the severity of a finding.

use std::{borrow::Cow, convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Twice what any known type takes. Sixteen of them fit a heartbeat.
const MAX_NAME: usize = 64;

/// Kubernetes asks for no more of a condition's type. It ends on terminals, and whoever writes it may lie.
fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/')
}

/// A node condition's type, as Kubernetes and EKS spell it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The accelerators: NVIDIA, Neuron.
    AcceleratedHardwareReady,
    /// Can the kubelet run pods, and does the control plane hear it.
    Ready,
    /// The kernel and what it rations: processes, files, memory.
    KernelReady,
    /// Interfaces, routes, rules, the VPC CNI.
    NetworkingReady,
    /// Filesystems and block devices.
    StorageReady,
    /// containerd, the kubelet and their pods.
    ContainerRuntimeReady,
    /// The kubelet's own pressure conditions, and those of third parties such as node-problem-detector.
    Other(Box<str>),
}

impl ConditionType {
    /// The five that a node agent watches, in the order of people's tables.
    pub const AGENT: [Self; 5] = [
        Self::KernelReady,
        Self::NetworkingReady,
        Self::StorageReady,
        Self::ContainerRuntimeReady,
        Self::AcceleratedHardwareReady,
    ];

    /// The type as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::AcceleratedHardwareReady => "AcceleratedHardwareReady",
            Self::Ready => "Ready",
            Self::KernelReady => "KernelReady",
            Self::NetworkingReady => "NetworkingReady",
            Self::StorageReady => "StorageReady",
            Self::ContainerRuntimeReady => "ContainerRuntimeReady",
            Self::Other(other) => other,
        }
    }

    /// Which status of this condition is the good one; none where nobody has told us.
    pub fn polarity(&self) -> Option<Polarity> {
        match self {
            Self::Other(other) => match &**other {
                // The kubelet's, and node-problem-detector's published ones.
                "MemoryPressure"
                | "DiskPressure"
                | "PIDPressure"
                | "NetworkUnavailable"
                | "KernelDeadlock"
                | "ReadonlyFilesystem"
                | "XfsShutdown"
                | "CperHardwareErrorFatal"
                | "FrequentKubeletRestart"
                | "FrequentDockerRestart"
                | "FrequentContainerdRestart"
                | "FrequentUnregisterNetDevice"
                | "CorruptDockerOverlay2"
                | "CorruptDockerImage"
                | "KubeletUnhealthy"
                | "ContainerRuntimeUnhealthy"
                | "NTPProblem" => Some(Polarity::TrueIsBad),
                other if other.ends_with("Ready") => Some(Polarity::TrueIsGood),
                _ => None,
            },
            _ => Some(Polarity::TrueIsGood),
        }
    }
}

impl FromStr for ConditionType {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "AcceleratedHardwareReady" => Self::AcceleratedHardwareReady,
            "Ready" => Self::Ready,
            "KernelReady" => Self::KernelReady,
            "NetworkingReady" => Self::NetworkingReady,
            "StorageReady" => Self::StorageReady,
            "ContainerRuntimeReady" => Self::ContainerRuntimeReady,
            other => Self::Other(
                other.chars().take(MAX_NAME).map(|c| if is_of_a_name(c) { c } else { '?' }).collect(),
            ),
        })
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for ConditionType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ConditionType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let Ok(condition) = Text::deserialize(deserializer)?.0.parse();
        Ok(condition)
    }
}

/// Which status of a condition is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polarity {
    /// `Ready`, and everything that ends in it.
    TrueIsGood,
    /// `MemoryPressure`, `KernelDeadlock` and their like.
    TrueIsBad,
}

/// A condition's status as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`: nobody can say. Never taken for good.
    Unknown,
}

impl Status {
    /// What this status means for a condition of that polarity.
    pub fn health(self, polarity: Polarity) -> Health {
        match (self, polarity) {
            (Self::Unknown, _) => Health::Unknown,
            (Self::True, Polarity::TrueIsGood) | (Self::False, Polarity::TrueIsBad) => Health::Healthy,
            (Self::False, Polarity::TrueIsGood) | (Self::True, Polarity::TrueIsBad) => Health::Bad,
        }
    }

    /// The status as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A status with its polarity taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    /// Somebody says that it is well.
    Healthy,
    /// Somebody says that it is not.
    Bad,
    /// Nobody can say. It counts as bad: silence is no proof of health.
    Unknown,
}

impl Health {
    /// Anything but sound.
    pub fn is_bad(self) -> bool {
        self != Self::Healthy
    }
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// It is reported, and repairs nothing unless a policy promotes it.
    Event,
    /// It makes its condition bad and starts the repair clock.
    Condition,
}

/// What is done to a node. Ordered by how much it disturbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RepairAction {
    /// Watch only.
    NoAction,
    /// EC2 RebootInstances, verified, else Replace.
    Reboot,
    /// TerminateInstanceInAutoScalingGroup without shrinking the group.
    Replace,
}

impl RepairAction {
    /// The action as EKS spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAction => "NoAction",
            Self::Reboot => "Reboot",
            Self::Replace => "Replace",
        }
    }

    /// The action as a verb: "would replace".
    pub fn verb(self) -> &'static str {
        match self {
            Self::NoAction => "take no action",
            Self::Reboot => "reboot",
            Self::Replace => "replace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conditions_name_cannot_repaint_a_terminal_or_fill_a_report() {
        let Ok(condition) = "\u{1b}[2JAll\u{202e}Ready".parse::<ConditionType>();
        assert_eq!(condition.as_str(), "??2JAll?Ready");
        let Ok(condition) = "x".repeat(5_000).parse::<ConditionType>();
        assert_eq!(condition.as_str().len(), MAX_NAME);
    }
}
