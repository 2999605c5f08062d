//! Whether nothing has blocked a repair for longer than it may take: what must be done must be done soon.
//!
//! A repair counts as unblocked only beyond doubt. No demand here rests on what a handler says, which could hide its
//! own fault. The one exception is the group's backoff: each of the failures that cause it is checked when it is
//! written.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::policy::Limit;

use super::{LEASE, Oracle, REBOOT_TIMEOUT, calls::backoff_until};
use crate::{episodes::Cure, plan::HoldScope, reading::Access};

/// A repair must be made within this, once nothing blocks it.
const PROMPT: SignedDuration = SignedDuration::from_secs(120);
/// The policy's `outage.cooldown`, and the time until a blocked repair is evaluated again.
const OUTAGE_ENDS: SignedDuration = SignedDuration::from_mins(13);
/// How often overdue repairs are checked.
const AGAIN: SignedDuration = SignedDuration::from_secs(20);

/// For how long a call is put off after so many refusals.
pub(super) fn pause(code: &str, refusals: u32) -> SignedDuration {
    let (first, most) = match code {
        "Throttling" => (15, 600),
        "ScalingActivityInProgress" | "ResourceContention" => (30, 600),
        "AccessDenied" => (300, 3_600),
        _ => (5, 300),
    };
    SignedDuration::from_secs((first << refusals.saturating_sub(1).min(10)).min(most))
}

impl Oracle {
    /// Watches a node of which something was applied or written.
    pub(crate) fn watch(&mut self, number: usize) {
        if self.overdue_since(number).is_some() {
            self.changed = true;
            let node = &mut self.nodes[number];
            if !std::mem::replace(&mut node.watched, true) {
                self.watched.push(number);
            }
        }
    }

    /// Checks every watched node; returns when to check again.
    pub(crate) fn check_overdue(&mut self) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        let mut watched = std::mem::take(&mut self.watched);
        watched.retain(|number| {
            let due = self.overdue_since(*number);
            let clear = due.is_some_and(|due| due <= self.now) && self.is_clear(*number);
            let now = self.now;
            let node = &mut self.nodes[*number];
            if !clear {
                node.clear_since = None;
            } else {
                let since = *node.clear_since.get_or_insert(now);
                if now > since + PROMPT {
                    node.clear_since = None;
                    node.not_clear_before = now + SignedDuration::from_hours(1);
                    self.violation(
                        "not repaired in time",
                        format!("node {number}, due {due:?}, its way clear since {since:.0}"),
                    );
                }
            }
            let again = due.map(|due| due.max(self.now + AGAIN));
            next = next.into_iter().chain(again).min();
            self.nodes[*number].watched = due.is_some();
            due.is_some()
        });
        watched.append(&mut self.watched);
        self.watched = watched;
        next
    }

    /// Whether a call is due, now or later.
    pub(crate) fn wants_repair(&self, number: usize) -> bool {
        self.overdue_since(number).is_some()
    }

    /// Whether a call is due that only an operator, or another node's recovery, can unblock.
    pub(crate) fn is_stuck(&self, number: usize) -> bool {
        let (node, now) = (&self.nodes[number], self.now);
        let stored = &self.groups[node.group];
        let waits = backoff_until(stored.failures, stored.last_failure).is_some_and(|until| now < until);
        let due = self.overdue_since(number).is_some_and(|due| due + PROMPT < now);
        let quiet = now >= self.last_fault + LEASE + PROMPT && now >= node.not_clear_before;
        let ends = node.on_standby || stored.suspended || self.observing || self.shifted.is_some();
        due && quiet && !waits && !ends && self.holds.is_empty() && !self.is_clear(number)
    }

    /// The time at which a call is due that was not made; none if nothing is wrong.
    fn overdue_since(&self, number: usize) -> Option<Timestamp> {
        let node = &self.nodes[number];
        if node.is_out() || node.known_left || node.unreliable {
            return None;
        }
        let known = self.known_conditions(number);
        let bad = || known.iter().filter(|one| one.bad);
        let replace =
            bad().filter(|one| one.cure == Some(Cure::Replace)).filter_map(|one| one.deadline).min();
        let reboot = bad()
            .filter(|one| one.cure == Some(Cure::Reboot))
            .filter_map(|one| Some(one.deadline?.max(node.outlives_reboot(one).unwrap_or(Timestamp::MIN))))
            .min();
        // Where nothing is known of any other instance of the group, none may be a node.
        let known_node = |other: &super::node::Node| {
            other.group == node.group
                && other.is_touched()
                && other.exists()
                && !other.gone
                && other.never_joined_deadline().is_none()
        };
        let late = node.never_joined_deadline().filter(|_| self.nodes.iter().any(known_node));
        // What a reboot did not cure is replaced when its time is up.
        let called = node.rebooted.or(node.stored.rebooted);
        let reboot = match (reboot, called) {
            (Some(_), Some(called)) => Some(called + REBOOT_TIMEOUT),
            (reboot, None) => reboot,
            (None, Some(_)) => None,
        };
        let replace = match (replace, called) {
            (Some(at), Some(called)) => Some(at.max(called + REBOOT_TIMEOUT)),
            (replace, _) => replace,
        };
        [replace, reboot, late].into_iter().flatten().min()
    }

    /// Whether nothing at all blocks a repair.
    fn is_clear(&self, number: usize) -> bool {
        let (node, now) = (&self.nodes[number], self.now);
        let (plan, stored) = (self.group_plan(number), &self.groups[node.group]);
        let quiet = now >= self.last_fault + LEASE + SignedDuration::from_secs(60)
            && now >= node.not_clear_before
            && self.refusing.is_none();
        let unreadable =
            self.reading.access == Access::Neither && self.verifies || self.reading.failing.is_some();
        let left = unreadable || self.observing || self.shifted == Some(node.zone);
        if !quiet || left || !plan.may_be_repaired() || node.on_standby || stored.suspended {
            return false;
        }
        let held = self.holds.iter().any(|(what, from, until)| {
            let mine = match what {
                HoldScope::Everything => true,
                HoldScope::Group(group) => *group == node.group,
                HoldScope::Node(other) => self.nodes[*other].name == node.name,
            };
            mine && *from <= now && now < *until
        });
        let shut = plan.window.is_some_and(|(start, end)| {
            let minute = now.as_second().rem_euclid(86_400) / 60;
            !(start..end).contains(&minute) && !(start..end).contains(&(minute + 1_440))
        });
        let rests = backoff_until(stored.failures, stored.last_failure).is_some_and(|until| now < until);
        !held && !shut && !rests && self.has_room(number)
    }

    /// Whether limits and thresholds allow a repair, even if everything counts that may.
    fn has_room(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        let plan = self.group_plan(number);
        let members = || {
            let here = |other: &(usize, &super::node::Node)| {
                other.1.exists() && (!other.1.gone || other.1.stored.unhealthy)
            };
            self.nodes.iter().enumerate().filter(here)
        };
        let may_count = |other: usize| {
            let node = &self.nodes[other];
            node.stored.unhealthy
                || node.stored.open
                || node.join_deadline().is_some()
                || node.is_touched() && self.known_conditions(other).iter().any(|known| known.bad)
        };
        let (mut size, mut unhealthy, mut open) = (0, 0, 0);
        let (mut here, mut of_zone, mut silent) = (0, 0, 0);
        for (other, one) in members() {
            let counts = usize::from(one.is_touched() && may_count(other));
            let silent_too = one.stored.silent;
            silent += usize::from(silent_too);
            let there = usize::from(!one.gone);
            if one.zone == node.zone {
                of_zone += there;
                here += counts;
            }
            if one.group == node.group {
                size += there;
                unhealthy += counts;
            }
        }
        // A slot may be kept by a node that is gone already.
        open += self
            .nodes
            .iter()
            .enumerate()
            .filter(|(other, one)| *other != number && one.group == node.group && one.stored.open)
            .count();
        let exceeded = match plan.threshold {
            Some(Limit::Count(count)) => unhealthy > count as usize,
            Some(Limit::Percentage(percentage)) => unhealthy * 100 > size * percentage as usize,
            None => size > 5 && unhealthy * 5 > size,
        };
        let full = match plan.parallel {
            Some(Limit::Count(count)) => open >= count as usize,
            Some(Limit::Percentage(_)) => open > 0,
            None => false,
        };
        // The whole cluster counts as down, or an outage of the group as ending.
        let (all, sick) = members().fold((0, 0), |(all, sick), (other, one)| {
            (all + usize::from(!one.gone), sick + usize::from(one.is_touched() && may_count(other)))
        });
        let down = sick > 3 && sick * 100 > all * 45;
        let ending = members()
            .filter(|(_, one)| one.group == node.group)
            .filter_map(|(_, one)| one.stored.recovered)
            .filter(|recovered| self.now.duration_since(*recovered) < OUTAGE_ENDS)
            .count()
            > 1;
        // Fewer unhealthy nodes elsewhere make a zone more suspect: no repair is due where it might be.
        let dark = here >= 3 && here * 2 >= of_zone;
        !exceeded && !down && !ending && (!full || node.stored.open) && !dark && silent < 2
    }
}
