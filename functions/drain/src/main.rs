//! The drain function on Lambda: reads the configuration, connects the ports, and runs the handler.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_aws::{
    clock::{SystemClock, wait_until},
    cloud::AwsHooks,
    dynamodb::DynamoStore,
    kubernetes::EksCluster,
    startup::Startup,
    telemetry::{self, Metric, invocation_error},
};
use nodemend_drain::{DrainOutcome, Drained, Drainer, Settings};
use nodemend_ports::clock::Clock;
use serde_json::{Value, json, value::RawValue};

type Lambda = Drainer<DynamoStore, AwsHooks, EksCluster<SystemClock>, SystemClock>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let startup = Startup::load().await.map_err(invocation_error)?;
    let (cluster, hook, time) = startup.environment.drain().map_err(invocation_error)?;
    let settings = Settings { cluster, hook, time };
    let hooks = AwsHooks::new(&startup.shared);
    let kubernetes =
        EksCluster::new(&startup.shared, settings.cluster.clone(), SystemClock).map_err(invocation_error)?;
    let drainer = Drainer::new(startup.store, hooks, kubernetes, SystemClock, settings.clone());
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        // The future is large, so it is on the heap.
        Box::pin(handle(&drainer, &settings, event.payload.get())).await
    }))
    .await
}

async fn handle(drainer: &Lambda, settings: &Settings, payload: &str) -> Result<Value, Error> {
    let Some(drained) = drainer.handle(payload.as_bytes(), wait_until).await.map_err(invocation_error)?
    else {
        return Ok(json!({ "relevant": false }));
    };
    let result = result_of(&drained);
    telemetry::record(&json!({ "cluster": settings.cluster, "drain": result }));
    let metric = match drained.outcome {
        DrainOutcome::Emptied => Metric::Drained,
        DrainOutcome::Skipped(_) => Metric::DrainsSkipped,
        DrainOutcome::Incomplete { .. } => Metric::DrainsIncomplete,
        DrainOutcome::Over => Metric::DrainsSuperseded,
    };
    telemetry::measured(SystemClock.now(), Some(&settings.cluster), &[(metric, 1)]);
    Ok(result)
}

fn result_of(drained: &Drained) -> Value {
    let (outcome, why, left) = match &drained.outcome {
        DrainOutcome::Emptied => ("emptied", None, None),
        DrainOutcome::Skipped(dead) => ("skipped", Some(dead.to_string()), None),
        DrainOutcome::Incomplete { left, why } => ("incomplete", why.clone(), Some(left)),
        DrainOutcome::Over => ("over", None, None),
    };
    json!({
        "instanceId": drained.hook.instance_id,
        "group": drained.hook.group,
        "node": drained.node,
        "outcome": outcome,
        "why": why,
        "left": left,
        "evicted": drained.evicted,
        "seconds": drained.took.as_secs(),
    })
}
