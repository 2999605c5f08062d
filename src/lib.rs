//! The operator's command: one module a subcommand.

pub mod policy;
pub mod replay;
#[cfg(feature = "local")]
pub mod up;
