//! Turns a CloudWatch Logs subscription payload into cases, each with the time at which somebody must look.
//!
//! Intake never acts. What one payload says of a node is folded into its case in one read and one write;
//! a lost race is folded again. A line that cannot be read is counted and kept, and the rest goes on.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use nodemend_adapters::{
    store::{CaseKey, Change, Commit, Store, StoreError},
    subscription::{Batch, Decoder, LogEvent, Message, Record, Rejected, SubscriptionError},
    telemetry::excerpt,
};
use nodemend_domain::{
    audit_log::{self, Reading},
    case::{Case, News},
    condition::{Health, RepairAction},
    ident::{AccountId, ClusterName, InstanceId},
    log_source::{AUDIT_STREAMS, LogSource},
    observation::{Deleter, Observation},
    occurrence::{Occurrence, Step},
    policy::Policy,
    report::Report,
    stamp,
};

/// How often a race for one case may be lost before the payload is handed back to be tried again.
const MAX_RACES: usize = 16;

/// Takes log events in.
#[derive(Debug, Clone)]
pub struct Intake<S> {
    store: S,
    own: Option<AccountId>,
}

/// What became of a payload.
#[derive(Debug, Default)]
pub struct Intaken {
    /// Whose log it is, if it is one that we know.
    pub cluster: Option<ClusterName>,
    /// When its youngest line was written.
    pub youngest: Option<Timestamp>,
    /// What happened, in order.
    pub occurrences: Vec<Occurrence>,
    /// How many reports of agents there were.
    pub reports: usize,
    /// How many facts of the control plane.
    pub observations: usize,
    /// How many lines tell nothing of a node's health.
    pub irrelevant: usize,
    /// How many facts are of a node that nobody knows the instance of.
    pub unplaced: usize,
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

impl Intaken {
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
    /// Others wrote the same case again and again.
    #[error("failed to write the case of {0}: {MAX_RACES} races lost")]
    Contended(InstanceId),
}

impl IntakeError {
    /// Whether trying again can help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Payload(_) | Self::Store(StoreError::Broken(_)) => false,
            Self::Store(StoreError::Unavailable(_)) | Self::Contended(_) => true,
        }
    }
}

/// What one line says of one instance.
enum Word<'a> {
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
    ) -> Result<Intaken, IntakeError> {
        let mut taken = self.take_in(decoder, payload, now).await?;
        taken.failure().map_or(Ok(taken), Err)
    }

    /// Takes in of one Lambda event what can be; the rest is among the failures.
    pub async fn take_in(
        &self,
        decoder: &mut Decoder,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<Intaken, IntakeError> {
        self.hear(decoder.decode(payload)?, now).await
    }

    /// The same of one record of a batch.
    pub async fn take_record(
        &self,
        decoder: &mut Decoder,
        record: &Record<'_>,
        now: Timestamp,
    ) -> Result<Intaken, IntakeError> {
        let message = match record {
            Record::Stream { kinesis } => decoder.decode_data(&kinesis.data)?,
            Record::Queue { body, .. } => decoder.decode(body.as_bytes())?,
        };
        self.hear(message, now).await
    }

    async fn hear(&self, message: Message<'_>, now: Timestamp) -> Result<Intaken, IntakeError> {
        match message {
            Message::Control => Ok(Intaken::default()),
            Message::Data(batch) => self.take_what_can_be(batch, now).await,
        }
    }

    /// Takes a decoded batch in, or says why it must come again.
    pub async fn take(&self, batch: Batch<'_>, now: Timestamp) -> Result<Intaken, IntakeError> {
        let mut taken = self.take_what_can_be(batch, now).await?;
        taken.failure().map_or(Ok(taken), Err)
    }

    async fn take_what_can_be(&self, batch: Batch<'_>, now: Timestamp) -> Result<Intaken, IntakeError> {
        let youngest = batch.events.iter().map(|event| event.timestamp).max();
        let mut taken = Intaken { rejected: batch.rejected, youngest, ..Intaken::default() };
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
        let mut words: BTreeMap<InstanceId, Vec<Word<'_>>> = BTreeMap::new();
        for (index, event) in batch.events.iter().enumerate() {
            match read(&source, &batch.log_stream, event) {
                Ok(Some(Word::Report(report))) => {
                    taken.reports += 1;
                    match words.get_mut(&report.instance_id) {
                        Some(known) => known.push(Word::Report(report)),
                        None => {
                            words.insert(report.instance_id.clone(), vec![Word::Report(report)]);
                        }
                    }
                }
                Ok(Some(Word::Observation(observation))) => {
                    taken.observations += 1;
                    match self.place(source.cluster(), &observation).await {
                        Ok(Some(instance_id)) => {
                            words.entry(instance_id).or_default().push(Word::Observation(observation));
                        }
                        Ok(None) => taken.unplaced += 1,
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
        for (instance_id, words) in &words {
            let key = CaseKey { cluster: source.cluster().clone(), instance_id: instance_id.clone() };
            let mut id = None;
            if let Err(error) = self.fold(&key, words, &policy, now, &mut taken.occurrences, &mut id).await {
                taken.failures.push(Failure { instance_id: Some(key.instance_id), case: id, error });
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
            if self.store.case(&key).await?.is_some_and(|case| case.closed.is_none()) {
                return Ok(Some(key.instance_id));
            }
        }
        Ok(None)
    }

    async fn fold(
        &self,
        key: &CaseKey,
        words: &[Word<'_>],
        policy: &Arc<Policy>,
        now: Timestamp,
        occurrences: &mut Vec<Occurrence>,
        id: &mut Option<String>,
    ) -> Result<(), IntakeError> {
        for _ in 0..MAX_RACES {
            let known = self.store.case(key).await?;
            let mut case = known
                .clone()
                .unwrap_or_else(|| Box::new(Case::new(key.cluster.clone(), key.instance_id.clone())));
            let mut told = Vec::new();
            for word in words {
                let news = match word {
                    Word::Report(report) => case.hear_report(report, now, policy),
                    Word::Observation(observation) => case.hear_observation(observation, policy),
                };
                tell(&case, news, policy, now, &mut told);
            }
            case.plan(policy, now);
            if known.as_ref() == Some(&case) {
                return Ok(());
            }
            let commit = self.store.commit(Change { case: &case, group: None, entries: &[] }).await;
            if commit != Ok(Commit::Won) {
                *id = Some(case.id());
            }
            if commit? == Commit::Won {
                occurrences.append(&mut told);
                return Ok(());
            }
        }
        Err(IntakeError::Contended(key.instance_id.clone()))
    }
}

/// Reads one line: something said of a node, nothing of interest, or why it can't be read.
fn read<'a>(
    source: &LogSource,
    log_stream: &str,
    event: &'a LogEvent<'_>,
) -> Result<Option<Word<'a>>, String> {
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
            Ok(Some(Word::Report(Box::new(report))))
        }
        LogSource::ControlPlane(_) if !log_stream.starts_with(AUDIT_STREAMS) => Ok(None),
        LogSource::ControlPlane(_) => {
            match audit_log::read(&event.message).map_err(|error| error.to_string())? {
                Reading::Observation(observation) => Ok(Some(Word::Observation(observation))),
                Reading::Irrelevant(_) => Ok(None),
            }
        }
    }
}

/// Turns what changed in a case into what people are told.
fn tell(case: &Case, news: Vec<News>, policy: &Policy, now: Timestamp, told: &mut Vec<Occurrence>) {
    for news in news {
        let mut occurrence = Occurrence {
            at: now,
            cluster: case.cluster.clone(),
            node: case.node.clone(),
            instance_id: case.instance_id.clone(),
            case: case.id(),
            step: Step::Event,
            condition: None,
            reason: None,
            detail: String::new(),
            guards: Vec::new(),
            record: None,
        };
        match news {
            News::Event { condition, reason, message } => {
                (occurrence.condition, occurrence.reason) = (Some(condition), Some(reason));
                occurrence.detail = message;
            }
            News::Trouble(condition) => {
                let faults = case.faults(&policy.default_rules(), policy, now);
                let fault = faults.iter().find(|fault| fault.condition == condition && fault.is_bad());
                let Some(fault) = fault else { continue };
                if fault.deadline.is_none() && fault.health == Health::Unknown {
                    // The pressures follow Ready into Unknown: one line says it all.
                    continue;
                }
                if let Some(deadline) = fault.deadline {
                    occurrence.step = Step::Suspect;
                    occurrence.detail = format!(
                        "{}{}{} due {}, {} after {}",
                        fault.message.trim_end_matches('.'),
                        if fault.message.is_empty() { "" } else { "; " },
                        fault.action.as_str(),
                        stamp::seconds(deadline),
                        stamp::length(deadline.duration_since(fault.since)),
                        stamp::seconds(fault.since),
                    );
                } else {
                    occurrence.detail = fault.message.clone();
                }
                occurrence.reason = Some(fault.reason.clone());
                occurrence.condition = Some(condition);
            }
            News::Recovery(condition) => {
                let called = case.repair.as_ref().and_then(|repair| repair.effective_at());
                if let Some(called) = called.filter(|_| case.action() == Some(RepairAction::Replace)) {
                    occurrence.detail =
                        format!("well again, but it was terminated at {}", stamp::seconds(called));
                    occurrence.condition = Some(condition);
                    told.push(occurrence);
                    continue;
                }
                occurrence.step = Step::Recovered;
                occurrence.detail = format!(
                    "well again; its case ends when that has held for {}",
                    stamp::length(policy.recovery_hold)
                );
                occurrence.condition = Some(condition);
            }
            News::Registered => "the kubelet registered the node".clone_into(&mut occurrence.detail),
            News::Ready => "the node is ready".clone_into(&mut occurrence.detail),
            News::Rebooted => "a new boot began".clone_into(&mut occurrence.detail),
            News::AgentHeard => "the agent is heard again".clone_into(&mut occurrence.detail),
            News::Deleted { by, user } => {
                occurrence.detail = match by {
                    Deleter::Manual => format!("{user} deleted the Node object"),
                    Deleter::CloudController => {
                        "the cloud controller deleted the node: its instance is gone".to_owned()
                    }
                    Deleter::Karpenter => "Karpenter deleted the node".to_owned(),
                    Deleter::Eks => format!("EKS ({user}) deleted the node"),
                };
            }
        }
        told.push(occurrence);
    }
}
