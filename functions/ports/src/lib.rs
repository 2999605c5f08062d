//! The ports of nodemend: the traits through which handlers reach AWS and Kubernetes, their in-memory implementations,
//! and decoders of outside bytes.
//!
//! - No SDK, no runtime and no Cargo features: a handler's library is tested with exactly what it is deployed with.
//! - The implementations on AWS and Kubernetes are in `nodemend-aws`.
#![warn(missing_docs)]

pub mod audit_log;
pub mod cause;
pub mod clock;
pub mod cloud;
pub mod cluster_reader;
pub mod config;
pub mod excerpt;
pub mod gunzip;
pub mod instance_of;
pub mod kubernetes;
pub mod lifecycle;
pub mod notify;
pub mod store;
pub mod subscription;
pub mod write;
