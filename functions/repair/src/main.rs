//! The repair Lambda: once a minute, everything that falls due in it.

use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_adapters::{
    aws,
    clock::{Clock, SystemClock},
    cloud::AwsCloud,
    config::environment::Environment,
    store::dynamodb::{DynamoStore, Tables},
    telemetry::{self, Metric},
};
use nodemend_repair::{Repairer, Swept};
use serde_json::{Value, json, value::RawValue};

/// The next invocation takes over where this one ends.
const MINUTE: SignedDuration = SignedDuration::from_secs(58);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let environment = Environment::of_process();
    let tables = Tables::of(&environment).map_err(one_line)?;
    let shared = aws::load().await.map_err(one_line)?;
    let cloud = AwsCloud::connect(&shared).await.map_err(one_line)?;
    let repairer = Repairer::new(DynamoStore::connect(&shared, tables), cloud, SystemClock);
    lambda_runtime::run(service_fn(async |_: LambdaEvent<Box<RawValue>>| sweep(&repairer).await)).await
}

async fn sweep(repairer: &Repairer<DynamoStore, AwsCloud, SystemClock>) -> Result<Value, Error> {
    let (mut looked_at, mut failed) = (0, 0);
    let report = |swept: &Swept| {
        looked_at += swept.looked_at;
        failed += swept.failures.len();
        swept.occurrences.iter().for_each(telemetry::occurred);
        for failure in &swept.failures {
            telemetry::log(&json!({ "failure": failure.to_string() }));
        }
    };
    // Its future is deep and large, and lives on the heap.
    let swept = Box::pin(repairer.sweep_until(SystemClock.now() + MINUTE, wait_until, report)).await;
    let numbers = [(Metric::CasesSwept, looked_at as u64), (Metric::SweepFailures, failed as u64)];
    telemetry::measured(SystemClock.now(), None, &numbers);
    swept?;
    if failed > 0 {
        // What failed stays due. The error makes the invocation count as failed, so that an alarm sees it.
        return Err(format!("{failed} of {looked_at} cases could not be looked at").into());
    }
    Ok(json!({ "lookedAt": looked_at }))
}

async fn wait_until(at: Timestamp) {
    let wait = at.duration_since(SystemClock.now());
    if let Ok(wait) = wait.try_into() {
        tokio::time::sleep(wait).await;
    }
}

/// The runtime shows an error as its fields; a person wants the sentence.
fn one_line(error: impl std::error::Error) -> Error {
    error.to_string().into()
}
