//! The truth of one node, what of it has reached the handlers, and what follows from that.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::ConditionType,
    ident::{InstanceId, NodeName},
};

use super::{REBOOT_TIMEOUT, SLACK};
use crate::episodes::{Cure, HOLD, Source, Track, default_grace};

/// A fact on its way to a handler.
#[derive(Debug, Clone)]
pub(crate) enum Fact {
    /// An agent reports one of its conditions.
    Agent(AgentFact),
    /// Any message of an agent or a kubelet in this boot.
    Alive {
        boot: u32,
    },
    /// A Node object is deleted. The message does not name its instance: it counts if the node is known already.
    NodeDeleted {
        at: Timestamp,
        by_hand: bool,
    },
    /// The control plane writes the Ready condition.
    Ready {
        at: Timestamp,
        bad: bool,
        cure: Option<Cure>,
    },
    Registered {
        at: Timestamp,
    },
    Launched {
        at: Timestamp,
    },
    /// CloudTrail's event of a call of ours.
    CloudTrail {
        call: usize,
    },
    /// The instance has ended, by a foreign termination or otherwise.
    Left {
        foreign: bool,
    },
}

/// What an agent reports of a condition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AgentFact {
    pub(crate) track: usize,
    pub(crate) boot: u32,
    pub(crate) seq: u64,
    pub(crate) sent_at: Timestamp,
    pub(crate) bad: bool,
    /// The first period of the episode that it reports.
    pub(crate) episode: Option<usize>,
    /// Since when it is bad, as the agent knows it.
    pub(crate) began: Timestamp,
    /// Since when it is bad for a reason that asks for a repair, as the agent knows it.
    pub(crate) acting: Option<Timestamp>,
    /// Whether one of its reasons does not ask for a repair.
    pub(crate) idle: bool,
    pub(crate) cure: Option<Cure>,
}

#[derive(Debug, Clone, Copy)]
struct AppliedReport {
    fact: AgentFact,
    /// How long it was on its way: a start that it reports may be later than the truth by this.
    lag: SignedDuration,
}

/// A condition as the handlers know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownCondition {
    pub(crate) bad: bool,
    /// The latest start that its episode may be taken to have.
    pub(crate) since: Option<Timestamp>,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) cure: Option<Cure>,
}

/// What the store has of a case.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoredCase {
    pub(crate) version: u64,
    /// When that was written.
    pub(crate) at: Option<Timestamp>,
    /// A repair has begun and not ended.
    pub(crate) open: bool,
    /// How many calls that repair has made.
    pub(crate) calls: usize,
    /// When its last reboot that may have had an effect was called.
    pub(crate) rebooted: Option<Timestamp>,
    pub(crate) closed: bool,
    pub(crate) silent: bool,
    pub(crate) unhealthy: bool,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) instance: InstanceId,
    pub(crate) name: NodeName,
    pub(crate) group: usize,
    pub(crate) zone: usize,
    pub(crate) tracks: Vec<Track>,
    pub(crate) reboot_cures: bool,
    /// The agent stops, too, while the kubelet does not answer.
    pub(crate) hangs: bool,
    pub(crate) boot: u32,
    pub(crate) booted: Timestamp,
    pub(crate) seq: u64,
    pub(crate) skew: SignedDuration,
    /// The agent remembers nothing from before.
    pub(crate) agent_since: Timestamp,
    pub(crate) agent_restarts: Option<Timestamp>,
    /// The agent sends heartbeats, until the node leaves.
    pub(crate) has_agent: bool,
    pub(crate) launched: Option<Timestamp>,
    pub(crate) registered: Option<Timestamp>,
    /// When a call, or anything else, ended it.
    pub(crate) terminated: Option<Timestamp>,
    /// It was a call of ours.
    pub(crate) ours: bool,
    /// It was a foreign termination.
    pub(crate) foreign: bool,
    /// The number of its replacement.
    pub(crate) replaced_by: Option<usize>,
    /// Its instance has left the group.
    pub(crate) gone: bool,
    pub(crate) on_standby: bool,
    /// It is rebooting.
    pub(crate) down: bool,
    /// The grace period of its group for accelerators, if it has its own.
    pub(crate) gpu_grace: Option<SignedDuration>,
    known: Vec<KnownCondition>,
    reports: Vec<AppliedReport>,
    known_boot: u32,
    ready: Vec<(Timestamp, bool, Option<Cure>)>,
    ready_from: Option<Timestamp>,
    pub(crate) known_alive: bool,
    pub(crate) known_joined_at: Option<Timestamp>,
    pub(crate) known_launch: Option<Timestamp>,
    pub(crate) known_left: bool,
    pub(crate) known_foreign: bool,
    pub(crate) stored: StoredCase,
    /// When AWS accepted a call to reboot it.
    pub(crate) rebooted: Option<Timestamp>,
    /// When a repair, even one that is over, last rebooted it, as the store has it.
    pub(crate) last_reboot: Option<Timestamp>,
    pub(crate) refusals: u32,
    pub(crate) not_clear_before: Timestamp,
    pub(crate) clear_since: Option<Timestamp>,
    pub(crate) watched: bool,
}

/// The names are the same in every schedule, and hardly one has more nodes.
static NAMES: LazyLock<Vec<(InstanceId, NodeName)>> = LazyLock::new(|| (0..256).map(names).collect());

fn names(number: usize) -> (InstanceId, NodeName) {
    let instance = InstanceId::new(format!("i-{number:017x}"));
    let name = NodeName::new(format!("ip-10-0-{}-{}.ec2.internal", number / 256, number % 256));
    (instance.expect("an id"), name.expect("a name"))
}

impl Node {
    pub(crate) fn new(
        number: usize,
        group: usize,
        zone: usize,
        gpu_grace: Option<SignedDuration>,
        start: Timestamp,
    ) -> Self {
        let (instance, name) = NAMES.get(number).cloned().unwrap_or_else(|| names(number));
        Self {
            instance,
            name,
            group,
            zone,
            tracks: Vec::new(),
            reboot_cures: true,
            hangs: false,
            boot: 1,
            booted: start - SignedDuration::from_hours(48),
            seq: 0,
            skew: SignedDuration::ZERO,
            agent_since: start - SignedDuration::from_hours(48),
            agent_restarts: None,
            has_agent: false,
            launched: None,
            registered: Some(start),
            terminated: None,
            ours: false,
            foreign: false,
            replaced_by: None,
            gone: false,
            on_standby: false,
            down: false,
            gpu_grace,
            known: Vec::new(),
            reports: Vec::new(),
            known_boot: 0,
            ready: Vec::new(),
            ready_from: None,
            known_alive: false,
            known_joined_at: None,
            known_launch: None,
            known_left: false,
            known_foreign: false,
            stored: StoredCase::default(),
            rebooted: None,
            last_reboot: None,
            refusals: 0,
            not_clear_before: start,
            clear_since: None,
            watched: false,
        }
    }

    /// The number that an instance's id is made from.
    pub(crate) fn number(instance: &InstanceId) -> usize {
        let digits = instance.as_str().strip_prefix("i-");
        digits.and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(usize::MAX)
    }

    /// Whether a handler knows its name: an instance that never joins has none.
    pub(crate) fn has_known_name(&self) -> bool {
        self.known_alive || !self.ready.is_empty()
    }

    /// Its kubelet and its agent are silent.
    pub(crate) fn is_hung(&self, at: Timestamp) -> bool {
        self.hangs
            && self.tracks.iter().any(|track| {
                track.source == Source::ControlPlane && track.period(at).is_some_and(|period| period.unknown)
            })
    }

    /// A handler has written what it received, or knew it already.
    pub(crate) fn apply(&mut self, fact: &Fact, arrival: Timestamp) {
        match fact {
            Fact::Agent(fact) => {
                self.alive(fact.boot);
                let lag = arrival.duration_since(fact.sent_at);
                self.reports.push(AppliedReport { fact: *fact, lag });
            }
            Fact::Alive { boot } => self.alive(*boot),
            Fact::NodeDeleted { .. } if !self.is_touched() => {}
            Fact::NodeDeleted { at, by_hand: true } => {
                self.apply(&Fact::Ready { at: *at, bad: true, cure: Some(Cure::Replace) }, arrival);
            }
            Fact::NodeDeleted { by_hand: false, .. } => self.known_left = true,
            Fact::Ready { at, bad, cure } => {
                if self.ready_from.is_none_or(|from| *at >= from) {
                    self.ready.push((*at, *bad, *cure));
                    // At the same instant the deletion is last: a kubelet wrote to a Node object that was still there.
                    self.ready.sort_by_key(|(at, bad, _)| (*at, *bad));
                }
            }
            Fact::Registered { at } => {
                self.known_alive = true;
                if self.ready_from.is_none_or(|from| *at > from) {
                    self.ready_from = Some(*at);
                    self.ready.retain(|(then, ..)| then >= at);
                }
            }
            Fact::CloudTrail { .. } => {}
            Fact::Launched { at } => self.known_launch = Some(*at),
            Fact::Left { foreign } => {
                self.known_left = true;
                self.known_foreign |= foreign;
            }
        }
        // An agent alone may be of an old node: only a launch or a registration proves a new instance.
        let registered = matches!(fact, Fact::Registered { .. });
        if registered || self.known_launch.is_some() && self.known_alive {
            self.known_joined_at.get_or_insert(arrival);
        }
        self.learn();
    }

    fn alive(&mut self, boot: u32) {
        self.known_alive = true;
        self.known_boot = self.known_boot.max(boot);
    }

    /// One of the agent's conditions, as the handlers know it; none if nothing of this boot is known.
    fn agent_condition(&self, track: usize, grace: SignedDuration) -> Option<KnownCondition> {
        let of_boot = || {
            let mine = move |report: &&AppliedReport| {
                report.fact.track == track && report.fact.boot == self.known_boot
            };
            self.reports.iter().filter(mine)
        };
        let newest = of_boot().max_by_key(|report| report.fact.seq)?.fact;
        let same = || of_boot().filter(|report| report.fact.bad && report.fact.episode == newest.episode);
        // If only reasons that ask for a repair are known, the whole episode counts: the report of its first reason may have
        // been lost.
        let first_acting = same().filter_map(|report| report.fact.acting).min();
        let idle_since = |fact: &AgentFact| if fact.acting.is_some() { fact.began } else { fact.sent_at };
        let idled = |report: &AppliedReport| {
            report.fact.idle && first_acting.is_none_or(|acting| idle_since(&report.fact) < acting)
        };
        let since = same().map(|report| report.fact.began + report.lag).min();
        let start = if same().any(idled) {
            same().filter_map(|report| Some(report.fact.acting? + report.lag)).min()
        } else {
            since
        };
        let deadline = start.filter(|_| newest.bad && newest.cure.is_some()).map(|start| start + grace);
        Some(KnownCondition { bad: newest.bad, since, deadline, cure: newest.cure })
    }

    /// Ready, as the handlers know it from the control plane.
    fn ready_condition(&self) -> Option<KnownCondition> {
        let (_, bad, cure) = *self.ready.last()?;
        let (mut acting, mut healthy): (Option<Timestamp>, Option<Timestamp>) = (None, None);
        for (at, bad, cure) in &self.ready {
            if !bad {
                healthy = healthy.or(Some(*at));
                continue;
            }
            if healthy.is_some_and(|healthy| at.duration_since(healthy) >= HOLD) {
                acting = None;
            }
            healthy = None;
            if cure.is_some() {
                acting = acting.or(Some(*at));
            }
        }
        let deadline = acting.filter(|_| bad).map(|at| at + SignedDuration::from_mins(30));
        Some(KnownCondition { bad, since: acting, deadline, cure })
    }

    /// All conditions that the handlers know of.
    pub(crate) fn known_conditions(&self) -> &[KnownCondition] {
        &self.known
    }

    /// Whether the handlers know of a bad condition that asks for a repair.
    pub(crate) fn is_known_unhealthy(&self) -> bool {
        self.known.iter().any(|one| one.bad && one.cure.is_some())
    }

    /// Whether its agent has reported a condition in the boot that is known.
    pub(crate) fn agent_reported(&self) -> bool {
        self.reports.iter().any(|report| report.fact.boot == self.known_boot)
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

    fn learn(&mut self) {
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

    /// When an instance of which nothing is known is to be replaced: it is late, and its grace period as not ready is over.
    pub(crate) fn never_joined_deadline(&self) -> Option<Timestamp> {
        self.join_deadline().map(|late| late + SignedDuration::from_mins(30))
    }

    /// When an instance of which nothing is known is late.
    pub(crate) fn join_deadline(&self) -> Option<Timestamp> {
        let launched = self.known_launch.filter(|_| !self.known_alive)?;
        Some(launched + SignedDuration::from_mins(15))
    }

    /// Whether the store has a case of it.
    pub(crate) fn is_touched(&self) -> bool {
        self.stored.version > 0
    }

    /// Whether Auto Scaling has launched it.
    pub(crate) fn exists(&self) -> bool {
        self.launched.is_some() || self.registered.is_some()
    }

    /// Whether it has ended, so that no more calls are due.
    pub(crate) fn is_out(&self) -> bool {
        self.terminated.is_some() || self.gone
    }
}
