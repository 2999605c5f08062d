//! Terminations that a lifecycle hook holds, with an API server, Auto Scaling, EC2 and EKS on loopback, and a clock that
//! the test sets.

mod aws;
mod environment;
mod evictions;
mod kubernetes;
mod outcomes;
mod repeated;

use aws_config::{Region, retry::RetryConfig};
use jiff::{SignedDuration, Timestamp};
use nodemend_aws::{cloud::AwsHooks, kubernetes::EksCluster};
use nodemend_domain::{
    ident::{ClusterName, InstanceId, NodeName},
    policy::Policy,
};
use nodemend_drain::{DrainError, DrainOutcome, Drained, Drainer, Settings};
use nodemend_ports::{clock::VirtualClock, store::MemoryStore};
use nodemend_testkit::{
    aws::config,
    http::{self, Reply},
};

use self::environment::{CLUSTER, Environment, HOOK, INSTANCE, NODE};

type TestDrainer = Drainer<MemoryStore, AwsHooks, EksCluster<VirtualClock>, VirtualClock>;

/// The time limit of a drain.
const TIME: SignedDuration = SignedDuration::from_mins(10);

fn store() -> MemoryStore {
    MemoryStore::with_policy(Policy::eks_defaults())
}

async fn drainer(environment: &Environment, store: MemoryStore) -> TestDrainer {
    let (tls, authority) = http::tls();
    drainer_with(environment, store, tls, authority).await
}

async fn drainer_with(
    environment: &Environment,
    store: MemoryStore,
    tls: tokio_rustls::TlsAcceptor,
    authority: String,
) -> TestDrainer {
    let own = environment.clone();
    let api = http::serve(Some(tls), move |request| Reply::Answer(kubernetes::respond(&own, &request))).await;
    let own = environment.clone();
    let endpoint = format!("https://{api}");
    let respond = move |request| Reply::Answer(aws::respond(&own, &endpoint, &authority, &request));
    let aws = http::serve(None, respond).await;
    let region = Region::from_static("eu-west-1");
    let shared = config(aws).to_builder().region(region).retry_config(RetryConfig::disabled()).build();
    let cluster = ClusterName::new(CLUSTER).expect("a name");
    let settings = Settings { cluster: cluster.clone(), hook: HOOK.to_owned(), time: TIME };
    let kubernetes = EksCluster::new(&shared, cluster, environment.clock.clone()).expect("a cluster");
    Drainer::new(store, AwsHooks::new(&shared), kubernetes, environment.clock.clone(), settings)
}

/// Handles an event. Each wait ends at once, with the clock set to its end.
async fn handle(
    drainer: &TestDrainer,
    environment: &Environment,
    event: &str,
) -> Result<Option<Drained>, DrainError> {
    drainer.handle(event.as_bytes(), async |at: Timestamp| environment.clock.advance_to(at)).await
}

/// Handles the event of the environment, with a drainer of its own.
async fn drained(environment: &Environment) -> Drained {
    let drainer = drainer(environment, store()).await;
    handle(&drainer, environment, &environment.event()).await.expect("drain succeeds").expect("a drain")
}

fn instance() -> InstanceId {
    InstanceId::new(INSTANCE).expect("an id")
}

fn node() -> NodeName {
    NodeName::new(NODE).expect("a name")
}

/// The longest time in which Auto Scaling received neither a heartbeat nor the completion.
fn longest_gap_between_heartbeats(environment: &Environment) -> i64 {
    let state = environment.state();
    let received: Vec<&Timestamp> = state.heartbeats.iter().chain(&state.completions).collect();
    received.windows(2).map(|two| two[1].duration_since(*two[0]).as_secs()).max().unwrap_or(0)
}

fn is_emptied(drained: &Drained) -> bool {
    drained.outcome == DrainOutcome::Emptied
}
