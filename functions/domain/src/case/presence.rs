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
