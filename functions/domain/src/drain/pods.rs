//! Decides which pods of a node to evict next, and when to give up, from lists of its pods and the answers to
//! evictions.
//!
//! A refused eviction is retried after a pause and delays no other pod. A drain never lasts longer than its deadline.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// How soon the pods are listed again.
const POLL: SignedDuration = SignedDuration::from_secs(3);
/// The pause after a first refusal. It doubles with each.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// The longest pause: how long a disruption budget that allows evictions again can stay unused.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(20);

/// The identity of a pod. Another pod can have the same name, but not the same uid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Its uid, unique in the cluster.
    pub uid: String,
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The part of a Pod object that a drain needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The pod's identity.
    pub id: PodId,
    /// The kind of its controller, if it has one.
    pub controller: Option<String>,
    /// It is the mirror pod of a static pod: the kubelet runs it by itself.
    pub mirror: bool,
    /// Its phase is Succeeded or Failed.
    pub finished: bool,
    /// It has a deletion timestamp.
    pub terminating: bool,
}

impl Pod {
    /// Whether a drain evicts it, and waits until it is gone.
    pub fn must_be_evicted(&self) -> bool {
        // A DaemonSet's pod tolerates the cordon and would be created again at once. Evicting a mirror pod stops
        // nothing.
        !(self.mirror || self.finished || self.controller.as_deref() == Some("DaemonSet"))
    }
}

/// The API server's answer to an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evicted {
    /// The pod is terminating.
    Accepted,
    /// It is gone already.
    Gone,
    /// Refused for now, usually by a disruption budget.
    NotNow {
        /// The server's message.
        why: String,
        /// The server's `Retry-After`, if it sent one.
        after: Option<SignedDuration>,
    },
    /// Refused for good, with this message: a retry has no use.
    Never(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Evict these pods now.
    Evict(Vec<PodId>),
    /// List the pods again at this time.
    Wait(Timestamp),
    /// All pods that must be evicted are gone.
    Empty,
    /// These pods are left. The deadline has passed, or no retry has any use.
    GiveUp(Vec<Left>),
}

/// A pod that is left on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// `namespace/name`.
    pub pod: String,
    /// Why it is left.
    pub why: Why,
}

/// Why a pod is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// It is terminating.
    StillEnding,
    /// Its eviction was not requested yet.
    NotAsked,
    /// Its eviction was refused. The message of the last answer.
    Refused(String),
}

/// A drain in progress.
#[derive(Debug)]
pub struct Drain {
    deadline: Timestamp,
    requested: BTreeMap<PodId, Requested>,
    evicted: usize,
}

#[derive(Debug)]
struct Requested {
    refusals: u32,
    /// When to request the eviction again. None if a retry has no use.
    again: Option<Timestamp>,
    why: Why,
}

impl Drain {
    /// A drain that gives up at the deadline.
    pub fn new(deadline: Timestamp) -> Self {
        Self { deadline, requested: BTreeMap::new(), evicted: 0 }
    }

    /// When it gives up.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// How many evictions were accepted.
    pub fn evicted(&self) -> usize {
        self.evicted
    }

    /// What to do next. `pods` must be all pods of the node.
    pub fn next(&self, pods: &[Pod], now: Timestamp) -> Next {
        let waiting: Vec<&Pod> = pods.iter().filter(|pod| pod.must_be_evicted()).collect();
        if waiting.is_empty() {
            return Next::Empty;
        }
        let has_no_retry = |pod: &Pod| {
            !pod.terminating && self.requested.get(&pod.id).is_some_and(|requested| requested.again.is_none())
        };
        if now >= self.deadline || waiting.iter().all(|pod| has_no_retry(pod)) {
            return Next::GiveUp(self.left(pods));
        }
        let again = |pod: &&&Pod| match self.requested.get(&pod.id) {
            None => Some(now),
            Some(requested) => requested.again,
        };
        let candidates = waiting.iter().filter(|pod| !pod.terminating);
        let due: Vec<PodId> = candidates
            .clone()
            .filter(|pod| again(pod).is_some_and(|again| again <= now))
            .map(|pod| pod.id.clone())
            .collect();
        if !due.is_empty() {
            return Next::Evict(due);
        }
        let soonest = candidates.filter_map(|pod| again(&pod)).fold(now + POLL, Timestamp::min);
        Next::Wait(soonest.min(self.deadline))
    }

    /// Records the answer to the eviction of a pod.
    pub fn record_answer(&mut self, pod: PodId, evicted: Evicted, now: Timestamp) {
        let refusals = self.requested.get(&pod).map_or(0, |requested| requested.refusals);
        let requested = match evicted {
            Evicted::Accepted => {
                self.evicted += 1;
                // If it is not terminating by then, its eviction is requested again.
                Requested { refusals, again: Some(now + LONGEST_PAUSE), why: Why::StillEnding }
            }
            Evicted::Gone => Requested { refusals, again: Some(now + FIRST_PAUSE), why: Why::StillEnding },
            Evicted::NotNow { why, after } => {
                let doubled = FIRST_PAUSE * 2_i32.pow(refusals.min(8));
                let pause = after.unwrap_or(doubled).clamp(SignedDuration::from_secs(1), LONGEST_PAUSE);
                Requested { refusals: refusals + 1, again: Some(now + pause), why: Why::Refused(why) }
            }
            Evicted::Never(why) => Requested { refusals: refusals + 1, again: None, why: Why::Refused(why) },
        };
        self.requested.insert(pod, requested);
    }

    /// The pods that are still to be evicted, and why each is left.
    pub fn left(&self, pods: &[Pod]) -> Vec<Left> {
        pods.iter().filter(|pod| pod.must_be_evicted()).map(|pod| self.one_left(pod)).collect()
    }

    fn one_left(&self, pod: &Pod) -> Left {
        let why = match self.requested.get(&pod.id) {
            _ if pod.terminating => Why::StillEnding,
            Some(requested) => requested.why.clone(),
            None => Why::NotAsked,
        };
        Left { pod: pod.id.to_string(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).expect("a time")
    }

    fn pod(name: &str) -> Pod {
        let id = PodId { namespace: "shop".to_owned(), name: name.to_owned(), uid: format!("uid-of-{name}") };
        Pod {
            id,
            controller: Some("ReplicaSet".to_owned()),
            mirror: false,
            finished: false,
            terminating: false,
        }
    }

    fn terminating(name: &str) -> Pod {
        Pod { terminating: true, ..pod(name) }
    }

    fn ids(pods: &[Pod]) -> Vec<PodId> {
        pods.iter().map(|pod| pod.id.clone()).collect()
    }

    fn refused_by_budget() -> Evicted {
        Evicted::NotNow { why: "the budget web needs 2".to_owned(), after: None }
    }

    #[test]
    fn daemon_set_mirror_and_finished_pods_are_not_evicted() {
        let of = |kind: &str| Pod { controller: Some(kind.to_owned()), ..pod("a") };
        for (pod, evicted) in [
            (pod("a"), true),
            (of("StatefulSet"), true),
            (of("Job"), true),
            (Pod { controller: None, ..pod("a") }, true),
            (of("DaemonSet"), false),
            (Pod { mirror: true, ..of("Node") }, false),
            (Pod { finished: true, ..of("Job") }, false),
            (terminating("a"), true),
            (Pod { terminating: true, ..of("DaemonSet") }, false),
        ] {
            assert_eq!(pod.must_be_evicted(), evicted, "{pod:?}");
        }
    }

    #[test]
    fn a_node_is_empty_when_only_pods_that_are_not_evicted_are_left() {
        let drain = Drain::new(at(600));
        let daemon = Pod { controller: Some("DaemonSet".to_owned()), ..pod("agent") };
        assert_eq!(drain.next(&[daemon], at(0)), Next::Empty);
        assert_eq!(drain.next(&[], at(700)), Next::Empty);
    }

    #[test]
    fn every_pod_is_evicted_once_and_waited_for_until_it_is_gone() {
        let mut drain = Drain::new(at(600));
        let pods = [pod("a"), pod("b")];
        assert_eq!(drain.next(&pods, at(0)), Next::Evict(ids(&pods)));
        for id in ids(&pods) {
            drain.record_answer(id, Evicted::Accepted, at(0));
        }
        assert_eq!(drain.evicted(), 2);
        assert_eq!(drain.next(&[terminating("a"), terminating("b")], at(1)), Next::Wait(at(4)));
        assert_eq!(drain.next(&[terminating("b")], at(590)), Next::Wait(at(593)));
        assert_eq!(drain.next(&[terminating("b")], at(599)), Next::Wait(at(600)));
        assert_eq!(drain.next(&[], at(599)), Next::Empty);
    }

    #[test]
    fn retries_of_a_refused_eviction_back_off_and_delay_no_other_pod() {
        let mut drain = Drain::new(at(600));
        let pods = [pod("a"), pod("b")];
        drain.record_answer(pods[0].id.clone(), refused_by_budget(), at(0));
        assert_eq!(drain.next(&pods, at(1)), Next::Evict(ids(&pods[1..])));
        drain.record_answer(pods[1].id.clone(), Evicted::Accepted, at(1));
        let remaining = [pod("a"), terminating("b")];
        assert_eq!(drain.next(&remaining, at(3)), Next::Wait(at(5)));
        for (requested, again) in [(5, 15), (15, 35), (35, 55), (55, 75)] {
            assert_eq!(drain.next(&remaining, at(requested)), Next::Evict(ids(&remaining[..1])));
            drain.record_answer(remaining[0].id.clone(), refused_by_budget(), at(requested));
            assert_eq!(
                drain.next(&remaining, at(again) - SignedDuration::from_millis(1)),
                Next::Wait(at(again))
            );
        }
    }

    #[test]
    fn the_servers_retry_after_counts_within_limits() {
        for (after, again) in [(0, 1), (10, 10), (3_600, 20)] {
            let mut drain = Drain::new(at(600));
            let after = Some(SignedDuration::from_secs(after));
            drain.record_answer(pod("a").id, Evicted::NotNow { why: "later".to_owned(), after }, at(0));
            assert_eq!(drain.next(&[pod("a")], at(again)), Next::Evict(ids(&[pod("a")])));
            assert!(matches!(drain.next(&[pod("a")], at(again - 1)), Next::Wait(_)));
        }
    }

    #[test]
    fn at_its_deadline_a_drain_lists_the_pods_that_are_left_and_why() {
        let mut drain = Drain::new(at(600));
        let pods = [pod("a"), terminating("b"), pod("c"), pod("d")];
        drain.record_answer(pods[0].id.clone(), refused_by_budget(), at(590));
        drain.record_answer(pods[2].id.clone(), Evicted::Never("forbidden".to_owned()), at(0));
        let left = |pod: &str, why: Why| Left { pod: format!("shop/{pod}"), why };
        let expected = vec![
            left("a", Why::Refused("the budget web needs 2".to_owned())),
            left("b", Why::StillEnding),
            left("c", Why::Refused("forbidden".to_owned())),
            left("d", Why::NotAsked),
        ];
        assert_eq!(drain.next(&pods, at(600)), Next::GiveUp(expected));
    }

    #[test]
    fn a_drain_gives_up_early_if_only_pods_without_a_retry_are_left() {
        let mut drain = Drain::new(at(600));
        drain.record_answer(pod("a").id, Evicted::Never("forbidden".to_owned()), at(0));
        assert_eq!(drain.next(&[pod("a"), terminating("b")], at(1)), Next::Wait(at(4)));
        assert!(matches!(drain.next(&[pod("a")], at(1)), Next::GiveUp(_)));
    }

    #[test]
    fn another_pod_of_the_same_name_is_another_pod() {
        let mut drain = Drain::new(at(600));
        drain.record_answer(pod("db-0").id, Evicted::Accepted, at(0));
        let mut next = pod("db-0");
        next.id.uid = "another".to_owned();
        assert_eq!(drain.next(&[next.clone()], at(1)), Next::Evict(ids(&[next])));
    }

    #[test]
    fn a_pod_that_was_accepted_and_does_not_terminate_is_evicted_again() {
        let mut drain = Drain::new(at(600));
        drain.record_answer(pod("a").id, Evicted::Accepted, at(0));
        assert_eq!(drain.next(&[pod("a")], at(1)), Next::Wait(at(4)));
        assert_eq!(drain.next(&[pod("a")], at(20)), Next::Evict(ids(&[pod("a")])));
    }
}
