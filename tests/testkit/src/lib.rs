//! What the tests of more than one crate share: the contract that every store must keep, ports that fail as they are
//! told, and what CloudWatch Logs lets through a subscription's filter.
#![warn(missing_docs)]

pub mod contract;
mod edit;
pub mod faults;
pub mod filter_pattern;

pub use self::edit::{edit, edit_stored};
