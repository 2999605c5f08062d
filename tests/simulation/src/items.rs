//! What fails or disturbs in a schedule: items, each of which can be left out.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::policy::Limit;

use crate::reading::Failing;

/// One thing that fails or disturbs.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// A node fails.
    NodeFails(NodeFailure),
    /// A subscription filter is off; what is logged meanwhile is lost.
    FilterOff { agents: bool, from: Timestamp, until: Timestamp },
    /// An operator places a hold, and may lift it before its end.
    Hold { what: HoldScope, from: Timestamp, until: Timestamp, lifted: Option<Timestamp> },
    /// AWS refuses every call for a while.
    Refusals { from: Timestamp, until: Timestamp, code: &'static str },
    /// An operator suspends a process of an Auto Scaling group for a while.
    ScalingSuspended { group: usize, process: &'static str, from: Timestamp, until: Timestamp },
    /// An operator puts a node on standby for a while.
    Standby { node: usize, from: Timestamp, until: Timestamp },
    /// An ARC zonal shift moves traffic away from a zone for a while.
    Shift { zone: usize, from: Timestamp, until: Timestamp },
    /// The operator changes the policy for a while.
    PolicyChanges { what: Change, from: Timestamp, until: Timestamp },
    /// An operator detaches an instance from its group, and attaches it again.
    Detached { node: usize, from: Timestamp, until: Timestamp },
    /// Auto Scaling adds an instance to a group.
    ScalesOut { group: usize, at: Timestamp },
    /// Auto Scaling takes an instance out of its group, and launches none for it.
    ScalesIn { node: usize, at: Timestamp },
    /// An instance refresh replaces so many instances of a group, one after the other.
    Refresh { group: usize, instances: usize, from: Timestamp },
    /// EC2 has no capacity: no instance can be launched.
    CapacityOutage { from: Timestamp, until: Timestamp },
    /// So many of a thousand new instances of a group are drawn from its warm pool, where they were launched before.
    WarmPool { group: usize, rate: u64 },
    /// An operator stops an instance on standby, and starts it again before it returns to service.
    Stopped { node: usize, from: Timestamp, until: Timestamp },
    /// The operator sets observe mode for a while.
    Observed { from: Timestamp, until: Timestamp },
    /// So many of a thousand operations of a function fail, or kill its process.
    Crashes(u64),
    /// So many of a thousand steps of a function take seconds, and some of them most of its lifetime.
    Stalls(u64),
    /// So many of a thousand deliveries come twice.
    Duplicates(u64),
    /// So many of a thousand deliveries come minutes late.
    Late(u64),
    /// So many of a thousand reports of agents are lost.
    Skipped(u64),
    /// So many of a thousand lines are never delivered.
    Lost(u64),
    /// So many of a thousand deliveries come up to three hours late.
    VeryLate(u64),
    /// So many of a thousand deliveries come once more, hours later: an operator redrives dead letters.
    Redriven(u64),
    /// So many of a thousand events of EventBridge are lost.
    LostEvents(u64),
    /// Another account has a cluster, groups and nodes of the same names, and sends so many of a thousand lines and events too.
    OtherAccount(u64),
    /// A second cluster is served, in another account, with nodes and groups of the same names. So many of a thousand lines
    /// and events happen there, too.
    SecondCluster(u64),
    /// So many of a thousand terminations are held until the node is drained.
    Drains(u64),
    /// A person tries out the deletion of a Node object.
    DryRun { node: usize, at: Timestamp },
    /// A report of an agent is untrue.
    Lies { node: usize, at: Timestamp, lie: Lie },
    /// A node's clock steps.
    ClockSteps { node: usize, at: Timestamp, by: SignedDuration },
    /// So many of a thousand minutes have two runs of the repair function at once, or none.
    RepairRuns(u64),
    /// So many of a thousand replacements never come, never join, or join late.
    FailedLaunches(u64),
    /// So many of a thousand replacements get the fault of the node that they replace.
    SameFault(u64),
    /// So many of a thousand replacements get the name of the node that they replace.
    SameName(u64),
    /// For so many of a thousand calls, CloudTrail's event is late, or never comes.
    CloudTrailLate(u64),
    /// So many of a thousand reads of the cluster's state take 1 to 15 seconds.
    SlowReads(u64),
    /// So many of a thousand reads of the cluster's state are throttled.
    ThrottledReads(u64),
    /// A line of a log group can be read only so many seconds after it was written.
    IndexLag(u64),
    /// EC2 does not know an instance for so many seconds after its launch.
    Ec2Lag(u64),
    /// All reads of the cluster's state fail for a while.
    ReadsFail { how: Failing, from: Timestamp, until: Timestamp },
    /// The reconcile function runs every five minutes, until the calm.
    Reconciles,
    /// Nodes' clocks are wrong by up to hours, functions' clocks by up to a second.
    Clocks,
}

/// A change of the policy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// A fault that cannot be verified is repaired.
    VerificationPreferred,
    /// Repairs for one reason begin with one, or not, unlike before.
    Gradual,
    Settling(SignedDuration),
    /// The grace period of accelerators in a group.
    Grace(usize, SignedDuration),
    Threshold(usize, Limit),
    Parallel(usize, Limit),
    /// A group is in observe mode.
    Observe(usize),
    /// A group is not repaired.
    Disabled(usize),
}

/// What is untrue in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Everything began in 1970.
    Age,
    /// It was written ten days from now.
    Time,
    /// It has the highest number.
    Number,
    /// It is of a boot that never was.
    Boot,
}

/// What a hold covers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HoldScope {
    Everything,
    Group(usize),
    Node(usize),
}

/// Why Auto Scaling itself decides to terminate an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    ScaleIn,
    Refresh,
}

impl Decided {
    /// How the end of a case names it.
    pub(crate) fn named(self) -> &'static str {
        match self {
            Self::ScaleIn => "scale-in by the policy fewer",
            Self::Refresh => "instance refresh",
        }
    }
}

/// How a node fails, and when.
#[derive(Debug, Clone)]
pub(crate) struct NodeFailure {
    pub(crate) node: usize,
    pub(crate) kind: Kind,
    /// Each with its start and its end; the last may have no end.
    pub(crate) periods: Vec<(Timestamp, Option<Timestamp>)>,
    /// The agent restarts then, and has no memory of what was before.
    pub(crate) agent_restarts: Option<Timestamp>,
}

/// The ways in which a node fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Interface,
    InterfaceUnknown,
    Gpu,
    GpuReboot {
        cures: bool,
    },
    /// The reason changes in the middle of a period.
    ReasonChanges,
    /// Reported only: no reason that asks for a repair.
    Minor,
    /// A reason that asks for a repair joins one that does not.
    MinorGrows,
    /// A reason that asks for a repair replaces one that does not.
    MinorTurns,
    Both,
    KubeletStops,
    /// The kubelet and the agent stop together.
    Hangs,
    NotReady,
    NodeDeleted,
    /// The cloud controller manager deletes the Node object of an instance that goes on.
    DeletedByController,
    /// A person deletes the Node object, and restores it.
    Restored,
    InstanceLost,
    Foreign,
}

impl Item {
    /// Whether it stops every agent's reports for so long that each agent counts as silent.
    pub(crate) fn silences(&self) -> bool {
        match self {
            Self::FilterOff { agents: true, from, until } => is_long(*from, *until),
            _ => false,
        }
    }

    /// When a node begins to fail.
    pub(crate) fn begins(&self) -> Option<Timestamp> {
        match self {
            Self::NodeFails(failure) => failure.periods.first().map(|(from, _)| *from),
            _ => None,
        }
    }

    /// The node that fails.
    pub(crate) fn node(&self) -> Option<usize> {
        match self {
            Self::NodeFails(failure) => Some(failure.node),
            _ => None,
        }
    }
}

/// Longer than the documented ten minutes.
pub(crate) fn is_long(from: Timestamp, until: Timestamp) -> bool {
    until.duration_since(from) > SignedDuration::from_secs(660)
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeFails(failure) => {
                write!(f, "node {} fails: {:?}", failure.node, failure.kind)?;
                for (from, until) in &failure.periods {
                    match until {
                        Some(until) => write!(f, ", {from:.0} to {until:.0}")?,
                        None => write!(f, ", from {from:.0} on")?,
                    }
                }
                failure.agent_restarts.map_or(Ok(()), |at| write!(f, "; its agent restarts at {at:.0}"))
            }
            other => write!(f, "{other:?}"),
        }
    }
}
