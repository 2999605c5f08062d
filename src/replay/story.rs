//! Turns the steps of a replay into one story a case: its fault, its calls, what CloudTrail said, how it ended.

use std::collections::BTreeMap;

use jiff::Timestamp;
use nodemend_domain::occurrence::{Occurrence, Step};

/// One case from its fault to its end.
#[derive(Debug, Clone)]
pub(super) struct Story<'a> {
    /// The node's name, or its instance where no name was told.
    pub(super) node: &'a str,
    /// The first bad word: when, and its reason.
    pub(super) fault: Option<(Timestamp, &'a str)>,
    /// The calls that were made.
    pub(super) calls: Vec<&'a Occurrence>,
    /// What was last found in CloudTrail about each call, or about somebody else's.
    pub(super) verdicts: Vec<Step>,
    /// The guards' last word, while they stand in the way.
    pub(super) blocked: Option<&'a str>,
    /// When another node took its place.
    pub(super) replaced: Option<Timestamp>,
    /// How it ended, if it did.
    pub(super) end: Option<End<'a>>,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// By itself, before anything was done.
    Recovered(Timestamp),
    /// As its detail says.
    Closed(Timestamp, &'a str),
}

impl<'a> Story<'a> {
    fn new(occurrence: &'a Occurrence) -> Self {
        Self {
            node: node_of(occurrence),
            fault: None,
            calls: Vec::new(),
            verdicts: Vec::new(),
            blocked: None,
            replaced: None,
            end: None,
        }
    }

    /// Whether anything came of it: an event alone makes no story.
    fn is_one(&self) -> bool {
        self.fault.is_some() || !self.calls.is_empty() || !self.verdicts.is_empty() || self.end.is_some()
    }

    fn hear(&mut self, occurrence: &'a Occurrence) {
        if occurrence.node.is_some() {
            self.node = node_of(occurrence);
        }
        let reason = occurrence.reason.as_deref();
        match occurrence.step {
            Step::Event => {}
            Step::Suspect => {
                self.fault.get_or_insert((occurrence.at, reason.unwrap_or_default()));
                if matches!(self.end, Some(End::Recovered(_))) {
                    self.end = None;
                }
            }
            Step::Recovered => {
                if self.calls.is_empty() {
                    self.end = Some(End::Recovered(occurrence.at));
                }
            }
            Step::Due => {
                self.fault.get_or_insert((occurrence.at, reason.unwrap_or_default()));
            }
            Step::Blocked => self.blocked = Some(&occurrence.detail),
            Step::Claimed => self.blocked = None,
            Step::Called => {
                self.blocked = None;
                self.calls.push(occurrence);
            }
            Step::Confirmed | Step::Mismatch | Step::Missing | Step::Foreign => {
                self.verdicts.push(occurrence.step);
            }
            Step::Replaced => self.replaced = Some(occurrence.at),
            Step::Closed => self.end = Some(End::Closed(occurrence.at, &occurrence.detail)),
        }
    }
}

/// The stories, in the order in which they began.
pub(super) fn stories(occurrences: &[Occurrence]) -> Vec<Story<'_>> {
    let mut stories: Vec<Story<'_>> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for occurrence in occurrences {
        let place = *places.entry(&occurrence.case).or_insert_with(|| {
            stories.push(Story::new(occurrence));
            stories.len() - 1
        });
        stories[place].hear(occurrence);
    }
    stories.retain(Story::is_one);
    stories
}

/// How often each step was taken, in the order in which a repair takes them.
pub(super) fn counts(occurrences: &[Occurrence]) -> Vec<(Step, usize)> {
    Step::ALL
        .into_iter()
        .map(|step| (step, occurrences.iter().filter(|occurrence| occurrence.step == step).count()))
        .collect()
}

/// What a node is called: its name, else its instance.
pub(super) fn node_of(occurrence: &Occurrence) -> &str {
    occurrence.node.as_ref().map_or(occurrence.instance_id.as_str(), |node| node.as_str())
}
