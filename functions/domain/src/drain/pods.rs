//! Turns lists of a node's pods, and the answers to evictions, into which pods to evict next, and when to give up.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// How soon pods are looked at again.
const LOOK: SignedDuration = SignedDuration::from_secs(3);
/// After a first refusal; doubles with each.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// A budget that opens is used this soon.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(20);

/// One pod among all that ever were.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which another pod may have next.
    pub name: String,
    /// What it alone has.
    pub uid: String,
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod of the node, as far as a drain asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Which.
    pub id: PodId,
    /// The kind of its controller, if it has one.
    pub controller: Option<String>,
    /// It only mirrors what the kubelet runs by itself.
    pub mirror: bool,
    /// Its phase is Succeeded or Failed.
    pub finished: bool,
    /// It is being deleted.
    pub going: bool,
}

impl Pod {
    /// Whether the node is not empty while it is there.
    pub fn must_go(&self) -> bool {
        // Whatever is evicted of a DaemonSet comes back at once: it tolerates a cordon. A mirror's eviction stops nothing.
        !(self.mirror || self.finished || self.controller.as_deref() == Some("DaemonSet"))
    }
}

/// What the API server made of an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evicted {
    /// The pod is asked to end.
    Taken,
    /// It is gone already.
    Gone,
    /// Not now: a disruption budget, as a rule. The server may say when to ask again.
    NotNow {
        /// What it said.
        why: String,
        /// When to ask again.
        after: Option<SignedDuration>,
    },
    /// Not ever, as we ask.
    Never(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Evict these.
    Evict(Vec<PodId>),
    /// Look again.
    Look(Timestamp),
    /// The node is empty.
    Empty,
    /// There is no use or no time in waiting longer for these.
    GiveUp(Vec<Left>),
}

/// A pod that is left on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// `namespace/name`.
    pub pod: String,
    /// Why.
    pub why: Why,
}

/// Why a pod is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// It is ending, and not done yet.
    StillEnding,
    /// Nobody came to ask for it.
    NotAsked,
    /// Its eviction was refused; the last answer.
    Refused(String),
}

/// A drain under way.
#[derive(Debug)]
pub struct Drain {
    deadline: Timestamp,
    asked: BTreeMap<PodId, Asked>,
    evicted: usize,
}

#[derive(Debug)]
struct Asked {
    refusals: u32,
    /// When to ask again; never, where that has no use.
    again: Option<Timestamp>,
    why: Why,
}

impl Drain {
    /// A drain that gives up then.
    pub fn new(deadline: Timestamp) -> Self {
        Self { deadline, asked: BTreeMap::new(), evicted: 0 }
    }

    /// When it gives up.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// How many evictions were taken.
    pub fn evicted(&self) -> usize {
        self.evicted
    }

    /// What to do about these pods, all that are on the node.
    pub fn next(&self, pods: &[Pod], now: Timestamp) -> Next {
        let waiting: Vec<&Pod> = pods.iter().filter(|pod| pod.must_go()).collect();
        if waiting.is_empty() {
            return Next::Empty;
        }
        let hopeless =
            |pod: &Pod| !pod.going && self.asked.get(&pod.id).is_some_and(|asked| asked.again.is_none());
        if now >= self.deadline || waiting.iter().all(|pod| hopeless(pod)) {
            return Next::GiveUp(self.left(pods));
        }
        let again = |pod: &&&Pod| match self.asked.get(&pod.id) {
            None => Some(now),
            Some(asked) => asked.again,
        };
        let asks = waiting.iter().filter(|pod| !pod.going);
        let due: Vec<PodId> = asks
            .clone()
            .filter(|pod| again(pod).is_some_and(|again| again <= now))
            .map(|pod| pod.id.clone())
            .collect();
        if !due.is_empty() {
            return Next::Evict(due);
        }
        let soonest = asks.filter_map(|pod| again(&pod)).fold(now + LOOK, Timestamp::min);
        Next::Look(soonest.min(self.deadline))
    }

    /// Takes the answer to an eviction in.
    pub fn told(&mut self, pod: PodId, evicted: Evicted, now: Timestamp) {
        let refusals = self.asked.get(&pod).map_or(0, |asked| asked.refusals);
        let asked = match evicted {
            Evicted::Taken => {
                self.evicted += 1;
                // Where the next list does not show it as going, it is asked for again, but not at once.
                Asked { refusals, again: Some(now + LONGEST_PAUSE), why: Why::StillEnding }
            }
            Evicted::Gone => Asked { refusals, again: Some(now + FIRST_PAUSE), why: Why::StillEnding },
            Evicted::NotNow { why, after } => {
                let doubled = FIRST_PAUSE * 2_i32.pow(refusals.min(8));
                let pause = after.unwrap_or(doubled).clamp(SignedDuration::from_secs(1), LONGEST_PAUSE);
                Asked { refusals: refusals + 1, again: Some(now + pause), why: Why::Refused(why) }
            }
            Evicted::Never(why) => Asked { refusals: refusals + 1, again: None, why: Why::Refused(why) },
        };
        self.asked.insert(pod, asked);
    }

    /// Which of these are yet to go, and why each is there.
    pub fn left(&self, pods: &[Pod]) -> Vec<Left> {
        pods.iter().filter(|pod| pod.must_go()).map(|pod| self.one_left(pod)).collect()
    }

    fn one_left(&self, pod: &Pod) -> Left {
        let why = match self.asked.get(&pod.id) {
            _ if pod.going => Why::StillEnding,
            Some(asked) => asked.why.clone(),
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
        Pod { id, controller: Some("ReplicaSet".to_owned()), mirror: false, finished: false, going: false }
    }

    fn going(name: &str) -> Pod {
        Pod { going: true, ..pod(name) }
    }

    fn ids(pods: &[Pod]) -> Vec<PodId> {
        pods.iter().map(|pod| pod.id.clone()).collect()
    }

    fn budget() -> Evicted {
        Evicted::NotNow { why: "the budget web needs 2".to_owned(), after: None }
    }

    #[test]
    fn what_a_drain_leaves_and_what_it_evicts() {
        let of = |kind: &str| Pod { controller: Some(kind.to_owned()), ..pod("a") };
        for (pod, goes) in [
            (pod("a"), true),
            (of("StatefulSet"), true),
            (of("Job"), true),
            (Pod { controller: None, ..pod("a") }, true),
            (of("DaemonSet"), false),
            (Pod { mirror: true, ..of("Node") }, false),
            (Pod { finished: true, ..of("Job") }, false),
            (going("a"), true),
            (Pod { going: true, ..of("DaemonSet") }, false),
        ] {
            assert_eq!(pod.must_go(), goes, "{pod:?}");
        }
    }

    #[test]
    fn a_node_is_empty_when_only_what_stays_anyway_is_left() {
        let drain = Drain::new(at(600));
        let daemon = Pod { controller: Some("DaemonSet".to_owned()), ..pod("agent") };
        assert_eq!(drain.next(&[daemon], at(0)), Next::Empty);
        assert_eq!(drain.next(&[], at(700)), Next::Empty);
    }

    #[test]
    fn every_pod_is_asked_once_and_waited_for_until_it_is_gone() {
        let mut drain = Drain::new(at(600));
        let pods = [pod("a"), pod("b")];
        assert_eq!(drain.next(&pods, at(0)), Next::Evict(ids(&pods)));
        for id in ids(&pods) {
            drain.told(id, Evicted::Taken, at(0));
        }
        assert_eq!(drain.evicted(), 2);
        assert_eq!(drain.next(&[going("a"), going("b")], at(1)), Next::Look(at(4)));
        assert_eq!(drain.next(&[going("b")], at(590)), Next::Look(at(593)));
        assert_eq!(drain.next(&[going("b")], at(599)), Next::Look(at(600)));
        assert_eq!(drain.next(&[], at(599)), Next::Empty);
    }

    #[test]
    fn a_budget_is_asked_again_ever_less_often_and_others_do_not_wait_for_it() {
        let mut drain = Drain::new(at(600));
        let pods = [pod("a"), pod("b")];
        drain.told(pods[0].id.clone(), budget(), at(0));
        assert_eq!(drain.next(&pods, at(1)), Next::Evict(ids(&pods[1..])));
        drain.told(pods[1].id.clone(), Evicted::Taken, at(1));
        let rest = [pod("a"), going("b")];
        assert_eq!(drain.next(&rest, at(3)), Next::Look(at(5)));
        for (asked, again) in [(5, 15), (15, 35), (35, 55), (55, 75)] {
            assert_eq!(drain.next(&rest, at(asked)), Next::Evict(ids(&rest[..1])));
            drain.told(rest[0].id.clone(), budget(), at(asked));
            assert_eq!(drain.next(&rest, at(again) - SignedDuration::from_millis(1)), Next::Look(at(again)));
        }
    }

    #[test]
    fn the_servers_own_word_when_to_ask_again_counts_within_reason() {
        for (after, again) in [(0, 1), (10, 10), (3_600, 20)] {
            let mut drain = Drain::new(at(600));
            let after = Some(SignedDuration::from_secs(after));
            drain.told(pod("a").id, Evicted::NotNow { why: "later".to_owned(), after }, at(0));
            assert_eq!(drain.next(&[pod("a")], at(again)), Next::Evict(ids(&[pod("a")])));
            assert!(matches!(drain.next(&[pod("a")], at(again - 1)), Next::Look(_)));
        }
    }

    #[test]
    fn at_its_end_a_drain_says_what_is_left_and_why() {
        let mut drain = Drain::new(at(600));
        let pods = [pod("a"), going("b"), pod("c"), pod("d")];
        drain.told(pods[0].id.clone(), budget(), at(590));
        drain.told(pods[2].id.clone(), Evicted::Never("forbidden".to_owned()), at(0));
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
    fn what_will_never_be_evicted_is_not_waited_for_when_nothing_else_is() {
        let mut drain = Drain::new(at(600));
        drain.told(pod("a").id, Evicted::Never("forbidden".to_owned()), at(0));
        assert_eq!(drain.next(&[pod("a"), going("b")], at(1)), Next::Look(at(4)));
        assert!(matches!(drain.next(&[pod("a")], at(1)), Next::GiveUp(_)));
    }

    #[test]
    fn another_pod_of_the_same_name_is_another_pod() {
        let mut drain = Drain::new(at(600));
        drain.told(pod("db-0").id, Evicted::Taken, at(0));
        let mut next = pod("db-0");
        next.id.uid = "another".to_owned();
        assert_eq!(drain.next(&[next.clone()], at(1)), Next::Evict(ids(&[next])));
    }

    #[test]
    fn a_pod_that_was_taken_and_stays_as_it_was_is_asked_for_again() {
        let mut drain = Drain::new(at(600));
        drain.told(pod("a").id, Evicted::Taken, at(0));
        assert_eq!(drain.next(&[pod("a")], at(1)), Next::Look(at(4)));
        assert_eq!(drain.next(&[pod("a")], at(20)), Next::Evict(ids(&[pod("a")])));
    }
}
