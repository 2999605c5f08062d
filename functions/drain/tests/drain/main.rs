//! Held terminations, against an API server, Auto Scaling, EC2 and EKS on real sockets; only the clock is the tests' own.

mod aws;
mod cluster;
mod endings;
mod evictions;
mod http;
mod repeated;
mod world;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use jiff::{SignedDuration, Timestamp};
use nodemend_aws::{cloud::AwsHooks, kubernetes::EksCluster};
use nodemend_domain::{
    ident::{ClusterName, InstanceId, NodeName},
    policy::Policy,
};
use nodemend_drain::{DrainError, DrainOutcome, Drained, Drainer, Settings};
use nodemend_ports::{clock::VirtualClock, store::MemoryStore};

use self::world::{CLUSTER, HOOK, INSTANCE, NODE, World};

type Subject = Drainer<MemoryStore, AwsHooks, EksCluster<VirtualClock>, VirtualClock>;

/// How long nodes are drained here.
const TIME: SignedDuration = SignedDuration::from_mins(10);

fn store() -> MemoryStore {
    MemoryStore::with_policy(Policy::eks_defaults())
}

async fn drainer(world: &World, store: MemoryStore) -> Subject {
    let (tls, authority) = cluster::tls();
    connected(world, store, tls, authority).await
}

async fn connected(
    world: &World,
    store: MemoryStore,
    tls: tokio_rustls::TlsAcceptor,
    authority: String,
) -> Subject {
    let own = world.clone();
    let api = http::serve(Some(tls), move |asked| cluster::ask(&own, &asked)).await;
    let own = world.clone();
    let endpoint = format!("https://{api}");
    let aws = http::serve(None, move |asked| aws::ask(&own, &endpoint, &authority, &asked)).await;
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "the test");
    let shared = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(format!("http://{aws}"))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(20)).build())
        .build();
    let cluster = ClusterName::new(CLUSTER).expect("a name");
    let settings = Settings { cluster: cluster.clone(), hook: HOOK.to_owned(), time: TIME };
    let kubernetes = EksCluster::new(&shared, cluster, world.clock.clone()).expect("a cluster");
    Drainer::new(store, AwsHooks::new(&shared), kubernetes, world.clock.clone(), settings)
}

/// Lets a drainer take an event in; every wait passes at once.
async fn take(drainer: &Subject, world: &World, event: &str) -> Result<Option<Drained>, DrainError> {
    drainer.handle(event.as_bytes(), async |at: Timestamp| world.clock.advance_to(at)).await
}

/// The same with one drainer for one event that is ours.
async fn drained(world: &World) -> Drained {
    let drainer = drainer(world, store()).await;
    take(&drainer, world, &world.event()).await.expect("an end").expect("one of ours")
}

fn instance() -> InstanceId {
    InstanceId::new(INSTANCE).expect("an id")
}

fn node() -> NodeName {
    NodeName::new(NODE).expect("a name")
}

/// The longest time for which Auto Scaling heard nothing of us.
fn longest_silence(world: &World) -> i64 {
    let state = world.now();
    let heard: Vec<&Timestamp> = state.beats.iter().chain(&state.completions).collect();
    heard.windows(2).map(|two| two[1].duration_since(*two[0]).as_secs()).max().unwrap_or(0)
}

fn emptied(drained: &Drained) -> bool {
    drained.outcome == DrainOutcome::Emptied
}
