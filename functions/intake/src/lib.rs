//! Applies CloudWatch Logs subscription payloads to cases, and sets each case's due time.
//!
//! - Intake never repairs anything.
//! - All lines of a payload about one node are one read and one write of its case, repeated after a lost race.
//! - A line that cannot be read is counted and logged, and stops no other.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use nodemend_domain::{
    case::Effects,
    control_plane_log::{self, ParsedEvent},
    ident::{AccountId, ClusterName, InstanceId},
    log_source::{AUDIT_STREAMS, LogSource},
    observation::Observation,
    policy::Policy,
    repair_event::RepairEvent,
    report::Report,
};
use nodemend_ports::{
    cause::one_line,
    excerpt::excerpt,
    instance_of::Instances,
    store::{CaseKey, Store, StoreError},
    subscription::{Batch, Decoder, LogEvent, Message, Rejected, SubscriptionError, SubscriptionRecord},
    write::{self, Target, WriteError},
};

/// Applies log events to cases.
#[derive(Debug, Clone)]
pub struct Intake<S> {
    store: S,
    own: Option<AccountId>,
}

/// The result of a payload.
#[derive(Debug, Default)]
pub struct IntakeResult {
    /// The cluster of the log group, if it is a known one.
    pub cluster: Option<ClusterName>,
    /// The newest timestamp of its lines.
    pub newest: Option<Timestamp>,
    /// The repair events, in order.
    pub repair_events: Vec<RepairEvent>,
    /// The number of agents' reports.
    pub reports: usize,
    /// The number of control-plane observations.
    pub observations: usize,
    /// The number of lines that are not about a node's health.
    pub irrelevant: usize,
    /// The number of observations of a node without a known instance.
    pub instance_unknown: usize,
    /// The number of lines of a cluster that this deployment does not serve.
    pub unknown_cluster: usize,
    /// The lines that could not be read, with the reasons.
    pub rejected: Vec<Rejected>,
    /// The nodes whose case could not be found or written. They stop no other node, but the payload must be delivered
    /// again.
    pub failures: Vec<ProcessingFailure>,
}

/// The lines about one node could not be applied.
#[derive(Debug, thiserror::Error)]
#[error("failed to apply the log events of a node")]
pub struct ProcessingFailure {
    /// The instance, if it is known.
    pub instance_id: Option<InstanceId>,
    /// The case's ID, if it could be read. Logs are searched by it.
    pub case: Option<String>,
    /// The error.
    #[source]
    pub error: IntakeError,
}

impl IntakeResult {
    /// The error for which the payload must be delivered again, if any. A retryable error is preferred: a payload that
    /// may succeed later is not given up because of a permanent error.
    pub fn failure(&mut self) -> Option<IntakeError> {
        let failures = std::mem::take(&mut self.failures).into_iter().map(|failure| failure.error);
        failures.reduce(|known, next| if known.is_retryable() { known } else { next })
    }
}

/// Why a payload could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The payload as a whole cannot be decoded.
    #[error("failed to decode the subscription payload")]
    Payload(#[from] SubscriptionError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A case could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl IntakeError {
    /// Whether a retry can help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Payload(_) => false,
            Self::Store(error) => error.is_retryable(),
            Self::Write(error) => error.is_retryable(),
        }
    }
}

/// What one line contains.
enum Line<'a> {
    Report(Box<Report<'a>>),
    /// Of one Node, or of several that one request deleted.
    Observations(Vec<Observation>),
    Irrelevant,
}

/// An update of one case.
enum NodeUpdate<'a> {
    Report(Box<Report<'a>>),
    Observation(Box<Observation>),
}

impl<S: Store> Intake<S> {
    /// An intake for this store.
    pub fn new(store: S) -> Self {
        Self { store, own: None }
    }

    /// Accepts only log groups of the account in the cluster's policy, or of this account if the policy names none: any
    /// account can create a log group of the same name.
    #[must_use]
    pub fn in_account(self, own: Option<AccountId>) -> Self {
        Self { own, ..self }
    }

    /// Applies one Lambda event. Returns an error if it must be delivered again.
    pub async fn handle(
        &self,
        decoder: &mut Decoder,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<IntakeResult, IntakeError> {
        let mut result = self.apply_payload(decoder, payload, now).await?;
        result.failure().map_or(Ok(result), Err)
    }

    /// Applies as much of one Lambda event as possible. The result has the failures.
    pub async fn apply_payload(
        &self,
        decoder: &mut Decoder,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<IntakeResult, IntakeError> {
        self.apply_message(decoder.decode(payload)?, now).await
    }

    /// The same for one record of a batch.
    pub async fn apply_record(
        &self,
        decoder: &mut Decoder,
        record: &SubscriptionRecord<'_>,
        now: Timestamp,
    ) -> Result<IntakeResult, IntakeError> {
        let message = match record {
            SubscriptionRecord::Stream { kinesis } => decoder.decode_data(&kinesis.data)?,
            SubscriptionRecord::Queue { body, .. } => decoder.decode(body.as_bytes())?,
        };
        self.apply_message(message, now).await
    }

    async fn apply_message(&self, message: Message<'_>, now: Timestamp) -> Result<IntakeResult, IntakeError> {
        match message {
            Message::Control => Ok(IntakeResult::default()),
            Message::Data(batch) => self.apply_batch(batch, now).await,
        }
    }

    /// Applies a decoded batch. Returns an error if it must be delivered again.
    pub async fn take(&self, batch: Batch<'_>, now: Timestamp) -> Result<IntakeResult, IntakeError> {
        let mut result = self.apply_batch(batch, now).await?;
        result.failure().map_or(Ok(result), Err)
    }

    async fn apply_batch(&self, batch: Batch<'_>, now: Timestamp) -> Result<IntakeResult, IntakeError> {
        let newest = batch.events.iter().map(|event| event.timestamp).max();
        let mut result = IntakeResult { rejected: batch.rejected, newest, ..IntakeResult::default() };
        let Some(source) = LogSource::of(&batch.log_group) else {
            let log_group = one_line(&batch.log_group);
            result.rejected.extend(batch.events.iter().enumerate().map(|(index, event)| Rejected {
                index,
                why: format!("log group {log_group:?} is neither an agent's nor a control plane's"),
                excerpt: excerpt(&event.message),
            }));
            return Ok(result);
        };
        result.cluster = Some(source.cluster().clone());
        let owner = AccountId::new(&batch.owner).ok();
        let policy = self.store.policy(source.cluster()).await?;
        let Some(policy) = policy.filter(|policy| policy.accepts_account(owner.as_ref(), self.own.as_ref()))
        else {
            result.unknown_cluster = batch.events.len();
            return Ok(result);
        };
        let mut updates: BTreeMap<InstanceId, Vec<NodeUpdate<'_>>> = BTreeMap::new();
        let mut instances = Instances::new(&self.store, source.cluster());
        for (index, event) in batch.events.iter().enumerate() {
            match read(&source, &batch.log_stream, event) {
                Ok(Line::Report(report)) => {
                    result.reports += 1;
                    match updates.get_mut(&report.instance_id) {
                        Some(known) => known.push(NodeUpdate::Report(report)),
                        None => {
                            updates.insert(report.instance_id.clone(), vec![NodeUpdate::Report(report)]);
                        }
                    }
                }
                Ok(Line::Observations(observations)) => {
                    for observation in observations {
                        result.observations += 1;
                        match instances.of(&observation).await {
                            Ok(Some(instance_id)) => {
                                let of_instance = updates.entry(instance_id).or_default();
                                of_instance.push(NodeUpdate::Observation(Box::new(observation)));
                            }
                            Ok(None) => result.instance_unknown += 1,
                            Err(error) => {
                                result.failures.push(ProcessingFailure {
                                    instance_id: None,
                                    case: None,
                                    error: error.into(),
                                });
                            }
                        }
                    }
                }
                Ok(Line::Irrelevant) => result.irrelevant += 1,
                Err(why) => result.rejected.push(Rejected { index, why, excerpt: excerpt(&event.message) }),
            }
        }
        for (instance_id, updates) in &updates {
            let key = CaseKey { cluster: source.cluster().clone(), instance_id: instance_id.clone() };
            match self.apply_updates(&key, updates, &policy, now).await {
                Ok(events) => result.repair_events.extend(events),
                Err(error) => {
                    let case = error.case().map(ToOwned::to_owned);
                    let instance_id = Some(key.instance_id);
                    result.failures.push(ProcessingFailure { instance_id, case, error: error.into() });
                }
            }
        }
        Ok(result)
    }

    /// Applies all updates of one node with one write.
    async fn apply_updates(
        &self,
        key: &CaseKey,
        updates: &[NodeUpdate<'_>],
        policy: &Arc<Policy>,
        now: Timestamp,
    ) -> Result<Vec<RepairEvent>, WriteError> {
        let target = Target::case(key).or_new();
        let update = write::update(&self.store, target, policy, now, |case, _| {
            let mut effects = Effects::default();
            for update in updates {
                let changes = match update {
                    NodeUpdate::Report(report) => case.apply_report(report, now, policy),
                    NodeUpdate::Observation(observation) => case.apply_observation(observation, now, policy),
                };
                effects.append(Effects::of_changes(case, changes, policy, now));
            }
            Ok(effects)
        });
        Ok(update.await?.into_events())
    }
}

/// Reads one line.
fn read<'a>(source: &LogSource, log_stream: &str, event: &'a LogEvent<'_>) -> Result<Line<'a>, String> {
    match source {
        LogSource::Agents(cluster) => {
            let report = Report::decode(&event.message).map_err(|error| error.to_string())?;
            if report.cluster != *cluster {
                return Err(format!("cluster: {:?} is not this log group's", report.cluster.as_str()));
            }
            // An agent writes to its own stream alone. IAM does not enforce that: `docs/security.md`.
            if report.instance_id.as_str() != log_stream {
                return Err(format!("instanceId: {} is not this log stream's", report.instance_id));
            }
            Ok(Line::Report(Box::new(report)))
        }
        LogSource::ControlPlane(_) if !log_stream.starts_with(AUDIT_STREAMS) => Ok(Line::Irrelevant),
        LogSource::ControlPlane(_) => {
            match control_plane_log::read(&event.message).map_err(|error| error.to_string())? {
                ParsedEvent::Observations(observations) => Ok(Line::Observations(observations)),
                ParsedEvent::Irrelevant(_) => Ok(Line::Irrelevant),
            }
        }
    }
}
