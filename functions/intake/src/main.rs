//! The intake Lambda: CloudWatch Logs subscription payloads in, cases out.

use std::sync::Arc;

use jiff::SignedDuration;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_adapters::{
    aws,
    clock::{Clock, SystemClock},
    config::environment::Environment,
    notify::{EventBridge, Herald},
    store::dynamodb::{DynamoStore, Tables},
    subscription::Decoder,
    telemetry::{self, Metric},
};
use nodemend_intake::Intake;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Mutex;

/// A payload waits for no more than this for a bus that takes nothing: others wait behind it.
const TIME_TO_TELL: SignedDuration = SignedDuration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let environment = Environment::of_process();
    let tables = Tables::of(&environment).map_err(one_line)?;
    let shared = aws::load().await.map_err(one_line)?;
    let intake = Intake::new(DynamoStore::connect(&shared, tables));
    let bus = environment.event_bus().map_err(one_line)?;
    let bus = bus.map(|bus| Arc::new(EventBridge::connect(&shared, bus)));
    let decoder = Mutex::new(Decoder::new());
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        // Its future is deep and large, and lives on the heap.
        let herald = Herald::new(bus.clone(), TIME_TO_TELL);
        Box::pin(take(&intake, &mut *decoder.lock().await, herald, event.payload.get())).await
    }))
    .await
}

async fn take(
    intake: &Intake<DynamoStore>,
    decoder: &mut Decoder,
    mut herald: Herald<EventBridge>,
    payload: &str,
) -> Result<Value, Error> {
    let now = SystemClock.now();
    let taken = intake.handle(decoder, payload.as_bytes(), now).await?;
    taken.occurrences.iter().for_each(telemetry::occurred);
    herald.tell(&taken.occurrences);
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
    herald.finish().await;
    Ok(json!({
        "reports": taken.reports,
        "observations": taken.observations,
        "irrelevant": taken.irrelevant,
        "unplaced": taken.unplaced,
        "unknownCluster": taken.unknown_cluster,
        "rejected": taken.rejected.len(),
    }))
}

/// The runtime shows an error as its fields; a person wants the sentence.
fn one_line(error: impl std::error::Error) -> Error {
    error.to_string().into()
}
