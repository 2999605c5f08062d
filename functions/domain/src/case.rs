//! A case: everything known about one instance, and its current repair.
//!
//! A case applies reports and observations in any order and any number of times, with the same result. [Faults](fault)
//! are computed from it and never stored; the due time and the reason why it counts as unhealthy are computed before
//! each write. It is fenced by instance id and boot id: a report from before a reboot changes nothing after it.
//!
//! Every field is private. [`transition`] holds every step of a repair, [`confirmation`] every step of a call after its
//! answer, [`presence`] how a node joins and leaves. [`agent`] and [`control_plane`] apply reports and observations.

mod agent;
pub mod audit_records;
mod calls;
mod confirmation;
mod control_plane;
mod counter;
mod departure;
mod evaluation;
pub mod fault;
pub mod notice;
mod presence;
mod promotion;
mod reopening;
pub mod repair;
mod request;
mod snapshot;
mod state;
pub mod transition;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::repair::{Call, Repair};
pub use self::{
    confirmation::EventMatch,
    counter::EventCounter,
    fault::{Fault, Source},
    presence::{
        Arrival, Departure, Evidence, JoinStage, Launch, NewInstance, NodeDeletion, RETURNED_TO_WARM_POOL,
    },
    reopening::Closed,
    request::RepairRequest,
    snapshot::{Consistency, NotThisNode},
    state::CaseState,
    transition::{CallMade, Claim, Effects, IllegalTransition, TransitionContext},
};
use crate::{
    audit_log::{AuditEntry, Chain, Record},
    clock::{History, LatestReport, NodeClock, NodeOnset, NodeTime},
    condition::{ConditionType, RepairAction},
    ident::{AccountId, BootId, ClusterName, GroupName, InstanceId, NodeName, NodeUid, Zone},
    node_marks::NodeMarks,
    observation::Deleter,
    timestamp,
};

/// Conditions of other types than the known ones that the control plane reports.
const MAX_CONDITIONS: usize = 32;
/// The same of the agent: as many as one heartbeat has.
const MAX_AGENT_CONDITIONS: usize = 16;
const MAX_COUNTERS: usize = 64;
/// A node can report any number of events of any names, and DynamoDB's limit for an item is 400 KB.
const MAX_COUNTER_BYTES: usize = 128 * 1024;
const MAX_OLD_BOOTS: usize = 8;

/// Everything known about one instance: one item of the state table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    cluster: ClusterName,
    instance_id: InstanceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeName>,
    /// The uid of its Node object: an object of the same name that another instance had has another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_uid: Option<NodeUid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
    /// The other account from which its reports were accepted; none for the deployment's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<AccountId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<GroupName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<Boot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    old_boots: Vec<OldBoot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    counters: Vec<EventCounter>,
    /// When the agent's latest report arrived, by our clock.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    agent_last_seen: Option<Timestamp>,
    /// How its reports compare with our clock.
    #[serde(default)]
    node_clock: NodeClock,
    /// When the kubelet last wrote its node, by the API server's clock.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    kubelet_last_seen: Option<Timestamp>,
    /// When its kubelet last registered. Earlier observations no longer count, however late they arrive.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    registered: Option<Timestamp>,
    /// When its agent or kubelet was first seen.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    first_seen: Option<Timestamp>,
    /// Since when the agent is silent. Set when the silence is published.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    silent_since: Option<Timestamp>,
    /// The control plane's log has been read for this case up to then: what deliveries lost before is applied.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    log_read_to: Option<Timestamp>,
    /// What people wrote on its Node object.
    #[serde(default, skip_serializing_if = "NodeMarks::is_empty")]
    marks: NodeMarks,
    /// How it joined the cluster, until its group has recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arrival: Option<Arrival>,
    /// Its group has recorded the whole arrival. A late or repeated event of the same arrival must not be matched as
    /// another node's replacement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    join_recorded: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    departure: Option<Departure>,
    /// Since when its instance is in the warm pool of its group.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    warm_since: Option<Timestamp>,
    /// When it was last drawn from the warm pool.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    in_service_since: Option<Timestamp>,
    /// When an evaluation last saw it out of service: on standby, detached, or in the warm pool.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    out_of_service_at: Option<Timestamp>,
    /// Boxed: most cases have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repair: Option<Box<Repair>>,
    /// The number of repairs so far, the current one included.
    #[serde(default)]
    repairs: u32,
    /// Calls of ended repairs: CloudTrail's events of them may still arrive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past_calls: Vec<Call>,
    /// A person asks for its repair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<RepairRequest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked: Option<Blocked>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed: Option<Closed>,
    /// The end of its audit log: what the next record follows.
    #[serde(default)]
    audit_log: Chain,
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    due: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unhealthy_reason: Option<UnhealthyReason>,
    /// Rises by one with each write. The next write is conditional on it.
    #[serde(default)]
    version: u64,
}

/// One boot of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// The kernel's boot id.
    pub id: BootId,
    /// When the first report of this boot arrived, by our clock.
    #[serde(with = "timestamp")]
    pub first_seen: Timestamp,
    /// The time of its newest report, by the node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_at: Option<NodeTime>,
    /// A kubelet has posted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    attested: bool,
}

/// A boot that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldBoot {
    id: BootId,
    /// The highest number among its reports, if its agent reported a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest_seq: Option<u64>,
}

/// One condition, as one source reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    condition: ConditionType,
    state: SourceState,
    /// The findings of the newest bad state, kept until a recovery has held. Shared, because a case is often copied.
    #[serde(default, skip_serializing_if = "is_empty")]
    findings: Arc<[Found]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SourceState {
    /// The node's own agent.
    Agent {
        latest: Box<LatestReport>,
        /// When a reason that a rule repairs first appeared in the current episode.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        acting: Option<NodeOnset>,
        /// When a reason that no rule repairs first appeared in the current episode.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle: Option<NodeOnset>,
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

/// A repair that is due and that guards block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// When the first guard blocked it, counted anew once a repair that nobody wanted is wanted.
    #[serde(with = "timestamp")]
    pub since: Timestamp,
    /// The names of the guards that block it.
    pub guards: Vec<String>,
    /// When to evaluate the guards again.
    #[serde(with = "timestamp")]
    pub until: Timestamp,
    /// Whether observe mode has recorded the call that it would have made.
    #[serde(default)]
    pub observed: bool,
}

/// Why a node counts among its cluster's unhealthy nodes.
#[derive(Default, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnhealthyReason {
    /// Start of the oldest fault.
    #[serde(with = "timestamp")]
    pub since: Timestamp,
    /// Whether nothing reports on it, rather than something bad.
    pub silent: bool,
    /// Whether it has a fault that the policy repairs, or had one whose recovery has not held yet.
    pub unhealthy: bool,
    /// Since when nothing reports on it: an older fault does not hide its silence.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
    /// Whether its agent still reports, although its kubelet no longer reaches the control plane.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agent_reports: bool,
    /// Whether its repair is under way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repairing: bool,
    /// The reason of its fault with the earliest deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it recovered, for a while after that.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Timestamp>,
    /// When it begins to count, if that is later: a node that has just registered gets its time to become Ready.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub counts_from: Option<Timestamp>,
    /// Its faults, where groups have rules of their own: whether it counts is judged by those of its group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<CountedFault>,
}

/// A fault, as far as the rules of a group depend on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CountedFault {
    /// The condition that is bad.
    pub condition: ConditionType,
    /// The reason, as in the catalogue.
    pub reason: String,
    /// Whether it is an event that the policy promotes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promoted: bool,
}

/// A change that a report or an observation made to a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseEvent {
    /// A new finding of severity Event.
    FindingReported {
        /// The condition it belongs to.
        condition: ConditionType,
        /// Its reason, as in the catalogue.
        reason: String,
        /// The line or reading that shows it.
        message: String,
    },
    /// A condition became False or Unknown.
    Unhealthy(ConditionType),
    /// A condition is healthy again.
    Recovered(ConditionType),
    /// The kubelet registered the node.
    Registered,
    /// Somebody else created the Node object.
    Created {
        /// The user's name.
        user: String,
    },
    /// A registered node is Ready for the first time.
    Ready,
    /// The Node object was deleted.
    Deleted {
        /// The kind of caller that deleted it.
        by: Deleter,
        /// The caller's user name.
        user: String,
    },
    /// A new boot id was reported.
    Rebooted,
    /// A silent agent reports again.
    AgentReporting,
}

impl Case {
    /// A case with nothing reported yet.
    pub fn new(cluster: ClusterName, instance_id: InstanceId) -> Self {
        Self {
            cluster,
            instance_id,
            node: None,
            node_uid: None,
            zone: None,
            account: None,
            group: None,
            boot: None,
            old_boots: Vec::new(),
            conditions: Vec::new(),
            counters: Vec::new(),
            marks: NodeMarks::default(),
            agent_last_seen: None,
            node_clock: NodeClock::default(),
            kubelet_last_seen: None,
            registered: None,
            first_seen: None,
            silent_since: None,
            log_read_to: None,
            arrival: None,
            join_recorded: false,
            departure: None,
            warm_since: None,
            in_service_since: None,
            out_of_service_at: None,
            repair: None,
            repairs: 0,
            past_calls: Vec::new(),
            request: None,
            blocked: None,
            closed: None,
            audit_log: Chain::start(),
            due: None,
            unhealthy_reason: None,
            version: 0,
        }
    }

    /// The id under which logs and records name its current repair: `i-0123456789abcdef0#1`.
    pub fn id(&self) -> String {
        let number = if self.repair.is_some() || self.closed.is_some() {
            self.repairs.max(1)
        } else {
            self.repairs + 1
        };
        format!("{}#{number}", self.instance_id)
    }

    /// The node's name, or the instance id while it has none.
    pub fn label(&self) -> &str {
        self.node.as_ref().map_or(self.instance_id.as_str(), NodeName::as_str)
    }

    /// The cluster of its node: with the instance id, the item's key.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The id of its EC2 instance: with the cluster, the item's key.
    pub fn instance_id(&self) -> &InstanceId {
        &self.instance_id
    }

    /// Whether a condition that a source reports first is kept. The known types always are, and what an agent makes up leaves
    /// the control plane's conditions their room.
    fn has_room_for(&self, condition: &ConditionType, by_agent: bool) -> bool {
        let same_source = |known: &&Condition| matches!(known.state, SourceState::Agent { .. }) == by_agent;
        let max = if by_agent { MAX_AGENT_CONDITIONS } else { MAX_CONDITIONS };
        !matches!(condition, ConditionType::Other(_))
            || self.conditions.iter().filter(same_source).count() < max
    }

    /// The name of the Node object, once it registered.
    pub fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }

    /// The uid of its Node object, once known.
    pub fn node_uid(&self) -> Option<&NodeUid> {
        self.node_uid.as_ref()
    }

    /// Up to when the control plane's log has been read for it.
    pub fn log_read_to(&self) -> Option<Timestamp> {
        self.log_read_to
    }

    /// Its Availability Zone, once known.
    pub fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref()
    }

    /// The other account from which its reports were accepted; none for the deployment's own.
    pub fn account(&self) -> Option<&AccountId> {
        self.account.as_ref()
    }

    /// When it last reported, by our clock or the API server's.
    pub fn last_seen(&self) -> Option<Timestamp> {
        let launched = self.arrival.as_ref().and_then(|arrival| arrival.arrived);
        [self.agent_last_seen, self.kubelet_last_seen, self.registered, self.first_seen, launched]
            .into_iter()
            .flatten()
            .max()
    }

    /// Its Auto Scaling group, once known.
    pub fn group(&self) -> Option<&GroupName> {
        self.group.as_ref()
    }

    /// The current boot, once its id was reported.
    pub fn boot(&self) -> Option<&Boot> {
        self.boot.as_ref()
    }

    /// When the agent's latest report arrived, by our clock.
    pub fn agent_last_seen(&self) -> Option<Timestamp> {
        self.agent_last_seen
    }

    /// When the kubelet last wrote its node, by the API server's clock.
    pub fn kubelet_last_seen(&self) -> Option<Timestamp> {
        self.kubelet_last_seen
    }

    /// Since when the agent is silent, once the silence was published.
    pub fn silent_since(&self) -> Option<Timestamp> {
        self.silent_since
    }

    /// What people wrote on its Node object.
    pub fn marks(&self) -> &NodeMarks {
        &self.marks
    }

    /// How it joined, until its group has recorded all of it.
    pub fn arrival(&self) -> Option<&Arrival> {
        self.arrival.as_ref()
    }

    /// How it left, if it did.
    pub fn departure(&self) -> Option<&Departure> {
        self.departure.as_ref()
    }

    /// The current repair.
    pub fn repair(&self) -> Option<&Repair> {
        self.repair.as_deref()
    }

    /// The number of repairs so far, the current one included.
    pub fn repairs(&self) -> u32 {
        self.repairs
    }

    /// The action of the current repair.
    pub fn action(&self) -> Option<RepairAction> {
        self.repair.as_ref().map(|repair| repair.action())
    }

    /// What blocks the repair that is due.
    pub fn blocked(&self) -> Option<&Blocked> {
        self.blocked.as_ref()
    }

    /// How the case ended. None while its instance exists.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// The end of its audit log: the number and the hash of the last record.
    pub fn audit_log(&self) -> &Chain {
        &self.audit_log
    }

    /// When it must be evaluated next.
    pub fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// Why it counts among its cluster's unhealthy nodes, if it does.
    pub fn unhealthy_reason(&self) -> Option<&UnhealthyReason> {
        self.unhealthy_reason.as_ref()
    }

    /// The version that it was read at.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The case as a store writes it: under its next version.
    #[must_use]
    pub fn next_version(&self) -> Self {
        Self { version: self.version + 1, ..self.clone() }
    }

    /// Appends a record to its audit log.
    pub(crate) fn append_record(&mut self, record: &Record) -> AuditEntry {
        let line = record.to_json_line();
        self.audit_log.append(&line);
        let (sequence, request_id) = (record.nodemend.sequence, record.request_id.clone());
        AuditEntry { sequence, case: record.nodemend.case.clone(), line, request_id }
    }
}
