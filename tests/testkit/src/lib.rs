//! What the tests of more than one crate share: fixtures, a deployment in memory, fault injection, a cloud with overrides, an
//! HTTP server on loopback, the contract of every store, and CloudWatch Logs' filter patterns.
//!
//! Nothing here reads the real clock, and nothing sleeps: time is an argument, or a clock that the test sets.
#![warn(missing_docs)]

#[cfg(feature = "aws")]
pub mod aws;
pub mod contract;
#[cfg(feature = "functions")]
mod deployment;
mod edit;
pub mod faults;
pub mod filter_pattern;
pub mod fixture;
#[cfg(feature = "http")]
pub mod http;
mod overridden;

#[cfg(feature = "functions")]
pub use self::deployment::{Deployment, FaultyCloud, FaultyStore};
pub use self::{
    edit::{edit, edit_stored},
    overridden::{CloudOverrides, OverriddenCloud},
};
