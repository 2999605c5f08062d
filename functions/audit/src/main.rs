//! The audit Lambda: EventBridge's events in, confirmed calls and closed cases out.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_adapters::{
    clock::{Clock, SystemClock, VirtualClock},
    cloud::{Fleet, MemoryCloud},
    store::MemoryStore,
    telemetry,
};
use nodemend_audit::Audit;
use nodemend_domain::{policy::Policy, trail::Caller};
use serde_json::{Value, json, value::RawValue};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // One process's memory and no AWS: the real sides of these ports take their place when they are there.
    let nobody = Caller {
        account: String::new(),
        region: String::new(),
        arn: String::new(),
        principal_id: None,
        user_agent: None,
    };
    let cloud = MemoryCloud::new(VirtualClock::default(), nobody, Fleet::default());
    let audit = Audit::new(MemoryStore::with_policy(Policy::default()), cloud);
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Box<RawValue>>| {
        take(&audit, event.payload.get()).await
    }))
    .await
}

async fn take(audit: &Audit<MemoryStore, MemoryCloud>, payload: &str) -> Result<Value, Error> {
    let audited = audit.handle(payload.as_bytes(), SystemClock.now()).await?;
    audited.occurrences.iter().for_each(telemetry::occurred);
    Ok(json!({ "relevant": audited.relevant, "steps": audited.occurrences.len() }))
}
