//! Heals the cases that missed a line, every few minutes, and checks how new the newest line of each source is.
//!
//! - Where the Kubernetes API lets us in, one list of Nodes from its cache shows what is so: it counts as of each
//!   condition's last transition, and never undoes a later line. A Node that the list lacks is looked for in a consistent
//!   list before its case counts it as deleted.
//! - Elsewhere, and where the API denies access or cannot be reached, the control plane's log group is read again since the
//!   last mark: no metric shows when a subscription was off. A line that is read twice changes nothing. Verification need not
//!   read again what was applied so, right before a call ([`AppliedLog`](nodemend_domain::sources::AppliedLog)).
//! - It can neither terminate nor reboot. It changes cases only, as intake does.
//! - The status checks of EC2 that fail are recorded as events of their nodes: EC2 publishes none.
//! - A source that cannot be read changes nothing, and is read on from the same mark by the next run.
//!
//! Agents need no reconciling: each heartbeat has the state of all conditions of its node.

mod log;
mod nodes;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, CaseEvent, Effects, TransitionContext},
    ident::{ClusterName, InstanceId},
    log_source::{AUDIT_STREAMS, LogSource},
    policy::Policy,
    repair_event::RepairEvent,
    sources::{ClusterSources, Freshness},
};
use nodemend_ports::{
    clock::Clock,
    cloud::{Cloud, CloudError},
    cluster_reader::{ReadError, bounded::BoundedError},
    store::{CaseKey, Store, StoreError},
    write::{self, Target, Update, WriteError},
};
use serde::Deserialize;

use self::log::newest_line;

/// One run notes so many failed status checks of its cluster: an outage of a zone can fail them all, and is known by other
/// means.
const MAX_STATUS_CHECKS: usize = 200;

/// The cluster of one run, as the schedule names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReconcileTarget {
    /// Its name.
    pub cluster: ClusterName,
    /// Whether the cluster's control-plane audit log is read (parameter ControlPlaneLogs).
    pub control_plane_logs: ControlPlaneLogs,
}

/// The parameter ControlPlaneLogs of the templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlPlaneLogs {
    /// The cluster writes its audit log to CloudWatch Logs.
    Enabled,
    /// It does not.
    Disabled,
}

/// The result of one run.
#[derive(Debug, Default)]
pub struct ReconcileReport {
    /// The repair events, in order.
    pub repair_events: Vec<RepairEvent>,
    /// The Nodes of the list, if there was one.
    pub listed: Option<usize>,
    /// The lines of the log group that were read again.
    pub lines: usize,
    /// The cases that changed: each had missed a line.
    pub healed: usize,
    /// What is known of the cluster's sources now.
    pub sources: ClusterSources,
    /// The age of the newest line of the control plane's audit log, where it is read. Without any line it is at least as
    /// old as what was looked through.
    pub audit_log_age: Option<SignedDuration>,
    /// The age of the newest line of the agents, if there was ever one.
    pub agent_log_age: Option<SignedDuration>,
    /// Why Nodes could not be listed, where the log group is read instead.
    pub not_listed: Option<ReadError>,
    /// What could not be read or written. The next run tries it again.
    pub failures: Vec<ReconcileError>,
}

/// Why a run, or a part of it, failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A case could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The role in the cluster's account could not be assumed.
    #[error("failed to enter the cluster's account")]
    Account(#[from] CloudError),
    /// A source could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// EC2's status checks could not be read.
    #[error("failed to read the status checks of EC2")]
    StatusChecks(#[source] CloudError),
    /// A log group could not be read within the limits of one run.
    #[error(transparent)]
    Bounded(#[from] BoundedError),
    /// The bound of one run was reached. The next run goes on from there.
    #[error("{0} was read up to {1} within the limits of one run")]
    Unfinished(String, Timestamp),
}

/// Reconciles the cases of a cluster with what is so.
#[derive(Debug, Clone)]
pub struct Reconciler<S, C, K> {
    store: S,
    cloud: C,
    clock: K,
}

impl<S: Store, C: Cloud, K: Clock> Reconciler<S, C, K> {
    /// A reconciler with these ports.
    pub fn new(store: S, cloud: C, clock: K) -> Self {
        Self { store, cloud, clock }
    }

    /// Reconciles one cluster. Without a policy the deployment does not serve it, and nothing is read.
    pub async fn run(&self, target: &ReconcileTarget) -> Result<ReconcileReport, ReconcileError> {
        let mut report = ReconcileReport::default();
        let Some(policy) = self.store.policy(&target.cluster).await? else { return Ok(report) };
        report.sources = self.store.sources(&target.cluster).await?.unwrap_or_default();
        let cloud = self.cloud.in_account(policy.account.as_ref()).await?;
        let run = Run {
            store: &self.store,
            cloud: &cloud,
            clock: &self.clock,
            cluster: &target.cluster,
            policy: &policy,
        };
        report.sources.reads_audit_log = target.control_plane_logs == ControlPlaneLogs::Enabled;
        // The futures are large, so they are on the heap.
        let listed = Box::pin(run.reconcile_nodes(&mut report)).await?;
        if !listed && report.sources.reads_audit_log {
            Box::pin(run.reconcile_log(&mut report)).await?;
        }
        Box::pin(run.check_sources(&mut report)).await;
        if let Err(error) = Box::pin(run.poll_status_checks(&mut report)).await {
            report.failures.push(error);
        }
        self.store.put_sources(&target.cluster, &report.sources).await?;
        Ok(report)
    }
}

/// The events of a write, and whether the case changed.
type Applied = Result<(Vec<RepairEvent>, bool), WriteError>;

/// One run for one cluster, in its account.
struct Run<'r, S, C, K> {
    store: &'r S,
    cloud: &'r C,
    clock: &'r K,
    cluster: &'r ClusterName,
    policy: &'r Policy,
}

impl<S: Store, C: Cloud, K: Clock> Run<'_, S, C, K> {
    /// Looks for the newest line of each source. What cannot be read keeps what was known, and grows old.
    async fn check_sources(&self, report: &mut ReconcileReport) {
        let control_plane = LogSource::ControlPlane(self.cluster.clone());
        if report.sources.reads_audit_log {
            let known = report.sources.audit_log;
            match self.freshness(&control_plane, AUDIT_STREAMS, known).await {
                Ok(found) => {
                    report.sources.audit_log = Some(found);
                    let at_least = log::looked_back(self.policy.settling_time);
                    report.audit_log_age = Some(found.age().unwrap_or(at_least));
                }
                Err(error) => report.failures.push(error.into()),
            }
        } else {
            report.sources.audit_log = None;
        }
        // A stream is named by the instance ID.
        let agents = LogSource::Agents(self.cluster.clone());
        match self.freshness(&agents, "i-", report.sources.agents).await {
            Ok(found) => {
                report.sources.agents = Some(found);
                report.agent_log_age = found.age();
            }
            Err(error) => report.failures.push(error.into()),
        }
    }

    async fn freshness(
        &self,
        source: &LogSource,
        streams: &str,
        known: Option<Freshness>,
    ) -> Result<Freshness, ReadError> {
        let checked_at = self.clock.now();
        let group = source.to_string();
        let found = newest_line(self.cloud, self.clock, &group, streams, self.policy.settling_time).await;
        let found = match found {
            // No log group: nothing was ever written.
            Err(ReadError::NotConfigured(_)) => None,
            found => found?,
        };
        Ok(Freshness { newest: found.max(known.and_then(|known| known.newest)), checked_at })
    }

    /// Records the status checks of EC2 that fail as events of the cluster's nodes. EC2 publishes none.
    async fn poll_status_checks(&self, report: &mut ReconcileReport) -> Result<(), ReconcileError> {
        let failed = self.cloud.failed_status_checks().await.map_err(ReconcileError::StatusChecks)?;
        let now = self.clock.now();
        let ctx = TransitionContext { policy: self.policy, caller: self.cloud.caller(), now };
        let mut noted = 0;
        for check in &failed {
            if noted == MAX_STATUS_CHECKS {
                break;
            }
            // The checks are of all instances of the account. Of those of another cluster, or that are no nodes, there is no
            // case.
            let key = self.key(&check.instance_id);
            let update = write::update(self.store, Target::case(&key), self.policy, now, |case, _| {
                Ok(case.record_notice(&check.notice(now), &ctx))
            });
            let update = update.await?;
            noted += usize::from(update.found());
            report.repair_events.extend(update.into_events());
        }
        Ok(())
    }

    /// Applies a change to a case with one write, if it changes anything.
    async fn apply(
        &self,
        target: Target<'_>,
        at: Timestamp,
        change: impl Fn(&mut Case) -> Vec<CaseEvent>,
    ) -> Applied {
        let update = write::update(self.store, target, self.policy, at, |case, _| {
            let changes = change(case);
            Ok(Effects::of_changes(case, changes, self.policy, at))
        });
        Ok(match update.await? {
            Update::Written(events) => (events, true),
            // What a case knows already is not published again.
            Update::Unchanged(_) | Update::NoCase | Update::Refused(_) => (Vec::new(), false),
        })
    }

    fn key(&self, instance_id: &InstanceId) -> CaseKey {
        CaseKey { cluster: self.cluster.clone(), instance_id: instance_id.clone() }
    }
}

impl ReconcileReport {
    /// Notes the result of a write, and returns whether it succeeded.
    fn applied(&mut self, result: Applied) -> bool {
        match result {
            Ok((events, changed)) => {
                self.repair_events.extend(events);
                self.healed += usize::from(changed);
                true
            }
            Err(error) => {
                self.failures.push(error.into());
                false
            }
        }
    }
}
