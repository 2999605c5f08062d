//! The node agent: `source` → `detect` → `tracker` → `outbox` → `sink`.
//!
//! What is here so far is the language that these speak with each other; the sources follow.

pub mod finding;
pub mod signal;
pub mod source;
