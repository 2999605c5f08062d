//! What will happen, in the order of virtual time.

use std::{rc::Rc, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use crate::{
    messages::LogLine,
    oracle::node::Fact,
    plan::{Decided, Lie},
};

/// Something that will happen. Numbers are those of nodes, tracks, items and calls.
#[derive(Debug)]
pub(crate) enum Event {
    /// An agent reports a condition.
    Report(usize, usize),
    /// An agent sends a heartbeat.
    Heartbeat(usize),
    /// An agent restarts, and has no memory of what was before.
    AgentRestarts(usize),
    /// A kubelet writes whether its node is ready.
    Kubelet(usize, bool),
    /// The node controller writes that a kubelet does not answer.
    NodeController(usize),
    /// A person deletes a Node object.
    NodeDeleted(usize, &'static str),
    /// A person tries a deletion of a Node object out, or restores one.
    DryRun(usize),
    Restored(usize),
    /// The next report of a node's agent is untrue.
    Lies(usize, Lie),
    /// The cloud controller deletes a Node object.
    NodeRemoved(usize),
    /// An instance ends by itself (false) or by a foreign termination (true).
    InstanceDies(usize, bool),
    /// An instance has left its group.
    Leaves(usize),
    /// Auto Scaling launches an instance: whether that fails, and after what time its node joins.
    Launches {
        number: usize,
        fails: bool,
        joins: Option<SignedDuration>,
    },
    /// A node registers.
    Registers(usize),
    /// A node is ready.
    Ready(usize),
    /// An instance is up again after a reboot.
    Boots(usize),
    /// A delivery reaches a function.
    Delivered(Box<Delivery>),
    /// CloudTrail delivers its event of a call.
    CloudTrail(usize),
    /// Auto Scaling adds an instance to a group.
    ScalesOut(usize),
    /// Auto Scaling decides to terminate an instance.
    TakenOut(usize, Decided),
    /// An instance refresh replaces the next instance of a group, of so many.
    Refreshes {
        group: usize,
        left: usize,
    },
    /// The schedule invokes the reconcile function.
    Reconciles,
    /// An item begins, or ends.
    Begins(usize),
    Ends(usize),
    /// The oracle checks whether a repair is overdue.
    OracleCheck,
}

/// What a function receives. Delivered again, it is the same.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) content: Rc<Content>,
    pub(crate) tries: u32,
}

/// A log line for intake, or an event for confirm, each with the facts that it carries.
#[derive(Debug)]
pub(crate) enum Content {
    Log(Arc<LogLine>),
    Bytes(Vec<u8>, Vec<(usize, Fact)>),
}

/// An event in the queue: by time, then in the order of queuing.
pub(crate) struct Queued {
    pub(crate) at: Timestamp,
    pub(crate) order: u64,
    pub(crate) event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
