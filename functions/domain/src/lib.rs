//! The language of nodemend. Pure: no async, no clock, no SDK; time is always an argument.
#![warn(missing_docs)]

pub mod audit_log;
pub mod case;
pub mod catalogue;
pub mod clock;
pub mod condition;
pub mod confirm;
pub mod decide;
pub mod drain;
pub mod group;
pub mod guard;
pub mod ident;
pub mod ledger;
pub mod log_source;
pub mod observation;
pub mod occurrence;
pub mod policy;
pub mod refusal;
pub mod repair;
pub mod report;
pub mod stamp;
pub mod trail;
