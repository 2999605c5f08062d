//! The state machine of nodemend: conditions, cases, policies, guards and decisions.
//!
//! Pure: no async, no clock, no I/O, no SDK. Time is always an argument, effects are return values.
#![warn(missing_docs)]

pub mod audit_log;
pub mod aws_error;
pub mod case;
pub mod catalogue;
pub mod clock;
pub mod condition;
pub mod control_plane_log;
pub mod decide;
pub mod drain;
pub mod group;
pub mod guard;
pub mod ident;
pub mod instance_traits;
pub mod log_source;
pub mod node_marks;
pub mod node_snapshot;
pub mod observation;
pub mod policy;
pub mod repair_event;
pub mod report;
pub mod scaling_activity;
pub mod sources;
pub mod status_check;
pub mod timestamp;
pub mod verification;

pub use self::case::repair;
