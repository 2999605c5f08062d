//! What happened, as people and programs are told of it: one step of one node's story.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    condition::ConditionType,
    ident::{ClusterName, InstanceId, NodeName},
    stamp,
    trail::Record,
};

/// A step of a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Something worth knowing; nothing follows from it by itself.
    Event,
    /// A condition went bad: its clock runs.
    Suspect,
    /// It went well again.
    Recovered,
    /// Its wait is over.
    Due,
    /// A repair is due, and something stands in its way.
    Blocked,
    /// A repair has its place in the group.
    Claimed,
    /// AWS was called.
    Called,
    /// CloudTrail tells the same of the call.
    Confirmed,
    /// CloudTrail tells something else.
    Mismatch,
    /// CloudTrail tells nothing.
    Missing,
    /// Somebody else terminated the node.
    Foreign,
    /// Another node took its place.
    Replaced,
    /// The case ended.
    Closed,
}

impl Step {
    /// All steps, in the order in which a repair takes them.
    pub const ALL: [Self; 13] = [
        Self::Event,
        Self::Suspect,
        Self::Recovered,
        Self::Due,
        Self::Blocked,
        Self::Claimed,
        Self::Called,
        Self::Confirmed,
        Self::Mismatch,
        Self::Missing,
        Self::Foreign,
        Self::Replaced,
        Self::Closed,
    ];

    /// The step's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Suspect => "suspect",
            Self::Recovered => "recovered",
            Self::Due => "due",
            Self::Blocked => "blocked",
            Self::Claimed => "claimed",
            Self::Called => "called",
            Self::Confirmed => "confirmed",
            Self::Mismatch => "mismatch",
            Self::Missing => "missing",
            Self::Foreign => "foreign",
            Self::Replaced => "replaced",
            Self::Closed => "closed",
        }
    }
}

/// One step of one node's story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Occurrence {
    /// When, by our clock.
    #[serde(with = "stamp")]
    pub at: Timestamp,
    /// Where.
    pub cluster: ClusterName,
    /// The node, once it has a name.
    pub node: Option<NodeName>,
    /// Its instance.
    pub instance_id: InstanceId,
    /// The case that it is told under: what logs are searched by.
    pub case: String,
    /// What.
    pub step: Step,
    /// The condition, where it is about one.
    pub condition: Option<ConditionType>,
    /// The reason, where there is one.
    pub reason: Option<String>,
    /// The rest, in a sentence.
    pub detail: String,
    /// The names of the guards in the way, where it is blocked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<String>,
    /// The trail record that the step left, as it stands in the trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Box<Record>>,
}
