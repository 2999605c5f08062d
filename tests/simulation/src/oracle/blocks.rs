//! What may block a repair. No rule depends on what a handler reports, which could hide its own fault. The
//! one exception is the group's backoff: each of the failures that cause it is checked when it is written.
//!
//! While things happen, everything that may block counts. When everything has ended, only what certainly still blocks
//! excuses a repair that was not made: otherwise a repair that never happens would look like one that waits.

use jiff::SignedDuration;
use nodemend_domain::policy::Limit;

use super::{LEASE, Oracle, node::Node, overdue::PROMPT};
use crate::{fleet::SMALL, plan::HoldScope, reading::Access};

/// The policy's `outage.cooldown`, and the time until a blocked repair is evaluated again.
const OUTAGE_ENDS: SignedDuration = SignedDuration::from_mins(13);

/// What blocks while many nodes are unhealthy. Several can block at once.
const COUNTED: [&str; 4] =
    ["the threshold of its group", "the threshold of the cluster", "its zone", "the log pipeline"];

/// What may block a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    /// It ends by itself.
    Passing(&'static str),
    /// An operator, or the recovery of other nodes, ends it.
    Lasting(&'static str),
}

impl Oracle {
    /// Whether nothing at all blocks a repair.
    pub(super) fn is_clear(&self, number: usize) -> bool {
        self.may_be_blocked(number).is_none()
    }

    /// Something that may block a repair now; what lasts comes first.
    fn may_be_blocked(&self, number: usize) -> Option<Block> {
        let (node, now) = (&self.nodes[number], self.now);
        let (plan, stored) = (self.group_plan(number), &self.groups[node.group]);
        if !plan.may_be_repaired() {
            return Some(Block::Lasting("no calls are made in its group"));
        }
        if self.reading.access == Access::Neither && self.verifies && !self.settings.preferred {
            return Some(Block::Lasting("it cannot be verified"));
        }
        let shut = plan.window.is_some_and(|(start, end)| {
            let minute = now.as_second().rem_euclid(86_400) / 60;
            !(start..end).contains(&minute) && !(start..end).contains(&(minute + 1_440))
        });
        if shut {
            return Some(Block::Lasting("its maintenance window is closed"));
        }
        if self.gradual() && self.has_the_fault_of_its_predecessor(number) {
            return Some(Block::Lasting("replacing did not help"));
        }
        if let Some(block) = self.lacks_room(number) {
            return Some(block);
        }
        let held = self.holds.iter().any(|(what, from, until)| {
            let mine = match what {
                HoldScope::Everything => true,
                HoldScope::Group(group) => *group == node.group,
                HoldScope::Node(other) => self.nodes[*other].name == node.name,
            };
            mine && *from <= now && now < *until
        });
        let passing = [
            (now < self.last_fault + LEASE + SignedDuration::from_secs(60), "a function failed"),
            (now < node.not_clear_before, "its call was refused, or it was reported already"),
            (self.refusing.is_some(), "AWS refuses calls"),
            (self.reading.failing.is_some(), "reads fail"),
            (self.observing, "observe mode"),
            (self.shifted == Some(node.zone), "a zonal shift"),
            (node.on_standby || node.detached || node.is_just_back(now), "it is not in service"),
            (stored.suspended, "its group is suspended"),
            (held, "it is held"),
            (stored.backoff_until().is_some_and(|until| now < until), "its group is in backoff"),
            (self.is_awaited(number), "a repair waits for it to become Ready"),
        ];
        passing.into_iter().find(|(blocks, _)| *blocks).map(|(_, why)| Block::Passing(why))
    }

    /// Whether it is the replacement that another repair waits for.
    pub(super) fn is_awaited(&self, number: usize) -> bool {
        self.nodes.iter().any(|other| other.stored.open && other.stored.replacement == Some(number))
    }

    /// Whether repairs for one reason begin with one.
    fn gradual(&self) -> bool {
        self.settings.gradual
    }

    /// Whether a new instance of the group, perhaps this one, has had a fault that this node has.
    fn has_the_fault_of_its_predecessor(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        let repeats = |other: &Node| {
            other.group == node.group
                && other.launched.is_some()
                && !other.gone
                && (other.stored.unhealthy || other.is_known_unhealthy())
                && other.reasons(self.now).any(|reason| node.reasons(self.now).any(|own| own == reason))
        };
        self.nodes.iter().any(repeats)
    }

    /// Why a repair that is due and not made is not made, when everything else has ended; an error if nothing explains it.
    fn excuse(&self, number: usize) -> Result<&'static str, &'static str> {
        match self.may_be_blocked(number) {
            None => Err("nothing blocks it"),
            // A slot that another repair keeps, which is itself blocked for good.
            Some(Block::Passing(why)) if self.waits_for_a_blocked_repair(number) => Ok(why),
            Some(Block::Passing(why)) => Err(why),
            Some(Block::Lasting(why)) if !COUNTED.contains(&why) || self.certainly_lacks_room(number) => {
                Ok(why)
            }
            Some(Block::Lasting(_)) => Err("too many count as unhealthy"),
        }
    }

    /// Why nothing explains that a repair was not made that has been due for long; none if something does.
    pub(crate) fn unexplained(&self, number: usize) -> Option<&'static str> {
        let due = self.overdue_since(number).is_some_and(|due| due + PROMPT < self.now);
        if due { self.excuse(number).err() } else { None }
    }

    /// Whether every repair that was not made is explained.
    pub(crate) fn is_explained(&self) -> bool {
        (0..self.nodes.len()).all(|number| self.unexplained(number).is_none())
    }

    fn waits_for_a_blocked_repair(&self, number: usize) -> bool {
        let lasts = |(other, node): (usize, &Node)| {
            other != number
                && node.stored.open
                && matches!(self.may_be_blocked(other), Some(Block::Lasting(_)))
        };
        self.nodes.iter().enumerate().any(lasts)
    }

    /// Whether so many nodes are certainly unhealthy that one of [`COUNTED`] is why.
    fn certainly_lacks_room(&self, number: usize) -> bool {
        let (node, plan) = (&self.nodes[number], self.group_plan(number));
        let here = |other: &&Node| other.exists() && !other.gone && !other.on_standby;
        let late = |other: &Node| other.join_deadline().is_some_and(|late| late <= self.now);
        let unhealthy = |other: &&Node| other.is_known_unhealthy() || other.stored.open || late(other);
        let count = |of: &dyn Fn(&&Node) -> bool| self.nodes.iter().filter(here).filter(of).count();
        let both = |of: &dyn Fn(&&Node) -> bool| (count(&|one| of(one) && unhealthy(one)), count(of));
        let (of_group, group) = both(&|one| one.group == node.group);
        let (of_zone, zone) = both(&|one| one.zone == node.zone);
        let (all, cluster) = both(&|_| true);
        let of_group_exceeded = match plan.threshold {
            Some(Limit::Count(count)) => of_group > count as usize,
            Some(Limit::Percentage(percentage)) => of_group * 100 > group * percentage as usize,
            None => group > 5 && of_group * 5 > group,
        };
        let silent = count(&|one| one.stored.silent);
        of_group_exceeded
            || all > 3 && all * 100 > cluster * 45
            || of_zone >= 3 && of_zone * 2 >= zone && of_zone * 4 >= all * 3
            || silent >= 2 && silent * 2 >= cluster
    }

    /// What leaves no room for a repair, if everything counts that may: limits and thresholds.
    fn lacks_room(&self, number: usize) -> Option<Block> {
        let node = &self.nodes[number];
        let plan = self.group_plan(number);
        let members = || {
            let here =
                |other: &(usize, &Node)| other.1.exists() && (!other.1.gone || other.1.stored.unhealthy);
            self.nodes.iter().enumerate().filter(here)
        };
        let may_count = |other: usize| {
            let node = &self.nodes[other];
            node.stored.unhealthy
                || node.stored.open
                || node.join_deadline().is_some()
                || node.is_touched() && self.known_conditions(other).iter().any(|known| known.bad)
        };
        let (mut size, mut unhealthy, mut open, mut awaited) = (0, 0, 0, 0);
        let (mut here, mut of_zone, mut silent) = (0, 0, 0);
        for (other, one) in members() {
            let counts = usize::from(one.is_touched() && may_count(other));
            let silent_too = one.stored.silent;
            silent += usize::from(silent_too);
            let there = usize::from(!one.gone && !one.detached && !one.on_standby);
            if one.zone == node.zone {
                of_zone += there;
                here += counts;
            }
            if one.group == node.group {
                size += there;
                unhealthy += counts;
                awaited += usize::from(one.gone && one.stored.open);
            }
        }
        // A slot may be kept by a node that is gone already.
        open += self
            .nodes
            .iter()
            .enumerate()
            .filter(|(other, one)| *other != number && one.group == node.group && one.stored.open)
            .count();
        let exceeds = |size: usize| match plan.threshold {
            Some(Limit::Count(count)) => unhealthy > count as usize,
            Some(Limit::Percentage(percentage)) => unhealthy * 100 > size * percentage as usize,
            None => size > 5 && unhealthy * 5 > size,
        };
        // What waits for its replacement may count as one more.
        let exceeded = exceeds(size) || exceeds(size + awaited);
        let full = match plan.parallel {
            Some(Limit::Count(count)) => open >= count as usize,
            Some(Limit::Percentage(_)) => open > 0,
            None => false,
        };
        // The whole cluster counts as down, or an outage of the group as ending.
        let (all, all_unhealthy) = members().fold((0, 0), |(all, all_unhealthy), (other, one)| {
            (
                all + usize::from(!one.gone && !one.detached && !one.on_standby),
                all_unhealthy + usize::from(one.is_touched() && may_count(other)),
            )
        });
        let down = all_unhealthy > 3 && all_unhealthy * 100 > all * 45;
        let ending = members()
            .filter(|(_, one)| one.group == node.group)
            .filter_map(|(_, one)| one.stored.recovered)
            .filter(|recovered| self.now.duration_since(*recovered) < OUTAGE_ENDS)
            .count()
            > 1;
        // Fewer unhealthy nodes elsewhere make a zone more suspect: no repair is due where it might be.
        let impaired = here >= 3 && here * 2 >= of_zone;
        let lasting =
            [(exceeded, COUNTED[0]), (down, COUNTED[1]), (impaired, COUNTED[2]), (silent >= 2, COUNTED[3])];
        let own = node.stored.open;
        let others = |one: &Node| one.stored.open && one.group != node.group;
        let elsewhere = all <= SMALL + 1 && self.nodes.iter().any(others);
        let passing = [
            (ending, "an outage of its group ends"),
            (!own && full, "the limit of parallel repairs"),
            (!own && self.gradual() && (open > 0 || elsewhere), "repairs begin with one"),
        ];
        let found =
            |all: &[(bool, &'static str)]| all.iter().find(|(blocks, _)| *blocks).map(|(_, why)| *why);
        found(&lasting).map(Block::Lasting).or_else(|| found(&passing).map(Block::Passing))
    }
}
