//! One node's trouble: what was heard of it, and what is being done about it.
//!
//! A case takes reports and observations in, in any order and any number of times; what follows from them, the
//! [faults](fault) and the time at which somebody must look again, is computed, never stored twice.
//! It is fenced by instance id and boot id: what was said before a reboot changes nothing.

mod agent;
mod calls;
mod control_plane;
pub mod fault;
mod presence;
mod state;
mod tally;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{
    fault::{Fault, Testimony},
    state::State,
    tally::Tally,
};
use crate::{
    clock::{History, Onset, Statement},
    condition::{ConditionType, RepairAction},
    ident::{BootId, ClusterName, GroupName, InstanceId, NodeName, Zone},
    observation::Deleter,
    repair::{Call, Repair},
    stamp,
    trail::Chain,
};

const MAX_CONDITIONS: usize = 32;
const MAX_TALLIES: usize = 64;
const MAX_OLD_BOOTS: usize = 8;

/// Everything known of one node, as one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its instance: with the cluster, the item's key.
    pub instance_id: InstanceId,
    /// Its name in Kubernetes, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Its zone, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Its Auto Scaling group, once somebody had to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// The present boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    old_boots: Vec<BootId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tallies: Vec<Tally>,
    /// When the agent was last heard, by our clock.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub heard_agent: Option<Timestamp>,
    /// When the kubelet last wrote anything, by the API server's clock.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub heard_kubelet: Option<Timestamp>,
    /// When its kubelet registered last: what is told late of before it is of another life.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    registered: Option<Timestamp>,
    /// When its agent or kubelet was first heard.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    first_heard: Option<Timestamp>,
    /// The agent has been silent since then, and that was told.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
    /// How it came into the cluster, while that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<Arrival>,
    /// Its group knows all of its arrival. Told again, late or twice, the same arrival would pass for another
    /// node's replacement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    welcomed: bool,
    /// How it left, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departure: Option<Departure>,
    /// The repair that is going on. Boxed: most cases have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Box<Repair>>,
    /// How many repairs there have been, this one included.
    #[serde(default)]
    pub repairs: u32,
    /// The calls of repairs that are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past_calls: Vec<Call>,
    /// What stands in the way of a repair that is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// The end of this case; the instance is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
    /// Where its trail ends.
    #[serde(default)]
    pub trail: Chain,
    /// When somebody must look at this node next.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// Why it counts among its cluster's unhealthy nodes, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// Rises by one with each write.
    #[serde(default)]
    pub version: u64,
}

/// One boot of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// Its id.
    pub id: BootId,
    /// When it was first heard of, by our clock.
    #[serde(with = "stamp")]
    pub heard: Timestamp,
    /// The newest report of it, by the node's clock.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    node_at: Option<Timestamp>,
}

/// One condition, as one witness has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    condition: ConditionType,
    witness: Witness,
    /// The findings of the newest bad state; kept while a recovery has yet to hold.
    /// Shared, as all that is written once and goes with every copy of the case.
    #[serde(default, skip_serializing_if = "is_empty")]
    findings: Arc<[Found]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Witness {
    /// The node's own agent.
    Agent {
        statement: Statement,
        /// When in the present trouble a reason was there first that some rule acts on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        acting: Option<Onset>,
        /// When one was there first that none does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle: Option<Onset>,
    },
    /// The control plane.
    ControlPlane(History),
}

fn is_empty(findings: &Arc<[Found]>) -> bool {
    findings.is_empty()
}

/// One finding of severity Condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) reason: Box<str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub(crate) message: Box<str>,
}

/// How a node came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// Auto Scaling launched it.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub launched: Option<Timestamp>,
    /// Its kubelet registered, or was heard at all.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub registered: Option<Timestamp>,
    /// Its kubelet said Ready.
    #[serde(default, with = "stamp::option", skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
    /// Whose place it took. Written together with the group's own note of it, so that whoever goes on after a
    /// crash gives it to nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<InstanceId>,
    /// How much of this its group has been told.
    #[serde(default)]
    pub told: Told,
}

/// How much of an arrival its group knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Told {
    /// Nothing.
    #[default]
    Nothing,
    /// That it failed to join in time.
    FailedToJoin,
    /// That it registered.
    Registered,
    /// That it is ready.
    Ready,
}

/// How a node went, and how we know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// When.
    #[serde(with = "stamp")]
    pub at: Timestamp,
    /// What happened, as one clause: `alice (IAM user) terminated it`.
    pub how: String,
    /// By a call that was not ours.
    #[serde(default)]
    pub foreign: bool,
}

/// A repair that is due and may not be made yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// Since when.
    #[serde(with = "stamp")]
    pub since: Timestamp,
    /// The names of the guards in the way.
    pub guards: Vec<String>,
    /// When to look again.
    #[serde(with = "stamp")]
    pub until: Timestamp,
    /// Observe mode has told what it would have done.
    #[serde(default)]
    pub observed: bool,
}

/// The end of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// When.
    #[serde(with = "stamp")]
    pub at: Timestamp,
    /// How.
    pub outcome: String,
}

/// Why a node counts among the unhealthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// Since when.
    #[serde(with = "stamp")]
    pub since: Timestamp,
    /// Because nobody hears it, rather than because somebody complains.
    pub silent: bool,
    /// Its trouble is of a kind that is repaired.
    pub unhealthy: bool,
}

/// What taking something in changed, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An event worth telling.
    Event {
        /// Its condition.
        condition: ConditionType,
        /// Its reason.
        reason: String,
        /// What was seen.
        message: String,
    },
    /// A condition went bad.
    Trouble(ConditionType),
    /// A condition went well again.
    Recovery(ConditionType),
    /// The kubelet registered the node.
    Registered,
    /// A node that had registered is ready for the first time.
    Ready,
    /// The Node object was deleted.
    Deleted {
        /// By whom.
        by: Deleter,
        /// Its name.
        user: String,
    },
    /// A new boot.
    Rebooted,
    /// The agent is heard again.
    AgentHeard,
}

impl Case {
    /// A node of which nothing is known yet.
    pub fn new(cluster: ClusterName, instance_id: InstanceId) -> Self {
        Self {
            cluster,
            instance_id,
            node: None,
            zone: None,
            group: None,
            boot: None,
            old_boots: Vec::new(),
            conditions: Vec::new(),
            tallies: Vec::new(),
            heard_agent: None,
            heard_kubelet: None,
            registered: None,
            first_heard: None,
            silent_since: None,
            arrival: None,
            welcomed: false,
            departure: None,
            repair: None,
            repairs: 0,
            past_calls: Vec::new(),
            blocked: None,
            closed: None,
            trail: Chain::start(),
            due: None,
            attention: None,
            version: 0,
        }
    }

    /// The name under which its repair is spoken of: `i-0123456789abcdef0#1`.
    pub fn id(&self) -> String {
        let number = if self.repair.is_some() || self.closed.is_some() {
            self.repairs.max(1)
        } else {
            self.repairs + 1
        };
        format!("{}#{number}", self.instance_id)
    }

    /// The name that people know: the node's, else the instance's.
    pub fn label(&self) -> &str {
        self.node.as_ref().map_or(self.instance_id.as_str(), NodeName::as_str)
    }

    /// The action that is going on, if any.
    pub fn action(&self) -> Option<RepairAction> {
        self.repair.as_ref().map(|repair| repair.action)
    }
}
