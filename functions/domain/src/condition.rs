//! Conditions of a node, their health, the severity of findings, and the repair actions.
//!
//! Unknown counts as bad everywhere. Names of conditions come from outside: they are shortened and hold no control
//! characters.

use std::{borrow::Cow, convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Twice the longest known type. Sixteen of them fit into a heartbeat.
const MAX_NAME: usize = 64;

/// The characters that Kubernetes allows in a condition's type. All others could change what a terminal shows.
fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/')
}

/// A node condition's type, as Kubernetes and EKS spell it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The accelerators: NVIDIA, Neuron.
    AcceleratedHardwareReady,
    /// Whether the kubelet can run pods and reports to the control plane.
    Ready,
    /// The kernel and its limits: processes, files, memory.
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
    /// The five that the agent reports, in the order of the documentation.
    pub const AGENT: [Self; 5] = [
        Self::KernelReady,
        Self::NetworkingReady,
        Self::StorageReady,
        Self::ContainerRuntimeReady,
        Self::AcceleratedHardwareReady,
    ];

    /// Whether the kubelet owns it: Ready and its pressure conditions.
    pub fn is_kubelets(&self) -> bool {
        match self {
            Self::Ready => true,
            Self::Other(other) => matches!(&**other, "MemoryPressure" | "DiskPressure" | "PIDPressure"),
            _ => false,
        }
    }

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

    /// Which status of this condition is the good one. None for an unknown type.
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
                other.chars().take(MAX_NAME).map(|c| if is_name_char(c) { c } else { '?' }).collect(),
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
    /// `Ready`, and all types that end in it.
    TrueIsGood,
    /// Types that name a problem, such as `MemoryPressure` and `KernelDeadlock`.
    TrueIsBad,
}

/// A condition's status, as in reports and in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`. Treated like bad.
    Unknown,
}

impl Status {
    /// The health that this status means for a condition of that polarity.
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

/// The health of a condition, whatever its polarity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    /// It was healthy in the last report.
    Healthy,
    /// It was unhealthy in the last report.
    Bad,
    /// It was unknown in the last report. That counts as bad: a missing report is no proof of health.
    Unknown,
}

impl Health {
    /// Whether it is bad or unknown.
    pub fn is_bad(self) -> bool {
        self != Self::Healthy
    }
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// It is only reported, unless a policy promotes it.
    Event,
    /// It makes its condition bad and starts the grace period.
    Condition,
}

/// What is done about a fault. Ordered from the least to the most disruptive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RepairAction {
    /// None: the fault is only reported.
    NoAction,
    /// `RebootInstances`. A node that it does not cure is replaced.
    Reboot,
    /// `TerminateInstanceInAutoScalingGroup`, with the group's desired capacity unchanged.
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
    fn a_condition_type_from_outside_is_shortened_and_has_no_control_characters() {
        let Ok(condition) = "\u{1b}[2JAll\u{202e}Ready".parse::<ConditionType>();
        assert_eq!(condition.as_str(), "??2JAll?Ready");
        let Ok(condition) = "x".repeat(5_000).parse::<ConditionType>();
        assert_eq!(condition.as_str().len(), MAX_NAME);
    }
}
