//! `nodemend status`: every unhealthy node and repair, the holds, and the groups in backoff.
//!
//! The cost depends on how many nodes are unhealthy, not on how many exist: 100,000 healthy nodes are one query.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use clap::Args;
use jiff::Timestamp;
use nodemend_aws::dynamodb::{DynamoStore, PlacedHold, PolicyVersion};
use nodemend_domain::{
    case::{Case, CaseState, Fault},
    group::GroupState,
    ident::ClusterName,
    policy::Policy,
    sources::{ClusterSources, Freshness},
    timestamp,
};
use nodemend_ports::store::{CaseKey, Store};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Deployment, OperateError, SUCCESS, UNHEALTHY, between};
use crate::output::{Format, printable, table};

/// How many cases are read concurrently.
const MAX_CONCURRENT_READS: usize = 32;

/// The arguments of `nodemend status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend status --cluster prod
  watch -n 10 nodemend status
  nodemend status --format json |
    jq '.nodes[] | select(.state == \"blocked\")'

A deadline here is the earliest that any group's rules allow. For the exact
one, with all guards, see nodemend explain NODE.

Exit codes: 0 all nodes are healthy, 2 a node is unhealthy,
1 the status could not be read, 64 usage or configuration error")]
pub struct StatusOptions {
    #[command(flatten)]
    deployment: Deployment,

    /// Tables to read, or one JSON object for scripts
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The status of a cluster at one time.
#[derive(Debug)]
pub struct ClusterStatus {
    cluster: ClusterName,
    now: Timestamp,
    policy: Option<PolicyVersion>,
    nodes: Vec<NodeStatus>,
    groups: Vec<GroupState>,
    holds: Vec<PlacedHold>,
    sources: Option<ClusterSources>,
}

/// One node that is unhealthy or in repair.
#[derive(Debug)]
struct NodeStatus {
    case: Case,
    state: CaseState,
    faults: Vec<Fault>,
}

/// Prints the status and returns the exit code.
pub async fn run(options: &StatusOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let status = ClusterStatus::read(&connection.store, &connection.cluster, connection.now).await?;
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => status.write(&mut out)?,
        Format::Json => writeln!(out, "{}", status.to_json())?,
    }
    out.flush()?;
    Ok(status.exit_code())
}

impl ClusterStatus {
    /// Reads the status from DynamoDB alone; no other AWS service is called.
    pub async fn read(
        store: &DynamoStore,
        cluster: &ClusterName,
        now: Timestamp,
    ) -> Result<Self, OperateError> {
        let policy = store.newest_policy(cluster).await?;
        let rules = policy.as_ref().map_or_else(Policy::default, |newest| newest.policy.clone());
        let mut nodes = Vec::new();
        for case in cases(store, cluster).await? {
            let (state, faults) = case.state_and_faults(None, &rules, now);
            if state.is_unhealthy() {
                nodes.push(NodeStatus { case, state, faults });
            }
        }
        // The most advanced state comes last, next to the prompt.
        nodes.sort_by(|a, b| (a.state, b.due(), a.case.label()).cmp(&(b.state, a.due(), b.case.label())));
        let names: BTreeSet<_> = nodes.iter().filter_map(|node| node.case.group()).collect();
        let mut groups = Vec::new();
        for name in names {
            groups.push(store.group(cluster, name).await?);
        }
        let mut holds = store.placed_holds(cluster).await?;
        holds.retain(|placed| placed.hold.until > now);
        let sources = store.sources(cluster).await?;
        Ok(Self { cluster: cluster.clone(), now, policy, nodes, groups, holds, sources })
    }

    /// 0, or 2 where a node is unhealthy.
    pub fn exit_code(&self) -> u8 {
        if self.nodes.is_empty() { SUCCESS } else { UNHEALTHY }
    }

    /// Writes the status as tables.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match &self.policy {
            Some(policy) => writeln!(
                out,
                "Cluster {} · policy {} ({}) by {}, {}",
                self.cluster,
                policy.version,
                policy.policy.mode.as_str(),
                printable(&policy.by),
                timestamp::seconds(policy.at)
            )?,
            None => writeln!(
                out,
                "Cluster {} has no policy: its reports are dropped and nothing is repaired. To change that: nodemend \
                 policy apply",
                self.cluster
            )?,
        }
        if let Some(sources) = &self.sources {
            self.write_sources(sources, out)?;
        }
        if self.nodes.is_empty() {
            writeln!(out, "All nodes are healthy.")?;
        } else {
            writeln!(out)?;
            let rows: Vec<_> = self.nodes.iter().map(|node| node.row(self.now)).collect();
            table::write(out, "", ["node", "instance", "group", "state", "for", "reason", "next"], &rows)?;
        }
        let active_groups: Vec<_> = self.groups.iter().filter_map(|group| self.group_row(group)).collect();
        if !active_groups.is_empty() {
            writeln!(out)?;
            table::write(
                out,
                "",
                ["group", "in repair", "failed replacements", "backoff until"],
                &active_groups,
            )?;
            let failing = |group: &&GroupState| self.group_row(group).is_some();
            for group in self.groups.iter().filter(failing) {
                if let Some(failures) = group.launch_failures() {
                    writeln!(out, "{}", printable(&failures.sentence(group.name().as_str())))?;
                }
            }
        }
        let on_nodes = self.nodes.iter().flat_map(|node| node.marks(self.rules(), self.now));
        let rows: Vec<_> = self.holds.iter().map(hold_row).chain(on_nodes).collect();
        if !rows.is_empty() {
            writeln!(out)?;
            table::write(out, "", ["hold", "scope", "owner", "until", "reason"], &rows)?;
        }
        if !self.nodes.is_empty() {
            writeln!(out, "\n{}", self.counts())?;
        }
        Ok(())
    }

    /// How new the newest line of each source is, and what is not known without the audit log.
    fn write_sources(&self, sources: &ClusterSources, out: &mut impl Write) -> io::Result<()> {
        let age = |known: Freshness| match known.newest {
            Some(newest) => format!("newest line {} ago", between(newest, self.now)),
            None => "no line found".to_owned(),
        };
        let mut known = Vec::new();
        known.extend(sources.listed_at.map(|at| format!("Nodes listed {} ago", between(at, self.now))));
        known.extend(sources.audit_log.map(|log| format!("control-plane audit log: {}", age(log))));
        known.extend(sources.agents.map(|log| format!("agents: {}", age(log))));
        if !known.is_empty() {
            writeln!(out, "Sources: {}", known.join(" · "))?;
        }
        if sources.is_without_audit_log() {
            writeln!(
                out,
                "Without the control-plane audit log it is not known who deleted a Node; flaps of less than 5m are \
                 not seen, and boot IDs are attested every 5m only."
            )?;
        }
        Ok(())
    }

    fn rules(&self) -> Option<&Policy> {
        self.policy.as_ref().map(|policy| &policy.policy)
    }

    fn group_row(&self, group: &GroupState) -> Option<[String; 4]> {
        let policy = self.policy.as_ref()?;
        let backoff = group.backoff_until(&policy.policy).filter(|until| *until > self.now);
        if group.slots().is_empty() && backoff.is_none() {
            return None;
        }
        Some([
            group.name().to_string(),
            group.slots().len().to_string(),
            group.failures().to_string(),
            backoff.map_or_else(|| "-".to_owned(), timestamp::seconds),
        ])
    }

    fn counts(&self) -> String {
        let mut states: Vec<CaseState> = self.nodes.iter().map(|node| node.state).collect();
        states.dedup();
        let count = |state: CaseState| self.nodes.iter().filter(|node| node.state == state).count();
        let counts: Vec<String> =
            states.into_iter().map(|state| format!("{} {}", count(state), state.as_str())).collect();
        counts.join(" · ")
    }

    /// The status as JSON.
    pub fn to_json(&self) -> Value {
        let policy = self.policy.as_ref().map(|policy| {
            json!({
                "version": policy.version,
                "mode": policy.policy.mode,
                "by": policy.by,
                "at": timestamp::millis(policy.at),
            })
        });
        let holds: Vec<Value> =
            self.holds.iter().map(|placed| json!({ "id": placed.id, "hold": placed.hold })).collect();
        json!({
            "cluster": self.cluster,
            "at": timestamp::millis(self.now),
            "policy": policy,
            "nodes": self.nodes.iter().map(NodeStatus::to_json).collect::<Vec<_>>(),
            "groups": self.groups,
            "holds": holds,
            "sources": self.sources.as_ref().map(sources_json),
        })
    }
}

impl NodeStatus {
    /// The earliest deadline of its faults.
    fn due(&self) -> Option<Timestamp> {
        self.faults.first().and_then(|fault| fault.deadline)
    }

    fn row(&self, now: Timestamp) -> [String; 7] {
        let fault = self.faults.first().or(self.case.repair().map(|repair| repair.fault()));
        let since = fault.map(|fault| fault.since).or(self.case.silent_since());
        let reason = match fault {
            Some(fault) => format!("{} {}", fault.condition, fault.reason),
            None if self.state == CaseState::Silent => "AgentSilent".to_owned(),
            None => "-".to_owned(),
        };
        [
            self.case.label().to_owned(),
            self.case.instance_id().to_string(),
            self.case.group().as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            self.state.as_str().to_owned(),
            since.map_or_else(|| "-".to_owned(), |since| between(since, now)),
            reason,
            self.next(),
        ]
    }

    /// The next action, or what the case waits for.
    fn next(&self) -> String {
        let at = |at: Option<Timestamp>| {
            at.map_or_else(String::new, |at| format!(" at {}", timestamp::seconds(at)))
        };
        match (self.state, &self.case.blocked()) {
            (CaseState::Blocked, Some(blocked)) => format!("blocked by {}", blocked.guards.join(", ")),
            (CaseState::Suspect | CaseState::Due, _) => {
                let action = self.faults.first().map_or("evaluation", |fault| fault.action.as_str());
                format!("{action}{}", at(self.due()))
            }
            (CaseState::Recovering, _) => {
                format!("healthy{}", at(self.faults.iter().filter_map(|fault| fault.heals_at).max()))
            }
            (CaseState::Confirming, _) => {
                let repair = self.case.repair();
                let confirmed = repair.is_some_and(|repair| repair.is_confirmed());
                let replaced = repair.is_some_and(|repair| repair.replacement().is_some());
                match (confirmed, replaced) {
                    (true, false) => "waiting for the replacement".to_owned(),
                    (false, true) => "waiting for the CloudTrail event".to_owned(),
                    _ => "waiting for the CloudTrail event and the replacement".to_owned(),
                }
            }
            (CaseState::Rebooting, _) => "waiting for a new boot".to_owned(),
            (CaseState::Silent, _) => "no repair: only the agent is silent".to_owned(),
            _ => format!("evaluation{}", at(self.case.due())),
        }
    }

    /// What is written on the Node itself: the annotation that holds it, and a cordon that the policy respects.
    fn marks(&self, policy: Option<&Policy>, now: Timestamp) -> Vec<[String; 5]> {
        let (marks, node) = (self.case.marks(), self.case.node());
        let scope = format!("node {}", self.case.label());
        let held = marks.hold(node).filter(|hold| hold.until > now).map(|hold| {
            let heeded = policy.is_none_or(|policy| policy.node_holds.heeds(&hold));
            let reason =
                if heeded { hold.reason } else { format!("{} (not heeded: nodeHolds)", hold.reason) };
            let until = timestamp::seconds(hold.until);
            ["annotation".to_owned(), scope.clone(), printable(&hold.who), until, printable(&reason)]
        });
        let respected = policy.is_some_and(|policy| policy.respect_cordon);
        let cordoned = marks.cordoned_by(node).filter(|_| respected).map(|who| {
            let (until, reason) = ("-".to_owned(), "cordoned: respectCordon".to_owned());
            ["cordon".to_owned(), scope.clone(), printable(&who), until, reason]
        });
        held.into_iter().chain(cordoned).collect()
    }

    fn to_json(&self) -> Value {
        let (marks, node) = (self.case.marks(), self.case.node());
        let annotation = marks.hold(node).map(
            |hold| json!({ "by": hold.who, "until": timestamp::millis(hold.until), "reason": hold.reason }),
        );
        json!({
            "case": self.case.id(),
            "node": node,
            "heldByAnnotation": annotation,
            "cordonedBy": marks.cordoned_by(node),
            "instanceId": self.case.instance_id(),
            "group": self.case.group(),
            "zone": self.case.zone(),
            "state": self.state,
            "faults": self.faults,
            "silentSince": self.case.silent_since().map(timestamp::millis),
            "blocked": self.case.blocked(),
            "repair": self.case.repair(),
            "nextEvaluation": self.case.due().map(timestamp::millis),
        })
    }
}

fn sources_json(sources: &ClusterSources) -> Value {
    json!({
        "readsAuditLog": sources.reads_audit_log,
        "auditLog": sources.audit_log,
        "agents": sources.agents,
        "listedAt": sources.listed_at.map(timestamp::millis),
        "logReadTo": sources.log_read_to.map(timestamp::millis),
    })
}

fn hold_row(placed: &PlacedHold) -> [String; 5] {
    let hold = &placed.hold;
    let scope = match (&hold.node, &hold.group) {
        (Some(node), _) => format!("node {node}"),
        (None, Some(group)) => format!("group {group}"),
        (None, None) => "cluster".to_owned(),
    };
    [placed.id.clone(), scope, hold.owner.clone(), timestamp::seconds(hold.until), hold.reason.clone()]
}

/// The cases of all unhealthy nodes, each read consistently, some concurrently.
pub(super) async fn cases(store: &DynamoStore, cluster: &ClusterName) -> Result<Vec<Case>, OperateError> {
    let mut waiting = store.unhealthy_nodes(cluster).await?.into_iter();
    let (mut reads, mut cases) = (JoinSet::new(), Vec::new());
    loop {
        for node in waiting.by_ref().take(MAX_CONCURRENT_READS - reads.len()) {
            let (store, key) =
                (store.clone(), CaseKey { cluster: cluster.clone(), instance_id: node.instance_id });
            reads.spawn(async move { store.case(&key).await });
        }
        match reads.join_next().await {
            Some(Ok(case)) => cases.extend(case?.map(|case| *case)),
            Some(Err(panicked)) => return Err(io::Error::other(panicked).into()),
            None => return Ok(cases),
        }
    }
}
