//! `nodemend status`: every node that is in trouble or in repair, what is held, and which groups rest.
//!
//! It costs what is unhealthy, never what exists: a cluster of 100,000 sound nodes is one query.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use clap::Args;
use jiff::Timestamp;
use nodemend_adapters::store::{
    CaseKey, Store,
    dynamodb::{DynamoStore, PlacedHold, PolicyVersion},
};
use nodemend_domain::{
    case::{Case, Fault, State},
    group::GroupState,
    ident::ClusterName,
    policy::Policy,
    stamp,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Format, Installation, OperateError, UNHEALTHY, WELL, between};
use crate::table;

/// How many cases are read at once.
const AT_ONCE: usize = 32;

/// What `nodemend status` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend status --cluster prod
  watch -n 10 nodemend status
  nodemend status --format json | jq '.nodes[] | select(.state == \"blocked\")'

Deadlines are the earliest that any group's rules allow; nodemend explain NODE asks AWS, and is exact.

Exit codes: 0 nothing is wrong, 2 a node is unhealthy, 1 it could not be read, 64 wrong usage")]
pub struct Options {
    #[command(flatten)]
    installation: Installation,

    /// Tables for people, or one JSON object for programs
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// A cluster as it stands.
#[derive(Debug)]
pub struct Status {
    cluster: ClusterName,
    now: Timestamp,
    policy: Option<PolicyVersion>,
    nodes: Vec<Node>,
    groups: Vec<GroupState>,
    holds: Vec<PlacedHold>,
}

/// One node that is worth a line.
#[derive(Debug)]
struct Node {
    case: Case,
    state: State,
    faults: Vec<Fault>,
}

/// Says how the cluster stands.
pub async fn run(options: &Options) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
    let status = Status::read(&connection.store, &connection.cluster, connection.now).await?;
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => status.write(&mut out)?,
        Format::Json => writeln!(out, "{}", status.to_json())?,
    }
    out.flush()?;
    Ok(status.exit_code())
}

impl Status {
    /// Reads it from the store alone.
    pub async fn read(
        store: &DynamoStore,
        cluster: &ClusterName,
        now: Timestamp,
    ) -> Result<Self, OperateError> {
        let policy = store.newest_policy(cluster).await?;
        let rules = policy.as_ref().map_or_else(Policy::default, |newest| newest.policy.clone());
        let mut nodes = Vec::new();
        for case in cases(store, cluster).await? {
            let (state, faults) = case.standing(None, &rules, now);
            if state.is_unhealthy() {
                nodes.push(Node { case, state, faults });
            }
        }
        // What needs a person first is last, next to the prompt.
        nodes.sort_by(|a, b| (a.state, b.due(), a.case.label()).cmp(&(b.state, a.due(), b.case.label())));
        let names: BTreeSet<_> = nodes.iter().filter_map(|node| node.case.group.clone()).collect();
        let mut groups = Vec::new();
        for name in names {
            groups.push(store.group(cluster, &name).await?);
        }
        let mut holds = store.placed_holds(cluster).await?;
        holds.retain(|placed| placed.hold.until > now);
        Ok(Self { cluster: cluster.clone(), now, policy, nodes, groups, holds })
    }

    /// 2 where a node is unhealthy.
    pub fn exit_code(&self) -> u8 {
        if self.nodes.is_empty() { WELL } else { UNHEALTHY }
    }

    /// Writes it for people.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match &self.policy {
            Some(policy) => writeln!(
                out,
                "Cluster {} · policy {} ({}) by {}, {}",
                self.cluster,
                policy.version,
                policy.policy.mode.as_str(),
                table::plain(&policy.by),
                stamp::seconds(policy.at)
            )?,
            None => writeln!(
                out,
                "Cluster {} has no policy: nothing is repaired there, and what its nodes say is dropped. nodemend \
                 policy apply changes that.",
                self.cluster
            )?,
        }
        if self.nodes.is_empty() {
            writeln!(out, "No node is in trouble.")?;
        } else {
            writeln!(out)?;
            let rows: Vec<_> = self.nodes.iter().map(|node| node.row(self.now)).collect();
            table::write(out, "", ["node", "instance", "group", "state", "for", "why", "next"], &rows)?;
        }
        let at_rest: Vec<_> = self.groups.iter().filter_map(|group| self.group_row(group)).collect();
        if !at_rest.is_empty() {
            writeln!(out)?;
            table::write(out, "", ["group", "under way", "failed", "rests until"], &at_rest)?;
        }
        if !self.holds.is_empty() {
            writeln!(out)?;
            let rows: Vec<_> = self.holds.iter().map(hold_row).collect();
            table::write(out, "", ["hold", "of", "owner", "until", "reason"], &rows)?;
        }
        if !self.nodes.is_empty() {
            writeln!(out, "\n{}", self.counts())?;
        }
        Ok(())
    }

    fn group_row(&self, group: &GroupState) -> Option<[String; 4]> {
        let policy = self.policy.as_ref()?;
        let rests = group.rests_until(&policy.policy).filter(|until| *until > self.now);
        if group.in_flight.is_empty() && rests.is_none() {
            return None;
        }
        Some([
            group.name.to_string(),
            group.in_flight.len().to_string(),
            group.failures.to_string(),
            rests.map_or_else(|| "-".to_owned(), stamp::seconds),
        ])
    }

    fn counts(&self) -> String {
        let mut states: Vec<State> = self.nodes.iter().map(|node| node.state).collect();
        states.dedup();
        let count = |state: State| self.nodes.iter().filter(|node| node.state == state).count();
        let counts: Vec<String> =
            states.into_iter().map(|state| format!("{} {}", count(state), state.as_str())).collect();
        counts.join(" · ")
    }

    /// All of it, for programs.
    pub fn to_json(&self) -> Value {
        let policy = self.policy.as_ref().map(|policy| {
            json!({
                "version": policy.version,
                "mode": policy.policy.mode,
                "by": policy.by,
                "at": stamp::millis(policy.at),
            })
        });
        let holds: Vec<Value> =
            self.holds.iter().map(|placed| json!({ "id": placed.id, "hold": placed.hold })).collect();
        json!({
            "cluster": self.cluster,
            "at": stamp::millis(self.now),
            "policy": policy,
            "nodes": self.nodes.iter().map(Node::to_json).collect::<Vec<_>>(),
            "groups": self.groups,
            "holds": holds,
        })
    }
}

impl Node {
    /// When something will, or should have, happened.
    fn due(&self) -> Option<Timestamp> {
        self.faults.first().and_then(|fault| fault.deadline)
    }

    fn row(&self, now: Timestamp) -> [String; 7] {
        let fault = self.faults.first().or(self.case.repair.as_ref().map(|repair| &repair.fault));
        let since = fault.map(|fault| fault.since).or(self.case.silent_since);
        let why = match fault {
            Some(fault) => format!("{} {}", fault.condition, fault.reason),
            None if self.state == State::Silent => "AgentSilent".to_owned(),
            None => "-".to_owned(),
        };
        [
            self.case.label().to_owned(),
            self.case.instance_id.to_string(),
            self.case.group.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            self.state.as_str().to_owned(),
            since.map_or_else(|| "-".to_owned(), |since| between(since, now)),
            why,
            self.next(),
        ]
    }

    fn next(&self) -> String {
        let at =
            |at: Option<Timestamp>| at.map_or_else(String::new, |at| format!(" at {}", stamp::seconds(at)));
        match (self.state, &self.case.blocked) {
            (State::Blocked, Some(blocked)) => format!("waits for {}", blocked.guards.join(", ")),
            (State::Suspect | State::Due, _) => {
                let action = self.faults.first().map_or("looked at", |fault| fault.action.as_str());
                format!("{action}{}", at(self.due()))
            }
            (State::Recovering, _) => {
                format!("well{}", at(self.faults.iter().filter_map(|fault| fault.heals_at).max()))
            }
            (State::Confirming, _) => {
                let repair = self.case.repair.as_ref();
                let confirmed = repair.is_some_and(|repair| repair.is_confirmed());
                let replaced = repair.is_some_and(|repair| repair.replacement.is_some());
                match (confirmed, replaced) {
                    (true, false) => "its replacement is awaited".to_owned(),
                    (false, true) => "CloudTrail's word is awaited".to_owned(),
                    _ => "CloudTrail and the replacement are awaited".to_owned(),
                }
            }
            (State::Rebooting, _) => "a new boot is awaited".to_owned(),
            (State::Silent, _) => "its kubelet's word counts".to_owned(),
            _ => format!("looked at{}", at(self.case.due)),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "case": self.case.id(),
            "node": self.case.node,
            "instanceId": self.case.instance_id,
            "group": self.case.group,
            "zone": self.case.zone,
            "state": self.state,
            "faults": self.faults,
            "silentSince": self.case.silent_since.map(stamp::millis),
            "blocked": self.case.blocked,
            "repair": self.case.repair,
            "nextLook": self.case.due.map(stamp::millis),
        })
    }
}

fn hold_row(placed: &PlacedHold) -> [String; 5] {
    let hold = &placed.hold;
    let of = match (&hold.node, &hold.group) {
        (Some(node), _) => format!("node {node}"),
        (None, Some(group)) => format!("group {group}"),
        (None, None) => "the cluster".to_owned(),
    };
    [placed.id.clone(), of, hold.owner.clone(), stamp::seconds(hold.until), hold.reason.clone()]
}

/// The cases of all nodes that count as unhealthy, read consistently, some at once.
pub(super) async fn cases(store: &DynamoStore, cluster: &ClusterName) -> Result<Vec<Case>, OperateError> {
    let mut waiting = store.unwell(cluster).await?.into_iter();
    let (mut reads, mut cases) = (JoinSet::new(), Vec::new());
    loop {
        for unwell in waiting.by_ref().take(AT_ONCE - reads.len()) {
            let (store, key) =
                (store.clone(), CaseKey { cluster: cluster.clone(), instance_id: unwell.instance_id });
            reads.spawn(async move { store.case(&key).await });
        }
        match reads.join_next().await {
            Some(Ok(case)) => cases.extend(case?.map(|case| *case)),
            Some(Err(died)) => return Err(io::Error::other(died).into()),
            None => return Ok(cases),
        }
    }
}
