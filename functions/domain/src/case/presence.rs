//! Turns word of launches, registrations and ends into how a node came and how it went.

use jiff::{SignedDuration, Timestamp};

use super::{Arrival, Case, Departure, Told};
use crate::ident::{GroupName, Zone};

/// An agent is heard by our clock, a kubelet by the API server's.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(60);

impl Case {
    /// Auto Scaling launched this instance into a group.
    pub fn hear_launch(&mut self, group: &GroupName, zone: Option<&Zone>, at: Timestamp) {
        self.group.get_or_insert_with(|| group.clone());
        if self.zone.is_none() {
            self.zone = zone.cloned();
        }
        if self.welcomed {
            return;
        }
        let first_heard = self.first_heard;
        let arrival = self.arrival.get_or_insert_with(Arrival::default);
        arrival.launched.get_or_insert(at);
        if arrival.registered.is_none() {
            arrival.registered = first_heard;
        }
    }

    /// Its group was told so much of its arrival. Ready is the last thing to be told.
    pub fn introduced(&mut self, told: Told) {
        if let Some(arrival) = &mut self.arrival {
            arrival.told = arrival.told.max(told);
        }
        if self.arrival.take_if(|arrival| arrival.told == Told::Ready).is_some() {
            self.welcomed = true;
        }
    }

    /// The instance left.
    pub fn depart(&mut self, at: Timestamp, how: String, foreign: bool) {
        let earlier = self.departure.as_ref().is_some_and(|known| known.foreign || !foreign);
        // Who did it is worth knowing even where that it happened was known first.
        if (self.closed.is_none() || foreign) && !earlier {
            self.departure = Some(Departure { at, how, foreign });
        }
    }

    /// Whether the instance was launched, or its kubelet registered, after this. That it was first heard later says
    /// nothing: its first words may have been on their way.
    pub(super) fn came_after(&self, at: Timestamp) -> bool {
        let launched = self.arrival.as_ref().and_then(|arrival| arrival.launched);
        launched.into_iter().chain(self.registered).any(|came| came > at)
    }

    /// Whoever is heard has joined.
    pub(super) fn joined(&mut self, at: Timestamp) {
        self.first_heard = Some(self.first_heard.map_or(at, |first| first.min(at)));
        if let Some(arrival) = &mut self.arrival {
            arrival.registered = Some(arrival.registered.map_or(at, |known| known.min(at)));
        }
    }

    /// A node that registers before anything else was heard of it is new; one that registers again is not.
    pub(super) fn registered(&mut self, at: Timestamp) {
        if !self.welcomed && self.first_heard.is_none_or(|first| at.duration_since(first) <= CLOCKS_DIFFER) {
            self.arrival.get_or_insert_with(Arrival::default);
        }
        self.joined(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ident::{ClusterName, InstanceId, NodeName},
        observation::{Deleter, Observation, What},
        policy::Policy,
    };

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time")
    }

    #[test]
    fn what_was_before_a_registration_starts_no_clock_though_it_is_told_late() {
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
        let policy = Policy::eks_defaults();
        let observed = |minute: i64, what: What| Observation {
            at: at(minute),
            node: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
            instance_id: None,
            zone: None,
            boot_id: None,
            what,
        };
        let deleted = || What::Deleted { by: Deleter::Manual, user: "alice".to_owned() };
        case.hear_observation(&observed(4, What::Registered { conditions: Vec::new() }), &policy);
        case.hear_observation(&observed(5, deleted()), &policy);
        let since = |case: &Case| case.faults(&policy.default_rules(), &policy, at(6))[0].since;
        assert_eq!(since(&case), at(5));
        case.hear_observation(&observed(1, deleted()), &policy);
        assert_eq!(since(&case), at(5));
    }

    #[test]
    fn the_end_of_the_node_that_had_the_name_before_is_not_this_ones() {
        let deleted_at = |minute: i64| {
            let id = InstanceId::new("i-00000000000000001").expect("an id");
            let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
            case.hear_launch(&GroupName::new("workers").expect("a name"), None, at(10));
            let deletion = Observation {
                at: at(minute),
                node: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
                instance_id: None,
                zone: None,
                boot_id: None,
                what: What::Deleted { by: Deleter::CloudController, user: "ccm".to_owned() },
            };
            case.hear_observation(&deletion, &Policy::eks_defaults());
            case.departure.is_some()
        };
        assert!(!deleted_at(5), "before it was launched");
        assert!(deleted_at(20));
    }

    #[test]
    fn a_node_whose_first_words_were_late_is_not_younger_than_its_deletion() {
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
        let policy = Policy::eks_defaults();
        // Heard at 10 for the first time, deleted at 5, and told so at 11.
        case.joined(at(10));
        let deletion = Observation {
            at: at(5),
            node: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
            instance_id: None,
            zone: None,
            boot_id: None,
            what: What::Deleted { by: Deleter::Manual, user: "alice".to_owned() },
        };
        case.hear_observation(&deletion, &policy);
        assert_eq!(case.faults(&policy.default_rules(), &policy, at(11))[0].since, at(5));
    }

    #[test]
    fn a_node_that_is_late_by_one_clock_is_not_forgotten_by_another() {
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
        let policy = Policy::eks_defaults();
        case.hear_launch(&GroupName::new("workers").expect("a name"), None, at(0));
        case.arrival.as_mut().expect("a launch").told = Told::FailedToJoin;
        // Written once more, by a function whose clock has not come so far.
        case.plan(&policy, at(15) - SignedDuration::from_millis(300));
        assert_eq!(case.due, Some(at(15)));
        case.plan(&policy, at(15));
        assert_eq!(case.due, Some(at(45)));
    }
}
