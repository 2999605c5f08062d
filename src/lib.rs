//! The operator's command: one module a subcommand.

#[cfg(feature = "aws")]
pub mod operate;
pub mod policy;
pub mod replay;
mod table;
