//! The repair Lambda: once a minute, everything that falls due in it.

use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nodemend_adapters::{
    clock::{Clock, SystemClock, VirtualClock},
    cloud::{Fleet, MemoryCloud},
    store::MemoryStore,
    telemetry::{self, Metric},
};
use nodemend_domain::{policy::Policy, trail::Caller};
use nodemend_repair::{Repairer, Swept};
use serde_json::{Value, json, value::RawValue};

/// The next invocation takes over where this one ends.
const MINUTE: SignedDuration = SignedDuration::from_secs(58);

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
    let repairer = Repairer::new(MemoryStore::with_policy(Policy::default()), cloud, SystemClock);
    lambda_runtime::run(service_fn(async |_: LambdaEvent<Box<RawValue>>| sweep(&repairer).await)).await
}

async fn sweep(repairer: &Repairer<MemoryStore, MemoryCloud, SystemClock>) -> Result<Value, Error> {
    let (mut looked_at, mut failed) = (0, 0);
    let report = |swept: &Swept| {
        looked_at += swept.looked_at;
        failed += swept.failures.len();
        swept.occurrences.iter().for_each(telemetry::occurred);
        for failure in &swept.failures {
            telemetry::log(&json!({ "failure": failure.to_string() }));
        }
    };
    let swept = repairer.sweep_until(SystemClock.now() + MINUTE, wait_until, report).await;
    let numbers = [(Metric::CasesSwept, looked_at as u64), (Metric::SweepFailures, failed as u64)];
    telemetry::measured(SystemClock.now(), None, &numbers);
    swept?;
    if failed > 0 {
        // What failed stays due. The error makes the invocation count as failed, so that an alarm sees it.
        return Err(format!("{failed} of {looked_at} cases could not be looked at").into());
    }
    Ok(json!({ "lookedAt": looked_at }))
}

async fn wait_until(at: Timestamp) {
    let wait = at.duration_since(SystemClock.now());
    if let Ok(wait) = wait.try_into() {
        tokio::time::sleep(wait).await;
    }
}
