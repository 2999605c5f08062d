//! A Node object as the Kubernetes API returns it: what is so, rather than what was reported.

use std::fmt;

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use crate::{
    control_plane_log::NodeObject,
    ident::{BootId, InstanceId, NodeName, NodeUid},
    observation::ObservedCondition,
};

/// What matters of a Node object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSnapshot {
    /// Its name.
    pub name: NodeName,
    /// Its uid.
    pub uid: Option<NodeUid>,
    /// The instance that `spec.providerID` names; none on Fargate and hybrid nodes, and until it is set.
    pub instance_id: Option<InstanceId>,
    /// `status.nodeInfo.bootID`.
    pub boot_id: Option<BootId>,
    /// When the object was created.
    pub created: Option<Timestamp>,
    /// Its conditions of a known polarity.
    pub conditions: Vec<SnapshotCondition>,
    /// The annotation that holds it, shortened.
    pub hold: Option<String>,
    /// `spec.unschedulable`.
    pub cordoned: bool,
}

/// One condition of a Node object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotCondition {
    /// The condition.
    pub observed: ObservedCondition,
    /// `lastTransitionTime`: by its writer's clock.
    pub since: Option<Timestamp>,
}

/// Why an answer of the API is no Node.
#[derive(Debug, thiserror::Error)]
pub enum NodeSnapshotError {
    /// Not JSON, or a field of another type.
    #[error("not a Node object: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A name that no Node has.
    #[error("metadata.name: {0}")]
    Name(#[from] crate::ident::InvalidName),
}

impl NodeSnapshot {
    /// Reads one Node object.
    pub fn read(json: &[u8]) -> Result<Self, NodeSnapshotError> {
        Self::of(serde_json::from_slice(json)?)
    }

    /// Reads a list of them. Items that are no nodes of ours (an invalid name) fail the list: half a list would show nodes
    /// as missing.
    pub fn read_list(json: &[u8]) -> Result<Vec<Self>, NodeSnapshotError> {
        #[derive(Deserialize)]
        struct List {
            items: Items,
        }
        serde_json::from_slice::<List>(json)?.items.0
    }

    fn of(node: NodeObject<'_>) -> Result<Self, NodeSnapshotError> {
        Ok(Self {
            name: NodeName::new(node.name())?,
            uid: NodeUid::new(node.uid()).ok(),
            instance_id: node.instance_id(),
            boot_id: BootId::new(node.boot_id()).ok(),
            created: node.created().parse().ok(),
            conditions: node
                .observed_conditions()
                .map(|(observed, since)| SnapshotCondition { observed, since: since.parse().ok() })
                .collect(),
            hold: node.hold(),
            cordoned: node.is_cordoned(),
        })
    }
}

/// The items of a list, of which each is reduced to what matters before the next one is read: a list of 5,000 nodes is 40 MB.
struct Items(Result<Vec<NodeSnapshot>, NodeSnapshotError>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Nodes;

        impl<'de> Visitor<'de> for Nodes {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of Node objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Items, A::Error> {
                let mut nodes = Ok(Vec::new());
                while let Some(node) = items.next_element::<NodeObject<'de>>()? {
                    if let Ok(read) = &mut nodes {
                        match NodeSnapshot::of(node) {
                            Ok(node) => read.push(node),
                            Err(error) => nodes = Err(error),
                        }
                    }
                }
                Ok(Items(nodes))
            }
        }

        deserializer.deserialize_seq(Nodes)
    }
}
