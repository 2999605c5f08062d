//! What the policy promotes: events that occur too often, and conditions that become bad too often.
//!
//! A flapping node recovers again and again, and each recovery ends its fault. A promotion lets it count as one fault from
//! the time at which it has become bad often enough. It is repaired only while it is bad: while it is healthy it counts as
//! recovering, until the window has passed.

use std::borrow::Cow;

use jiff::Timestamp;

use super::{
    Case, Condition, EventCounter, Source, SourceState,
    counter::{Occurrence, Reached, reached},
};
use crate::{
    condition::{ConditionType, Health, RepairAction},
    policy::{Policy, Promotion},
    timestamp,
};

/// A promotion whose count is reached.
pub(super) struct Promoted<'c> {
    pub(super) condition: &'c ConditionType,
    pub(super) reason: &'c str,
    pub(super) source: Source,
    /// It is healthy just now.
    pub(super) healthy: bool,
    pub(super) reached: Reached,
    pub(super) action: RepairAction,
    pub(super) message: Cow<'c, str>,
}

impl Case {
    /// The promotions whose counts are reached.
    pub(super) fn promoted<'c>(
        &'c self,
        policy: &Policy,
        now: Timestamp,
    ) -> impl Iterator<Item = Promoted<'c>> {
        policy.promotions.iter().flat_map(move |promotion| {
            let by_the_agent = self
                .counters
                .iter()
                .filter(|counter| *counter.reason == promotion.reason)
                .filter_map(move |counter| self.promoted_counter(counter, promotion, now));
            let by_the_control_plane = self
                .conditions
                .iter()
                .filter_map(move |known| self.promoted_condition(known, promotion, now));
            by_the_agent.chain(by_the_control_plane)
        })
    }

    /// An event of the agent, or a condition that it reported.
    fn promoted_counter<'c>(
        &'c self,
        counter: &'c EventCounter,
        promotion: &Promotion,
        now: Timestamp,
    ) -> Option<Promoted<'c>> {
        let since = if counter.flaps { self.flaps_count_from() } else { Timestamp::MIN };
        let reached = reached(counter.occurrences(since), promotion.count, promotion.window, now)?;
        let is_bad = |known: &Condition| match &known.state {
            SourceState::Agent { latest, .. } => {
                known.condition == counter.condition && latest.health().is_bad()
            }
            SourceState::ControlPlane(_) => false,
        };
        Some(Promoted {
            condition: &counter.condition,
            reason: &counter.reason,
            source: Source::Agent,
            healthy: counter.flaps && !self.conditions.iter().any(is_bad),
            reached,
            action: promotion.repair_action,
            message: if counter.flaps {
                Cow::Owned(flapped(&counter.condition, promotion))
            } else {
                Cow::Borrowed(&counter.message)
            },
        })
    }

    /// A condition that the control plane reported.
    fn promoted_condition<'c>(
        &self,
        known: &'c Condition,
        promotion: &Promotion,
        now: Timestamp,
    ) -> Option<Promoted<'c>> {
        let SourceState::ControlPlane(history) = &known.state else { return None };
        let since = self.flaps_count_from();
        let flaps: Vec<_> =
            history.became_bad(&promotion.reason).filter(|change| change.at >= since).collect();
        let reason = &*flaps.last()?.reason;
        let flaps = flaps.into_iter().map(|change| Occurrence::once(change.at, change.arrived)).collect();
        let reached = reached(flaps, promotion.count, promotion.window, now)?;
        let health = history.last_change().map_or(Health::Healthy, |last| last.health);
        Some(Promoted {
            condition: &known.condition,
            reason,
            source: Source::ControlPlane,
            healthy: !health.is_bad(),
            reached,
            action: promotion.repair_action,
            message: Cow::Owned(flapped(&known.condition, promotion)),
        })
    }

    /// A reboot ends what flapped before it, and so cures it.
    fn flaps_count_from(&self) -> Timestamp {
        let rebooted = self.boot.as_ref().filter(|_| !self.old_boots.is_empty());
        rebooted.map_or(Timestamp::MIN, |boot| boot.first_seen)
    }
}

fn flapped(condition: &ConditionType, promotion: &Promotion) -> String {
    let Promotion { count, window, .. } = promotion;
    format!("{condition} became bad {count} times within {}", timestamp::duration(*window))
}
