//! Groups the steps of a replay by case: the fault, the calls, what CloudTrail confirmed, and the end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use nodemend_domain::repair_event::{RepairEvent, Step};

/// One case, from its fault to its end.
#[derive(Debug, Clone)]
pub(super) struct CaseSummary<'a> {
    /// The node's name, or the instance id where no step names the node.
    pub(super) node: &'a str,
    /// When the node first became unhealthy, and the reason.
    pub(super) fault: Option<(Timestamp, &'a str)>,
    pub(super) calls: Vec<&'a RepairEvent>,
    /// The steps from CloudTrail: confirmed, mismatch, missing or foreign.
    pub(super) confirmations: Vec<Step>,
    /// The latest messages of the guards, while they block the repair.
    pub(super) blocked: Option<&'a str>,
    /// When a replacement became Ready.
    pub(super) replaced: Option<Timestamp>,
    /// None while the case is open.
    pub(super) end: Option<CaseEnd<'a>>,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CaseEnd<'a> {
    /// The node recovered before any call.
    Recovered(Timestamp),
    /// The case was closed, with the sentence of its last step.
    Closed(&'a str),
}

impl<'a> CaseSummary<'a> {
    fn new(event: &'a RepairEvent) -> Self {
        Self {
            node: node_of(event),
            fault: None,
            calls: Vec::new(),
            confirmations: Vec::new(),
            blocked: None,
            replaced: None,
            end: None,
        }
    }

    /// Whether there is a line to show: a finding without a fault is none.
    fn is_relevant(&self) -> bool {
        self.fault.is_some() || !self.calls.is_empty() || !self.confirmations.is_empty() || self.end.is_some()
    }

    fn apply(&mut self, event: &'a RepairEvent) {
        if event.node.is_some() {
            self.node = node_of(event);
        }
        let reason = event.reason.as_deref();
        match event.step {
            Step::Event => {}
            Step::Suspect => {
                self.fault.get_or_insert((event.at, reason.unwrap_or_default()));
                if matches!(self.end, Some(CaseEnd::Recovered(_))) {
                    self.end = None;
                }
            }
            Step::Recovered => {
                if self.calls.is_empty() {
                    self.end = Some(CaseEnd::Recovered(event.at));
                }
            }
            Step::Due => {
                self.fault.get_or_insert((event.at, reason.unwrap_or_default()));
            }
            Step::Blocked => self.blocked = Some(&event.detail),
            Step::Claimed => self.blocked = None,
            Step::Called => {
                self.blocked = None;
                self.calls.push(event);
            }
            Step::Confirmed | Step::Mismatch | Step::Missing | Step::Foreign => {
                self.confirmations.push(event.step);
            }
            Step::Replaced => self.replaced = Some(event.at),
            Step::Closed => self.end = Some(CaseEnd::Closed(&event.detail)),
        }
    }
}

/// The cases, in the order of their first step.
pub(super) fn summarize(events: &[RepairEvent]) -> Vec<CaseSummary<'_>> {
    let mut summaries: Vec<CaseSummary<'_>> = Vec::new();
    let mut indices: BTreeMap<&str, usize> = BTreeMap::new();
    for event in events {
        let index = *indices.entry(&event.case).or_insert_with(|| {
            summaries.push(CaseSummary::new(event));
            summaries.len() - 1
        });
        summaries[index].apply(event);
    }
    summaries.retain(CaseSummary::is_relevant);
    summaries
}

/// How often each step occurred, in the order in which a repair goes through them.
pub(super) fn step_counts(events: &[RepairEvent]) -> Vec<(Step, usize)> {
    Step::ALL
        .into_iter()
        .map(|step| (step, events.iter().filter(|event| event.step == step).count()))
        .collect()
}

/// The node's name, else the instance id.
pub(super) fn node_of(event: &RepairEvent) -> &str {
    event.node.as_ref().map_or(event.instance_id.as_str(), |node| node.as_str())
}
