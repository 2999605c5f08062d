//! The ports of nodemend: what the handlers ask of the world, and the sides of it that need no network.
//!
//! It knows no SDK and no runtime, and has no Cargo features: what a handler's library is built with is what it is
//! tested with. The sides that stand in AWS and Kubernetes are in `nodemend-aws`.
#![warn(missing_docs)]

pub mod audit_log;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod excerpt;
pub mod kubernetes;
pub mod lifecycle;
pub mod notify;
pub mod store;
pub mod subscription;
pub mod write;
