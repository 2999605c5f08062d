//! The truth of one node.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::Health,
    ident::{InstanceId, NodeName},
};

use super::known::{AppliedReport, ReadyChange, SETTLING};
use crate::{
    episodes::{Cure, Source, Track},
    plan::{Decided, Kind, Lie},
};

/// A fact on its way to a handler.
#[derive(Debug, Clone)]
pub(crate) enum Fact {
    /// An agent reports one of its conditions.
    Agent(AgentFact),
    /// Any message of an agent or a kubelet in this boot.
    Alive {
        boot: u32,
        /// When the API server had it, if a kubelet posted it.
        posted: Option<Timestamp>,
    },
    /// A Node object is deleted. The message does not name its instance: it counts if the node is known already.
    NodeDeleted {
        at: Timestamp,
        /// Its instance has ended.
        gone: bool,
        uid: u32,
    },
    /// The control plane writes the Ready condition.
    Ready {
        at: Timestamp,
        bad: bool,
        cure: Option<Cure>,
        uid: Option<u32>,
    },
    Registered {
        at: Timestamp,
        uid: u32,
    },
    /// A person restores its Node object.
    Created {
        at: Timestamp,
        uid: u32,
    },
    /// The Kubernetes API has this Node object, or none.
    Snapshot(Option<NodeObject>),
    Launched {
        at: Timestamp,
    },
    /// Auto Scaling failed to launch it.
    LaunchFailed {
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
    /// Auto Scaling's event of its termination, which has the cause.
    Activity,
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

/// A Node object in truth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeObject {
    pub(crate) uid: u32,
    pub(crate) created: Timestamp,
    /// The boot that its kubelet has posted.
    pub(crate) boot: u32,
    pub(crate) ready: Health,
    pub(crate) ready_since: Timestamp,
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
    /// When that began.
    pub(crate) opened: Option<Timestamp>,
    /// The reason of its last repair.
    pub(crate) reason: String,
    /// The instance that replaced it, as matched.
    pub(crate) replacement: Option<usize>,
    /// How many calls that repair has made.
    pub(crate) calls: usize,
    /// When its last reboot that may have had an effect was called.
    pub(crate) rebooted: Option<Timestamp>,
    pub(crate) closed: bool,
    /// Its replacement is Ready.
    pub(crate) replaced: bool,
    pub(crate) silent: bool,
    pub(crate) unhealthy: bool,
    /// When it last recovered, as long as that counts.
    pub(crate) recovered: Option<Timestamp>,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) instance: InstanceId,
    pub(crate) name: NodeName,
    pub(crate) group: usize,
    pub(crate) zone: usize,
    /// How it fails, if it does.
    pub(crate) kind: Option<Kind>,
    /// It will fail in the same way as the node that it replaces.
    pub(crate) inherits: Option<Kind>,
    pub(crate) tracks: Vec<Track>,
    pub(crate) reboot_cures: bool,
    /// The agent stops, too, while the kubelet does not answer.
    pub(crate) hangs: bool,
    pub(crate) boot: u32,
    pub(crate) booted: Timestamp,
    pub(crate) seq: u64,
    pub(crate) skew: SignedDuration,
    /// When its clock stepped, and by how much.
    pub(crate) step: Option<(Timestamp, SignedDuration)>,
    /// Its reports may make the handlers start over: when its repair is due is unknown.
    pub(crate) unreliable: bool,
    /// What is untrue in its next report.
    pub(crate) lie: Option<Lie>,
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
    /// Why Auto Scaling itself terminated it, and that its event of that is known.
    pub(crate) decided: Option<Decided>,
    pub(crate) known_activity: bool,
    /// It was launched into a warm pool, before it was drawn from there.
    pub(crate) pooled: bool,
    /// When an operator last stopped its instance.
    pub(crate) stopped: Option<Timestamp>,
    /// The number of its replacement.
    pub(crate) replaced_by: Option<usize>,
    /// Its instance has left the group.
    pub(crate) gone: bool,
    pub(crate) on_standby: bool,
    /// It is in no group for a while.
    pub(crate) detached: bool,
    /// The last call on it was made without verification, as the policy allowed.
    pub(crate) unverified: bool,
    /// It ends, and goes on to report until it is drained.
    pub(crate) drains: bool,
    /// It is rebooting.
    pub(crate) down: bool,
    /// The grace period of its group for accelerators, if it has its own.
    pub(crate) gpu_grace: Option<SignedDuration>,
    /// How long what was written meanwhile has to arrive, by the policy.
    pub(crate) settling: SignedDuration,
    pub(crate) object: Option<NodeObject>,
    /// Of its last Node object.
    object_uid: u32,
    pub(super) known: Vec<KnownCondition>,
    pub(super) reports: Vec<AppliedReport>,
    pub(super) known_boot: u32,
    /// When that boot was first seen.
    pub(super) boot_seen: Timestamp,
    pub(super) ready: Vec<ReadyChange>,
    pub(super) ready_from: Option<Timestamp>,
    /// A handler has a history of its Ready condition.
    pub(super) has_ready: bool,
    pub(super) known_uid: Option<u32>,
    /// The Node object whose deletion a line has reported.
    pub(super) deleted_uid: Option<u32>,
    /// The control plane has named it.
    pub(super) is_named: bool,
    pub(crate) known_alive: bool,
    pub(crate) known_joined_at: Option<Timestamp>,
    /// When its node was first known to be Ready.
    pub(crate) known_ready_at: Option<Timestamp>,
    /// When it last went out of service or came back.
    pub(crate) out_until: Option<Timestamp>,
    /// When its launch failed, and when that was known.
    pub(crate) known_launch_failure: Option<(Timestamp, Timestamp)>,
    /// The launch that is known, and when it became so.
    pub(crate) known_launch: Option<(Timestamp, Timestamp)>,
    pub(crate) known_left: bool,
    pub(crate) known_foreign: bool,
    pub(crate) stored: StoredCase,
    /// When AWS accepted a call to reboot it.
    pub(crate) rebooted: Option<Timestamp>,
    /// When a repair, even one that is over, last rebooted it, as the store has it.
    pub(crate) last_reboot: Option<Timestamp>,
    pub(crate) refusals: u32,
    /// How often AWS has denied its reboot, in this repair.
    pub(crate) denied_reboots: u32,
    /// When something was last learned of it.
    pub(crate) learned_at: Timestamp,
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
            kind: None,
            inherits: None,
            tracks: Vec::new(),
            reboot_cures: true,
            hangs: false,
            boot: 1,
            booted: start - SignedDuration::from_hours(48),
            seq: 0,
            skew: SignedDuration::ZERO,
            step: None,
            unreliable: false,
            lie: None,
            agent_since: start - SignedDuration::from_hours(48),
            agent_restarts: None,
            has_agent: false,
            launched: None,
            registered: Some(start),
            terminated: None,
            ours: false,
            foreign: false,
            decided: None,
            known_activity: false,
            pooled: false,
            stopped: None,
            replaced_by: None,
            gone: false,
            on_standby: false,
            detached: false,
            unverified: false,
            drains: false,
            settling: SETTLING,
            down: false,
            gpu_grace,
            object: Some(NodeObject {
                uid: Self::uid(number, 0),
                created: start - SignedDuration::from_hours(48),
                boot: 1,
                ready: Health::Healthy,
                ready_since: start - SignedDuration::from_hours(48),
            }),
            object_uid: Self::uid(number, 0),
            known: Vec::new(),
            reports: Vec::new(),
            known_boot: 0,
            boot_seen: Timestamp::MAX,
            ready: Vec::new(),
            ready_from: None,
            has_ready: false,
            known_uid: None,
            deleted_uid: None,
            is_named: false,
            known_alive: false,
            known_joined_at: None,
            known_ready_at: None,
            out_until: None,
            known_launch_failure: None,
            known_launch: None,
            known_left: false,
            known_foreign: false,
            stored: StoredCase::default(),
            rebooted: None,
            last_reboot: None,
            refusals: 0,
            denied_reboots: 0,
            learned_at: Timestamp::UNIX_EPOCH,
            not_clear_before: start,
            clear_since: None,
            watched: false,
        }
    }

    /// An instance that is no node.
    pub(crate) fn without_node(self, start: Timestamp) -> Self {
        let launched = Some(start - SignedDuration::from_hours(48));
        Self { registered: None, object: None, launched, ..self }
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

    /// Every reason that it has had until now.
    pub(crate) fn reasons(&self, now: Timestamp) -> impl Iterator<Item = &'static str> {
        let periods = self.tracks.iter().flat_map(|track| &track.periods);
        let starting = self.launched.and(self.registered).map(|_| "KubeletNotReady");
        let had = periods.filter(move |period| period.from <= now).flat_map(|period| period.reasons);
        had.copied().chain(starting)
    }

    fn uid(number: usize, count: u32) -> u32 {
        u32::try_from(number).unwrap_or(0) << 8 | count
    }

    /// The uid of its Node object, or of the last one that it had.
    pub(crate) fn object_uid(&self) -> u32 {
        self.object_uid
    }

    /// It registers: it has a new Node object, which is not ready yet.
    pub(crate) fn register(&mut self, at: Timestamp) {
        self.registered = Some(at);
        // A kubelet whose Node object exists updates that one.
        if self.object.is_none() {
            self.object_uid += 1;
        }
        let (created, uid) = (self.object.map_or(at, |object| object.created), self.object_uid);
        let (ready, ready_since) = (Health::Bad, at);
        self.object = Some(NodeObject { uid, created, boot: self.boot, ready, ready_since });
    }

    /// A person restores its Node object, whose status is unknown until the kubelet posts it.
    pub(crate) fn restore(&mut self, at: Timestamp) -> bool {
        if self.object.is_some() {
            return false;
        }
        self.object_uid += 1;
        let (uid, ready) = (self.object_uid, Health::Unknown);
        self.object = Some(NodeObject { uid, created: at, boot: self.boot, ready, ready_since: at });
        true
    }

    /// What its own clock shows.
    pub(crate) fn clock(&self, at: Timestamp) -> Timestamp {
        let step = self.step.filter(|(stepped, _)| *stepped <= at).map_or(SignedDuration::ZERO, |(_, by)| by);
        at + self.skew + step
    }

    /// Its Ready condition is written. Without a Node object that fails.
    pub(crate) fn write_ready(&mut self, ready: Health, at: Timestamp) -> bool {
        let boot = self.boot;
        let Some(object) = &mut self.object else { return false };
        if object.ready != ready {
            (object.ready, object.ready_since) = (ready, at);
        }
        if ready != Health::Unknown {
            object.boot = boot;
        }
        true
    }

    /// Since when nothing at all is wrong with it in truth; none if something is.
    pub(crate) fn healthy_since(&self, now: Timestamp) -> Option<Timestamp> {
        let object = self.object.filter(|object| object.ready == Health::Healthy)?;
        if self.down || self.is_out() || self.tracks.iter().any(|track| track.period(now).is_some()) {
            return None;
        }
        let recovered = self.tracks.iter().filter_map(|track| track.healthy_since(now));
        Some(recovered.fold(object.ready_since.max(self.booted), Timestamp::max))
    }

    /// When its kubelet last made a request: it makes one every few seconds, until it stops.
    pub(crate) fn last_request(&self, now: Timestamp) -> Option<Timestamp> {
        self.object?;
        let stopped = self.tracks.iter().filter(|track| track.source == Source::ControlPlane);
        let stopped = stopped.filter_map(|track| track.period(now).filter(|period| period.unknown));
        // The node controller waits for 40 seconds before it reports that.
        let stopped = stopped.map(|period| period.from - SignedDuration::from_secs(40)).min();
        let rebooted = self.rebooted.filter(|_| self.down);
        let off = self.stopped.filter(|_| self.down);
        let ended = self.terminated.into_iter().chain(stopped).chain(rebooted).chain(off).min();
        Some(ended.unwrap_or(now - SignedDuration::from_secs(3)))
    }

    /// When an instance of which nothing is known is to be replaced: it is late, and its grace period as not ready is over.
    pub(crate) fn never_joined_deadline(&self) -> Option<Timestamp> {
        let (_, arrived) = self.known_launch?;
        Some((self.join_deadline()? + SignedDuration::from_mins(30)).max(arrived + self.settling))
    }

    /// When an instance of which nothing is known is late.
    pub(crate) fn join_deadline(&self) -> Option<Timestamp> {
        let (launched, _) = self.known_launch.filter(|_| !self.known_alive)?;
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

    /// Whether it writes no more.
    pub(crate) fn is_off(&self) -> bool {
        self.gone || self.terminated.is_some() && !self.drains
    }

    /// Whether its group counts it as one that serves, as far as it was launched.
    pub(crate) fn is_in_service(&self) -> bool {
        !self.is_out() && !self.on_standby && !self.detached
    }

    /// Whether it has ended, so that no more calls are due.
    pub(crate) fn is_out(&self) -> bool {
        self.terminated.is_some() || self.gone
    }
}
