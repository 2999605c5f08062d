//! What has reached the handlers of a node, in the order in which they applied it, and what follows from that.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::{ConditionType, Health};

use super::{
    REBOOT_TIMEOUT, SLACK,
    node::{AgentFact, Fact, KnownCondition, Node, NodeObject},
    reads::Verified,
};
use crate::episodes::{Cure, HOLD, Source, Track, default_grace};

/// How long what was written meanwhile has to arrive, unless the policy changes.
pub(crate) const SETTLING: SignedDuration = SignedDuration::from_mins(10);

/// A report of an agent that was applied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AppliedReport {
    fact: AgentFact,
    arrived: Timestamp,
}

/// A change of the Ready condition that was applied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadyChange {
    at: Timestamp,
    bad: bool,
    cure: Option<Cure>,
    arrived: Timestamp,
    deletion: bool,
    /// The node controller has set it to Unknown.
    unknown: bool,
}

impl ReadyChange {
    fn new(at: Timestamp, bad: bool, cure: Option<Cure>, arrived: Timestamp) -> Self {
        Self { at, bad, cure, arrived, deletion: false, unknown: false }
    }

    fn deleted(self) -> Self {
        Self { deletion: true, ..self }
    }
}

/// The start of an episode, as the handlers know it.
#[derive(Debug, Clone, Copy)]
struct Onset {
    since: Timestamp,
    /// The grace period counts from here: from the arrival of the first bad report where healthy was reported before.
    counts_from: Timestamp,
    /// That arrival counts, however early it began.
    is_arrival: bool,
    /// A healthy report had arrived by then: what is reported after it began later, whatever it states.
    not_before: Timestamp,
    arrived: Timestamp,
}

impl Onset {
    fn deadline(&self, grace: SignedDuration, settling: SignedDuration) -> Timestamp {
        (self.counts_from + grace).max(self.arrived + settling)
    }
}

impl Node {
    /// A handler has written what it received, or knew it already.
    pub(crate) fn apply(&mut self, fact: &Fact, arrival: Timestamp) {
        match fact {
            Fact::Agent(fact) => {
                self.alive(fact.boot, None, arrival);
                self.reports.push(AppliedReport { fact: *fact, arrived: arrival });
            }
            Fact::Alive { boot, posted } => self.alive(*boot, *posted, arrival),
            Fact::NodeDeleted { .. } if !self.is_touched() && !self.is_named => {}
            // Of an earlier Node object, whose instance registered again since.
            Fact::NodeDeleted { uid, .. } if self.known_uid.is_some_and(|known| known != *uid) => {}
            Fact::NodeDeleted { at, gone: false, uid } => {
                // A Node that was registered again in between, of which nothing arrived: whose deletion counts is unknown.
                self.unreliable |= self.deleted_uid.replace(*uid).is_some_and(|known| known != *uid);
                self.change_ready(ReadyChange::new(*at, true, Some(Cure::Replace), arrival).deleted());
            }
            Fact::NodeDeleted { gone: true, .. } => self.known_left = true,
            Fact::Ready { uid: Some(uid), .. } if self.known_uid.is_some_and(|known| known != *uid) => {}
            Fact::Ready { at, bad, cure, uid } => {
                self.is_named |= uid.is_some();
                self.known_uid = self.known_uid.or(*uid);
                let change = ReadyChange::new(*at, *bad, *cure, arrival);
                // A kubelet's line has no uid.
                self.change_ready(ReadyChange { unknown: *bad && uid.is_some(), ..change });
            }
            Fact::Registered { at, uid } => {
                self.known_alive = true;
                if self.ready_from.is_none_or(|from| *at >= from) {
                    self.known_uid = Some(*uid);
                    self.begin_object(*at);
                }
            }
            Fact::Created { at, .. } if self.ready_from.is_some_and(|from| *at < from) => {}
            Fact::Created { at, uid } => {
                self.known_uid = Some(*uid);
                self.begin_object(*at);
            }
            Fact::Snapshot(object) => self.apply_snapshot(object.as_ref(), arrival),
            Fact::CloudTrail { .. } | Fact::LaunchFailed { .. } => {}
            Fact::Launched { at } => {
                self.known_launch.get_or_insert((*at, arrival));
            }
            Fact::Activity => (self.known_left, self.known_activity) = (true, true),
            Fact::Left { foreign } => {
                self.known_left = true;
                self.known_foreign |= foreign;
            }
        }
        // An agent alone may be of an old node: only a launch or a registration proves a new instance.
        // A Node object that a verification reads does not prove that its instance is new.
        let registered = matches!(fact, Fact::Registered { .. });
        if registered || self.known_launch.is_some() && self.known_alive {
            self.known_joined_at.get_or_insert(arrival);
        }
        self.learn();
    }

    fn alive(&mut self, boot: u32, posted: Option<Timestamp>, arrival: Timestamp) {
        self.known_alive = true;
        self.is_named |= posted.is_some();
        let seen = posted.unwrap_or(arrival);
        if boot > self.known_boot {
            (self.known_boot, self.boot_seen) = (boot, seen);
        } else if boot == self.known_boot && posted.is_none() {
            self.boot_seen = self.boot_seen.min(seen);
        }
    }

    fn begin_object(&mut self, at: Timestamp) {
        self.is_named = true;
        if self.ready_from.is_none_or(|from| at > from) {
            self.ready_from = Some(at);
            self.ready.retain(|change| change.at >= at);
        }
    }

    /// Whether it has come back into service so recently that it may be booting: it has its grace period, and the time to
    /// join, from the last evaluation that saw it out of service.
    pub(super) fn is_just_back(&self, now: Timestamp) -> bool {
        let time = if self.never_joined_deadline().is_some() { 47 } else { 32 };
        self.out_until.is_some_and(|until| now < until + SignedDuration::from_mins(time))
    }

    fn change_ready(&mut self, change: ReadyChange) {
        let ReadyChange { at, bad, arrived, deletion, .. } = change;
        if self.ready_from.is_some_and(|from| at < from) {
            return;
        }
        self.has_ready = true;
        // What was read is not applied if a slow clock makes it one of the future.
        if !bad && at <= arrived {
            self.known_ready_at.get_or_insert(arrived);
        }
        let same = |known: &&mut ReadyChange| (known.at, known.bad, known.deletion) == (at, bad, deletion);
        if let Some(known) = self.ready.iter_mut().find(same) {
            known.arrived = known.arrived.min(arrived);
            return;
        }
        self.ready.push(change);
        // At the same instant the deletion is last: a kubelet wrote to a Node object that was still there.
        self.ready.sort_by_key(|change| (change.at, change.bad));
    }

    /// Applies what a consistent read of the Kubernetes API found.
    fn apply_snapshot(&mut self, object: Option<&NodeObject>, read_at: Timestamp) {
        let deleted = self.ready.last().filter(|change| change.deletion).map(|change| change.at);
        let Some(object) = object else {
            if self.is_named && deleted.is_none() {
                self.change_ready(ReadyChange::new(read_at, true, Some(Cure::Replace), read_at).deleted());
            }
            return;
        };
        let other = self.known_uid.is_some_and(|known| known != object.uid);
        if other || deleted.is_some_and(|deleted| deleted <= object.created) {
            self.begin_object(object.created);
        }
        (self.known_uid, self.is_named) = (Some(object.uid), true);
        self.alive(object.boot, Some(read_at), read_at);
        let bad = object.ready != Health::Healthy;
        let unknown = object.ready == Health::Unknown;
        // A fault that a kubelet dates after the begin of the read is left to the next one: its clock may be ahead.
        if object.ready == Health::Bad && object.ready_since > read_at {
            return;
        }
        let since = object.ready_since;
        let seen = |at| ReadyChange { unknown, ..ReadyChange::new(at, bad, Some(Cure::Replace), read_at) };
        let is_after = |ready: &[ReadyChange], at| ready.last().is_some_and(|last| last.at > at);
        match self.ready.last() {
            // A new node is awaited until it is Ready.
            None if bad
                || self.has_ready
                || self.known_launch.is_some()
                || self.known_joined_at.is_some() =>
            {
                self.change_ready(seen(since));
            }
            Some(last) if last.bad != bad => {
                let at = if is_after(&self.ready, since) { read_at } else { since };
                if !is_after(&self.ready, at) {
                    self.change_ready(seen(at));
                }
            }
            // It recovered in between, and no line of that arrived.
            Some(last) if unknown && last.unknown && since.duration_since(last.at) > HOLD => {
                let between = last.at + SignedDuration::from_millis(1);
                self.change_ready(ReadyChange::new(between, false, None, read_at));
                self.change_ready(seen(since));
            }
            _ => {}
        }
    }

    /// One of the agent's conditions, as the handlers know it; none if nothing of this boot is known.
    fn agent_condition(&self, track: usize, grace: SignedDuration) -> Option<KnownCondition> {
        let (mut newest, mut newest_arrived): (Option<AgentFact>, Option<Timestamp>) = (None, None);
        let mut open: Option<(Option<usize>, Onset)> = None;
        let (mut acting, mut idle): (Option<Onset>, Option<Timestamp>) = (None, None);
        let (mut first_acting, mut idle_arrived): (Option<Timestamp>, Option<Timestamp>) = (None, None);
        let of_boot = self
            .reports
            .iter()
            .filter(|report| report.fact.track == track && report.fact.boot == self.known_boot);
        for AppliedReport { fact, arrived } in of_boot {
            let lag = arrived.duration_since(fact.sent_at);
            // Nothing that a boot reports began before it was seen.
            let start_of = |began: Timestamp| (began + lag).max(self.boot_seen.min(*arrived));
            let is_newest = newest.is_none_or(|newest| fact.seq > newest.seq);
            // Of a clock that is far ahead, two faults so close together look like one and a step of the clock.
            let is_ahead = self.clock(*arrived).duration_since(*arrived) >= HOLD;
            let looks_the_same = is_ahead
                && newest.is_some_and(|newest| newest.bad)
                && open
                    .is_some_and(|(_, onset)| start_of(fact.began).duration_since(onset.since).abs() < HOLD);
            let known = open.as_mut().filter(|(episode, _)| *episode == fact.episode);
            let is_known_episode = known.is_some();
            if fact.bad {
                let since = start_of(fact.began);
                match known {
                    Some((_, onset)) => {
                        let since = since.max(onset.not_before);
                        onset.since = onset.since.min(since);
                        if !onset.is_arrival {
                            onset.counts_from = onset.counts_from.min(since);
                        }
                    }
                    None if is_newest && looks_the_same => {
                        open = open.map(|(_, onset)| (fact.episode, onset));
                    }
                    None if is_newest => {
                        let is_arrival = newest.is_some_and(|newest| !newest.bad);
                        let healthy = newest_arrived.filter(|_| is_arrival);
                        let not_before = healthy.map_or(Timestamp::MIN, |at| at.min(*arrived));
                        let since = since.max(not_before);
                        let counts_from = if is_arrival { *arrived } else { since };
                        let onset = Onset { since, counts_from, is_arrival, not_before, arrived: *arrived };
                        open = Some((fact.episode, onset));
                        (acting, idle, first_acting, idle_arrived) = (None, None, None, None);
                    }
                    None => {}
                }
            }
            if is_newest {
                newest = Some(*fact);
                newest_arrived = newest_arrived.max(Some(*arrived));
            }
            if fact.bad && open.is_some_and(|(episode, _)| episode == fact.episode) {
                if let Some(began) = fact.acting {
                    let since = start_of(began);
                    // A reason that is new in a known episode counts from its arrival.
                    let counts_from = if is_known_episode { *arrived } else { since };
                    let is_arrival = is_known_episode;
                    let not_before = Timestamp::MIN;
                    let onset = Onset { since, counts_from, is_arrival, not_before, arrived: *arrived };
                    acting = Some(acting.map_or(onset, |known| Onset {
                        since: known.since.min(since),
                        counts_from: if known.is_arrival {
                            known.counts_from
                        } else {
                            known.counts_from.min(since)
                        },
                        arrived: known.arrived.min(*arrived),
                        ..known
                    }));
                    first_acting = first_acting.into_iter().chain(Some(began)).min();
                }
                if fact.idle {
                    let since = if fact.acting.is_some() { fact.began } else { fact.sent_at };
                    idle = idle.into_iter().chain(Some(since)).min();
                    idle_arrived = idle_arrived.into_iter().chain(Some(*arrived)).min();
                }
            }
        }
        let newest = newest?;
        let episode = open.filter(|(episode, _)| *episode == newest.episode).map(|(_, onset)| onset);
        // If only reasons that ask for a repair are known, the whole episode counts: the report of its first reason may have
        // been lost.
        let arrived_later =
            acting.is_some_and(|acting| idle_arrived.is_some_and(|idle| idle < acting.arrived));
        let idled = arrived_later || idle.is_some_and(|idle| first_acting.is_none_or(|acting| idle < acting));
        let start = match (episode, acting) {
            (Some(episode), Some(acting)) if idled => Some(Onset {
                since: acting.since.max(episode.since),
                counts_from: acting.counts_from.max(episode.counts_from),
                arrived: acting.arrived.max(episode.arrived),
                ..episode
            }),
            (_, None) if idled => None,
            (episode, _) => episode,
        };
        let deadline = start
            .filter(|_| newest.bad && newest.cure.is_some())
            .map(|start| start.deadline(grace, self.settling));
        let since = episode.map(|episode| episode.since);
        Some(KnownCondition { bad: newest.bad, since, deadline, cure: newest.cure })
    }

    /// Ready, as the handlers know it from the control plane.
    fn ready_condition(&self) -> Option<KnownCondition> {
        let ReadyChange { bad, cure, .. } = *self.ready.last()?;
        let (mut acting, mut healthy): (Option<Onset>, Option<Timestamp>) = (None, None);
        let mut was_healthy = false;
        for change in &self.ready {
            if !change.bad {
                // A new node is not ready at first. That is no fault.
                if self.ready_from.is_some() && !was_healthy {
                    acting = None;
                }
                was_healthy = true;
                healthy = healthy.or(Some(change.at));
                continue;
            }
            if healthy.is_some_and(|healthy| change.at.duration_since(healthy) >= HOLD) {
                acting = None;
            }
            healthy = None;
            if change.cure.is_some() {
                let counts_from = if was_healthy { change.at.max(change.arrived) } else { change.at };
                let (since, arrived) = (change.at, change.arrived);
                let (is_arrival, not_before) = (was_healthy, Timestamp::MIN);
                let first =
                    acting.get_or_insert(Onset { since, counts_from, is_arrival, not_before, arrived });
                // The report that arrived first need not be the one that was written first.
                first.arrived = first.arrived.min(arrived);
                first.counts_from = first.since.max(first.counts_from.min(arrived));
            }
        }
        let deadline =
            acting.filter(|_| bad).map(|onset| onset.deadline(SignedDuration::from_mins(30), self.settling));
        Some(KnownCondition { bad, since: acting.map(|onset| onset.since), deadline, cure })
    }

    /// All conditions that the handlers know of.
    pub(crate) fn known_conditions(&self) -> &[KnownCondition] {
        &self.known
    }

    /// Whether the handlers know of a bad condition that asks for a repair.
    pub(crate) fn is_known_unhealthy(&self) -> bool {
        self.known.iter().any(|one| one.bad && one.cure.is_some())
    }

    /// When its latest known recovery began, if that was one: the condition had been healthy, or an agent had reported it bad.
    pub(crate) fn known_recovery(&self) -> Option<Timestamp> {
        let (mut was_healthy, mut was_bad, mut recovered) = (self.ready_from.is_none(), false, None);
        for change in &self.ready {
            recovered = (!change.bad && was_bad).then_some(change.at).or(recovered.filter(|_| !change.bad));
            was_bad = change.bad && was_healthy && change.cure.is_some() || was_bad && change.bad;
            was_healthy |= !change.bad;
        }
        let of_agent = self.tracks.iter().enumerate().filter_map(|(number, track)| {
            let mine =
                |report: &&AppliedReport| report.fact.track == number && report.fact.boot == self.known_boot;
            let newest = self.reports.iter().filter(mine).max_by_key(|report| report.fact.seq)?.fact;
            let was_bad =
                self.reports.iter().filter(mine).any(|report| report.fact.bad && report.fact.cure.is_some());
            track.healthy_since(newest.sent_at).filter(|_| !newest.bad && was_bad)
        });
        recovered.into_iter().chain(of_agent).max()
    }

    /// When it last became a node: until it has been ready for the first time, its Ready condition does not count.
    pub(crate) fn known_start(&self) -> Option<Timestamp> {
        self.ready_from.or(self.known_joined_at.filter(|_| self.launched.is_some()))
    }

    /// Whether its agent has reported a condition in the boot that is known.
    pub(crate) fn agent_reported(&self) -> bool {
        self.reports.iter().any(|report| report.fact.boot == self.known_boot)
    }

    /// Whether something newer was delivered than what was read: a log group is a little behind.
    pub(super) fn knows_newer(&self, verified: &Verified) -> bool {
        let ready = self.ready.last().map(|change| change.at);
        let is_older = |read: &AgentFact| {
            let newer = |known: &&AppliedReport| {
                known.fact.track == read.track && (known.fact.boot, known.fact.seq) > (read.boot, read.seq)
            };
            self.reports.iter().any(|known| newer(&known))
        };
        verified.ready().is_some_and(|read| ready > Some(read)) || verified.reports().iter().any(is_older)
    }

    /// Whether a line of its agent, read again, reports something that is not known yet.
    pub(crate) fn is_news(&self, AgentFact { boot, track, seq, .. }: AgentFact) -> bool {
        let newest = self
            .reports
            .iter()
            .filter(|report| report.fact.boot == self.known_boot && report.fact.track == track);
        boot != self.known_boot
            || newest.map(|report| report.fact.seq).max().is_none_or(|newest| seq > newest)
    }

    /// When the time is up for a reboot of an ended repair that did not cure this: what is bad began before the new boot was
    /// healthy for as long as a recovery must hold.
    pub(crate) fn outlives_reboot(&self, episode: &KnownCondition) -> Option<Timestamp> {
        let time_is_up = self.last_reboot? + REBOOT_TIMEOUT;
        (episode.cure == Some(Cure::Reboot) && episode.since? < time_is_up + HOLD + SLACK)
            .then_some(time_is_up)
    }

    /// Whether the last reboot certainly did not cure this: it was bad before the new boot had been healthy for long.
    pub(crate) fn was_rebooted_in_vain(&self, episode: &KnownCondition) -> bool {
        self.known_boot == self.boot
            && self.last_reboot.zip(episode.since).is_some_and(|(called, since)| {
                let by = (called + REBOOT_TIMEOUT).min(self.booted + HOLD);
                episode.bad && self.booted > called + SLACK && since + SLACK < by
            })
    }

    pub(super) fn learn(&mut self) {
        let mut known = std::mem::take(&mut self.known);
        known.clear();
        for (number, track) in self.tracks.iter().enumerate() {
            if track.source == Source::Agent {
                known.extend(self.agent_condition(number, self.grace(track)));
            }
        }
        known.extend(self.ready_condition());
        self.known = known;
    }

    fn grace(&self, track: &Track) -> SignedDuration {
        match (&track.condition, self.gpu_grace) {
            (ConditionType::AcceleratedHardwareReady, Some(grace)) => grace,
            (condition, _) => default_grace(condition),
        }
    }
}
