//! What is so of one node, what of it has reached the handlers, and what follows from that.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::ConditionType,
    ident::{InstanceId, NodeName},
};

use super::{REBOOT_TIMEOUT, SLACK};
use crate::trouble::{Cure, HOLD, Track, Witness, default_grace};

/// A fact on its way to a handler.
#[derive(Debug, Clone)]
pub(crate) enum Word {
    /// An agent on one of its conditions.
    Agent(AgentWord),
    /// Anything of an agent or a kubelet in this boot.
    Alive {
        boot: u32,
    },
    /// A Node object is deleted. Its instance is not named: nobody knows it of whom nothing was heard.
    Deleted {
        at: Timestamp,
        by_hand: bool,
    },
    /// The control plane on Ready.
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
    /// CloudTrail on a call of ours.
    Trail {
        call: usize,
    },
    /// The instance is no more; by somebody's call, or of itself.
    Left {
        foreign: bool,
    },
}

/// What an agent says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AgentWord {
    pub(crate) track: usize,
    pub(crate) boot: u32,
    pub(crate) seq: u64,
    pub(crate) said: Timestamp,
    pub(crate) bad: bool,
    /// The first spell of the trouble that it tells of.
    pub(crate) trouble: Option<usize>,
    /// Since when it is bad, as the agent knows it.
    pub(crate) began: Timestamp,
    /// Since when for a reason that is acted on, as the agent knows it.
    pub(crate) acting: Option<Timestamp>,
    /// Whether a reason that is not acted on is among those that it gives.
    pub(crate) idle: bool,
    pub(crate) cure: Option<Cure>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    word: AgentWord,
    /// How long it was under way: by so much later than the truth it may tell a start.
    lag: SignedDuration,
}

/// A condition as it has reached the handlers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsHeard {
    pub(crate) bad: bool,
    /// The latest start that its trouble may be taken to have.
    pub(crate) since: Option<Timestamp>,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) cure: Option<Cure>,
}

/// What the store has of a case, as far as it was seen to be written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) version: u64,
    /// When that was written.
    pub(crate) at: Option<Timestamp>,
    /// A repair has begun and not ended.
    pub(crate) open: bool,
    /// The calls of that repair.
    pub(crate) calls: usize,
    /// Its last call that may have had an effect was to reboot, then.
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
    /// The whole node hangs while its kubelet is bad.
    pub(crate) hangs: bool,
    pub(crate) boot: u32,
    pub(crate) booted: Timestamp,
    pub(crate) seq: u64,
    pub(crate) skew: SignedDuration,
    /// What its agent remembers began then.
    pub(crate) agent_since: Timestamp,
    pub(crate) agent_restarts: Option<Timestamp>,
    /// Its agent is on the air: what it says from then on is heard, until it leaves.
    pub(crate) talks: bool,
    pub(crate) launched: Option<Timestamp>,
    pub(crate) registered: Option<Timestamp>,
    /// A call, or whoever, ended it.
    pub(crate) terminated: Option<Timestamp>,
    /// It was a call of ours.
    pub(crate) ours: bool,
    /// Somebody else terminated it.
    pub(crate) foreign: bool,
    /// What Auto Scaling launched in its place.
    pub(crate) replaced_by: Option<usize>,
    /// Its instance has left.
    pub(crate) gone: bool,
    pub(crate) set_aside: bool,
    /// It is rebooting.
    pub(crate) down: bool,
    /// What its group allows a GPU, where that is not what everybody does.
    pub(crate) gpu_grace: Option<SignedDuration>,
    known: Vec<AsHeard>,
    heard: Vec<Heard>,
    heard_boot: u32,
    ready: Vec<(Timestamp, bool, Option<Cure>)>,
    ready_from: Option<Timestamp>,
    pub(crate) heard_alive: bool,
    pub(crate) heard_joined_at: Option<Timestamp>,
    pub(crate) heard_launch: Option<Timestamp>,
    pub(crate) heard_left: bool,
    pub(crate) heard_foreign: bool,
    pub(crate) seen: Seen,
    /// When AWS took a call to reboot it.
    pub(crate) rebooted: Option<Timestamp>,
    /// When a repair, be it over, last had it rebooted, as the store has it.
    pub(crate) last_reboot: Option<Timestamp>,
    pub(crate) refusals: u32,
    pub(crate) not_clear_before: Timestamp,
    pub(crate) clear_since: Option<Timestamp>,
    pub(crate) watched: bool,
}

/// Every schedule's nodes have the same names, and these are nearly all of them.
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
            talks: false,
            launched: None,
            registered: Some(start),
            terminated: None,
            ours: false,
            foreign: false,
            replaced_by: None,
            gone: false,
            set_aside: false,
            down: false,
            gpu_grace,
            known: Vec::new(),
            heard: Vec::new(),
            heard_boot: 0,
            ready: Vec::new(),
            ready_from: None,
            heard_alive: false,
            heard_joined_at: None,
            heard_launch: None,
            heard_left: false,
            heard_foreign: false,
            seen: Seen::default(),
            rebooted: None,
            last_reboot: None,
            refusals: 0,
            not_clear_before: start,
            clear_since: None,
            watched: false,
        }
    }

    /// The number that an instance's id is made of.
    pub(crate) fn number(instance: &InstanceId) -> usize {
        let digits = instance.as_str().strip_prefix("i-");
        digits.and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(usize::MAX)
    }

    /// A handler has heard of it under its name: an instance that never joins has none.
    pub(crate) fn has_told_its_name(&self) -> bool {
        self.heard_alive || !self.ready.is_empty()
    }

    /// Its kubelet, and with it the whole node, is silent.
    pub(crate) fn is_hung(&self, at: Timestamp) -> bool {
        self.hangs
            && self.tracks.iter().any(|track| {
                track.witness == Witness::ControlPlane && track.spell(at).is_some_and(|spell| spell.unknown)
            })
    }

    /// A handler has written down what it heard, or knew it already.
    pub(crate) fn hear(&mut self, word: &Word, arrival: Timestamp) {
        match word {
            Word::Agent(word) => {
                self.alive(word.boot);
                let lag = arrival.duration_since(word.said);
                self.heard.push(Heard { word: *word, lag });
            }
            Word::Alive { boot } => self.alive(*boot),
            Word::Deleted { .. } if !self.is_touched() => {}
            Word::Deleted { at, by_hand: true } => {
                self.hear(&Word::Ready { at: *at, bad: true, cure: Some(Cure::Replace) }, arrival);
            }
            Word::Deleted { by_hand: false, .. } => self.heard_left = true,
            Word::Ready { at, bad, cure } => {
                if self.ready_from.is_none_or(|from| *at >= from) {
                    self.ready.push((*at, *bad, *cure));
                    // Of one instant, the deletion is the last word: what a kubelet wrote, it wrote to a Node that was there.
                    self.ready.sort_by_key(|(at, bad, _)| (*at, *bad));
                }
            }
            Word::Registered { at } => {
                self.heard_alive = true;
                if self.ready_from.is_none_or(|from| *at > from) {
                    self.ready_from = Some(*at);
                    self.ready.retain(|(then, ..)| then >= at);
                }
            }
            Word::Trail { .. } => {}
            Word::Launched { at } => self.heard_launch = Some(*at),
            Word::Left { foreign } => {
                self.heard_left = true;
                self.heard_foreign |= foreign;
            }
        }
        // An agent alone may be anybody's: its launch or its registration says that it is new.
        let registered = matches!(word, Word::Registered { .. });
        if registered || self.heard_launch.is_some() && self.heard_alive {
            self.heard_joined_at.get_or_insert(arrival);
        }
        self.learn();
    }

    fn alive(&mut self, boot: u32) {
        self.heard_alive = true;
        self.heard_boot = self.heard_boot.max(boot);
    }

    /// One of the agent's conditions, as it has reached the handlers; none where nothing of this boot has.
    fn agent_as_heard(&self, track: usize, grace: SignedDuration) -> Option<AsHeard> {
        let of_boot = || {
            let mine = move |heard: &&Heard| heard.word.track == track && heard.word.boot == self.heard_boot;
            self.heard.iter().filter(mine)
        };
        let newest = of_boot().max_by_key(|heard| heard.word.seq)?.word;
        let same = || of_boot().filter(|heard| heard.word.bad && heard.word.trouble == newest.trouble);
        // A trouble of which only reasons that are acted on were heard counts whole: the report that told of its first
        // reason may have been lost.
        let first_acting = same().filter_map(|heard| heard.word.acting).min();
        let idle_since = |word: &AgentWord| if word.acting.is_some() { word.began } else { word.said };
        let idled = |heard: &Heard| {
            heard.word.idle && first_acting.is_none_or(|acting| idle_since(&heard.word) < acting)
        };
        let since = same().map(|heard| heard.word.began + heard.lag).min();
        let start = if same().any(idled) {
            same().filter_map(|heard| Some(heard.word.acting? + heard.lag)).min()
        } else {
            since
        };
        let deadline = start.filter(|_| newest.bad && newest.cure.is_some()).map(|start| start + grace);
        Some(AsHeard { bad: newest.bad, since, deadline, cure: newest.cure })
    }

    /// Ready, as the control plane's words that have reached the handlers have it.
    fn ready_as_heard(&self) -> Option<AsHeard> {
        let (_, bad, cure) = *self.ready.last()?;
        let (mut acting, mut sound): (Option<Timestamp>, Option<Timestamp>) = (None, None);
        for (at, bad, cure) in &self.ready {
            if !bad {
                sound = sound.or(Some(*at));
                continue;
            }
            if sound.is_some_and(|sound| at.duration_since(sound) >= HOLD) {
                acting = None;
            }
            sound = None;
            if cure.is_some() {
                acting = acting.or(Some(*at));
            }
        }
        let deadline = acting.filter(|_| bad).map(|at| at + SignedDuration::from_mins(30));
        Some(AsHeard { bad, since: acting, deadline, cure })
    }

    /// All that has reached the handlers of what is wrong, or was.
    pub(crate) fn as_heard(&self) -> &[AsHeard] {
        &self.known
    }

    /// Whether anything is bad by what has reached the handlers that is acted on.
    pub(crate) fn is_bad_as_heard(&self) -> bool {
        self.known.iter().any(|one| one.bad && one.cure.is_some())
    }

    /// Whether its agent has said anything of a condition in the boot that is known.
    pub(crate) fn agent_spoke(&self) -> bool {
        self.heard.iter().any(|heard| heard.word.boot == self.heard_boot)
    }

    /// When the time is up of a reboot that did not cure this, though its repair is over: what is bad began before that was
    /// up and had held.
    pub(crate) fn outlives_reboot(&self, trouble: &AsHeard) -> Option<Timestamp> {
        let time_is_up = self.last_reboot? + REBOOT_TIMEOUT;
        (trouble.cure == Some(Cure::Reboot) && trouble.since? < time_is_up + HOLD + SLACK)
            .then_some(time_is_up)
    }

    /// Whether this is beyond doubt what the last reboot did not cure: bad before the boot that it led to was well for long.
    pub(crate) fn was_rebooted_in_vain(&self, trouble: &AsHeard) -> bool {
        self.heard_boot == self.boot
            && self.last_reboot.zip(trouble.since).is_some_and(|(called, since)| {
                let by = (called + REBOOT_TIMEOUT).min(self.booted + HOLD);
                trouble.bad && self.booted > called + SLACK && since + SLACK < by
            })
    }

    fn learn(&mut self) {
        let mut known = std::mem::take(&mut self.known);
        known.clear();
        for (number, track) in self.tracks.iter().enumerate() {
            if track.witness == Witness::Agent {
                known.extend(self.agent_as_heard(number, self.grace(track)));
            }
        }
        known.extend(self.ready_as_heard());
        self.known = known;
    }

    fn grace(&self, track: &Track) -> SignedDuration {
        match (&track.condition, self.gpu_grace) {
            (ConditionType::AcceleratedHardwareReady, Some(grace)) => grace,
            (condition, _) => default_grace(condition),
        }
    }

    /// When an instance of which nothing is heard is to be replaced: it is late, and as not ready it has its grace.
    pub(crate) fn never_joined_deadline(&self) -> Option<Timestamp> {
        self.join_deadline().map(|late| late + SignedDuration::from_mins(30))
    }

    /// When an instance of which nothing is heard is late.
    pub(crate) fn join_deadline(&self) -> Option<Timestamp> {
        let launched = self.heard_launch.filter(|_| !self.heard_alive)?;
        Some(launched + SignedDuration::from_mins(15))
    }

    /// Whether anything was ever said or done about it.
    pub(crate) fn is_touched(&self) -> bool {
        self.seen.version > 0
    }

    /// Whether Auto Scaling has launched it.
    pub(crate) fn exists(&self) -> bool {
        self.launched.is_some() || self.registered.is_some()
    }

    /// So that more of it need not be judged.
    pub(crate) fn is_out(&self) -> bool {
        self.terminated.is_some() || self.gone
    }
}
