//! Verifies a fault right before its repair is claimed: reads the state of the node again, from where it is kept.
//!
//! - A fault that the control plane reports is read from the Kubernetes API, or from the control plane's log group where
//!   the API does not let us in. A fault that only the node's agent reports is read from that agent's own log stream.
//! - What was read is applied to the case, like every report: what deliveries lost is healed here.
//! - Reads are bounded. What cannot be read in time is not verified, and is read on from there the next time.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, CaseEvent, Consistency, Fault, NotThisNode, Source},
    condition::Health,
    control_plane_log::{self, ParsedEvent},
    log_source::{AUDIT_STREAMS, LogSource},
    node_snapshot::NodeSnapshot,
    observation::Observation,
    policy::Policy,
    repair_event::RepairEvent,
    report::Report,
    timestamp,
    verification::{Verification, VerifiedBy},
};
use nodemend_ports::{
    audit_log::AuditLog,
    cause::chain,
    clock::Clock,
    cloud::Cloud,
    cluster_reader::{Lines, LogQuery, ReadError, Streams},
    store::{Commit, Store},
    write,
};

use crate::{RepairError, Repairer, RunReport};

/// Pages of one query: at five a second, the account's quota, eight seconds.
const MAX_PAGES: usize = 40;
/// A verification that takes longer has failed: others wait for the same run.
const MAX_TIME: SignedDuration = SignedDuration::from_secs(20);
/// A reading that takes longer leaves too little of the time within which a call must follow it.
const SLOW: SignedDuration = SignedDuration::from_secs(5);
/// A kubelet that is said to be unreachable and made a request this recently is not.
const KUBELET_ALIVE: SignedDuration = SignedDuration::from_mins(2);
/// Audit streams with a line this recently must go on: an API server writes at every moment.
const STREAM_ALIVE: SignedDuration = SignedDuration::from_hours(1);
/// A line is written a little before or after what it reports, and clocks differ.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);

/// What was read of a node.
struct Reading {
    by: VerifiedBy,
    read: String,
    state: NodeState,
    failure: Option<String>,
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
        policy: &Policy,
        report: &mut RunReport,
    ) -> Result<Verified, RepairError> {
        let mut verified = self.verify_one(case, fault, policy, report).await?;
        // After a reboot in vain the repair rests on whatever is still bad.
        for other in still_bad(case, fault, policy, self.clock.now()) {
            if verified.changed || verified.verification.failure.is_some() {
                break;
            }
            verified = self.verify_one(case, &other, policy, report).await?;
        }
        Ok(verified)
    }

    async fn verify_one(
        &self,
        case: &mut Box<Case>,
        fault: &Fault,
        policy: &Policy,
        report: &mut RunReport,
    ) -> Result<Verified, RepairError> {
        let at = self.clock.now();
        let Reading { by, read, state, mut failure, read_to } = match fault.source {
            Source::Agent => self.read_agent(case, fault, at).await,
            Source::ControlPlane | Source::Inference => {
                self.read_control_plane(case, fault, policy, at).await
            }
        };
        let mut next = case.clone();
        let changes = match apply(&mut next, &state, at, policy) {
            Ok(changes) => changes,
            Err(other) => {
                failure.get_or_insert(other.to_string());
                Vec::new()
            }
        };
        let mut changed = next != *case;
        // What took long is read on from there, so that the next reading is young enough for a call.
        let slow = self.clock.now().duration_since(at) > SLOW;
        if (failure.is_some() || slow)
            && let Some(read_to) = read_to
        {
            next.record_log_read(read_to);
            changed |= slow && next.log_read_to() != case.log_read_to();
        }
        if next != *case {
            if write::write_exactly(&self.store, &mut next, None, &[], policy, at).await? == Commit::Won {
                let event = |change| RepairEvent::of_change(&next, change, policy, at);
                report.repair_events.extend(changes.into_iter().filter_map(event));
                *case = next;
            } else {
                changed = true;
            }
        }
        // A state that the rules for late lines keep from healing the case still contradicts the fault.
        if let NodeState::Snapshot(Some(node)) = &state {
            let contradicts = node.conditions.iter().any(|now| {
                now.observed.condition == fault.condition && now.observed.health == Health::Healthy
            });
            if contradicts {
                failure.get_or_insert_with(|| format!("the Node has a healthy {}", fault.condition));
            }
        }
        Ok(Verified { verification: Verification { at, by, read, failure }, changed })
    }

    async fn read_control_plane(
        &self,
        case: &Case,
        fault: &Fault,
        policy: &Policy,
        at: Timestamp,
    ) -> Reading {
        match self.read_node(case, fault).await {
            Ok(node) => Reading {
                by: VerifiedBy::KubernetesApi,
                read: node.as_ref().map_or_else(
                    || format!("no Node has the provider ID of {}", case.instance_id()),
                    |node| describe(node, fault),
                ),
                state: NodeState::Snapshot(node.map(Box::new)),
                failure: None,
                read_to: None,
            },
            Err(error) => {
                let mut reading = self.read_control_plane_log(case, fault, policy, at).await;
                if !error.is_not_configured() {
                    let why = chain(&error);
                    reading.failure = reading.failure.map(|failure| format!("{why}; {failure}"));
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

    async fn read_control_plane_log(
        &self,
        case: &Case,
        fault: &Fault,
        policy: &Policy,
        at: Timestamp,
    ) -> Reading {
        let group = LogSource::ControlPlane(case.cluster().clone()).to_string();
        let mut reading = Reading {
            by: VerifiedBy::ControlPlaneLog,
            read: String::new(),
            state: NodeState::Observations(Vec::new()),
            failure: None,
            read_to: None,
        };
        if let Err(failure) = self.streams_are_alive(&group, policy.settling_time, at).await {
            reading.failure = Some(failure);
            return reading;
        }
        if fault.health == Health::Unknown
            && let Some(node) = case.node()
        {
            let requests = LogQuery {
                group: group.clone(),
                streams: Streams::Prefix(AUDIT_STREAMS.to_owned()),
                lines: Lines::RequestsOfKubelet(node.clone()),
                // What it requested before it was reported unreachable contradicts nothing.
                from: (at - KUBELET_ALIVE).max(fault.since),
                until: at,
                limit: Some(1),
            };
            match self.first_line(&requests).await {
                Ok(None) => {}
                Ok(Some(line)) => {
                    let when = timestamp::seconds(line);
                    reading.failure =
                        Some(format!("the kubelet made a request at {when}: it is not unreachable"));
                }
                Err(error) => reading.failure = Some(chain(&error)),
            }
        }
        // An instance that failed to join can have registered from its launch on.
        let join_timeout =
            if fault.reason == "FailedToJoin" { policy.join_timeout } else { SignedDuration::ZERO };
        let since = fault.since - join_timeout;
        // What was read before need not be read again, but for lines that were written before that and arrived after it.
        let from = case.log_read_to().map_or(since, |read_to| (read_to - policy.settling_time).max(since));
        let query = LogQuery {
            group: group.clone(),
            streams: Streams::Prefix(AUDIT_STREAMS.to_owned()),
            lines: Lines::Subscribed,
            from: from - MARGIN,
            until: at,
            limit: None,
        };
        let (mut observations, mut count, mut read_to) = (Vec::new(), 0, None);
        let result = self
            .read_lines(&query, at, |timestamp, message| {
                count += 1;
                read_to = Some(timestamp);
                // A line that cannot be read is intake's to report.
                if let Ok(ParsedEvent::Observations(found)) = control_plane_log::read(message) {
                    observations.extend(found.into_iter().filter(|found| case.may_concern(found)));
                }
            })
            .await;
        reading.read = format!(
            "{} of {count} lines of {group} since {} concern the node",
            observations.len(),
            timestamp::seconds(from)
        );
        reading.state = NodeState::Observations(observations);
        match result {
            Ok(()) => reading.read_to = Some(at),
            Err(failure) => {
                reading.read_to = read_to;
                reading.failure = Some(failure);
            }
        }
        reading
    }

    async fn read_agent(&self, case: &Case, fault: &Fault, at: Timestamp) -> Reading {
        let group = LogSource::Agents(case.cluster().clone()).to_string();
        let query = LogQuery {
            group: group.clone(),
            streams: Streams::Named(case.instance_id().to_string()),
            lines: Lines::All,
            from: fault.since - MARGIN,
            until: at,
            limit: None,
        };
        let mut lines = Vec::new();
        let failure = self.read_lines(&query, at, |_, message| lines.push(message.to_owned())).await.err();
        Reading {
            by: VerifiedBy::AgentLog,
            read: format!(
                "{} lines of stream {} in {group} since {}",
                lines.len(),
                case.instance_id(),
                timestamp::seconds(query.from)
            ),
            state: NodeState::Reports(lines),
            failure,
            read_to: None,
        }
    }

    /// Whether every audit stream that has been written to lately is still written to. One that is behind may hold the line
    /// that says that the node is healthy.
    async fn streams_are_alive(
        &self,
        group: &str,
        settling: SignedDuration,
        at: Timestamp,
    ) -> Result<(), String> {
        let streams = self
            .cloud
            .streams(group, AUDIT_STREAMS, at - STREAM_ALIVE)
            .await
            .map_err(|error| chain(&error))?;
        if streams.is_empty() {
            return Err(format!("no stream {AUDIT_STREAMS}* of {group} has a line of the last hour"));
        }
        for stream in streams {
            self.refuse_after_max_time(group, at)?;
            let query = LogQuery {
                group: group.to_owned(),
                streams: Streams::Named(stream.clone()),
                lines: Lines::All,
                from: at - settling,
                until: at,
                limit: Some(1),
            };
            if self.first_line(&query).await.map_err(|error| chain(&error))?.is_none() {
                let behind = timestamp::duration(settling);
                return Err(format!("the newest line of stream {stream} in {group} is older than {behind}"));
            }
        }
        Ok(())
    }

    /// A verification has one time limit for all that it reads: other repairs wait for the same run.
    fn refuse_after_max_time(&self, what: &str, begun: Timestamp) -> Result<(), String> {
        if self.clock.now().duration_since(begun) > MAX_TIME {
            return Err(format!("reading {what} took longer than {}", timestamp::duration(MAX_TIME)));
        }
        Ok(())
    }

    /// The time of the first line of a query.
    async fn first_line(&self, query: &LogQuery) -> Result<Option<Timestamp>, ReadError> {
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let page = self.cloud.log_page(query, next.as_deref()).await?;
            if let Some(line) = page.lines.first() {
                return Ok(Some(line.timestamp));
            }
            if page.next.is_none() {
                return Ok(None);
            }
            next = page.next;
        }
        Ok(None)
    }

    /// Reads all lines of a query; an error says why it did not come to the end.
    async fn read_lines(
        &self,
        query: &LogQuery,
        begun: Timestamp,
        mut line: impl FnMut(Timestamp, &str),
    ) -> Result<(), String> {
        let mut next = None;
        for _ in 0..MAX_PAGES {
            self.refuse_after_max_time(&query.group, begun)?;
            let page = self.cloud.log_page(query, next.as_deref()).await.map_err(|error| chain(&error))?;
            for found in &page.lines {
                line(found.timestamp, &found.message);
            }
            if page.next.is_none() {
                return Ok(());
            }
            next = page.next;
        }
        Err(format!("{} has more than {MAX_PAGES} pages to read", query.group))
    }
}

/// The bad faults of a case whose fault to repair is not among them: its reboot ended that one, or nobody knows yet.
fn still_bad(case: &Case, fault: &Fault, policy: &Policy, now: Timestamp) -> Vec<Fault> {
    let mut bad = case.faults(&policy.default_rules(), policy, now);
    bad.retain(|known| known.is_bad() && known.deadline.is_some());
    let same = |known: &Fault| known.condition == fault.condition && known.source == fault.source;
    if bad.iter().any(same) { Vec::new() } else { bad }
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
