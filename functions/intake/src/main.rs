//! The intake Lambda: CloudWatch Logs subscription payloads in, cases out.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_adapters::{
    clock::{Clock, SystemClock},
    store::MemoryStore,
    subscription::Decoder,
    telemetry,
};
use nodemend_domain::policy::Policy;
use nodemend_intake::Intake;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Mutex;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // One process's memory: the store that all functions share takes this place when it is there.
    let intake = Intake::new(MemoryStore::with_policy(Policy::default()));
    let decoder = Mutex::new(Decoder::new());
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        take(&intake, &mut *decoder.lock().await, event.payload.get()).await
    }))
    .await
}

async fn take(intake: &Intake<MemoryStore>, decoder: &mut Decoder, payload: &str) -> Result<Value, Error> {
    let taken = intake.handle(decoder, payload.as_bytes(), SystemClock.now()).await?;
    taken.occurrences.iter().for_each(telemetry::log);
    for rejected in &taken.rejected {
        telemetry::log(&json!({ "rejected": rejected }));
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
