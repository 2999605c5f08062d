//! The implementation of the cloud port on AWS, with recorded answers from a server on loopback.

mod calls;
mod ec2;
mod events;
mod reads;
mod service;

use nodemend_aws::cloud::AwsCloud;
use nodemend_domain::ident::InstanceId;
use nodemend_testkit::aws::config;

use self::service::{Reply, Service};

/// AWS with these answers, and the service that receives the requests.
async fn aws(script: &[(&'static str, Reply)]) -> (AwsCloud, Service) {
    let mut whole = vec![("GetCallerIdentity", Reply::File(200, "caller.xml"))];
    whole.extend_from_slice(script);
    let service = Service::start(&whole).await;
    let cloud = AwsCloud::connect(&config(service.address)).await.expect("a caller");
    (cloud, service)
}

fn instance(id: &str) -> InstanceId {
    InstanceId::new(id).expect("an id")
}
