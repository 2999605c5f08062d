//! Turns what a probe judged into changes, so that whatever it raised it also clears.

use std::{borrow::Cow, collections::BTreeSet};

use jiff::Timestamp;
use nodemend_domain::{
    catalogue,
    condition::{ConditionType, Severity},
};

use crate::finding::{Change, Clears, Debounce, Finding};

/// A report has no room for more findings of one reason, and a broken node may have hundreds.
const MAX_SUBJECTS: usize = 16;

/// What one reading says of a reason, or of one subject of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    reason: &'static str,
    subject: Option<String>,
    /// None if it is well.
    wrong: Option<String>,
    debounce: Debounce,
}

impl Judged {
    /// All is well: none of the reason's subjects is wrong.
    pub fn well(reason: &'static str) -> Self {
        Self { reason, subject: None, wrong: None, debounce: Debounce::Once }
    }

    /// Something is wrong.
    pub fn wrong(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, subject: None, wrong: Some(message.into()), debounce: Debounce::Once }
    }

    /// Wrong if there is a message.
    pub fn when(reason: &'static str, message: Option<String>) -> Self {
        Self { reason, subject: None, wrong: message, debounce: Debounce::Once }
    }

    /// Whether something is wrong.
    pub fn is_wrong(&self) -> bool {
        self.wrong.is_some()
    }

    /// About one subject alone.
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Counts only if it is seen so.
    pub fn after(mut self, debounce: Debounce) -> Self {
        self.debounce = debounce;
        self
    }
}

/// What a probe raised that it has not cleared yet.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    raised: BTreeSet<(&'static str, Option<String>)>,
}

impl Standing {
    /// The changes that follow from a reading that saw only a part: what it found wrong is, and nothing is cleared.
    pub fn add(&mut self, judged: Vec<Judged>, now: Timestamp) -> Vec<Change> {
        let mut changes = self.clone().update(judged.clone(), now);
        changes.retain(|change| matches!(change, Change::Raised(_)));
        let wrong = judged.into_iter().filter(Judged::is_wrong);
        self.raised.extend(wrong.map(|judged| (judged.reason, judged.subject)));
        changes
    }

    /// The changes that follow from a reading. A subject that a former reading found wrong and that this one doesn't
    /// know, an interface that was removed say, is cleared if its reason is among those judged.
    pub fn update(&mut self, judged: Vec<Judged>, now: Timestamp) -> Vec<Change> {
        let reasons: BTreeSet<&'static str> = judged.iter().map(|judged| judged.reason).collect();
        let mut raised = BTreeSet::new();
        let mut cleared = BTreeSet::new();
        let mut changes = Vec::new();
        for judged in judged {
            let key = (judged.reason, judged.subject);
            match judged.wrong {
                Some(message) => {
                    let count = raised.iter().filter(|(reason, _)| *reason == key.0).count();
                    if count < MAX_SUBJECTS && raised.insert(key.clone()) {
                        changes.push(Change::Raised(finding(key.0, key.1, message, judged.debounce, now)));
                    }
                }
                None => {
                    cleared.insert(key);
                }
            }
        }
        let gone = self.raised.iter().filter(|key| reasons.contains(key.0) && !raised.contains(*key));
        cleared.extend(gone.cloned());
        // What is partly wrong is never cleared as a whole; what is well as a whole needs no list of its parts.
        let partly: BTreeSet<_> = raised.iter().map(|(reason, _)| *reason).collect();
        cleared.retain(|key| !raised.contains(key) && (key.1.is_some() || !partly.contains(key.0)));
        let whole: BTreeSet<_> = cleared.iter().filter(|key| key.1.is_none()).map(|key| key.0).collect();
        cleared.retain(|key| key.1.is_none() || !whole.contains(key.0));
        let cleared = cleared.into_iter().map(|(reason, subject)| Change::Cleared {
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
) -> Finding {
    let (condition, severity) = match catalogue::lookup(reason) {
        Some(found) => (found.condition, found.severity),
        // A name that the catalogue doesn't know must never repair anything.
        None => (ConditionType::KernelReady, Severity::Event),
    };
    Finding {
        reason: Cow::Borrowed(reason),
        condition,
        severity,
        subject,
        message,
        at,
        debounce,
        clears: Clears::Told { or_quiet: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: &str = "InterfaceNotUp";

    fn update(standing: &mut Standing, judged: Vec<Judged>) -> Vec<String> {
        let changes = standing.update(judged, Timestamp::UNIX_EPOCH);
        changes
            .into_iter()
            .map(|change| match change {
                Change::Raised(finding) => format!("+{}", finding.subject.unwrap_or_default()),
                Change::Cleared { subject, .. } => format!("-{}", subject.unwrap_or_default()),
            })
            .collect()
    }

    #[test]
    fn what_was_wrong_and_is_no_more_is_cleared() {
        let mut standing = Standing::default();
        let wrong = |subject: &str| Judged::wrong(REASON, "down").about(subject);
        assert_eq!(update(&mut standing, vec![wrong("eth1"), wrong("eth2")]), ["+eth1", "+eth2"]);
        assert_eq!(update(&mut standing, vec![wrong("eth2")]), ["-eth1", "+eth2"]);
        assert_eq!(
            update(&mut standing, vec![Judged::well("NetworkSysctl")]),
            ["-"],
            "another reason's business"
        );
        assert_eq!(update(&mut standing, vec![wrong("eth2"), Judged::well(REASON)]), ["+eth2"]);
        let well = Judged::well(REASON).about("eth1");
        assert_eq!(
            update(&mut standing, vec![Judged::well(REASON), wrong("eth2"), well]),
            ["-eth1", "+eth2"]
        );
        assert_eq!(update(&mut standing, vec![Judged::well(REASON)]), ["-"]);
    }

    #[test]
    fn a_healthy_reading_clears_what_a_former_process_raised() {
        let well = Judged::well(REASON).about("eth1");
        assert_eq!(update(&mut Standing::default(), vec![well]), ["-eth1"]);
    }

    #[test]
    fn a_node_with_hundreds_of_wrong_things_tells_of_some() {
        let wrong =
            (0..300).map(|place| Judged::wrong(REASON, "down").about(format!("eni{place}"))).collect();
        assert_eq!(update(&mut Standing::default(), wrong).len(), MAX_SUBJECTS);
    }
}
