//! The intake function on Lambda: reads the configuration, connects the ports, and runs the handler.

use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_aws::{
    clock::SystemClock,
    dynamodb::DynamoStore,
    eventbridge::EventBridge,
    publisher::EventPublisher,
    startup::Startup,
    telemetry::{self, Failed, Metric, invocation_error},
};
use nodemend_domain::ident::AccountId;
use nodemend_intake::{Intake, IntakeError, IntakeResult};
use nodemend_ports::{
    clock::Clock,
    subscription::{self, Decoder, SubscriptionRecord},
};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Mutex;

/// How long an invocation waits for an event bus that does not answer: other payloads wait for it.
const PUBLISH_TIMEOUT: SignedDuration = SignedDuration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let startup = Startup::load().await.map_err(invocation_error)?;
    let bus = startup.event_bus().map_err(invocation_error)?;
    let intake = Intake::new(startup.store);
    let decoder = Mutex::new(Decoder::new());
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        let intake = intake.clone().in_account(account_of(&event.context.invoked_function_arn));
        let mut decoder = decoder.lock().await;
        let publisher = EventPublisher::new(bus.clone(), PUBLISH_TIMEOUT);
        // The future is large, so it is on the heap.
        Box::pin(async {
            match subscription::records(event.payload.get().as_bytes()).map_err(invocation_error)? {
                None => apply(&intake, &mut decoder, publisher, event.payload.get()).await,
                Some(records) => Ok(apply_records(&intake, &mut decoder, publisher, &records).await),
            }
        })
        .await
    }))
    .await
}

/// The account that this function is in: the fifth part of its ARN.
fn account_of(arn: &str) -> Option<AccountId> {
    AccountId::new(arn.split(':').nth(4)?).ok()
}

async fn apply(
    intake: &Intake<DynamoStore>,
    decoder: &mut Decoder,
    mut publisher: EventPublisher<EventBridge>,
    payload: &str,
) -> Result<Value, Error> {
    let now = SystemClock.now();
    let mut result = match intake.apply_payload(decoder, payload.as_bytes(), now).await {
        Ok(result) => result,
        Err(error) => {
            payload_failed(&error, payload);
            return Err(invocation_error(error));
        }
    };
    let answer = report(&result, &mut publisher, now);
    publisher.finish().await;
    // The reported updates are written. The others are applied when the payload is delivered again.
    result.failure().map_or(Ok(answer), |error| Err(invocation_error(error)))
}

/// Applies the records of a batch, in order.
///
/// - Of a stream, Lambda delivers everything again from the first record that failed and may succeed later. A record
///   that can never be decoded is logged and skipped.
/// - Of a queue, each record is retried by itself, undecodable ones too: the queue moves them to its dead-letter queue.
async fn apply_records(
    intake: &Intake<DynamoStore>,
    decoder: &mut Decoder,
    mut publisher: EventPublisher<EventBridge>,
    records: &[SubscriptionRecord<'_>],
) -> Value {
    let mut failed = Vec::new();
    for record in records {
        let now = SystemClock.now();
        let failure = match intake.apply_record(decoder, record, now).await {
            Ok(mut result) => {
                report(&result, &mut publisher, now);
                result.failure()
            }
            Err(error) => {
                payload_failed(&error, record.text());
                Some(error)
            }
        };
        let Some(error) = failure else { continue };
        match record {
            SubscriptionRecord::Stream { .. } if error.is_retryable() => {
                failed.push(json!({ "itemIdentifier": record.id() }));
                break;
            }
            SubscriptionRecord::Stream { .. } => {}
            SubscriptionRecord::Queue { .. } => failed.push(json!({ "itemIdentifier": record.id() })),
        }
    }
    publisher.finish().await;
    json!({ "batchItemFailures": failed })
}

/// Publishes and logs the result of one payload, and returns the answer to Lambda.
fn report(result: &IntakeResult, publisher: &mut EventPublisher<EventBridge>, now: Timestamp) -> Value {
    result.repair_events.iter().for_each(telemetry::emit);
    publisher.publish(&result.repair_events);
    result.rejected.iter().for_each(telemetry::rejected);
    let lag = result.newest.map_or(0, |newest| now.duration_since(newest).as_millis().max(0));
    let numbers = [
        (Metric::Reports, result.reports as u64),
        (Metric::Observations, result.observations as u64),
        (Metric::Rejected, result.rejected.len() as u64),
        (Metric::UnknownCluster, result.unknown_cluster as u64),
        (Metric::InstanceUnknown, result.instance_unknown as u64),
        (Metric::IntakeLag, lag.try_into().unwrap_or(u64::MAX)),
    ];
    // Anyone can invent a cluster's name, so an unknown one is never a dimension.
    let cluster = result.cluster.as_ref().filter(|_| result.unknown_cluster == 0);
    telemetry::measured(now, cluster, &numbers);
    for failure in &result.failures {
        let mut failed = Failed::of(failure);
        (failed.cluster, failed.instance_id) = (cluster, failure.instance_id.as_ref());
        failed.case = failure.case.as_deref();
        telemetry::failed(&failed);
    }
    json!({
        "reports": result.reports,
        "observations": result.observations,
        "irrelevant": result.irrelevant,
        "instanceUnknown": result.instance_unknown,
        "unknownCluster": result.unknown_cluster,
        "rejected": result.rejected.len(),
    })
}

fn payload_failed(error: &IntakeError, payload: &str) {
    let undecodable = matches!(error, IntakeError::Payload(_)).then_some(payload);
    telemetry::payload_failed(Failed::of(error), undecodable, SystemClock.now());
}
