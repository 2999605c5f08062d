//! The repair function on Lambda, invoked each minute: reads the configuration, connects the ports, and runs the
//! handler.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_aws::{
    clock::{SystemClock, wait_until},
    cloud::AwsCloud,
    dynamodb::DynamoStore,
    eventbridge::EventBridge,
    publisher::EventPublisher,
    startup::Startup,
    telemetry::{self, Failed, Metric, invocation_error},
};
use nodemend_domain::ident::ClusterName;
use nodemend_ports::clock::Clock;
use nodemend_repair::{RepairError, Repairer, RunReport};
use serde_json::{Value, json, value::RawValue};

/// How long an invocation waits for deadlines: longer than the minute until the next one, so that there is no gap, and
/// shorter than the function's timeout, so that the last call gets its answer.
const RUN_LENGTH: SignedDuration = SignedDuration::from_secs(65);

/// The least remaining time for which an invocation waits again.
const MIN_WAIT: SignedDuration = SignedDuration::from_secs(5);

/// How long the end of an invocation waits for an event bus that does not answer. Its calls have been made by then.
const PUBLISH_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let startup = Startup::load().await.map_err(invocation_error)?;
    let cloud = startup.cloud("nodemend-repair").await.map_err(invocation_error)?;
    let bus = startup.event_bus().map_err(invocation_error)?;
    let store = startup.store;
    let repairer = Repairer::new(store.clone(), cloud, SystemClock);
    lambda_runtime::run(service_fn(async |_: LambdaEvent<Box<RawValue>>| {
        run_once(&repairer, &store, EventPublisher::new(bus.clone(), PUBLISH_TIMEOUT)).await
    }))
    .await
}

/// Evaluates what is due now, and then waits for deadlines if no other invocation does.
async fn run_once(
    repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>,
    store: &DynamoStore,
    publisher: EventPublisher<EventBridge>,
) -> Result<Value, Error> {
    let mut invocation = Invocation {
        evaluated: 0,
        failed: 0,
        pending: BTreeMap::new(),
        without_policy: BTreeMap::new(),
        publisher,
    };
    let end = SystemClock.now() + RUN_LENGTH;
    let result = match other_waits_until(store, end).await {
        None => invocation.run(repairer, store, end).await,
        Some(until) => {
            let once = invocation.run_once(repairer, end).await;
            // The other's lease ends before this invocation's time: one of the two has to wait on.
            if once.is_ok() && end.duration_since(until) > MIN_WAIT {
                wait_until(until).await;
                match other_waits_until(store, end).await {
                    None => invocation.run(repairer, store, end).await,
                    Some(_) => once,
                }
            } else {
                once
            }
        }
    };
    invocation.report(result).await
}

/// The end of the lease, if another invocation holds it. The lease only saves cost: if it cannot be read, this
/// invocation waits.
async fn other_waits_until(store: &DynamoStore, end: Timestamp) -> Option<Timestamp> {
    store.lease_run(SystemClock.now(), end).await.unwrap_or_else(|error| {
        telemetry::failed(&Failed::of(&error));
        None
    })
}

/// The totals of one invocation.
struct Invocation {
    evaluated: usize,
    failed: usize,
    /// When the oldest pending repair of each cluster became pending.
    pending: BTreeMap<ClusterName, Timestamp>,
    /// The most due cases of each cluster without a policy.
    without_policy: BTreeMap<ClusterName, usize>,
    /// Publishes in the background: no call waits for it.
    publisher: EventPublisher<EventBridge>,
}

impl Invocation {
    /// Evaluates what is due, and waits for each deadline until `end`.
    async fn run(
        &mut self,
        repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>,
        store: &DynamoStore,
        end: Timestamp,
    ) -> Result<(), RepairError> {
        // The future is large, so it is on the heap.
        let result =
            Box::pin(repairer.run_until(end, wait_until, |report: &RunReport| self.publish(report))).await;
        if let Err(error) = store.end_run(end, SystemClock.now()).await {
            telemetry::failed(&Failed::of(&error));
        }
        result
    }

    async fn run_once(
        &mut self,
        repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>,
        end: Timestamp,
    ) -> Result<(), RepairError> {
        let report = Box::pin(repairer.run_before(end)).await?;
        self.publish(&report);
        Ok(())
    }

    fn publish(&mut self, report: &RunReport) {
        self.evaluated += report.evaluated;
        self.failed += report.failures.len();
        report.repair_events.iter().for_each(telemetry::emit);
        self.publisher.publish(&report.repair_events);
        for (cluster, since) in &report.pending {
            let oldest = self.pending.entry(cluster.clone()).or_insert(*since);
            *oldest = (*oldest).min(*since);
        }
        for (cluster, cases) in &report.without_policy {
            let most = self.without_policy.entry(cluster.clone()).or_default();
            *most = (*most).max(*cases);
        }
        for failure in &report.failures {
            let mut failed = Failed::of(failure);
            failed.cluster = Some(&failure.key.cluster);
            failed.instance_id = Some(&failure.key.instance_id);
            failed.case = failure.case.as_deref();
            telemetry::failed(&failed);
        }
    }

    async fn report(self, result: Result<(), RepairError>) -> Result<Value, Error> {
        let Self { evaluated, failed, pending, without_policy, publisher } = self;
        let now = SystemClock.now();
        for (cluster, since) in &pending {
            let age = now.duration_since(*since).as_secs().max(0).unsigned_abs();
            telemetry::measured(now, Some(cluster), &[(Metric::PendingRepairAge, age)]);
        }
        for (cluster, cases) in &without_policy {
            telemetry::measured(now, Some(cluster), &[(Metric::CasesWithoutPolicy, *cases as u64)]);
        }
        let numbers =
            [(Metric::CasesEvaluated, evaluated as u64), (Metric::EvaluationFailures, failed as u64)];
        telemetry::measured(now, None, &numbers);
        publisher.finish().await;
        if let Err(error) = result {
            telemetry::failed(&Failed::of(&error));
            return Err(invocation_error(error));
        }
        if failed > 0 {
            // The cases stay due. The error counts the invocation as failed, which an alarm watches.
            return Err(format!("failed to evaluate {failed} of {evaluated} cases").into());
        }
        Ok(json!({ "evaluated": evaluated }))
    }
}
