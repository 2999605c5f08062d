//! The reconcile function on Lambda, invoked every five minutes for each cluster: reads the configuration, connects the
//! ports, and runs the handler.

use jiff::SignedDuration;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_aws::{
    clock::SystemClock,
    eventbridge::EventBridge,
    publisher::EventPublisher,
    startup::Startup,
    telemetry::{self, Failed, Metric, invocation_error},
};
use nodemend_domain::sources::CURRENT;
use nodemend_ports::clock::Clock;
use nodemend_reconcile::{ReconcileReport, ReconcileTarget, Reconciler};
use serde_json::{Value, json};

/// How long the end of an invocation waits for an event bus that does not answer.
const PUBLISH_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let startup = Startup::load().await.map_err(invocation_error)?;
    let cloud = startup.cloud("nodemend-reconcile").await.map_err(invocation_error)?;
    let bus = startup.event_bus().map_err(invocation_error)?;
    let reconciler = Reconciler::new(startup.store, cloud, SystemClock);
    lambda_runtime::run(service_fn(async |event: LambdaEvent<ReconcileTarget>| {
        let target = event.payload;
        // The future is large, so it is on the heap.
        let result = Box::pin(reconciler.run(&target)).await;
        let report = result.map_err(|error| {
            log(&target, &error);
            invocation_error(error)
        })?;
        report_run(&target, &report, EventPublisher::new(bus.clone(), PUBLISH_TIMEOUT)).await
    }))
    .await
}

/// Publishes and logs the result of one run, and returns the answer to Lambda.
async fn report_run(
    target: &ReconcileTarget,
    report: &ReconcileReport,
    mut publisher: EventPublisher<EventBridge>,
) -> Result<Value, Error> {
    report.repair_events.iter().for_each(telemetry::emit);
    publisher.publish(&report.repair_events);
    // Zero, and so no metric and no price, while the log is current.
    let age = report.audit_log_age.filter(|age| *age > CURRENT).unwrap_or_default();
    let numbers = [
        (Metric::CasesHealed, report.healed as u64),
        (Metric::ControlPlaneLogAge, age.as_secs().max(0).unsigned_abs()),
    ];
    telemetry::measured(SystemClock.now(), Some(&target.cluster), &numbers);
    report.failures.iter().for_each(|failure| log(target, failure));
    // Without an access entry in the cluster, or a way to its endpoint, this is as configured: it is logged, and fails nothing.
    report.not_listed.iter().for_each(|error| log(target, error));
    publisher.finish().await;
    if !report.failures.is_empty() {
        // What was written stays. The error counts the invocation as failed, which an alarm watches.
        return Err(
            format!("failed to reconcile {} in {} places", target.cluster, report.failures.len()).into()
        );
    }
    Ok(json!({ "listed": report.listed, "lines": report.lines, "healed": report.healed }))
}

fn log(target: &ReconcileTarget, error: &(impl std::error::Error + 'static)) {
    let mut failed = Failed::of(error);
    failed.cluster = Some(&target.cluster);
    telemetry::failed(&failed);
}
