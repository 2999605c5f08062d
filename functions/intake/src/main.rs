//! The intake Lambda: CloudWatch Logs subscription payloads in, cases out.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_adapters::{
    aws,
    clock::{Clock, SystemClock},
    config::environment::Environment,
    store::dynamodb::{DynamoStore, Tables},
    subscription::Decoder,
    telemetry::{self, Failed, Metric},
};
use nodemend_intake::{Intake, IntakeError};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Mutex;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let tables = Tables::of(&Environment::of_process()).map_err(one_line)?;
    let shared = aws::load().await.map_err(one_line)?;
    let intake = Intake::new(DynamoStore::connect(&shared, tables));
    let decoder = Mutex::new(Decoder::new());
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        // Its future is deep and large, and lives on the heap.
        Box::pin(take(&intake, &mut *decoder.lock().await, event.payload.get())).await
    }))
    .await
}

async fn take(intake: &Intake<DynamoStore>, decoder: &mut Decoder, payload: &str) -> Result<Value, Error> {
    let now = SystemClock.now();
    let mut taken = match intake.take_in(decoder, payload.as_bytes(), now).await {
        Ok(taken) => taken,
        Err(error) => return Err(given_up(&error, payload)),
    };
    taken.occurrences.iter().for_each(telemetry::occurred);
    for rejected in &taken.rejected {
        telemetry::log(&json!({ "rejected": rejected }));
    }
    let lag = taken.youngest.map_or(0, |youngest| now.duration_since(youngest).as_millis().max(0));
    let numbers = [
        (Metric::Reports, taken.reports as u64),
        (Metric::Observations, taken.observations as u64),
        (Metric::Rejected, taken.rejected.len() as u64),
        (Metric::UnknownCluster, taken.unknown_cluster as u64),
        (Metric::Unplaced, taken.unplaced as u64),
        (Metric::IntakeLag, lag.try_into().unwrap_or(u64::MAX)),
    ];
    // A cluster that nobody knows is somebody else's word: never a dimension.
    let cluster = taken.cluster.as_ref().filter(|_| taken.unknown_cluster == 0);
    telemetry::measured(now, cluster, &numbers);
    for failure in &taken.failures {
        let mut failed = Failed::of(failure);
        (failed.cluster, failed.instance_id) = (cluster, failure.instance_id.as_ref());
        failed.case = failure.case.as_deref();
        telemetry::failed(&failed);
    }
    // What was told above is written. The rest comes again with the payload.
    if let Some(error) = taken.failure() {
        return Err(one_line(error));
    }
    Ok(json!({
        "reports": taken.reports,
        "observations": taken.observations,
        "irrelevant": taken.irrelevant,
        "unplaced": taken.unplaced,
        "unknownCluster": taken.unknown_cluster,
        "rejected": taken.rejected.len(),
    }))
}

/// Lambda tries again what fails, twice, and puts it among the dead letters then, where an alarm sees it. A payload that
/// nobody can read gets there, too: it may tell of a node, and the fault may be ours. It is counted, and its beginning told.
fn given_up(error: &IntakeError, payload: &str) -> Error {
    let readable = !matches!(error, IntakeError::Payload(_));
    if !readable {
        telemetry::measured(SystemClock.now(), None, &[(Metric::Undecodable, 1)]);
    }
    let excerpt = (!readable).then(|| telemetry::excerpt(payload));
    let mut failed = Failed::of(error);
    failed.excerpt = excerpt.as_deref();
    telemetry::failed(&failed);
    error.to_string().into()
}

/// The runtime shows an error as its fields; a person wants the sentence.
fn one_line(error: impl std::error::Error) -> Error {
    error.to_string().into()
}
