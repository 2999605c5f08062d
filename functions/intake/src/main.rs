//! The intake Lambda: CloudWatch Logs subscription payloads in, cases out.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_aws::{
    clock::SystemClock,
    dynamodb::{DynamoStore, Tables},
    eventbridge::EventBridge,
    publisher::EventPublisher,
    sdk,
    telemetry::{self, Failed, Metric},
};
use nodemend_domain::ident::AccountId;
use nodemend_intake::{Intake, IntakeError, IntakeResult};
use nodemend_ports::{
    clock::Clock,
    config::environment::Environment,
    subscription::{self, Decoder, Record},
};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Mutex;

/// A payload waits for no more than this for a bus that takes nothing: others wait behind it.
const TIME_TO_TELL: SignedDuration = SignedDuration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let environment = Environment::of_process();
    let tables = Tables::of(&environment).map_err(one_line)?;
    let shared = sdk::load().await.map_err(one_line)?;
    let intake = Intake::new(DynamoStore::connect(&shared, tables));
    let bus = environment.event_bus().map_err(one_line)?;
    let bus = bus.map(|bus| Arc::new(EventBridge::connect(&shared, bus)));
    let decoder = Mutex::new(Decoder::new());
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        let intake = intake.clone().in_account(account_of(&event.context.invoked_function_arn));
        let mut decoder = decoder.lock().await;
        let publisher = EventPublisher::new(bus.clone(), TIME_TO_TELL);
        // Its future is deep and large, and lives on the heap.
        Box::pin(async {
            match subscription::records(event.payload.get().as_bytes())? {
                None => take(&intake, &mut decoder, publisher, event.payload.get()).await,
                Some(records) => Ok(take_records(&intake, &mut decoder, publisher, &records).await),
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

async fn take(
    intake: &Intake<DynamoStore>,
    decoder: &mut Decoder,
    mut publisher: EventPublisher<EventBridge>,
    payload: &str,
) -> Result<Value, Error> {
    let now = SystemClock.now();
    let mut taken = match intake.take_in(decoder, payload.as_bytes(), now).await {
        Ok(taken) => taken,
        Err(error) => {
            not_taken_in(&error, payload);
            return Err(one_line(error));
        }
    };
    let answer = told(&taken, &mut publisher, now);
    publisher.finish().await;
    // What was told above is written. The rest comes again with the payload.
    taken.failure().map_or(Ok(answer), |error| Err(one_line(error)))
}

/// Takes a batch's records in, in order. Lambda hands over anew what comes from the first on of a stream that could not be
/// taken in now; one that can't be read ever is told of, and stops no other. Of a queue's each stands for itself, and one
/// that can't be read goes back, too: the queue knows when to put it aside, and nothing is lost.
async fn take_records(
    intake: &Intake<DynamoStore>,
    decoder: &mut Decoder,
    mut publisher: EventPublisher<EventBridge>,
    records: &[Record<'_>],
) -> Value {
    let mut failed = Vec::new();
    for record in records {
        let now = SystemClock.now();
        let failure = match intake.take_record(decoder, record, now).await {
            Ok(mut taken) => {
                told(&taken, &mut publisher, now);
                taken.failure()
            }
            Err(error) => {
                not_taken_in(&error, record.text());
                Some(error)
            }
        };
        let Some(error) = failure else { continue };
        match record {
            Record::Stream { .. } if error.is_retryable() => {
                failed.push(json!({ "itemIdentifier": record.id() }));
                break;
            }
            Record::Stream { .. } => {}
            Record::Queue { .. } => failed.push(json!({ "itemIdentifier": record.id() })),
        }
    }
    publisher.finish().await;
    json!({ "batchItemFailures": failed })
}

/// Tells what became of one payload.
fn told(taken: &IntakeResult, publisher: &mut EventPublisher<EventBridge>, now: Timestamp) -> Value {
    taken.repair_events.iter().for_each(telemetry::emit);
    publisher.tell(&taken.repair_events);
    for rejected in &taken.rejected {
        telemetry::log(&json!({ "rejected": rejected }));
    }
    let lag = taken.youngest.map_or(0, |youngest| now.duration_since(youngest).as_millis().max(0));
    let numbers = [
        (Metric::Reports, taken.reports as u64),
        (Metric::Observations, taken.observations as u64),
        (Metric::Rejected, taken.rejected.len() as u64),
        (Metric::UnknownCluster, taken.unknown_cluster as u64),
        (Metric::InstanceUnknown, taken.instance_unknown as u64),
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
    json!({
        "reports": taken.reports,
        "observations": taken.observations,
        "irrelevant": taken.irrelevant,
        "unplaced": taken.instance_unknown,
        "unknownCluster": taken.unknown_cluster,
        "rejected": taken.rejected.len(),
    })
}

fn not_taken_in(error: &IntakeError, payload: &str) {
    let unreadable = matches!(error, IntakeError::Payload(_)).then_some(payload);
    telemetry::not_taken_in(Failed::of(error), unreadable, SystemClock.now());
}

/// The runtime shows an error as its fields; a person wants the sentence.
fn one_line(error: impl std::error::Error) -> Error {
    error.to_string().into()
}
