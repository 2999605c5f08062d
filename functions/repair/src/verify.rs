//! Verifies a fault right before its repair is claimed: reads the state of the node again, from where it is kept.
//!
//! - A fault that the control plane reports is read from the Kubernetes API, or from the control plane's log group where
//!   the API does not let us in. A fault that only the node's agent reports is read from that agent's own log stream.
//! - What was read is applied to the case, like every report: what deliveries lost is healed here.
//! - Reads are bounded. What cannot be read in time is not verified, and is read on from there the next time.

mod control_plane_log;
mod kubelets;

use futures_util::future;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, CaseEvent, Consistency, Effects, Fault, NotThisNode, Source},
    condition::Health,
    group::GroupState,
    log_source::LogSource,
    node_snapshot::NodeSnapshot,
    observation::Observation,
    policy::Policy,
    report::Report,
    sources::ClusterSources,
    timestamp,
    verification::{InstanceStatus, Verification, VerificationResult, VerifiedBy},
};
use nodemend_ports::{
    audit_log::AuditLog,
    cause::chain,
    clock::Clock,
    cloud::{Cloud, CloudError},
    cluster_reader::{LogQuery, ReadError, Streams, bounded::BoundedReader},
    store::{CaseKey, Commit, Store},
    write::{self, Target},
};

pub(crate) use self::control_plane_log::ClusterLogs;
use self::control_plane_log::LIMITS;
use crate::{RepairError, Repairer, RunReport};

/// A reading that takes longer leaves too little of the time within which a call must follow it.
const SLOW: SignedDuration = SignedDuration::from_secs(5);
/// A line is written a little before or after what it reports, and clocks differ.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);

/// What is known of the cluster before a node is read, and what other cases have read of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterContext<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) sources: Option<&'a ClusterSources>,
    pub(crate) logs: &'a ClusterLogs,
}

/// What was read of a node.
struct Reading {
    /// When the reading began: nothing later is in it.
    at: Timestamp,
    by: VerifiedBy,
    read: String,
    state: NodeState,
    result: VerificationResult,
    /// The control plane's log has been read up to here.
    read_to: Option<Timestamp>,
}

/// The state of a node, in the form that its source has it.
enum NodeState {
    Snapshot(Option<Box<NodeSnapshot>>),
    Observations(Vec<Observation>),
    /// Lines of the agent.
    Reports(Vec<String>),
}

/// The result of a verification.
pub(crate) struct Verified {
    pub(crate) verification: Verification,
    /// Whether the case has changed: what was decided on it must be decided again.
    pub(crate) changed: bool,
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Reads the state of the node, and applies it to the case.
    pub(crate) async fn verify(
        &self,
        case: &mut Box<Case>,
        fault: &Fault,
        known: ClusterContext<'_>,
        report: &mut RunReport,
    ) -> Result<Verified, RepairError> {
        let mut verified = self.verify_one(case, fault, known, report).await?;
        // After a reboot in vain the repair rests on whatever is still bad.
        for other in still_bad(case, fault, known.policy, self.clock.now()) {
            if verified.changed || verified.verification.result != VerificationResult::FaultPresent {
                break;
            }
            verified = self.verify_one(case, &other, known, report).await?;
        }
        Ok(verified)
    }

    async fn verify_one(
        &self,
        case: &mut Box<Case>,
        fault: &Fault,
        known: ClusterContext<'_>,
        report: &mut RunReport,
    ) -> Result<Verified, RepairError> {
        let read = async {
            match fault.source {
                Source::Agent => self.read_agent(case, fault).await,
                Source::Operator => self.as_requested(fault),
                Source::ControlPlane | Source::Inference => self.read_control_plane(case, fault, known).await,
            }
        };
        // What people wrote on the Node holds for every fault. The control plane's faults are read with it.
        let marked = async {
            let read_apart = matches!(fault.source, Source::Agent | Source::Operator);
            let name = case.node().filter(|_| read_apart)?;
            self.cloud.node(case.cluster(), name).await.ok().flatten()
        };
        let status = self.cloud.instance_status(case.instance_id());
        let ((instance, marked), reading) = future::join(future::join(status, Box::pin(marked)), read).await;
        let (Reading { at, by, read, state, mut result, read_to }, policy) = (reading, known.policy);
        if matches!(fault.reason.as_str(), "FailedToJoin" | "NodeDeleted") {
            result = result.and(had_time_to_join(&instance, policy, at));
        } else if let Ok(Some(status)) = &instance {
            result = result.and(was_not_started_since(status, fault, policy, at));
        }
        let mut next = case.clone();
        let changes = match apply(&mut next, &state, at, policy) {
            Ok(changes) => changes,
            Err(other) => {
                result = result.and(VerificationResult::Contradicted(other.to_string()));
                Vec::new()
            }
        };
        if let Some(node) = &marked {
            // It heals what a lost line left behind, too. The Node of another instance proves nothing.
            let _ = next.apply_snapshot(Some(node), Consistency::Latest, at, policy);
        }
        let mut changed = next != *case;
        // What took long is read on from there, so that the next reading is young enough for a call.
        let slow = self.clock.now().duration_since(at) > SLOW;
        if (result != VerificationResult::FaultPresent || slow)
            && let Some(read_to) = read_to
        {
            next.record_log_read(read_to);
            changed |= slow && next.log_read_to() != case.log_read_to();
        }
        if next != *case {
            if write::write_exactly(&self.store, &mut next, None, &[], policy, at).await? == Commit::Won {
                report.repair_events.extend(Effects::of_changes(&next, changes, policy, at).events);
                *case = next;
            } else {
                // Another process wrote first. What was read is so all the same.
                let take = |case: &mut Case, _: Option<&mut GroupState>| {
                    let changes = apply(case, &state, at, policy).unwrap_or_default();
                    if let Some(node) = &marked {
                        let _ = case.apply_snapshot(Some(node), Consistency::Latest, at, policy);
                    }
                    Ok(Effects::of_changes(case, changes, policy, at))
                };
                let key = CaseKey::of(case);
                let update = write::update(&self.store, Target::case(&key), policy, at, take).await?;
                report.repair_events.extend(update.into_events());
                changed = true;
            }
        }
        // A state that the rules for late lines keep from healing the case still contradicts the fault.
        if let NodeState::Snapshot(Some(node)) = &state {
            let contradicts = node.conditions.iter().any(|now| {
                now.observed.condition == fault.condition && now.observed.health == Health::Healthy
            });
            if contradicts {
                let why = format!("the Node has a healthy {}", fault.condition);
                result = result.and(VerificationResult::Contradicted(why));
            }
        }
        if let NodeState::Reports(lines) = &state
            && case.is_healthy_in_another_boot(
                &fault.condition,
                lines.iter().filter_map(|line| Report::decode(line).ok()),
            )
        {
            let why = format!(
                "the agent reports a healthy {} from a boot that is not the present one yet",
                fault.condition
            );
            result = result.and(VerificationResult::Contradicted(why));
        }
        // Evidence alone: what EC2 does not answer stops nothing.
        let instance = instance.ok().flatten();
        Ok(Verified { verification: Verification { at, by, read, result, instance }, changed })
    }

    async fn read_control_plane(&self, case: &Case, fault: &Fault, known: ClusterContext<'_>) -> Reading {
        let at = self.clock.now();
        match self.read_node(case, fault).await {
            Ok(node) => Reading {
                at,
                by: VerifiedBy::KubernetesApi,
                read: node.as_ref().map_or_else(
                    || format!("no Node has the provider ID of {}", case.instance_id()),
                    |node| describe(node, fault),
                ),
                state: NodeState::Snapshot(node.map(Box::new)),
                result: VerificationResult::FaultPresent,
                read_to: None,
            },
            Err(error) => {
                let mut reading = self.read_control_plane_log(case, fault, known).await;
                if !error.is_not_configured()
                    && let VerificationResult::NotVerified(why) = &mut reading.result
                {
                    *why = format!("{}; {why}", chain(&error));
                }
                reading
            }
        }
    }

    /// The Node object of the instance: by its name, and where there is none of that name, or the fault is that there is
    /// none, by its provider ID.
    async fn read_node(&self, case: &Case, fault: &Fault) -> Result<Option<NodeSnapshot>, ReadError> {
        let cluster = case.cluster();
        if !matches!(fault.reason.as_str(), "NodeDeleted" | "FailedToJoin")
            && let Some(name) = case.node()
            && let Some(node) = self.cloud.node(cluster, name).await?
        {
            return Ok(Some(node));
        }
        let nodes = self.cloud.nodes(cluster, Consistency::Latest).await?;
        Ok(nodes.into_iter().find(|node| node.instance_id.as_ref() == Some(case.instance_id())))
    }

    /// A request needs no other evidence: a person knows what no log has. The Node is read for its hold alone.
    fn as_requested(&self, fault: &Fault) -> Reading {
        Reading {
            at: self.clock.now(),
            by: VerifiedBy::Operator,
            read: fault.requested(),
            state: NodeState::Reports(Vec::new()),
            result: VerificationResult::FaultPresent,
            read_to: None,
        }
    }

    async fn read_agent(&self, case: &Case, fault: &Fault) -> Reading {
        let group = LogSource::Agents(case.cluster().clone()).to_string();
        let stream = Streams::Named(case.instance_id().to_string());
        let reader = BoundedReader::new(&self.cloud, &self.clock, LIMITS);
        let query = LogQuery::new(&group, stream, fault.since - MARGIN, reader.begun());
        let (mut pages, mut lines) = (reader.pages(&query), Vec::new());
        let result = loop {
            match pages.next().await {
                Ok(Some(page)) => lines.extend(page),
                Ok(None) => break VerificationResult::FaultPresent,
                Err(error) => break VerificationResult::NotVerified(chain(&error)),
            }
        };
        // Its clock may have stepped since it wrote the first of them.
        lines.sort_by_key(|line| line.ingested);
        let lines: Vec<_> = lines.into_iter().map(|line| line.message).collect();
        Reading {
            at: reader.begun(),
            by: VerifiedBy::AgentLog,
            read: format!(
                "{} lines of stream {} in {group} since {}",
                lines.len(),
                case.instance_id(),
                timestamp::seconds(query.from)
            ),
            state: NodeState::Reports(lines),
            result,
            read_to: None,
        }
    }
}

/// The bad faults of a case whose fault to repair is not among them: its reboot ended that one, or nobody knows yet.
fn still_bad(case: &Case, fault: &Fault, policy: &Policy, now: Timestamp) -> Vec<Fault> {
    let mut bad = case.faults(&policy.default_rules(), policy, now);
    bad.retain(|known| known.is_bad() && known.deadline.is_some());
    let same = |known: &Fault| known.condition == fault.condition && known.source == fault.source;
    if bad.iter().any(same) { Vec::new() } else { bad }
}

/// Whether an instance that is not a node yet has run for as long as the policy gives it, since it was launched or last
/// started. Auto Scaling's events of a warm pool, of Standby or of a start can be late or lost; EC2 knows.
fn had_time_to_join(
    instance: &Result<Option<InstanceStatus>, CloudError>,
    policy: &Policy,
    now: Timestamp,
) -> VerificationResult {
    let status = match instance {
        Ok(Some(status)) => status,
        Ok(None) => return VerificationResult::Contradicted("EC2 does not know the instance".to_owned()),
        Err(error) => return VerificationResult::NotVerified(chain(error)),
    };
    if status.state != "running" {
        return VerificationResult::Contradicted(format!("the instance is {}", status.state));
    }
    match status.launched {
        Some(launched) if now.duration_since(launched) < policy.join_timeout => {
            let since = timestamp::seconds(launched);
            VerificationResult::Contradicted(format!("the instance has been running only since {since}"))
        }
        _ => VerificationResult::FaultPresent,
    }
}

/// Whether the fault is of the boot that the instance is in: one that was stopped and started since is booting, and has
/// its time to join again.
fn was_not_started_since(
    status: &InstanceStatus,
    fault: &Fault,
    policy: &Policy,
    now: Timestamp,
) -> VerificationResult {
    // A start in the future is another clock's.
    let is_recent = |started: Timestamp| started <= now && now.duration_since(started) < policy.join_timeout;
    match status.launched {
        Some(started) if started > fault.since && is_recent(started) => {
            let since = timestamp::seconds(started);
            VerificationResult::Contradicted(format!("the instance was started at {since}"))
        }
        _ => VerificationResult::FaultPresent,
    }
}

/// Applies what was read to a case.
fn apply(
    case: &mut Case,
    state: &NodeState,
    at: Timestamp,
    policy: &Policy,
) -> Result<Vec<CaseEvent>, NotThisNode> {
    let mut changes = Vec::new();
    match state {
        NodeState::Snapshot(node) => {
            return case.apply_snapshot(node.as_deref(), Consistency::Latest, at, policy);
        }
        NodeState::Observations(observations) => {
            for observation in observations {
                changes.extend(case.apply_observation(observation, at, policy));
            }
        }
        NodeState::Reports(lines) => {
            for line in lines {
                if let Ok(report) = Report::decode(line)
                    && case.is_news(&report)
                {
                    changes.extend(case.apply_report(&report, at, policy));
                }
            }
        }
    }
    Ok(changes)
}

/// The Node and the condition that the repair rests on, as one clause.
fn describe(node: &NodeSnapshot, fault: &Fault) -> String {
    let condition = node.conditions.iter().find(|now| now.observed.condition == fault.condition);
    let state = condition.map_or_else(
        || format!("no condition {}", fault.condition),
        |now| {
            let health = match now.observed.health {
                Health::Healthy => "healthy",
                Health::Bad => "bad",
                Health::Unknown => "Unknown",
            };
            let since = now.since.map(|since| format!(" since {}", timestamp::seconds(since)));
            format!("{} is {health}{} ({})", fault.condition, since.unwrap_or_default(), now.observed.reason)
        },
    );
    format!("Node {}: {state}", node.name)
}
