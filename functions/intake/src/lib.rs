//! Turns a CloudWatch Logs subscription payload into cases, each with the time at which somebody must look.
//!
//! Intake never acts. What one payload says of a node is folded into its case in one read and one write;
//! a lost race is folded again. A line that cannot be read is counted and kept, and the rest goes on.

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
    excerpt::excerpt,
    store::{CaseKey, Store, StoreError},
    subscription::{Batch, Decoder, LogEvent, Message, Record, Rejected, SubscriptionError},
    write::{self, Target, WriteError},
};

/// Takes log events in.
#[derive(Debug, Clone)]
pub struct Intake<S> {
    store: S,
    own: Option<AccountId>,
}

/// What became of a payload.
#[derive(Debug, Default)]
pub struct IntakeResult {
    /// Whose log it is, if it is one that we know.
    pub cluster: Option<ClusterName>,
    /// When its youngest line was written.
    pub youngest: Option<Timestamp>,
    /// What happened, in order.
    pub repair_events: Vec<RepairEvent>,
    /// How many reports of agents there were.
    pub reports: usize,
    /// How many facts of the control plane.
    pub observations: usize,
    /// How many lines tell nothing of a node's health.
    pub irrelevant: usize,
    /// How many facts are of a node that nobody knows the instance of.
    pub instance_unknown: usize,
    /// How many lines are of a cluster that is not ours to serve.
    pub unknown_cluster: usize,
    /// What could not be read, and why.
    pub rejected: Vec<Rejected>,
    /// What could not be placed, or written. It stops nothing else; the payload comes again for its sake.
    pub failures: Vec<Failure>,
}

/// What a payload says of one node, and could not be taken in.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Which instance, where that is known.
    pub instance_id: Option<InstanceId>,
    /// Its case's id, once that was read: what logs are searched by.
    pub case: Option<String>,
    /// Why.
    pub error: IntakeError,
}

impl IntakeResult {
    /// Why the payload must come again, if it must. Of two reasons the one that may pass: a payload that may yet be taken
    /// in is not given up for one that can't.
    pub fn failure(&mut self) -> Option<IntakeError> {
        let failures = std::mem::take(&mut self.failures).into_iter().map(|failure| failure.error);
        failures.reduce(|known, next| if known.is_retryable() { known } else { next })
    }
}

/// Why a payload must be tried again, or can't be read at all.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The payload as a whole.
    #[error("failed to decode the subscription payload")]
    Payload(#[from] SubscriptionError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A case could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl IntakeError {
    /// Whether trying again can help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Payload(_) => false,
            Self::Store(error) => error.is_retryable(),
            Self::Write(error) => error.is_retryable(),
        }
    }
}

/// What one line says of one instance.
enum NodeUpdate<'a> {
    Report(Box<Report<'a>>),
    Observation(Box<Observation>),
}

impl<S: Store> Intake<S> {
    /// An intake into a store.
    pub fn new(store: S) -> Self {
        Self { store, own: None }
    }

    /// Takes nothing in of an account that is neither this one nor the one that the cluster's policy names: a log group's
    /// name can be given in any account.
    #[must_use]
    pub fn in_account(self, own: Option<AccountId>) -> Self {
        Self { own, ..self }
    }

    /// Takes one Lambda event in, or says why it must come again.
    pub async fn handle(
        &self,
        decoder: &mut Decoder,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<IntakeResult, IntakeError> {
        let mut taken = self.take_in(decoder, payload, now).await?;
        taken.failure().map_or(Ok(taken), Err)
    }

    /// Takes in of one Lambda event what can be; the rest is among the failures.
    pub async fn take_in(
        &self,
        decoder: &mut Decoder,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<IntakeResult, IntakeError> {
        self.hear(decoder.decode(payload)?, now).await
    }

    /// The same of one record of a batch.
    pub async fn take_record(
        &self,
        decoder: &mut Decoder,
        record: &Record<'_>,
        now: Timestamp,
    ) -> Result<IntakeResult, IntakeError> {
        let message = match record {
            Record::Stream { kinesis } => decoder.decode_data(&kinesis.data)?,
            Record::Queue { body, .. } => decoder.decode(body.as_bytes())?,
        };
        self.hear(message, now).await
    }

    async fn hear(&self, message: Message<'_>, now: Timestamp) -> Result<IntakeResult, IntakeError> {
        match message {
            Message::Control => Ok(IntakeResult::default()),
            Message::Data(batch) => self.take_what_can_be(batch, now).await,
        }
    }

    /// Takes a decoded batch in, or says why it must come again.
    pub async fn take(&self, batch: Batch<'_>, now: Timestamp) -> Result<IntakeResult, IntakeError> {
        let mut taken = self.take_what_can_be(batch, now).await?;
        taken.failure().map_or(Ok(taken), Err)
    }

    async fn take_what_can_be(&self, batch: Batch<'_>, now: Timestamp) -> Result<IntakeResult, IntakeError> {
        let youngest = batch.events.iter().map(|event| event.timestamp).max();
        let mut taken = IntakeResult { rejected: batch.rejected, youngest, ..IntakeResult::default() };
        let Some(source) = LogSource::of(&batch.log_group) else {
            taken.rejected.extend(batch.events.iter().enumerate().map(|(index, event)| Rejected {
                index,
                why: format!("log group {:?} is neither an agent's nor a control plane's", batch.log_group),
                excerpt: excerpt(&event.message),
            }));
            return Ok(taken);
        };
        taken.cluster = Some(source.cluster().clone());
        let owner = AccountId::new(&batch.owner).ok();
        let policy = self.store.policy(source.cluster()).await?;
        let Some(policy) = policy.filter(|policy| policy.believes(owner.as_ref(), self.own.as_ref())) else {
            taken.unknown_cluster = batch.events.len();
            return Ok(taken);
        };
        let mut words: BTreeMap<InstanceId, Vec<NodeUpdate<'_>>> = BTreeMap::new();
        for (index, event) in batch.events.iter().enumerate() {
            match read(&source, &batch.log_stream, event) {
                Ok(Some(NodeUpdate::Report(report))) => {
                    taken.reports += 1;
                    match words.get_mut(&report.instance_id) {
                        Some(known) => known.push(NodeUpdate::Report(report)),
                        None => {
                            words.insert(report.instance_id.clone(), vec![NodeUpdate::Report(report)]);
                        }
                    }
                }
                Ok(Some(NodeUpdate::Observation(observation))) => {
                    taken.observations += 1;
                    match self.place(source.cluster(), &observation).await {
                        Ok(Some(instance_id)) => {
                            words.entry(instance_id).or_default().push(NodeUpdate::Observation(observation));
                        }
                        Ok(None) => taken.instance_unknown += 1,
                        Err(error) => {
                            taken.failures.push(Failure {
                                instance_id: None,
                                case: None,
                                error: error.into(),
                            });
                        }
                    }
                }
                Ok(None) => taken.irrelevant += 1,
                Err(why) => taken.rejected.push(Rejected { index, why, excerpt: excerpt(&event.message) }),
            }
        }
        for (instance_id, updates) in &words {
            let key = CaseKey { cluster: source.cluster().clone(), instance_id: instance_id.clone() };
            match self.fold(&key, updates, &policy, now).await {
                Ok(events) => taken.repair_events.extend(events),
                Err(error) => {
                    let case = error.case().map(ToOwned::to_owned);
                    let instance_id = Some(key.instance_id);
                    taken.failures.push(Failure { instance_id, case, error: error.into() });
                }
            }
        }
        Ok(taken)
    }

    /// The instance that an observation is of: the one that it names, else the one that has the node's name now.
    async fn place(
        &self,
        cluster: &ClusterName,
        observation: &Observation,
    ) -> Result<Option<InstanceId>, StoreError> {
        if let Some(instance_id) = &observation.instance_id {
            return Ok(Some(instance_id.clone()));
        }
        // A name goes from an instance to the one that replaces it: the newest that still lives has it.
        for instance_id in self.store.instances_of_node(cluster, &observation.node).await?.into_iter().rev() {
            let key = CaseKey { cluster: cluster.clone(), instance_id };
            if self.store.case(&key).await?.is_some_and(|case| case.closed().is_none()) {
                return Ok(Some(key.instance_id));
            }
        }
        Ok(None)
    }

    /// Applies all updates of one node with one write.
    async fn fold(
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
                    NodeUpdate::Observation(observation) => case.apply_observation(observation, policy),
                };
                let event = |change| RepairEvent::of_change(case, change, policy, now);
                effects.events.extend(changes.into_iter().filter_map(event));
            }
            Ok(effects)
        });
        Ok(update.await?.into_events())
    }
}

/// Reads one line: something said of a node, nothing of interest, or why it can't be read.
fn read<'a>(
    source: &LogSource,
    log_stream: &str,
    event: &'a LogEvent<'_>,
) -> Result<Option<NodeUpdate<'a>>, String> {
    match source {
        LogSource::Agents(cluster) => {
            let report = Report::decode(&event.message).map_err(|error| error.to_string())?;
            if report.cluster != *cluster {
                return Err(format!("cluster: {:?} is not this log group's", report.cluster.as_str()));
            }
            // A node may write to its own stream alone, so a report that names another instance is a lie.
            if report.instance_id.as_str() != log_stream {
                return Err(format!("instanceId: {} is not this log stream's", report.instance_id));
            }
            Ok(Some(NodeUpdate::Report(Box::new(report))))
        }
        LogSource::ControlPlane(_) if !log_stream.starts_with(AUDIT_STREAMS) => Ok(None),
        LogSource::ControlPlane(_) => {
            match control_plane_log::read(&event.message).map_err(|error| error.to_string())? {
                ParsedEvent::Observation(observation) => Ok(Some(NodeUpdate::Observation(observation))),
                ParsedEvent::Irrelevant(_) => Ok(None),
            }
        }
    }
}
