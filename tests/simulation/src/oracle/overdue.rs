//! Whether nothing has blocked a repair for longer than it may take: what must be done must be done soon.
//!
//! A repair counts as unblocked only beyond doubt (see [`blocks`](super::blocks)).

use jiff::{SignedDuration, Timestamp};

use super::{LEASE, Oracle, REBOOT_TIMEOUT};
use crate::episodes::Cure;

/// A repair must be made within this, once nothing blocks it.
pub(super) const PROMPT: SignedDuration = SignedDuration::from_secs(120);
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
            // Verification may have read that it is healthy, and nothing was delivered that reports it.
            let is_healed = self.nodes[*number].healthy_since(self.now).is_some();
            let clear = !is_healed && due.is_some_and(|due| due <= self.now) && self.is_clear(*number);
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
        let waits = stored.backoff_until().is_some_and(|until| now < until) || self.is_awaited(number);
        // If a node reports with a wrong clock, it is not known when its repair is due, but that the repair
        // was begun.
        let due = self.overdue_since(number).is_some_and(|due| due + PROMPT < now)
            || node.unreliable && node.stored.open && node.is_known_unhealthy();
        let quiet = now >= self.last_fault + LEASE + PROMPT && now >= node.not_clear_before;
        let ends = node.on_standby
            || node.detached
            || node.is_just_back(now)
            || stored.suspended
            || self.observing
            || self.shifted.is_some();
        due && quiet && !waits && !ends && self.holds.is_empty() && !self.is_clear(number)
    }

    /// The time at which a call is due that was not made; none if nothing is wrong.
    pub(super) fn overdue_since(&self, number: usize) -> Option<Timestamp> {
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
                && !other.detached
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
}
