//! The node agent.
//!
//! `source` (I/O → signals) → `detect` and `probe` (→ findings) → `tracker` (→ conditions and reports) → `outbox` (a
//! durable spool) → `sink`.
//!
//! `run` wires them together for the DaemonSet, `scan` reads every probe once, `inject` creates faults for tests.

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
mod sync;
pub mod tracker;
