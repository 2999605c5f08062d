//! The tracker's reports as a case applies them: the case counts from the true start of the episode, whatever happens
//! to the node, its agent and the agent's state.

use jiff::{SignedDuration, Timestamp};
use nodemend_agent::{
    finding::{Clears, Debounce, DetectedFinding, FindingChange},
    identity::NodeIdentity,
    tracker::{Now, Tracker, TrackerConfig},
};
use nodemend_domain::{
    case::Case,
    condition::{ConditionType, Severity},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    policy::Policy,
};
use proptest::prelude::*;

const REASON: &str = "InterfaceNotUp";
/// The interval between readings, in seconds.
const INTERVAL: i64 = 10;
const HOLD: i64 = 120;
/// How long a report takes to arrive, in seconds.
const DELAY: i64 = 2;

#[derive(Debug, Clone, Copy)]
enum NodeStep {
    /// The interface goes down or comes up.
    Toggle,
    /// The agent restarts with its state.
    Restart,
    /// The agent restarts without its state.
    LoseState,
}

struct Simulation {
    tracker: Tracker,
    case: Case,
    policy: Policy,
    time: i64,
    down: bool,
    debounce: Debounce,
    /// The first and last time of each row of unhealthy readings.
    rows: Vec<(i64, i64)>,
}

fn identity() -> NodeIdentity {
    NodeIdentity {
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

impl Simulation {
    fn new(debounce: Debounce) -> Self {
        let tracker = Tracker::begin(identity(), TrackerConfig::default(), None, now(0)).0;
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

    /// Lets this many readings pass.
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
            FindingChange::Raised(DetectedFinding {
                reason: REASON.into(),
                condition: ConditionType::NetworkingReady,
                severity: Severity::Condition,
                subject: Some("eth0".to_owned()),
                message: "eth0 is down".to_owned(),
                at,
                debounce: self.debounce,
                clears: Clears::Explicit { or_quiet: None },
            })
        } else {
            FindingChange::Cleared { reason: REASON.into(), subject: None, at }
        };
        self.tracker.apply(&change, now(self.time));
    }

    fn poll(&mut self) {
        for report in self.tracker.poll(now(self.time)) {
            self.case.apply_report(&report, wall(self.time + DELAY), &self.policy);
        }
    }

    fn step(&mut self, step: NodeStep) {
        let state = match step {
            NodeStep::Toggle => {
                self.down = !self.down;
                return;
            }
            NodeStep::Restart => Some(self.tracker.snapshot()),
            NodeStep::LoseState => None,
        };
        self.tracker = Tracker::begin(identity(), TrackerConfig::default(), state, now(self.time)).0;
        self.poll();
    }

    /// The start of the current episode by the case, in the node's time; `None` if it has none.
    fn case_start(&self) -> Option<i64> {
        let faults = self.case.faults(&self.policy.default_rules(), &self.policy, wall(self.time + DELAY));
        let start = faults.iter().find(|fault| fault.is_bad())?.since;
        Some(start.duration_since(wall(DELAY)).as_secs())
    }

    /// Whether the agent lost its state and knows too little to report: the case keeps its last status.
    fn is_silent(&self) -> bool {
        !self.tracker.states().iter().any(|state| state.condition == ConditionType::NetworkingReady)
    }

    /// The true start, with recoveries shorter than the hold time ignored.
    fn true_start(&self) -> Option<i64> {
        self.start(HOLD)
    }

    fn start(&self, hold: i64) -> Option<i64> {
        let mut start = None;
        let mut healthy_since = i64::MIN;
        for (first, last) in &self.rows {
            if start.is_none() || first - healthy_since >= hold {
                start = Some(*first);
            }
            healthy_since = last + INTERVAL;
        }
        start.filter(|_| self.down && self.rows.last().is_some_and(|(_, last)| *last == self.time))
    }
}

fn steps() -> impl Strategy<Value = Vec<(i64, NodeStep)>> {
    let step = prop_oneof![5 => Just(NodeStep::Toggle), 1 => Just(NodeStep::Restart), 1 => Just(NodeStep::LoseState)];
    // Around the hold time of twelve readings, and sometimes much longer.
    prop::collection::vec((prop_oneof![6 => 1i64..16, 1 => 40i64..90], step), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_case_counts_from_the_true_start(steps in steps()) {
        let mut simulation = Simulation::new(Debounce::Once);
        for (readings, step) in steps {
            simulation.pass(readings);
            if !simulation.is_silent() {
                prop_assert_eq!(simulation.case_start(), simulation.true_start(), "at {}: {:?}", simulation.time, simulation.rows);
            }
            simulation.step(step);
        }
    }

    #[test]
    fn a_lasting_problem_never_counts_from_before_its_first_sighting(steps in steps()) {
        let mut simulation = Simulation::new(Debounce::Lasting(SignedDuration::from_secs(60)));
        let mut losses = 0;
        for (readings, step) in steps {
            simulation.pass(readings);
            if let Some(case_start) = simulation.case_start().filter(|_| !simulation.is_silent()) {
                // If the state was lost during a recovery, the recovery was observed for less time than it lasted.
                let true_start = simulation.start(HOLD * (1 + losses));
                prop_assert!(true_start.is_some_and(|true_start| true_start <= case_start), "{case_start}, not {true_start:?}: {:?}", simulation.rows);
            }
            losses += i64::from(matches!(step, NodeStep::LoseState));
            simulation.step(step);
        }
    }
}

#[test]
fn an_agent_that_loses_its_state_during_an_episode_does_not_reset_the_clock() {
    let mut simulation = Simulation::new(Debounce::Lasting(SignedDuration::from_secs(300)));
    simulation.pass(60);
    simulation.step(NodeStep::Toggle);
    simulation.pass(31);
    let start = simulation.case_start();
    assert!(start.is_some());
    for _ in 0..5 {
        simulation.step(NodeStep::LoseState);
        simulation.pass(40);
        assert_eq!(simulation.case_start(), start);
    }
}
