//! The node agent: `source` (I/O → signals) → `detect` and `probe` (→ findings) → `tracker` (→ condition changes) →
//! `outbox` (a durable spool) → `sink`.
//!
//! `run` wires them for the DaemonSet, `scan` reads every probe once, `inject` makes what a detector should see.

pub mod causes;
pub mod config;
pub mod detect;
pub mod durable;
pub mod endpoint;
pub mod finding;
pub mod identity;
pub mod inject;
pub mod metrics;
pub mod outbox;
pub mod probe;
pub mod run;
pub mod scan;
pub mod signal;
pub mod sink;
pub mod source;
pub mod tracker;
