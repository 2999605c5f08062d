//! What stands behind the ports in AWS: DynamoDB, Auto Scaling, EC2, EKS, ARC, STS, EventBridge, a cluster's Kubernetes
//! API, the system's clock, and log lines that are CloudWatch metrics.
#![warn(missing_docs)]

pub mod clock;
pub mod cloud;
pub mod dynamodb;
pub mod eventbridge;
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod kubernetes;
pub mod publisher;
pub mod sdk;
pub mod telemetry;
