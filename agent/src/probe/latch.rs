//! Latches what a probe raised until a later reading clears it.

use std::{borrow::Cow, collections::BTreeSet};

use jiff::Timestamp;
use nodemend_domain::{
    catalogue,
    condition::{ConditionType, Severity},
};

use crate::finding::{Clears, Debounce, DetectedFinding, FindingChange};

/// A report has no room for more findings of one reason, and a broken node may have hundreds.
const MAX_SUBJECTS: usize = 16;

/// The evaluation of a reason, or of one subject of a reason, in one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    reason: &'static str,
    subject: Option<String>,
    /// The problem's message; `None` if healthy.
    problem: Option<String>,
    debounce: Debounce,
}

impl Evaluation {
    /// The reason has no unhealthy subject.
    pub fn healthy(reason: &'static str) -> Self {
        Self { reason, subject: None, problem: None, debounce: Debounce::Once }
    }

    /// A problem with this message.
    pub fn unhealthy(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, subject: None, problem: Some(message.into()), debounce: Debounce::Once }
    }

    /// A problem if there is a message, healthy otherwise.
    pub fn new(reason: &'static str, message: Option<String>) -> Self {
        Self { reason, subject: None, problem: message, debounce: Debounce::Once }
    }

    pub fn is_unhealthy(&self) -> bool {
        self.problem.is_some()
    }

    /// Limits the evaluation to one subject.
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets how often the problem must be seen before it counts.
    pub fn after(mut self, debounce: Debounce) -> Self {
        self.debounce = debounce;
        self
    }
}

/// The problems that a probe raised and has not cleared.
#[derive(Debug, Clone, Default)]
pub struct ConditionLatch {
    raised: BTreeSet<(&'static str, Option<String>)>,
}

impl ConditionLatch {
    /// The changes after a partial reading: problems are raised, nothing is cleared.
    pub fn add(&mut self, evaluated: Vec<Evaluation>, now: Timestamp) -> Vec<FindingChange> {
        let mut changes = self.clone().update(evaluated.clone(), now);
        changes.retain(|change| matches!(change, FindingChange::Raised(_)));
        let problem = evaluated.into_iter().filter(Evaluation::is_unhealthy);
        self.raised.extend(problem.map(|evaluated| (evaluated.reason, evaluated.subject)));
        changes
    }

    /// The changes after a complete reading. A subject that an earlier reading raised and that is missing now (a
    /// removed interface, for example) is cleared if its reason was evaluated.
    pub fn update(&mut self, evaluated: Vec<Evaluation>, now: Timestamp) -> Vec<FindingChange> {
        let reasons: BTreeSet<&'static str> = evaluated.iter().map(|evaluated| evaluated.reason).collect();
        let mut raised = BTreeSet::new();
        let mut cleared = BTreeSet::new();
        let mut changes = Vec::new();
        for evaluated in evaluated {
            let key = (evaluated.reason, evaluated.subject);
            match evaluated.problem {
                Some(message) => {
                    let count = raised.iter().filter(|(reason, _)| *reason == key.0).count();
                    if count < MAX_SUBJECTS && raised.insert(key.clone()) {
                        changes.push(FindingChange::Raised(finding(
                            key.0,
                            key.1,
                            message,
                            evaluated.debounce,
                            now,
                        )));
                    }
                }
                None => {
                    cleared.insert(key);
                }
            }
        }
        let gone = self.raised.iter().filter(|key| reasons.contains(key.0) && !raised.contains(*key));
        cleared.extend(gone.cloned());
        // A reason with an unhealthy subject is never cleared for all subjects. A reason that is cleared for all
        // subjects needs no list of them.
        let partly: BTreeSet<_> = raised.iter().map(|(reason, _)| *reason).collect();
        cleared.retain(|key| !raised.contains(key) && (key.1.is_some() || !partly.contains(key.0)));
        let whole: BTreeSet<_> = cleared.iter().filter(|key| key.1.is_none()).map(|key| key.0).collect();
        cleared.retain(|key| key.1.is_none() || !whole.contains(key.0));
        let cleared = cleared.into_iter().map(|(reason, subject)| FindingChange::Cleared {
            reason: Cow::Borrowed(reason),
            subject,
            at: now,
        });
        changes.splice(..0, cleared);
        self.raised.retain(|key| !reasons.contains(key.0));
        self.raised.extend(raised);
        changes
    }
}

fn finding(
    reason: &'static str,
    subject: Option<String>,
    message: String,
    debounce: Debounce,
    at: Timestamp,
) -> DetectedFinding {
    let (condition, severity) = match catalogue::lookup(reason) {
        Some(found) => (found.condition, found.severity),
        // A reason that is not in the catalogue must never lead to a repair.
        None => (ConditionType::KernelReady, Severity::Event),
    };
    DetectedFinding {
        reason: Cow::Borrowed(reason),
        condition,
        severity,
        subject,
        message,
        at,
        debounce,
        clears: Clears::Explicit { or_quiet: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: &str = "InterfaceNotUp";

    fn update(latch: &mut ConditionLatch, evaluated: Vec<Evaluation>) -> Vec<String> {
        let changes = latch.update(evaluated, Timestamp::UNIX_EPOCH);
        changes
            .into_iter()
            .map(|change| match change {
                FindingChange::Raised(finding) => format!("+{}", finding.subject.unwrap_or_default()),
                FindingChange::Cleared { subject, .. } => format!("-{}", subject.unwrap_or_default()),
            })
            .collect()
    }

    #[test]
    fn a_problem_that_is_over_is_cleared() {
        let mut latch = ConditionLatch::default();
        let problem = |subject: &str| Evaluation::unhealthy(REASON, "down").about(subject);
        assert_eq!(update(&mut latch, vec![problem("eth1"), problem("eth2")]), ["+eth1", "+eth2"]);
        assert_eq!(update(&mut latch, vec![problem("eth2")]), ["-eth1", "+eth2"]);
        assert_eq!(
            update(&mut latch, vec![Evaluation::healthy("NetworkSysctl")]),
            ["-"],
            "another reason is not affected"
        );
        assert_eq!(update(&mut latch, vec![problem("eth2"), Evaluation::healthy(REASON)]), ["+eth2"]);
        let healthy = Evaluation::healthy(REASON).about("eth1");
        assert_eq!(
            update(&mut latch, vec![Evaluation::healthy(REASON), problem("eth2"), healthy]),
            ["-eth1", "+eth2"]
        );
        assert_eq!(update(&mut latch, vec![Evaluation::healthy(REASON)]), ["-"]);
    }

    #[test]
    fn a_healthy_reading_clears_what_a_former_process_raised() {
        let healthy = Evaluation::healthy(REASON).about("eth1");
        assert_eq!(update(&mut ConditionLatch::default(), vec![healthy]), ["-eth1"]);
    }

    #[test]
    fn a_node_with_hundreds_of_problems_reports_some() {
        let problem = (0..300)
            .map(|index| Evaluation::unhealthy(REASON, "down").about(format!("eni{index}")))
            .collect();
        assert_eq!(update(&mut ConditionLatch::default(), problem).len(), MAX_SUBJECTS);
    }
}
