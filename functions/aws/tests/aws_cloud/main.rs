//! The implementation of the cloud port on AWS, with recorded answers from a server on loopback.

mod calls;
mod ec2;
mod events;
mod reads;
mod service;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use nodemend_aws::cloud::AwsCloud;
use nodemend_domain::ident::InstanceId;

use self::service::{Reply, Service};

/// Long enough for a busy machine, short enough for a developer.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(service: &Service) -> SdkConfig {
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

/// AWS with these answers, and the service that receives the requests.
async fn aws(script: &[(&'static str, Reply)]) -> (AwsCloud, Service) {
    let mut whole = vec![("GetCallerIdentity", Reply::File(200, "caller.xml"))];
    whole.extend_from_slice(script);
    let service = Service::start(&whole).await;
    let cloud = AwsCloud::connect(&config(&service)).await.expect("a caller");
    (cloud, service)
}

fn instance(id: &str) -> InstanceId {
    InstanceId::new(id).expect("an id")
}
