//! What the control plane's audit log tells of a node, in our words.
//!
//! [`control_plane_log`](crate::control_plane_log) turns Kubernetes audit events into these; [`case`](crate::case) takes them in.

use jiff::Timestamp;

use crate::{
    condition::{ConditionType, Health},
    ident::{BootId, InstanceId, NodeName, Zone},
};

/// One fact about one node, at the API server's own time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The API server's `stageTimestamp` (`requestReceivedTimestamp` where a shortened record lacks it).
    pub at: Timestamp,
    /// The Node object's name.
    pub node: NodeName,
    /// The instance, where the record tells it: the kubelet's session name or the node's `spec.providerID`.
    pub instance_id: Option<InstanceId>,
    /// The zone, where the record holds the whole node.
    pub zone: Option<Zone>,
    /// `status.nodeInfo.bootID`, where the record carries it.
    pub boot_id: Option<BootId>,
    /// What happened.
    pub what: What,
}

/// What an audit event says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Somebody wrote the node's conditions. Conditions whose status did not change are not listed,
    /// so the list may be empty: a kubelet's heartbeat.
    Conditions {
        /// Who wrote them.
        by: StatusWriter,
        /// Those that carry a status.
        conditions: Vec<ObservedCondition>,
    },
    /// The Node object was created: the kubelet registered.
    Registered {
        /// The conditions that it registered with.
        conditions: Vec<ObservedCondition>,
    },
    /// The Node object was deleted.
    Deleted {
        /// By whom.
        by: Deleter,
        /// The user name as it stands in the audit event.
        user: String,
    },
}

/// One condition with a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedCondition {
    /// Its type.
    pub condition: ConditionType,
    /// Its health, polarity taken out.
    pub health: Health,
    /// The reason given, like `KubeletNotReady` or `NodeStatusUnknown`.
    pub reason: String,
    /// The message given, shortened to 512 characters.
    pub message: String,
}

/// Who wrote a node's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusWriter {
    /// The node's own kubelet.
    Kubelet,
    /// The node lifecycle controller: it speaks when the kubelet does not.
    NodeController,
    /// Another agent, such as node-problem-detector or EKS's own monitoring agent.
    ThirdParty,
}

/// Who deleted a Node object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deleter {
    /// A person, or a tool in a person's name: the instance may well be running.
    Manual,
    /// The cloud controller: the instance is gone.
    CloudController,
    /// Karpenter, which replaces its nodes itself.
    Karpenter,
    /// EKS itself.
    Eks,
}
