//! The repair Lambda: once a minute, everything that falls due in it.

use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_adapters::{
    aws,
    clock::{Clock, SystemClock, wait_until},
    cloud::AwsCloud,
    config::environment::Environment,
    store::dynamodb::{DynamoStore, Tables},
    telemetry::{self, Failed, Metric},
};
use nodemend_repair::{RepairError, Repairer, Swept};
use serde_json::{Value, json, value::RawValue};

/// How long an invocation waits for deadlines: longer than the minute until the next one, so that there is no moment in
/// which nobody waits, and so much shorter than the function's time that its last call has its answer.
const TURN: SignedDuration = SignedDuration::from_secs(65);

/// So little of a turn is not worth waiting for again.
const SHORT: SignedDuration = SignedDuration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let environment = Environment::of_process();
    let tables = Tables::of(&environment).map_err(one_line)?;
    let shared = aws::load().await.map_err(one_line)?;
    let cloud = AwsCloud::connect(&shared).await.map_err(one_line)?;
    let store = DynamoStore::connect(&shared, tables);
    let repairer = Repairer::new(store.clone(), cloud, SystemClock);
    lambda_runtime::run(service_fn(async |_: LambdaEvent<Box<RawValue>>| sweep(&repairer, &store).await))
        .await
}

/// What is due now is done by whoever comes; of two that a schedule woke, one waits.
async fn sweep(
    repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>,
    store: &DynamoStore,
) -> Result<Value, Error> {
    let mut done = Done::default();
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
    done.told(swept)
}

/// The end of the lease of the one that waits, if it is another. The lease spares money, and nothing rests on it: where
/// it can't be had, this one waits.
async fn waiter(store: &DynamoStore, end: Timestamp) -> Option<Timestamp> {
    store.lease_sweep(SystemClock.now(), end).await.unwrap_or_else(|error| {
        telemetry::failed(&Failed::of(&error));
        None
    })
}

/// What an invocation did.
#[derive(Default)]
struct Done {
    looked_at: usize,
    failed: usize,
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
        let swept = Box::pin(repairer.sweep_until(end, wait_until, |swept: &Swept| self.tell(swept))).await;
        if let Err(error) = store.end_sweep(end, SystemClock.now()).await {
            telemetry::failed(&Failed::of(&error));
        }
        swept
    }

    async fn once(
        &mut self,
        repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>,
        end: Timestamp,
    ) -> Result<(), RepairError> {
        let swept = Box::pin(repairer.sweep_before(end)).await?;
        self.tell(&swept);
        Ok(())
    }

    fn tell(&mut self, swept: &Swept) {
        self.looked_at += swept.looked_at;
        self.failed += swept.failures.len();
        swept.occurrences.iter().for_each(telemetry::occurred);
        for failure in &swept.failures {
            let mut failed = Failed::of(failure);
            failed.cluster = Some(&failure.key.cluster);
            failed.instance_id = Some(&failure.key.instance_id);
            failed.case = failure.case.as_deref();
            telemetry::failed(&failed);
        }
    }

    fn told(self, swept: Result<(), RepairError>) -> Result<Value, Error> {
        let Self { looked_at, failed } = self;
        let numbers = [(Metric::CasesSwept, looked_at as u64), (Metric::SweepFailures, failed as u64)];
        telemetry::measured(SystemClock.now(), None, &numbers);
        if let Err(error) = swept {
            telemetry::failed(&Failed::of(&error));
            return Err(one_line(error));
        }
        if failed > 0 {
            // What failed stays due. The error makes the invocation count as failed, so that an alarm sees it.
            return Err(format!("{failed} of {looked_at} cases could not be looked at").into());
        }
        Ok(json!({ "lookedAt": looked_at }))
    }
}

/// The runtime shows an error as its fields; a person wants the sentence.
fn one_line(error: impl std::error::Error) -> Error {
    error.to_string().into()
}
