//! The operator's command: one module for each subcommand, and one for what they print.

pub mod arguments;
pub mod backtest;
pub mod cost;
pub mod file;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "aws")]
pub mod operate;
pub mod output;
pub mod policy;
pub mod replay;
