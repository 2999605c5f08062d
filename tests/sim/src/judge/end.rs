//! What must be true once everything has had its time: nothing is under way, nothing is forgotten, and the trail tells
//! of every call once, and of how it ended.

use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::{
    store::{CaseKey, MemoryStore, Store},
    trail::Trail,
};
use nodemend_domain::{case::Case, trail::verify_chain};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{Judge, Made, SLACK, node::Node};

/// Looks at everything that is left.
pub(crate) async fn judge(judge: &mut Judge, store: &MemoryStore) {
    for case in store.cases() {
        let number = Node::number(&case.instance_id);
        let open = case.repair.is_some() && case.closed.is_none();
        if open && !judge.is_stuck(number) {
            let phase = case.repair.as_ref().map(|repair| repair.phase.clone());
            judge.wrong("a repair without an end", format!("node {number}: {phase:?}"));
        }
        let long_ago = judge.now - SignedDuration::from_secs(180);
        let written = judge.nodes[number].seen.at;
        if case.due.is_some_and(|due| due < long_ago) && written.is_some_and(|at| at < long_ago) {
            judge.wrong("due in the past", format!("node {number}, at {:?}", case.due));
        }
        let entries = store.chain(&CaseKey::of(&case)).await.unwrap_or_default();
        if entries.is_empty() {
            continue;
        }
        let lines: Vec<&str> = entries.iter().map(|entry| entry.line.as_str()).collect();
        match verify_chain(&lines) {
            Ok(chain) if chain == case.trail => {}
            Ok(_) => judge.wrong("a broken trail", format!("node {number}: its end is not the case's")),
            Err(broken) => judge.wrong("a broken trail", format!("node {number}: {broken}")),
        }
        judge.trail(number, &case, &lines);
    }
    for made in &judge.made.clone() {
        if judge.recorded.get(&made.request()).copied().unwrap_or(0) != 1 {
            judge.wrong(
                "a call without its one record",
                format!(
                    "node {}: {} at {:.0} has {}",
                    made.number,
                    made.call.event_name(),
                    made.at,
                    judge.recorded.get(&made.request()).copied().unwrap_or(0)
                ),
            );
        }
    }
    for group in store.groups() {
        let stuck =
            |place: &nodemend_domain::group::InFlight| judge.is_stuck(Node::number(&place.instance_id));
        if !group.in_flight.iter().all(stuck) {
            judge.wrong("a place that was never given back", format!("{:?}", group.in_flight));
        }
    }
}

impl Made {
    /// Whether it is the call that was recorded under this id, or without one at that time. CloudTrail leaves the
    /// instance out of what was throttled or denied: without an answer, nobody can tell whose that is.
    fn is(&self, number: usize, request: Option<&str>, called: Option<Timestamp>) -> bool {
        let late = |called: Timestamp| (-5..=125).contains(&self.at.duration_since(called).as_secs());
        match request {
            Some(request) => self.request() == request,
            None => {
                let failed = matches!(self.answer.outcome, nodemend_domain::trail::Outcome::Failed { .. });
                self.number == number && !failed && called.is_some_and(late)
            }
        }
    }

    fn request(&self) -> String {
        self.answer.request_id.clone().unwrap_or_default()
    }
}

/// What is looked at of a record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entered<'a> {
    event_name: String,
    #[serde(rename = "requestID")]
    request_id: Option<String>,
    #[serde(borrow)]
    response_elements: Option<&'a RawValue>,
    #[serde(borrow)]
    nodemend: Ours<'a>,
}

/// What a record holds beyond CloudTrail's.
#[derive(Deserialize)]
struct Ours<'a> {
    at: Timestamp,
    #[serde(borrow)]
    decision: &'a RawValue,
}

impl Entered<'_> {
    fn data(&self) -> Value {
        self.response_elements.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
    }
}

/// A record of a call, and whether it has been told how it ended.
struct Called {
    name: String,
    request: Option<String>,
    at: Timestamp,
    ended: bool,
}

impl Judge {
    /// One case's trail.
    fn trail(&mut self, number: usize, case: &Case, lines: &[&str]) {
        let mut calls: Vec<Called> = Vec::new();
        let (mut claims, mut ends) = (0_usize, 0_usize);
        for line in lines {
            let record: Entered<'_> = match serde_json::from_str(line) {
                Ok(record) => record,
                Err(error) => {
                    self.wrong("a broken trail", format!("node {number}: {error}: {line}"));
                    continue;
                }
            };
            let at = record.nodemend.at;
            match record.event_name.as_str() {
                "TerminateInstanceInAutoScalingGroup" | "RebootInstances" => calls.push(Called {
                    name: record.event_name,
                    request: record.request_id,
                    at,
                    ended: false,
                }),
                name @ ("RepairConfirmed" | "RepairMismatch") => {
                    let data = record.data();
                    if name == "RepairMismatch" && !self.may_differ(&data) {
                        self.wrong(
                            "a call that CloudTrail tells differently",
                            format!("node {number}: {data}"),
                        );
                    }
                    self.end_by_request(&mut calls, data["requestID"].as_str().unwrap_or_default());
                }
                "RepairMissing" => {
                    let data = record.data();
                    let called: Option<Timestamp> = data["calledAt"].as_str().and_then(|at| at.parse().ok());
                    let request = data["requestID"].as_str();
                    let same = |call: &&mut Called| {
                        call.request.as_deref() == request && (request.is_some() || Some(call.at) == called)
                    };
                    if let Some(call) = calls.iter_mut().find(same) {
                        call.ended = true;
                    }
                    let known = self.made.iter().find(|made| made.is(number, request, called));
                    // It may be the one before that never left, or the one after.
                    let nearest = |made: &&Made| {
                        let far = |at: Timestamp| made.at.duration_since(at).abs();
                        calls.iter().all(|call| Some(far(call.at)) >= called.map(far))
                    };
                    let known = known.filter(|made| request.is_some() || nearest(made));
                    let known = known.and_then(|made| made.told).filter(|told| *told + SLACK < at);
                    if let Some(told) = known {
                        self.wrong(
                            "told as missing",
                            format!("node {number}: CloudTrail told at {told:.0}: {data}"),
                        );
                    }
                }
                "RepairForeign" if !self.nodes[number].foreign => {
                    self.wrong("told of a stranger", format!("node {number}: {}", record.data()));
                }
                "RepairClaimed" => claims += 1,
                "RepairReleased" => ends += 1,
                "RepairClosed" => {
                    ends += 1;
                    if record.data()["outcome"] == "Gone" && self.nodes[number].ours {
                        let decision = record.nodemend.decision;
                        self.wrong(
                            "our own call taken for a departure",
                            format!("node {number}: {decision}"),
                        );
                    }
                }
                _ => {}
            }
        }
        for call in &calls {
            if !call.ended {
                self.wrong(
                    "a record without an end",
                    format!("node {number}: {} of {:?}, {:?}", call.name, call.at, call.request),
                );
            }
        }
        if claims > 0 && ends == 0 && !self.is_stuck(number) {
            self.wrong("a record without an end", format!("node {number}: a claim, {:?}", case.closed));
        }
        self.count(number, &calls);
    }

    /// Nobody else speaks of our calls, and functions are slow: only the time may differ.
    fn may_differ(&self, data: &Value) -> bool {
        data["differences"].as_array().is_some_and(|all| all.iter().all(|one| one["field"] == "eventTime"))
    }

    /// CloudTrail told of a request: the record with its id, or the one without any that it must be.
    fn end_by_request(&self, calls: &mut [Called], request: &str) {
        if let Some(call) = calls.iter_mut().find(|call| call.request.as_deref() == Some(request)) {
            call.ended = true;
            return;
        }
        let Some(made) = self.made.iter().find(|made| made.request() == request) else {
            return;
        };
        let lost =
            calls.iter_mut().filter(|call| call.request.is_none() && call.name == made.call.event_name());
        let nearest = lost.min_by_key(|call| made.at.duration_since(call.at).abs());
        if let Some(call) = nearest {
            call.ended = true;
        }
    }

    /// Counts the records of each call that reached AWS: those under its id, or one that knows no answer.
    fn count(&mut self, number: usize, calls: &[Called]) {
        let mut taken = vec![false; calls.len()];
        let mine: Vec<(String, &'static str, Timestamp)> = self
            .made
            .iter()
            .filter(|made| made.number == number)
            .map(|made| (made.request(), made.call.event_name(), made.at))
            .collect();
        for (request, name, at) in mine {
            let by_id = calls.iter().filter(|call| call.request.as_deref() == Some(&request)).count();
            let lost = calls
                .iter()
                .enumerate()
                .filter(|(place, call)| call.request.is_none() && call.name == name && !taken[*place]);
            // The time of a record is when its process set out, which may have been a lease before.
            let near = lost
                .map(|(place, call)| (place, at.duration_since(call.at).as_secs()))
                .filter(|(_, late)| (-5..=125).contains(late))
                .min_by_key(|(_, late)| *late);
            let count = match (by_id, near) {
                (0, Some((place, _))) => {
                    taken[place] = true;
                    1
                }
                (by_id, _) => by_id,
            };
            self.recorded.insert(request, count);
        }
    }
}

/// When the store wants somebody to look next.
pub(crate) async fn next_due(store: &MemoryStore) -> Option<Timestamp> {
    store.next_due().await.ok().flatten()
}
