//! The confirm function on Lambda: reads the configuration, connects the ports, and runs the handler.

use jiff::SignedDuration;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_aws::{
    clock::SystemClock,
    cloud::AwsCloud,
    dynamodb::DynamoStore,
    eventbridge::EventBridge,
    publisher::EventPublisher,
    startup::Startup,
    telemetry::{self, Failed, invocation_error},
};
use nodemend_confirm::{ConfirmError, Confirmer};
use nodemend_domain::ident::AccountId;
use nodemend_ports::clock::Clock;
use serde_json::{Value, json, value::RawValue};

/// How long an invocation waits for an event bus that does not answer.
const PUBLISH_TIMEOUT: SignedDuration = SignedDuration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let startup = Startup::load().await.map_err(invocation_error)?;
    // The events to confirm are of the repair function's calls, which has another role than this function.
    let region = startup.shared.region().map(AsRef::as_ref).unwrap_or_default();
    let repairer = startup.environment.repairer(region).map_err(invocation_error)?;
    let own = AccountId::new(&repairer.account).ok();
    let members = startup.environment.members().map_err(invocation_error)?;
    let cloud = AwsCloud::with_caller(&startup.shared, repairer).with_members(&startup.shared, members);
    let bus = startup.event_bus().map_err(invocation_error)?;
    let confirmer = Confirmer::new(startup.store, cloud).in_account(own);
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        // The future is large, so it is on the heap.
        Box::pin(apply(&confirmer, EventPublisher::new(bus.clone(), PUBLISH_TIMEOUT), event.payload.get()))
            .await
    }))
    .await
}

async fn apply(
    confirmer: &Confirmer<DynamoStore, AwsCloud>,
    mut publisher: EventPublisher<EventBridge>,
    payload: &str,
) -> Result<Value, Error> {
    let result = match Box::pin(confirmer.handle(payload.as_bytes(), SystemClock.now())).await {
        Ok(result) => result,
        Err(error) => {
            let mut failure = Failed::of(&error);
            failure.case = error.case();
            let undecodable = matches!(error, ConfirmError::Event(_)).then_some(payload);
            telemetry::payload_failed(failure, undecodable, SystemClock.now());
            return Err(invocation_error(error));
        }
    };
    result.repair_events.iter().for_each(telemetry::emit);
    publisher.publish(&result.repair_events);
    publisher.finish().await;
    Ok(json!({ "relevant": result.relevant, "steps": result.repair_events.len() }))
}
