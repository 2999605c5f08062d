//! The ports of nodemend, and what stands behind each of them.
#![warn(missing_docs)]

#[cfg(feature = "aws")]
pub mod aws;
pub mod clock;
pub mod cloud;
pub mod config;
#[cfg(feature = "failpoints")]
pub mod failpoints;
#[cfg(feature = "faults")]
pub mod faults;
pub mod filter_pattern;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "kubernetes")]
pub mod lifecycle;
pub mod notify;
pub mod store;
pub mod subscription;
pub mod telemetry;
pub mod trail;
