//! What must be true at the end: nothing is in progress, nothing is forgotten, and the audit log has each call once, with
//! its outcome.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{audit_log::verify_chain, case::Case, ident::ClusterName};
use nodemend_ports::{
    audit_log::AuditLog,
    store::{CaseKey, MemoryStore, Store},
};
use nodemend_testkit::fixture;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{MadeCall, Oracle, SLACK, node::Node};

/// Checks everything that is left.
pub(crate) async fn check(oracle: &mut Oracle, store: &MemoryStore) {
    let is_ours = |cluster: &ClusterName| *cluster == fixture::cluster();
    for case in store.cases().into_iter().filter(|case| is_ours(case.cluster())) {
        let number = Node::number(case.instance_id());
        let open = case.repair().is_some() && case.closed().is_none();
        if open && !oracle.is_stuck(number) {
            let phase = case.repair().as_ref().map(|repair| repair.phase());
            oracle.violation("a repair without an end", format!("node {number}: {phase:?}"));
        }
        let long_ago = oracle.now - SignedDuration::from_secs(180);
        let written = oracle.nodes[number].stored.at;
        if case.due().is_some_and(|due| due < long_ago) && written.is_some_and(|at| at < long_ago) {
            oracle.violation("due in the past", format!("node {number}, at {:?}", case.due()));
        }
        let entries = store.chain(&CaseKey::of(&case)).await.unwrap_or_default();
        if entries.is_empty() {
            continue;
        }
        let lines: Vec<&str> = entries.iter().map(|entry| entry.line.as_str()).collect();
        match verify_chain(&lines) {
            Ok(chain) if chain == *case.audit_log() => {}
            Ok(_) => {
                oracle.violation("a broken audit log", format!("node {number}: its end is not the case's"));
            }
            Err(broken) => oracle.violation("a broken audit log", format!("node {number}: {broken}")),
        }
        oracle.audit_log(number, &case, &lines);
    }
    for number in 0..oracle.nodes.len() {
        if let Some(why) = oracle.unexplained(number) {
            oracle.violation("never repaired", format!("node {number}: {why}"));
        }
    }
    for made in &oracle.made_calls.clone() {
        if oracle.recorded.get(&made.request()).copied().unwrap_or(0) != 1 {
            oracle.violation(
                "a call without its one record",
                format!(
                    "node {}: {} at {:.0} has {}",
                    made.number,
                    made.call.event_name(),
                    made.at,
                    oracle.recorded.get(&made.request()).copied().unwrap_or(0)
                ),
            );
        }
    }
    for group in store.groups().into_iter().filter(|group| is_ours(group.cluster())) {
        let stuck = |place: &nodemend_domain::group::Slot| oracle.is_stuck(Node::number(&place.instance_id));
        if !group.slots().iter().all(stuck) {
            oracle.violation("a slot that was never released", format!("{:?}", group.slots()));
        }
    }
}

impl MadeCall {
    /// Whether it is the call that was recorded under this id, or without one at that time. CloudTrail leaves the
    /// instance out of what was throttled or denied: without an answer, it is unknown whose call that is.
    fn is(&self, number: usize, request: Option<&str>, called: Option<Timestamp>) -> bool {
        let late = |called: Timestamp| (-5..=125).contains(&self.at.duration_since(called).as_secs());
        match request {
            Some(request) => self.request() == request,
            None => {
                let failed =
                    matches!(self.answer.outcome, nodemend_domain::audit_log::CallOutcome::Failed { .. });
                self.number == number && !failed && called.is_some_and(late)
            }
        }
    }

    fn request(&self) -> String {
        self.answer.request_id.clone().unwrap_or_default()
    }
}

/// The fields of a record that are checked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordLine<'a> {
    event_name: String,
    #[serde(rename = "requestID")]
    request_id: Option<String>,
    #[serde(borrow)]
    response_elements: Option<&'a RawValue>,
    #[serde(borrow)]
    nodemend: OwnFields<'a>,
}

/// The fields that a record has beyond CloudTrail's.
#[derive(Deserialize)]
struct OwnFields<'a> {
    at: Timestamp,
    #[serde(borrow)]
    decision: &'a RawValue,
}

impl RecordLine<'_> {
    fn data(&self) -> Value {
        self.response_elements.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
    }
}

/// A record of a call, and whether a later record has its outcome.
struct Called {
    name: String,
    request: Option<String>,
    at: Timestamp,
    ended: bool,
}

impl Oracle {
    /// Whose act the end of the instance was, compared with the truth.
    fn author(&mut self, number: usize, case: &Case) {
        let Some(departure) = case.departure() else { return };
        let (node, how) = (&self.nodes[number], departure.how.clone());
        if node.ours && departure.is_anothers() {
            self.violation("our own call attributed to another", format!("node {number}: {how}"));
        } else if !node.ours && how.contains("our own call") {
            self.violation("another's act attributed to us", format!("node {number}: {how}"));
        } else if departure.foreign && !node.foreign {
            self.violation("a planned act attributed to a stranger", format!("node {number}: {how}"));
        } else if let Some(decided) = node.decided.filter(|_| node.known_activity)
            && !how.contains(decided.named())
        {
            self.violation("a decision of Auto Scaling that is not named", format!("node {number}: {how}"));
        }
    }

    /// Checks the audit log of one case.
    fn audit_log(&mut self, number: usize, case: &Case, lines: &[&str]) {
        self.author(number, case);
        let mut calls: Vec<Called> = Vec::new();
        let (mut claims, mut ends) = (0_usize, 0_usize);
        for line in lines {
            let record: RecordLine<'_> = match serde_json::from_str(line) {
                Ok(record) => record,
                Err(error) => {
                    self.violation("a broken audit log", format!("node {number}: {error}: {line}"));
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
                        self.violation(
                            "a call that differs from its CloudTrail event",
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
                    let known = self.made_calls.iter().find(|made| made.is(number, request, called));
                    // It may be the call before, which was never sent, or the one after.
                    let nearest = |made: &&MadeCall| {
                        let far = |at: Timestamp| made.at.duration_since(at).abs();
                        calls.iter().all(|call| Some(far(call.at)) >= called.map(far))
                    };
                    let known = known.filter(|made| request.is_some() || nearest(made));
                    let known =
                        known.and_then(|made| made.reported).filter(|reported| *reported + SLACK < at);
                    if let Some(reported) = known {
                        self.violation(
                            "reported as missing although CloudTrail had it",
                            format!("node {number}: CloudTrail had it at {reported:.0}: {data}"),
                        );
                    }
                }
                "RepairForeign" if !self.nodes[number].foreign => {
                    self.violation(
                        "reported as a foreign termination",
                        format!("node {number}: {}", record.data()),
                    );
                }
                "RepairClaimed" => claims += 1,
                "RepairReleased" => ends += 1,
                "RepairClosed" => {
                    ends += 1;
                    if record.data()["outcome"] == "Gone" && self.nodes[number].ours {
                        let decision = record.nodemend.decision;
                        self.violation(
                            "our own call recorded as a departure",
                            format!("node {number}: {decision}"),
                        );
                    }
                }
                _ => {}
            }
        }
        for call in &calls {
            if !call.ended {
                self.violation(
                    "a record without an end",
                    format!("node {number}: {} of {:?}, {:?}", call.name, call.at, call.request),
                );
            }
        }
        if claims > 0 && ends == 0 && !self.is_stuck(number) {
            self.violation("a record without an end", format!("node {number}: a claim, {:?}", case.closed()));
        }
        self.count(number, &calls);
    }

    /// Only the time may differ: nobody else changes our calls, and functions are slow.
    fn may_differ(&self, data: &Value) -> bool {
        data["differences"].as_array().is_some_and(|all| all.iter().all(|one| one["field"] == "eventTime"))
    }

    /// CloudTrail's event of a request ends the record with its id, or the one without an id that it must be.
    fn end_by_request(&self, calls: &mut [Called], request: &str) {
        if let Some(call) = calls.iter_mut().find(|call| call.request.as_deref() == Some(request)) {
            call.ended = true;
            return;
        }
        let Some(made) = self.made_calls.iter().find(|made| made.request() == request) else {
            return;
        };
        let lost =
            calls.iter_mut().filter(|call| call.request.is_none() && call.name == made.call.event_name());
        let nearest = lost.min_by_key(|call| made.at.duration_since(call.at).abs());
        if let Some(call) = nearest {
            call.ended = true;
        }
    }

    /// Counts the records of each call that reached AWS: those with its id, or one that has no answer.
    fn count(&mut self, number: usize, calls: &[Called]) {
        let mut taken = vec![false; calls.len()];
        let mine: Vec<(String, &'static str, Timestamp)> = self
            .made_calls
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
            // A record has the time at which its process began the call, which may have been a lease before.
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

/// When the next case in the store is due.
pub(crate) async fn next_due(store: &MemoryStore) -> Option<Timestamp> {
    store.next_due().await.ok().flatten()
}
