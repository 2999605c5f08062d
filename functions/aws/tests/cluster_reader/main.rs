//! Reading log groups and Nodes: CloudWatch Logs, EKS and an API server on loopback.

mod logs;
mod nodes;

use nodemend_aws::cloud::AwsCloud;
use nodemend_ports::cluster_reader::ReadError;
use nodemend_testkit::{
    aws::config,
    http::{Reply, ScriptedServer},
};

/// AWS with these answers.
async fn aws(script: &[(&'static str, Reply)]) -> ScriptedServer {
    let caller = Reply::text(200, include_str!("../../fixtures/aws/caller.xml"));
    let mut whole = vec![("GetCallerIdentity", caller)];
    whole.extend_from_slice(script);
    ScriptedServer::start(None, whole).await
}

/// A client of it, without access to any cluster.
async fn connected(service: &ScriptedServer) -> AwsCloud {
    AwsCloud::connect(&config(service.address)).await.expect("a caller")
}

fn kind(error: &ReadError) -> &'static str {
    match error {
        ReadError::NotConfigured(_) => "not configured",
        ReadError::Denied { .. } => "denied",
        ReadError::Throttled { .. } => "throttled",
        ReadError::Unavailable { .. } => "unavailable",
    }
}
