//! The repair Lambda: once a minute, everything that falls due in it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_aws::{
    clock::{SystemClock, wait_until},
    cloud::AwsCloud,
    dynamodb::{DynamoStore, Tables},
    eventbridge::EventBridge,
    publisher::EventPublisher,
    sdk,
    telemetry::{self, Failed, Metric},
};
use nodemend_domain::ident::ClusterName;
use nodemend_ports::{clock::Clock, config::environment::Environment};
use nodemend_repair::{RepairError, Repairer, RunReport};
use serde_json::{Value, json, value::RawValue};

/// How long an invocation waits for deadlines: longer than the minute until the next one, so that there is no moment in
/// which nobody waits, and so much shorter than the function's time that its last call has its answer.
const TURN: SignedDuration = SignedDuration::from_secs(65);

/// So little of a turn is not worth waiting for again.
const SHORT: SignedDuration = SignedDuration::from_secs(5);

/// A sweep's end waits for no more than this for a bus that takes nothing; its calls have been made by then.
const TIME_TO_TELL: SignedDuration = SignedDuration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let environment = Environment::of_process();
    let tables = Tables::of(&environment).map_err(one_line)?;
    let shared = sdk::load().await.map_err(one_line)?;
    let members = environment.members().map_err(one_line)?;
    let cloud = AwsCloud::connect(&shared).await.map_err(one_line)?.with_members(&shared, members);
    let store = DynamoStore::connect(&shared, tables);
    let repairer = Repairer::new(store.clone(), cloud, SystemClock);
    let bus = environment.event_bus().map_err(one_line)?;
    let bus = bus.map(|bus| Arc::new(EventBridge::connect(&shared, bus)));
    lambda_runtime::run(service_fn(async |_: LambdaEvent<Box<RawValue>>| {
        run_once(&repairer, &store, EventPublisher::new(bus.clone(), TIME_TO_TELL)).await
    }))
    .await
}

/// What is due now is done by whoever comes; of two that a schedule woke, one waits.
async fn run_once(
    repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>,
    store: &DynamoStore,
    publisher: EventPublisher<EventBridge>,
) -> Result<Value, Error> {
    let mut done = Done { evaluated: 0, failed: 0, pending: BTreeMap::new(), publisher };
    let end = SystemClock.now() + TURN;
    let swept = match waiter(store, end).await {
        None => done.turn(repairer, store, end).await,
        Some(theirs) => {
            let once = done.once(repairer, end).await;
            // The other's turn ends within this one: somebody must wait on.
            if once.is_ok() && end.duration_since(theirs) > SHORT {
                wait_until(theirs).await;
                match waiter(store, end).await {
                    None => done.turn(repairer, store, end).await,
                    Some(_) => once,
                }
            } else {
                once
            }
        }
    };
    done.told(swept).await
}

/// The end of the lease of the one that waits, if it is another. The lease spares money, and nothing rests on it: where
/// it can't be had, this one waits.
async fn waiter(store: &DynamoStore, end: Timestamp) -> Option<Timestamp> {
    store.lease_run(SystemClock.now(), end).await.unwrap_or_else(|error| {
        telemetry::failed(&Failed::of(&error));
        None
    })
}

/// What an invocation did.
struct Done {
    evaluated: usize,
    failed: usize,
    /// Since when the longest waiting repair of each cluster waits.
    pending: BTreeMap<ClusterName, Timestamp>,
    /// Tells while the sweep goes on: no call waits for it.
    publisher: EventPublisher<EventBridge>,
}

impl Done {
    /// Sweeps, and waits for each deadline of its turn.
    async fn turn(
        &mut self,
        repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>,
        store: &DynamoStore,
        end: Timestamp,
    ) -> Result<(), RepairError> {
        // Its future is deep and large, and lives on the heap.
        let swept = Box::pin(repairer.run_until(end, wait_until, |swept: &RunReport| self.tell(swept))).await;
        if let Err(error) = store.end_run(end, SystemClock.now()).await {
            telemetry::failed(&Failed::of(&error));
        }
        swept
    }

    async fn once(
        &mut self,
        repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>,
        end: Timestamp,
    ) -> Result<(), RepairError> {
        let swept = Box::pin(repairer.run_before(end)).await?;
        self.tell(&swept);
        Ok(())
    }

    fn tell(&mut self, swept: &RunReport) {
        self.evaluated += swept.evaluated;
        self.failed += swept.failures.len();
        swept.repair_events.iter().for_each(telemetry::emit);
        self.publisher.tell(&swept.repair_events);
        for (cluster, since) in &swept.pending {
            let oldest = self.pending.entry(cluster.clone()).or_insert(*since);
            *oldest = (*oldest).min(*since);
        }
        for failure in &swept.failures {
            let mut failed = Failed::of(failure);
            failed.cluster = Some(&failure.key.cluster);
            failed.instance_id = Some(&failure.key.instance_id);
            failed.case = failure.case.as_deref();
            telemetry::failed(&failed);
        }
    }

    async fn told(self, swept: Result<(), RepairError>) -> Result<Value, Error> {
        let Self { evaluated, failed, pending, publisher } = self;
        let now = SystemClock.now();
        for (cluster, since) in &pending {
            let age = now.duration_since(*since).as_secs().max(0).unsigned_abs();
            telemetry::measured(now, Some(cluster), &[(Metric::PendingRepairAge, age)]);
        }
        let numbers =
            [(Metric::CasesEvaluated, evaluated as u64), (Metric::EvaluationFailures, failed as u64)];
        telemetry::measured(now, None, &numbers);
        publisher.finish().await;
        if let Err(error) = swept {
            telemetry::failed(&Failed::of(&error));
            return Err(one_line(error));
        }
        if failed > 0 {
            // What failed stays due. The error makes the invocation count as failed, so that an alarm sees it.
            return Err(format!("{failed} of {evaluated} cases could not be looked at").into());
        }
        Ok(json!({ "evaluated": evaluated }))
    }
}

/// The runtime shows an error as its fields; a person wants the sentence.
fn one_line(error: impl std::error::Error) -> Error {
    error.to_string().into()
}
