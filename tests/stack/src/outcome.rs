//! Turns what the store and the trail hold of an injected fault into whether it has ended, and how.

use jiff::Timestamp;
use nodemend_aws::dynamodb::DynamoStore;
use nodemend_domain::audit_log::{Record, RecordStep, verify_chain};
use nodemend_ports::{
    audit_log::AuditLog,
    store::{CaseKey, Store, StoreError},
};

use super::fault::Ending;

/// How it stands with the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Open,
    /// It ended as it was to, and the trail proves it.
    Proven(String),
    /// It ended, and not as it was to.
    Wrong(String),
}

/// A fault that was injected.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Into which node.
    pub key: CaseKey,
    /// How it is to end.
    pub ending: Ending,
    /// When its wait would be over.
    pub deadline: Timestamp,
}

impl Watched {
    /// How it stands, where AWS has been made to do so much to the node.
    pub async fn judge(
        &self,
        store: &DynamoStore,
        hits: usize,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
        let chain = store.chain(&self.key).await?;
        if let Err(broken) = verify_chain(chain.iter().map(|entry| &entry.line)) {
            return Ok(Verdict::Wrong(format!("the trail is broken: {broken}")));
        }
        let mut records = Vec::with_capacity(chain.len());
        for entry in &chain {
            match Record::read(&entry.line) {
                Ok(record) => records.push(record),
                Err(error) => return Ok(Verdict::Wrong(format!("the trail can't be read: {error}"))),
            }
        }
        let count = |step: RecordStep| records.iter().filter(|record| record.nodemend.step == step).count();
        let calls = count(RecordStep::Called);
        Ok(match self.ending {
            Ending::Repaired if count(RecordStep::Closed) == 0 => Verdict::Open,
            Ending::Repaired if (calls, count(RecordStep::Confirmed), hits) == (1, 1, 1) => {
                Verdict::Proven(format!(
                    "proven: one call in AWS, one in the trail of {} records, confirmed by CloudTrail",
                    records.len()
                ))
            }
            Ending::Repaired => Verdict::Wrong(format!(
                "not proven: {hits} calls in AWS, {calls} in the trail, {} confirmed by CloudTrail",
                count(RecordStep::Confirmed)
            )),
            Ending::Recovered if !records.is_empty() || hits > 0 => {
                Verdict::Wrong(format!("nothing was to be done: {hits} calls in AWS, {calls} in the trail"))
            }
            // A recovery that holds ends the attention, and only after its deadline is it sure that no call came.
            Ending::Recovered if now <= self.deadline => Verdict::Open,
            Ending::Recovered => match store.case(&self.key).await? {
                Some(case) if case.unhealthy_reason().is_none() && case.due().is_none_or(|due| due > now) => {
                    Verdict::Proven("proven: it recovered, that held, and no call was made".to_owned())
                }
                _ => Verdict::Open,
            },
        })
    }
}
