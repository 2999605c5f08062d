//! stub until merged
#![allow(missing_docs)]
use crate::observation::Observation;
pub enum Reading {
    Observation(Box<Observation>),
    Irrelevant(&'static str),
}
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct AuditError;
pub fn read(_: &str) -> Result<Reading, AuditError> {
    Err(AuditError)
}
