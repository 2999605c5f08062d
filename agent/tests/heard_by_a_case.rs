//! What a tracker says is understood: the case that hears it counts from the true start of the trouble, whatever the
//! node, its agent's restarts and its agent's memory do.

use jiff::{SignedDuration, Timestamp};
use nodemend_agent::{
    finding::{Change, Clears, Debounce, Finding},
    identity::Identity,
    tracker::{Config, Now, Tracker},
};
use nodemend_domain::{
    case::Case,
    condition::{ConditionType, Severity},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    policy::Policy,
};
use proptest::prelude::*;

const REASON: &str = "InterfaceNotUp";
/// How often the probe reads.
const INTERVAL: i64 = 10;
const HOLD: i64 = 120;
/// How long a report travels.
const WAY: i64 = 2;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The interface goes down or comes up.
    Toggle,
    /// The agent restarts and goes on where it was.
    Restart,
    /// The agent restarts, its state is gone.
    Forget,
}

struct World {
    tracker: Tracker,
    case: Case,
    policy: Policy,
    time: i64,
    down: bool,
    debounce: Debounce,
    /// When readings were bad, as the first and last of each row of them.
    rows: Vec<(i64, i64)>,
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterName::new("prod").expect("a name"),
        node: NodeName::new("ip-10-0-10-170.ec2.internal").expect("a name"),
        instance_id: InstanceId::new("i-08736224042c4ee75").expect("an id"),
        zone: None,
        boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
    }
}

fn wall(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
}

fn now(seconds: i64) -> Now {
    Now { wall: wall(seconds), mono: SignedDuration::from_secs(50_000 + seconds) }
}

impl World {
    fn new(debounce: Debounce) -> Self {
        let tracker = Tracker::begin(identity(), Config::default(), None, now(0)).0;
        let case = Case::new(identity().cluster, identity().instance_id);
        Self {
            tracker,
            case,
            policy: Policy::eks_defaults(),
            time: 0,
            down: false,
            debounce,
            rows: Vec::new(),
        }
    }

    /// Lets so many readings pass.
    fn pass(&mut self, readings: i64) {
        for _ in 0..readings {
            for second in 1..=INTERVAL {
                self.time += 1;
                if second == INTERVAL {
                    self.read();
                }
                self.poll();
            }
        }
    }

    fn read(&mut self) {
        let at = wall(self.time);
        let change = if self.down {
            match self.rows.last_mut() {
                Some((_, last)) if *last == self.time - INTERVAL => *last = self.time,
                _ => self.rows.push((self.time, self.time)),
            }
            Change::Raised(Finding {
                reason: REASON.into(),
                condition: ConditionType::NetworkingReady,
                severity: Severity::Condition,
                subject: Some("eth0".to_owned()),
                message: "eth0 is down".to_owned(),
                at,
                debounce: self.debounce,
                clears: Clears::Told { or_quiet: None },
            })
        } else {
            Change::Cleared { reason: REASON.into(), subject: None, at }
        };
        self.tracker.take(&change, now(self.time));
    }

    fn poll(&mut self) {
        for report in self.tracker.poll(now(self.time)) {
            self.case.hear_report(&report, wall(self.time + WAY), &self.policy);
        }
    }

    fn step(&mut self, step: Step) {
        let state = match step {
            Step::Toggle => {
                self.down = !self.down;
                return;
            }
            Step::Restart => Some(self.tracker.snapshot()),
            Step::Forget => None,
        };
        self.tracker = Tracker::begin(identity(), Config::default(), state, now(self.time)).0;
        self.poll();
    }

    /// When the present trouble began by the case's word, on the node's time; none if it knows of none.
    fn said(&self) -> Option<i64> {
        let faults = self.case.faults(&self.policy.default_rules(), &self.policy, wall(self.time + WAY));
        let start = faults.iter().find(|fault| fault.is_bad())?.since;
        Some(start.duration_since(wall(WAY)).as_secs())
    }

    /// Whether the agent, its memory lost, knows too little to say anything: what the case heard before stands.
    fn keeps_silent(&self) -> bool {
        !self.tracker.states().iter().any(|state| state.condition == ConditionType::NetworkingReady)
    }

    /// When it truly began: recoveries shorter than the hold bridged.
    fn truth(&self) -> Option<i64> {
        self.start(HOLD)
    }

    fn start(&self, hold: i64) -> Option<i64> {
        let mut start = None;
        let mut well_since = i64::MIN;
        for (first, last) in &self.rows {
            if start.is_none() || first - well_since >= hold {
                start = Some(*first);
            }
            well_since = last + INTERVAL;
        }
        start.filter(|_| self.down && self.rows.last().is_some_and(|(_, last)| *last == self.time))
    }
}

fn steps() -> impl Strategy<Value = Vec<(i64, Step)>> {
    let step = prop_oneof![5 => Just(Step::Toggle), 1 => Just(Step::Restart), 1 => Just(Step::Forget)];
    // Around the hold of twelve readings, and now and then much longer.
    prop::collection::vec((prop_oneof![6 => 1i64..16, 1 => 40i64..90], step), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_case_counts_from_the_true_start(steps in steps()) {
        let mut world = World::new(Debounce::Once);
        for (readings, step) in steps {
            world.pass(readings);
            if !world.keeps_silent() {
                prop_assert_eq!(world.said(), world.truth(), "at {}: {:?}", world.time, world.rows);
            }
            world.step(step);
        }
    }

    #[test]
    fn what_must_last_to_count_never_counts_from_before_its_first_sign(steps in steps()) {
        let mut world = World::new(Debounce::Lasting(SignedDuration::from_secs(60)));
        let mut forgotten = 0;
        for (readings, step) in steps {
            world.pass(readings);
            if let Some(said) = world.said().filter(|_| !world.keeps_silent()) {
                // A recovery in whose midst the memory was lost was watched for less than it held.
                let truth = world.start(HOLD * (1 + forgotten));
                prop_assert!(truth.is_some_and(|truth| truth <= said), "{said}, not {truth:?}: {:?}", world.rows);
            }
            forgotten += i64::from(matches!(step, Step::Forget));
            world.step(step);
        }
    }
}

#[test]
fn an_agent_that_forgets_in_the_midst_of_trouble_does_not_reset_the_clock() {
    let mut world = World::new(Debounce::Lasting(SignedDuration::from_secs(300)));
    world.pass(60);
    world.step(Step::Toggle);
    world.pass(31);
    let start = world.said();
    assert!(start.is_some());
    for _ in 0..5 {
        world.step(Step::Forget);
        world.pass(40);
        assert_eq!(world.said(), start);
    }
}
