//! What will happen, in the order of virtual time.

use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};

use crate::{judge::node::Word, words::Said};

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A node's condition changes, or is due to be told again.
    Speak(usize, usize),
    /// A node's agent says that it lives.
    Beat(usize),
    /// A node's agent starts anew.
    AgentStarts(usize),
    /// A kubelet says whether its node is ready.
    Kubelet(usize, bool),
    /// The node controller says that it can't hear a kubelet.
    Controller(usize),
    /// Somebody deletes a Node object.
    Deleted(usize),
    /// The cloud controller deletes a Node object.
    Swept(usize),
    /// An instance dies of itself, or is terminated by somebody else.
    Dies(usize, bool),
    /// An instance is no more.
    Leaves(usize),
    /// Auto Scaling tries to launch one; whether it can, and when its node joins.
    Launches {
        number: usize,
        fails: bool,
        joins: Option<SignedDuration>,
    },
    /// A node joins.
    Registers(usize),
    /// A node is ready.
    Ready(usize),
    /// An instance is up again.
    Boots(usize),
    /// A delivery reaches a function.
    Arrives(Box<Parcel>),
    /// CloudTrail tells of a call.
    Trail(usize),
    /// An item begins, or ends.
    Begins(usize),
    Ends(usize),
    /// The judge looks whether something is overdue.
    Look,
}

/// What is delivered; more than once, it is the same.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) content: Rc<Content>,
    pub(crate) tries: u32,
}

/// To whom.
#[derive(Debug)]
pub(crate) enum Content {
    Log(Said),
    Bytes(Vec<u8>, Vec<(usize, Word)>),
}

/// An event in its place.
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
