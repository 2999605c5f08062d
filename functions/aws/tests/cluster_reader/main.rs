//! Reading log groups and Nodes: CloudWatch Logs, EKS and an API server on loopback.

mod logs;
mod nodes;
mod server;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use nodemend_aws::cloud::AwsCloud;
use nodemend_ports::cluster_reader::ReadError;

use self::server::{Reply, Server};

/// Long enough for a busy machine, short enough for a developer.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(service: &Server) -> SdkConfig {
    let credentials = Credentials::new("AKIAEXAMPLE", "secret", None, None, "the test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-west-2"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(format!("http://{}", service.address))
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1)))
        .timeout_config(TimeoutConfig::builder().operation_timeout(PATIENCE).build())
        .build()
}

/// AWS with these answers.
async fn aws(script: &[(&'static str, Reply)]) -> Server {
    let caller = Reply::text(200, include_str!("../../fixtures/aws/caller.xml"));
    let mut whole = vec![("GetCallerIdentity", caller)];
    whole.extend_from_slice(script);
    Server::start(None, &whole).await
}

/// A client of it, without access to any cluster.
async fn connected(service: &Server) -> AwsCloud {
    AwsCloud::connect(&config(service)).await.expect("a caller")
}

fn kind(error: &ReadError) -> &'static str {
    match error {
        ReadError::NotConfigured(_) => "not configured",
        ReadError::Denied { .. } => "denied",
        ReadError::Throttled { .. } => "throttled",
        ReadError::Unavailable { .. } => "unavailable",
    }
}
