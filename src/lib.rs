//! The operator's command: one module a subcommand.

pub mod backtest;
pub mod cost;
#[cfg(feature = "aws")]
pub mod operate;
pub mod policy;
pub mod replay;
mod table;
#[cfg(feature = "local")]
pub mod up;
