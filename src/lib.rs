//! The operator's command: one module a subcommand.

pub mod replay;
