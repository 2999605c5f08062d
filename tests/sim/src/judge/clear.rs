//! Whether the way of a repair has been clear for longer than it may take: what must be done must be done soon.
//!
//! The way counts as clear only where it is clear beyond doubt: nothing demanded here rests on a handler's opinion
//! that could hide its own fault, but for the group's rest, whose failures are judged one by one where they are
//! written.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::policy::Limit;

use super::{Judge, LEASE, REBOOT_TIMEOUT, act::rests_until};
use crate::{plan::Held, trouble::Cure};

/// A repair must be made within this, once its way is clear.
const PROMPT: SignedDuration = SignedDuration::from_secs(120);
/// So often is looked at what is overdue.
const AGAIN: SignedDuration = SignedDuration::from_secs(20);

/// For how long a refusal puts a call off, after so many of them.
pub(super) fn pause(code: &str, refusals: u32) -> SignedDuration {
    let (first, most) = match code {
        "Throttling" => (15, 600),
        "ScalingActivityInProgress" | "ResourceContention" => (30, 600),
        "AccessDenied" => (300, 3_600),
        _ => (5, 300),
    };
    SignedDuration::from_secs((first << refusals.saturating_sub(1).min(10)).min(most))
}

impl Judge {
    /// Keeps an eye on a node of which something was heard or written.
    pub(crate) fn watch(&mut self, number: usize) {
        if self.overdue_since(number).is_some() {
            self.news = true;
            let node = &mut self.nodes[number];
            if !std::mem::replace(&mut node.watched, true) {
                self.watched.push(number);
            }
        }
    }

    /// Looks at every node that is watched; when to look again.
    pub(crate) fn look(&mut self) -> Option<Timestamp> {
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
                    self.wrong(
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

    /// Whether a call is wanted, now or later.
    pub(crate) fn wants_repair(&self, number: usize) -> bool {
        self.overdue_since(number).is_some()
    }

    /// Whether a call is wanted that nothing but an operator, or another node's recovery, can bring about.
    pub(crate) fn is_stuck(&self, number: usize) -> bool {
        let (node, now) = (&self.nodes[number], self.now);
        let seen = &self.groups[node.group];
        let waits = rests_until(seen.failures, seen.last_failure).is_some_and(|until| now < until);
        let due = self.overdue_since(number).is_some_and(|due| due + PROMPT < now);
        let quiet = now >= self.last_fault + LEASE + PROMPT && now >= node.not_clear_before;
        let ends = node.set_aside || seen.suspended || self.observing || self.shifted.is_some();
        due && quiet && !waits && !ends && self.holds.is_empty() && !self.is_clear(number)
    }

    /// Since when, or from when on, a call is wanted that was not made; none where nothing is wrong.
    fn overdue_since(&self, number: usize) -> Option<Timestamp> {
        let node = &self.nodes[number];
        if node.is_out() || node.heard_left {
            return None;
        }
        let heard = self.as_heard(number);
        let bad = || heard.iter().filter(|one| one.bad);
        let replace =
            bad().filter(|one| one.cure == Some(Cure::Replace)).filter_map(|one| one.deadline).min();
        let reboot = bad()
            .filter(|one| one.cure == Some(Cure::Reboot))
            .filter_map(|one| Some(one.deadline?.max(node.outlives_reboot(one).unwrap_or(Timestamp::MIN))))
            .min();
        let late = node.never_joined_deadline();
        // What a reboot did not cure is replaced when its time is up.
        let called = node.rebooted.or(node.seen.rebooted);
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

    /// Whether nothing whatever stands in the way.
    fn is_clear(&self, number: usize) -> bool {
        let (node, now) = (&self.nodes[number], self.now);
        let (plan, seen) = (self.group_plan(number), &self.groups[node.group]);
        let quiet = now >= self.last_fault + LEASE + SignedDuration::from_secs(60)
            && now >= node.not_clear_before
            && self.refusing.is_none();
        let left = self.observing || self.shifted == Some(node.zone);
        if !quiet || left || !plan.may_be_repaired() || node.set_aside || seen.suspended {
            return false;
        }
        let held = self.holds.iter().any(|(what, from, until)| {
            let mine = match what {
                Held::Everything => true,
                Held::Group(group) => *group == node.group,
                Held::Node(other) => *other == number,
            };
            mine && *from <= now && now < *until
        });
        let shut = plan.window.is_some_and(|(start, end)| {
            let minute = now.as_second().rem_euclid(86_400) / 60;
            !(start..end).contains(&minute) && !(start..end).contains(&(minute + 1_440))
        });
        let rests = rests_until(seen.failures, seen.last_failure).is_some_and(|until| now < until);
        !held && !shut && !rests && self.has_room(number)
    }

    /// Whether the numbers leave room, even if everything counts that may.
    fn has_room(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        let plan = self.group_plan(number);
        let members = || {
            let here = |other: &(usize, &super::node::Node)| {
                other.1.exists() && (!other.1.gone || other.1.seen.unhealthy)
            };
            self.nodes.iter().enumerate().filter(here)
        };
        let may_count = |other: usize| {
            let node = &self.nodes[other];
            node.seen.unhealthy
                || node.seen.open
                || node.join_deadline().is_some()
                || node.is_touched() && self.as_heard(other).iter().any(|heard| heard.bad)
        };
        let (mut size, mut unhealthy, mut open) = (0, 0, 0);
        let (mut here, mut of_zone, mut silent) = (0, 0, 0);
        for (other, one) in members() {
            let counts = usize::from(one.is_touched() && may_count(other));
            let silent_too = one.seen.silent;
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
        // A place may be kept by one that is gone already.
        open += self
            .nodes
            .iter()
            .enumerate()
            .filter(|(other, one)| *other != number && one.group == node.group && one.seen.open)
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
        // Fewer unhealthy elsewhere make a zone more suspect: nothing is demanded where it might be.
        let dark = here >= 3 && here * 2 >= of_zone;
        !exceeded && (!full || node.seen.open) && !dark && silent < 3
    }
}
