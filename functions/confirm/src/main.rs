//! The audit Lambda: EventBridge's events in, confirmed calls and closed cases out.

use std::sync::Arc;

use jiff::SignedDuration;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_aws::{
    clock::SystemClock,
    cloud::AwsCloud,
    dynamodb::{DynamoStore, Tables},
    eventbridge::EventBridge,
    publisher::EventPublisher,
    sdk,
    telemetry::{self, Failed},
};
use nodemend_confirm::{ConfirmError, Confirmer};
use nodemend_domain::ident::AccountId;
use nodemend_ports::{clock::Clock, config::environment::Environment};
use serde_json::{Value, json, value::RawValue};

/// An event waits for no more than this for a bus that takes nothing.
const TIME_TO_TELL: SignedDuration = SignedDuration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let environment = Environment::of_process();
    let tables = Tables::of(&environment).map_err(one_line)?;
    let shared = sdk::load().await.map_err(one_line)?;
    // CloudTrail tells of the repair function's calls, and that has another role than this one.
    let region = shared.region().map(AsRef::as_ref).unwrap_or_default();
    let repairer = environment.repairer(region).map_err(one_line)?;
    let own = AccountId::new(&repairer.account).ok();
    let members = environment.members().map_err(one_line)?;
    let cloud = AwsCloud::with_caller(&shared, repairer).with_members(&shared, members);
    let audit = Confirmer::new(DynamoStore::connect(&shared, tables), cloud).in_account(own);
    let bus = environment.event_bus().map_err(one_line)?;
    let bus = bus.map(|bus| Arc::new(EventBridge::connect(&shared, bus)));
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        // Its future is deep and large, and lives on the heap.
        Box::pin(take(&audit, EventPublisher::new(bus.clone(), TIME_TO_TELL), event.payload.get())).await
    }))
    .await
}

async fn take(
    audit: &Confirmer<DynamoStore, AwsCloud>,
    mut publisher: EventPublisher<EventBridge>,
    payload: &str,
) -> Result<Value, Error> {
    let result = match audit.handle(payload.as_bytes(), SystemClock.now()).await {
        Ok(result) => result,
        Err(error) => {
            let mut why = Failed::of(&error);
            why.case = error.case();
            let unreadable = matches!(error, ConfirmError::Event(_)).then_some(payload);
            telemetry::not_taken_in(why, unreadable, SystemClock.now());
            return Err(one_line(error));
        }
    };
    result.repair_events.iter().for_each(telemetry::emit);
    publisher.tell(&result.repair_events);
    publisher.finish().await;
    Ok(json!({ "relevant": result.relevant, "steps": result.repair_events.len() }))
}

/// The runtime shows an error as its fields; a person wants the sentence.
fn one_line(error: impl std::error::Error) -> Error {
    error.to_string().into()
}
