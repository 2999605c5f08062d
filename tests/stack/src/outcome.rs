//! Determines from the store, the audit log and the calls whether an incident has ended as expected.

use jiff::Timestamp;
use nodemend_aws::dynamodb::DynamoStore;
use nodemend_domain::audit_log::{Record, RecordStep, verify_chain};
use nodemend_ports::{
    audit_log::AuditLog,
    store::{CaseKey, Store, StoreError},
};

use super::fault::ExpectedEnd;

/// The outcome of an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The incident has not ended.
    Pending,
    /// It ended as expected, and the audit log confirms it.
    Passed(String),
    /// It ended in another way.
    Failed(String),
}

/// An incident that was injected into a node.
#[derive(Debug, Clone)]
pub struct Incident {
    /// The key of the node's case.
    pub key: CaseKey,
    /// How the incident is expected to end.
    pub expected_end: ExpectedEnd,
    /// When the grace period ends.
    pub deadline: Timestamp,
}

impl Incident {
    /// Evaluates the outcome. `calls_in_aws` is the number of calls that changed the node's instance.
    pub async fn evaluate(
        &self,
        store: &DynamoStore,
        calls_in_aws: usize,
        now: Timestamp,
    ) -> Result<Outcome, StoreError> {
        let chain = store.chain(&self.key).await?;
        if let Err(broken) = verify_chain(chain.iter().map(|entry| &entry.line)) {
            return Ok(Outcome::Failed(format!("failed: {broken}")));
        }
        let mut records = Vec::with_capacity(chain.len());
        for entry in &chain {
            match Record::read(&entry.line) {
                Ok(record) => records.push(record),
                Err(error) => return Ok(Outcome::Failed(error.to_string())),
            }
        }
        let count = |step: RecordStep| records.iter().filter(|record| record.nodemend.step == step).count();
        let calls = count(RecordStep::Called);
        Ok(match self.expected_end {
            ExpectedEnd::Repaired if count(RecordStep::Closed) == 0 => Outcome::Pending,
            ExpectedEnd::Repaired if (calls, count(RecordStep::Confirmed), calls_in_aws) == (1, 1, 1) => {
                Outcome::Passed(format!(
                    "passed: one call in AWS, one in the audit log of {} records, confirmed by CloudTrail",
                    records.len()
                ))
            }
            ExpectedEnd::Repaired => Outcome::Failed(format!(
                "failed: expected one call, found {calls_in_aws} in AWS and {calls} in the audit log, \
                 {} confirmed by CloudTrail",
                count(RecordStep::Confirmed)
            )),
            ExpectedEnd::Recovered if !records.is_empty() || calls_in_aws > 0 => Outcome::Failed(format!(
                "failed: expected no repair, found {calls_in_aws} calls in AWS and {calls} in the audit log"
            )),
            // Not before the deadline: only after it is it certain that no call was made. The case must be
            // healthy, and its recovery must have held.
            ExpectedEnd::Recovered if now <= self.deadline => Outcome::Pending,
            ExpectedEnd::Recovered => match store.case(&self.key).await? {
                Some(case) if case.unhealthy_reason().is_none() && case.due().is_none_or(|due| due > now) => {
                    Outcome::Passed(
                        "passed: the node recovered, the recovery held, and no call was made".to_owned(),
                    )
                }
                _ => Outcome::Pending,
            },
        })
    }
}
