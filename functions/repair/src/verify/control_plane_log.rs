//! Reads the control plane's log group for one node, right before its call.
//!
//! - The audit streams are checked first: only where each of them is written to, nothing that is older than the settling
//!   time is missing in what is read after that.
//! - What reconciling has applied is not read again, as far as [`AppliedLog`] allows it. The newer lines are read once for
//!   all cases of a cluster that are due at the same time: the quota of five pages a second is the account's.
//! - What is shared is no older than [`SLOW`], so that the call leaves in time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, Fault, Source},
    control_plane_log::{self, ParsedEvent},
    ident::{ClusterName, NodeName},
    log_source::{AUDIT_STREAMS, LogSource},
    observation::Observation,
    sources::{AppliedLog, CHECK_VALID_FOR, ClusterSources},
    timestamp,
    verification::{VerificationResult, VerifiedBy},
};
use nodemend_ports::{
    audit_log::AuditLog,
    cause::chain,
    clock::Clock,
    cloud::Cloud,
    cluster_reader::{
        Lines, LogLine, LogQuery, Streams,
        bounded::{BoundedError, BoundedReader, Limits, StreamsError},
    },
    store::{CaseKey, Store},
};

use super::{
    ClusterContext, MARGIN, NodeState, Reading, SLOW,
    kubelets::{KubeletReading, Kubelets},
};
use crate::{Repairer, concurrency::ReadOnce};

/// Of one verification: the pages of one query are eight seconds of the account's quota of five a second, and others wait
/// for the same run.
pub(super) const LIMITS: Limits = Limits { pages: 40, time: SignedDuration::from_secs(20) };

/// What a run has read of the control plane's log groups, for all cases that need the same.
#[derive(Debug, Default)]
pub(crate) struct ClusterLogs {
    unreachable: BTreeMap<ClusterName, BTreeSet<NodeName>>,
    logs: Mutex<BTreeMap<ClusterName, Arc<ClusterLog>>>,
}

/// What has been read of one log group.
#[derive(Debug, Default)]
struct ClusterLog {
    streams: ReadOnce<Arc<LiveStreams>>,
    newer_lines: ReadOnce<Arc<NewerLines>>,
    /// The kubelets of the nodes that are due because they are unreachable.
    kubelets: Vec<Kubelets>,
}

/// The audit streams, each of which is written to.
#[derive(Debug)]
struct LiveStreams {
    read_at: Timestamp,
    names: BTreeSet<String>,
}

/// The lines that reconciling has not applied yet.
#[derive(Debug)]
struct NewerLines {
    read_at: Timestamp,
    from: Timestamp,
    found: Found,
}

/// The observations of a reading that came to its end.
#[derive(Debug, Default)]
struct Found {
    observations: Vec<Observation>,
    lines: usize,
    streams: BTreeSet<String>,
}

impl ClusterLogs {
    /// Notes a node that is due because it is unreachable.
    pub(crate) fn note_unreachable(&mut self, cluster: &ClusterName, node: NodeName) {
        self.unreachable.entry(cluster.clone()).or_default().insert(node);
    }

    fn of(&self, cluster: &ClusterName) -> Arc<ClusterLog> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let kubelets = self.unreachable.get(cluster).map(Kubelets::divide).unwrap_or_default();
            Arc::new(ClusterLog { kubelets, ..ClusterLog::default() })
        };
        logs.entry(cluster.clone()).or_insert_with(new).clone()
    }
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    pub(super) async fn read_control_plane_log(
        &self,
        case: &Case,
        fault: &Fault,
        known: ClusterContext<'_>,
    ) -> Reading {
        let group = LogSource::ControlPlane(case.cluster().clone()).to_string();
        let (log, settling) = (known.logs.of(case.cluster()), known.policy.settling_time);
        let streams = self.live_streams(&log, &group, settling).await;
        let reader = BoundedReader::new(&self.cloud, &self.clock, LIMITS);
        let mut reading = Reading {
            at: reader.begun(),
            by: VerifiedBy::ControlPlaneLog,
            read: String::new(),
            state: NodeState::Observations(Vec::new()),
            result: VerificationResult::FaultPresent,
            read_to: None,
        };
        let streams = match streams {
            Ok(streams) => streams,
            Err(error) => {
                reading.result = VerificationResult::NotVerified(chain(&error));
                return reading;
            }
        };
        // An instance that failed to join can have registered from its launch on.
        let join_timeout =
            if fault.reason == "FailedToJoin" { known.policy.join_timeout } else { SignedDuration::ZERO };
        let since = fault.since - join_timeout;
        // What was read before need not be read again, but for lines that were written before that and arrived after it.
        let from = case.log_read_to().map_or(since, |read_to| (read_to - settling).max(since));
        let requests = self.kubelet_requests(&log.kubelets, &group, case, fault);
        if let Some(applied) = self.applied_since(case, fault, from - MARGIN, known, &streams.names).await {
            // The futures are large, so they are on the heap.
            let newer = Box::pin(self.newer_lines(&log, &group, applied.to()));
            let (kubelet, newer) = future::join(Box::pin(requests), newer).await;
            reading.note_kubelet(kubelet);
            match newer {
                Ok(newer) if newer.found.streams.iter().all(|stream| applied.has_stream(stream)) => {
                    reading.note_newer_lines(&group, case, &newer);
                    return reading;
                }
                // A stream that was not known when the others were applied may have had older lines, too.
                Ok(_) => {}
                Err(error) => {
                    let why = VerificationResult::NotVerified(chain(&error));
                    reading.result = reading.result.and(why);
                    return reading;
                }
            }
        } else {
            reading.note_kubelet(requests.await);
        }
        let query = subscribed_lines(&group, from - MARGIN, reading.at);
        let mut pages = reader.pages(&query);
        let mut found = Found::default();
        let result = loop {
            match pages.next().await {
                Ok(Some(lines)) => found.add(&lines, |found| case.may_concern(found)),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        reading.read_to = match &result {
            Ok(()) => Some(reading.at),
            Err(_) => pages.read_to(),
        };
        if let Err(error) = result {
            reading.result = reading.result.and(VerificationResult::NotVerified(chain(&error)));
        }
        reading.note(&group, from, found.lines, found.observations);
        reading
    }

    /// The audit streams, if each of them is written to.
    async fn live_streams(
        &self,
        log: &ClusterLog,
        group: &str,
        settling: SignedDuration,
    ) -> Result<Arc<LiveStreams>, StreamsError> {
        let read = async || {
            let reader = BoundedReader::new(&self.cloud, &self.clock, LIMITS);
            let names = reader.live_audit_streams(group, settling).await?;
            Ok(Arc::new(LiveStreams { read_at: reader.begun(), names }))
        };
        log.streams.get(|streams| self.is_young(streams.read_at), read).await
    }

    /// The lines since what reconciling has applied.
    async fn newer_lines(
        &self,
        log: &ClusterLog,
        group: &str,
        applied_to: Timestamp,
    ) -> Result<Arc<NewerLines>, BoundedError> {
        let is_usable = |lines: &Arc<NewerLines>| lines.from == applied_to && self.is_young(lines.read_at);
        let read = async || {
            let reader = BoundedReader::new(&self.cloud, &self.clock, LIMITS);
            let query = subscribed_lines(group, applied_to - MARGIN, reader.begun());
            let (mut pages, mut found) = (reader.pages(&query), Found::default());
            while let Some(lines) = pages.next().await? {
                found.add(&lines, |_| true);
            }
            Ok(Arc::new(NewerLines { read_at: reader.begun(), from: applied_to, found }))
        };
        log.newer_lines.get(is_usable, read).await
    }

    pub(super) fn is_young(&self, read_at: Timestamp) -> bool {
        self.clock.now().duration_since(read_at) <= SLOW
    }

    /// What reconciling has applied of the log, if a verification that needs the lines since then can leave it out.
    async fn applied_since<'a>(
        &self,
        case: &Case,
        fault: &Fault,
        since: Timestamp,
        known: ClusterContext<'a>,
        streams: &BTreeSet<String>,
    ) -> Option<&'a AppliedLog> {
        let applied = known.sources?.log_applied.as_ref()?;
        // A registration can bear another uid than the case knows: only verification looks for it by the name alone.
        let may_be_registered = fault.source != Source::ControlPlane || fault.reason == "NodeDeleted";
        let arrived = fault.arrived.filter(|_| !may_be_registered)?;
        let leaves_out = is_current(known.sources?, self.clock.now())
            && applied.covers(since, arrived, known.policy.settling_time, streams)
            && self.has_its_name_alone(case, since).await;
        leaves_out.then_some(applied)
    }

    /// Whether a line that names the node can have been applied to no other case since then.
    async fn has_its_name_alone(&self, case: &Case, since: Timestamp) -> bool {
        let Some(node) = case.node() else { return false };
        let Ok(instances) = self.store.instances_of_node(case.cluster(), node).await else { return false };
        for instance_id in instances.into_iter().filter(|instance_id| instance_id != case.instance_id()) {
            let key = CaseKey { cluster: case.cluster().clone(), instance_id };
            match self.store.case(&key).await {
                Ok(None) => {}
                Ok(Some(other)) if other.closed().is_some_and(|closed| closed.at < since) => {}
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        true
    }
}

impl Reading {
    fn note_kubelet(&mut self, KubeletReading { result, at }: KubeletReading) {
        self.result = result;
        self.at = at.map_or(self.at, |at| self.at.min(at));
    }

    /// Notes what concerns a case of the lines that are newer than those that reconciling has applied.
    fn note_newer_lines(&mut self, group: &str, case: &Case, newer: &NewerLines) {
        let concern = newer.found.observations.iter().filter(|found| case.may_concern(found));
        self.at = self.at.min(newer.read_at);
        self.read_to = Some(self.at);
        self.note(group, newer.from, newer.found.lines, concern.cloned().collect());
        self.read.push_str("; reconciling had applied those before");
    }

    /// Notes what was found in a log group.
    fn note(&mut self, group: &str, from: Timestamp, lines: usize, observations: Vec<Observation>) {
        let (concern, from) = (observations.len(), timestamp::seconds(from));
        self.read = format!("{concern} of {lines} lines of {group} since {from} concern the node");
        self.state = NodeState::Observations(observations);
    }
}

impl Found {
    fn add(&mut self, lines: &[LogLine], keep: impl Fn(&Observation) -> bool) {
        self.lines += lines.len();
        for line in lines {
            if !self.streams.contains(&line.stream) {
                self.streams.insert(line.stream.clone());
            }
            // A line that cannot be read is intake's to report.
            if let Ok(ParsedEvent::Observations(found)) = control_plane_log::read(&line.message) {
                self.observations.extend(found.into_iter().filter(&keep));
            }
        }
    }
}

/// Whether reconciling goes on: where it has stopped, a reading from its mark grows until it exceeds its limits.
fn is_current(sources: &ClusterSources, now: Timestamp) -> bool {
    sources.log_read_to.is_some_and(|read_to| now.duration_since(read_to) <= CHECK_VALID_FOR)
}

fn subscribed_lines(group: &str, from: Timestamp, until: Timestamp) -> LogQuery {
    LogQuery::new(group, Streams::Prefix(AUDIT_STREAMS.to_owned()), from, until).lines(Lines::Subscribed)
}
