//! Observations: facts about a node from the control-plane audit log.
//!
//! [`control_plane_log`](crate::control_plane_log) parses Kubernetes audit events into these; [`case`](crate::case)
//! applies them. All times are the API server's.

use jiff::Timestamp;

use crate::{
    condition::{ConditionType, Health},
    ident::{BootId, InstanceId, NodeName, NodeUid, Zone},
    node_marks::MarkChange,
};

/// One fact about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The API server's `stageTimestamp` (`requestReceivedTimestamp` if a truncated event lacks it).
    pub at: Timestamp,
    /// The Node object's name.
    pub node: NodeName,
    /// The Node object's uid, where the event names it: a name alone can come again with another object.
    pub uid: Option<NodeUid>,
    /// The instance, where the event names it: the kubelet's session name or the node's `spec.providerID`.
    pub instance_id: Option<InstanceId>,
    /// The Availability Zone, if the event has the whole Node object.
    pub zone: Option<Zone>,
    /// `status.nodeInfo.bootID`, if the event has it.
    pub boot_id: Option<BootId>,
    /// The fact that was observed.
    pub what: What,
}

impl Observation {
    /// Whether it shows a node that is up: its kubelet registers, or Ready is healthy.
    pub fn shows_ready(&self) -> bool {
        matches!(self.what, What::Registered { .. }) || self.becomes_ready()
    }

    /// Whether it has a healthy Ready.
    pub fn becomes_ready(&self) -> bool {
        let ready = |observed: &ObservedCondition| {
            observed.condition == ConditionType::Ready && observed.health == Health::Healthy
        };
        match &self.what {
            What::Registered { conditions } | What::Conditions { conditions, .. } => {
                conditions.iter().any(ready)
            }
            What::Created { .. } | What::Deleted { .. } | What::Marked { .. } => false,
        }
    }
}

/// The fact that an audit event shows about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The node's conditions were written. Conditions whose status did not change are not listed, so the list of a
    /// kubelet's heartbeat is empty.
    Conditions {
        /// Who wrote them.
        by: StatusWriter,
        /// The conditions with a status.
        conditions: Vec<ObservedCondition>,
        /// Those that the node has no longer: nobody reports them any more, so they are over.
        removed: Removed,
    },
    /// The Node object was created by its kubelet: the node registered.
    Registered {
        /// The conditions that it registered with.
        conditions: Vec<ObservedCondition>,
    },
    /// The Node object was created by somebody else: restored from a backup, as a rule.
    Created {
        /// The user name as it stands in the audit event.
        user: String,
        /// The conditions that the object has.
        conditions: Vec<ObservedCondition>,
    },
    /// Somebody wrote what nodemend heeds on the Node object itself: the annotation that holds it, or a cordon.
    Marked {
        /// The user name, without control characters.
        by: String,
        /// What was written.
        change: MarkChange,
    },
    /// The Node object was deleted.
    Deleted {
        /// The kind of caller that deleted it.
        by: Deleter,
        /// The caller's user name, without control characters.
        user: String,
    },
}

/// One condition with a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedCondition {
    /// The condition's type.
    pub condition: ConditionType,
    /// Its health, whatever its polarity.
    pub health: Health,
    /// The reason, like `KubeletNotReady` or `NodeStatusUnknown`.
    pub reason: String,
    /// The message, shortened to 512 characters.
    pub message: String,
}

/// Which conditions a write took off a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// These.
    Only(Vec<ConditionType>),
    /// All that the node had but these.
    AllBut(Vec<ConditionType>),
}

impl Default for Removed {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl Removed {
    /// Whether a condition is among them.
    pub fn contains(&self, condition: &ConditionType) -> bool {
        match self {
            Self::Only(removed) => removed.contains(condition),
            Self::AllBut(kept) => !kept.contains(condition),
        }
    }
}

/// Who wrote a node's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusWriter {
    /// The node's own kubelet.
    Kubelet,
    /// The node lifecycle controller, which writes when the kubelet does not.
    NodeController,
    /// Another agent, such as node-problem-detector or EKS's own monitoring agent.
    ThirdParty,
}

/// Who deleted a Node object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deleter {
    /// A user, or a tool with a user's credentials: the instance can still be running.
    Manual,
    /// The cloud controller: the instance is gone.
    CloudController,
    /// Karpenter, which replaces its nodes itself.
    Karpenter,
    /// A controller of EKS, such as its node manager.
    Eks,
}
