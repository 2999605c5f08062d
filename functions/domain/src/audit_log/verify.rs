//! Turns a trail's lines into what they prove: that none was changed or taken away, and what CloudTrail said of each call.

use jiff::{SignedDuration, Timestamp};

use super::{BrokenChain, Chain, Record, RecordStep, ResponseElements, verify_chain};

/// A trail that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// Where it ends: what the case itself must say, too, or the last records are missing.
    pub end: Chain,
    /// Its calls, in order.
    pub calls: Vec<RecordedCall>,
    /// How many calls of others it tells of.
    pub foreign: usize,
}

/// One call of a trail.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedCall {
    /// Its place.
    pub sequence: u64,
    /// Its case.
    pub case: String,
    /// `TerminateInstanceInAutoScalingGroup` or `RebootInstances`.
    pub event_name: String,
    /// When.
    pub at: Timestamp,
    /// AWS's id of it, if an answer came.
    pub request_id: Option<String>,
    /// The last thing that was found out by comparing it with CloudTrail's: Confirmed, Mismatch or Missing.
    pub confirmation: Option<RecordStep>,
}

impl RecordedCall {
    /// Whether CloudTrail contradicts it, or has been silent about it for longer than it may.
    pub fn is_doubtful(&self, confirmation_timeout: SignedDuration, now: Timestamp) -> bool {
        match self.confirmation {
            Some(RecordStep::Confirmed) => false,
            Some(_) => true,
            // A sweep tells of it within a minute; none does where none runs.
            None => now.duration_since(self.at) > confirmation_timeout + SignedDuration::from_mins(5),
        }
    }
}

/// Verifies an instance's trail from its first line on.
pub fn verify<L: AsRef<str>>(lines: &[L]) -> Result<Verified, BrokenChain> {
    let end = verify_chain(lines)?;
    let mut verified = Verified { end, calls: Vec::new(), foreign: 0 };
    for (number, line) in (1..).zip(lines) {
        let record = Record::read(line.as_ref())
            .map_err(|error| BrokenChain { sequence: number, why: format!("it can't be read: {error}") })?;
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
                    why: "it tells of a call that stands nowhere before it".to_owned(),
                })?;
                call.confirmation = Some(step);
            }
            RecordStep::Foreign => verified.foreign += 1,
            RecordStep::Claimed | RecordStep::Released | RecordStep::Observed | RecordStep::Closed => {}
        }
    }
    Ok(verified)
}
