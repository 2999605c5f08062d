//! The ports of `nodemend-ports` on DynamoDB, Auto Scaling, EC2, EKS, ARC, STS, CloudWatch Logs, EventBridge and the
//! Kubernetes API, the system's clock, and telemetry.
//!
//! Errors of the SDK become the `source` of the ports' errors; nothing here decides.
#![warn(missing_docs)]

pub mod clock;
pub mod cloud;
pub mod dynamodb;
mod error;
pub mod eventbridge;
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod kubernetes;
pub mod publisher;
pub mod sdk;
pub mod startup;
pub mod telemetry;
