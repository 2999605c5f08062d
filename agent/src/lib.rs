//! The node agent: `source` → `detect` → `tracker` → `outbox` → `sink`.
//!
//! What is here so far is the language that these speak with each other; the sources follow.

pub mod config;
pub mod detect;
pub mod endpoint;
pub mod finding;
pub mod identity;
pub mod metrics;
pub mod probe;
pub mod scan;
pub mod signal;
pub mod source;
