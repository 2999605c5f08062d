//! Verifies the audit log of an instance: that no record was changed or removed, and that CloudTrail confirmed each
//! call.

use jiff::{SignedDuration, Timestamp};

use super::{BrokenChain, Chain, Record, RecordStep, ResponseElements, verify_chain};

/// An audit log whose chain is intact.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The end of its chain. It must equal the end that the case stores; otherwise the last records are missing.
    pub end: Chain,
    /// Its calls, oldest first.
    pub calls: Vec<RecordedCall>,
    /// The number of foreign terminations in it.
    pub foreign: usize,
}

/// One call in an audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedCall {
    /// The sequence number of its record.
    pub sequence: u64,
    /// The id of its case: `i-…#1`.
    pub case: String,
    /// `TerminateInstanceInAutoScalingGroup` or `RebootInstances`.
    pub event_name: String,
    /// When it was made, by our clock.
    pub at: Timestamp,
    /// AWS's request id, if it answered.
    pub request_id: Option<String>,
    /// The last result of its comparison with CloudTrail's event: Confirmed, Mismatch or Missing. None if there is none
    /// yet.
    pub confirmation: Option<RecordStep>,
}

impl RecordedCall {
    /// Whether CloudTrail's event differs, or is overdue.
    pub fn is_doubtful(&self, confirmation_timeout: SignedDuration, now: Timestamp) -> bool {
        match self.confirmation {
            Some(RecordStep::Confirmed) => false,
            Some(_) => true,
            // A repair run records an overdue event as Missing within a minute. This is for when none runs.
            None => now.duration_since(self.at) > confirmation_timeout + SignedDuration::from_mins(5),
        }
    }
}

/// Verifies an instance's audit log from its first line on.
///
/// # Errors
///
/// The first record at which the log is broken.
pub fn verify<L: AsRef<str>>(lines: &[L]) -> Result<Verified, BrokenChain> {
    let end = verify_chain(lines)?;
    let mut verified = Verified { end, calls: Vec::new(), foreign: 0 };
    for (number, line) in (1..).zip(lines) {
        let record = Record::read(line.as_ref())
            .map_err(|error| BrokenChain { sequence: number, why: format!("it cannot be read: {error}") })?;
        let step = record.nodemend.step;
        match step {
            RecordStep::Called => verified.calls.push(RecordedCall {
                sequence: number,
                case: record.nodemend.case,
                event_name: record.event_name,
                at: record.nodemend.at,
                request_id: record.request_id,
                confirmation: None,
            }),
            RecordStep::Confirmed | RecordStep::Mismatch | RecordStep::Missing => {
                let of = match &record.response_elements {
                    Some(ResponseElements::RecordStep(data)) => data["sequence"].as_u64(),
                    _ => None,
                };
                let call = verified.calls.iter_mut().find(|call| Some(call.sequence) == of);
                let call = call.ok_or_else(|| BrokenChain {
                    sequence: number,
                    why: "it confirms a call that has no record before it".to_owned(),
                })?;
                call.confirmation = Some(step);
            }
            RecordStep::Foreign => verified.foreign += 1,
            RecordStep::Claimed | RecordStep::Released | RecordStep::Observed | RecordStep::Closed => {}
        }
    }
    Ok(verified)
}
