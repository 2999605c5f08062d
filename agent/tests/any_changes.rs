//! What holds of a tracker whatever happens, and in whatever order.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_agent::{
    finding::{Change, Clears, Debounce, Finding},
    identity::Identity,
    tracker::{Config, Now, State, Tracker},
};
use nodemend_domain::{
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    report::{self, Body, ConditionState, Report},
};
use proptest::prelude::*;

const REASONS: [&str; 3] = ["InterfaceNotUp", "IPAMDNotReady", "OOMKilling"];
const SUBJECTS: [Option<&str>; 3] = [None, Some("eth0"), Some("eth1")];

#[derive(Debug, Clone)]
enum Step {
    /// Time passes.
    Pass(i64),
    /// The wall clock is set.
    Set(i64),
    Raise {
        reason: usize,
        subject: usize,
        weighs: bool,
        late: i64,
        debounce: Debounce,
        clears: Clears,
    },
    Clear {
        reason: usize,
        subject: usize,
    },
    Poll,
}

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

fn step() -> impl Strategy<Value = Step> {
    let debounce = prop_oneof![
        Just(Debounce::Once),
        (1u32..4, 1i64..400).prop_map(|(count, window)| Debounce::Times { count, window: secs(window) }),
        (0i64..400).prop_map(|length| Debounce::Lasting(secs(length))),
    ];
    let clears = prop_oneof![
        proptest::option::of(1i64..700).prop_map(|quiet| Clears::Told { or_quiet: quiet.map(secs) }),
        (1i64..700).prop_map(|quiet| Clears::Quiet(secs(quiet))),
    ];
    let raise = (0..REASONS.len(), 0..SUBJECTS.len(), any::<bool>(), 0i64..900, debounce, clears).prop_map(
        |(reason, subject, weighs, late, debounce, clears)| {
            // Most lines are read at once.
            let late = if late < 600 { 0 } else { late };
            Step::Raise { reason, subject, weighs, late, debounce, clears }
        },
    );
    prop_oneof![
        4 => (1i64..200).prop_map(Step::Pass),
        1 => (-100_000i64..100_000).prop_map(Step::Set),
        6 => raise,
        2 => (0..REASONS.len(), 0..SUBJECTS.len()).prop_map(|(reason, subject)| Step::Clear { reason, subject }),
        4 => Just(Step::Poll),
    ]
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

/// A tracker with the clocks that it is given.
struct Node {
    tracker: Tracker,
    wall: i64,
    mono: i64,
    reports: Vec<Report<'static>>,
}

impl Node {
    fn new() -> Self {
        let (wall, mono) = (1_790_000_000, 50_000);
        let now = Now { wall: Timestamp::from_second(wall).expect("a time"), mono: secs(mono) };
        let (tracker, _) = Tracker::begin(identity(), Config::default(), None, now);
        Self { tracker, wall, mono, reports: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { wall: Timestamp::from_second(self.wall).expect("a time"), mono: secs(self.mono) }
    }

    fn restart(&mut self) {
        let text = self.tracker.snapshot().encode();
        let state = State::decode(&text).expect("a state");
        assert_eq!(state, self.tracker.snapshot());
        self.tracker = Tracker::begin(identity(), Config::default(), Some(state), self.now()).0;
    }

    fn step(&mut self, step: &Step) {
        let now = self.now();
        match *step {
            Step::Pass(seconds) => (self.wall, self.mono) = (self.wall + seconds, self.mono + seconds),
            Step::Set(by) => self.wall += by,
            Step::Raise { reason, subject, weighs, late, debounce, clears } => self.tracker.take(
                &Change::Raised(Finding {
                    reason: Cow::Borrowed(REASONS[reason]),
                    condition: ConditionType::AGENT[reason % 2].clone(),
                    severity: if weighs { Severity::Condition } else { Severity::Event },
                    subject: SUBJECTS[subject].map(str::to_owned),
                    message: "a line".to_owned(),
                    at: now.wall - secs(late),
                    debounce,
                    clears,
                }),
                now,
            ),
            Step::Clear { reason, subject } => self.tracker.take(
                &Change::Cleared {
                    reason: Cow::Borrowed(REASONS[reason]),
                    subject: SUBJECTS[subject].map(str::to_owned),
                    at: now.wall,
                },
                now,
            ),
            Step::Poll => {
                let reports = self.tracker.poll(now);
                self.reports.extend(reports);
            }
        }
    }
}

fn states<'a>(report: &'a Report<'static>) -> &'a [ConditionState<'static>] {
    match &report.body {
        Body::Condition(state) => std::slice::from_ref(state),
        Body::Event { .. } => &[],
        Body::Heartbeat(states) => states,
    }
}

fn findings<'a>(report: &'a Report<'static>) -> impl Iterator<Item = &'a report::Finding<'static>> {
    let events = if let Body::Event { findings, .. } = &report.body { &findings[..] } else { &[] };
    states(report).iter().flat_map(|state| &state.findings).chain(events)
}

proptest! {
    #[test]
    fn a_start_never_moves_later_while_a_condition_stays_bad(steps in prop::collection::vec(step(), 1..120)) {
        let mut node = Node::new();
        let mut starts: HashMap<ConditionType, SignedDuration> = HashMap::new();
        for step in steps.iter().filter(|step| !matches!(step, Step::Set(_))) {
            node.step(step);
            // What ended in between is seen to have ended.
            node.step(&Step::Poll);
            for state in node.tracker.states() {
                let since = state.since.duration_since(Timestamp::UNIX_EPOCH);
                prop_assert!(since.as_secs() <= node.wall, "a start is never in the future");
                if state.status == Status::True {
                    starts.remove(&state.condition);
                } else {
                    let start = *starts.entry(state.condition).or_insert(since);
                    prop_assert_eq!(since, start);
                }
            }
        }
    }

    #[test]
    fn an_age_is_what_the_monotonic_clock_measured(steps in prop::collection::vec(step(), 1..120)) {
        // The same with and without steps of the wall clock: every length in every report is equal.
        let mut steady = Node::new();
        let mut stepping = Node::new();
        for step in steps.iter().chain(&[Step::Pass(300), Step::Poll]) {
            stepping.step(step);
            if !matches!(step, Step::Set(_)) {
                steady.step(step);
            }
        }
        let ages = |node: &Node| {
            let mut ages = Vec::new();
            for report in &node.reports {
                let age = |at: Timestamp| report.at.duration_since(at);
                for state in states(report) {
                    ages.push((state.status as u64, age(state.since), SignedDuration::ZERO, state.sound_secs));
                }
                for finding in findings(report) {
                    ages.push((finding.count, age(finding.since), age(finding.last), None));
                }
            }
            ages
        };
        prop_assert_eq!(ages(&steady), ages(&stepping));
    }

    #[test]
    fn all_conditions_recover_once_everything_is_cleared_and_quiet(steps in prop::collection::vec(step(), 1..120)) {
        let mut node = Node::new();
        for step in &steps {
            node.step(step);
        }
        for reason in 0..REASONS.len() {
            node.step(&Step::Clear { reason, subject: 0 });
        }
        node.step(&Step::Pass(1_400));
        node.step(&Step::Poll);
        let states = node.tracker.states();
        prop_assert_eq!(states.len(), 5);
        prop_assert!(states.iter().all(|state| state.status == Status::True && state.findings.is_empty()), "{:?}", states);
    }

    #[test]
    fn counts_never_fall_while_a_finding_keeps_its_name(steps in prop::collection::vec(step(), 1..120)) {
        let mut node = Node::new();
        for step in steps.iter().filter(|step| !matches!(step, Step::Set(_))) {
            node.step(step);
        }
        node.step(&Step::Pass(300));
        node.step(&Step::Poll);
        let mut counts = BTreeMap::new();
        for report in &node.reports {
            for finding in findings(report) {
                let name = (finding.reason.clone(), finding.severity, finding.message.clone(), finding.since);
                let known = counts.entry(name).or_insert(0);
                prop_assert!(finding.count >= *known && finding.count >= 1);
                *known = finding.count;
            }
        }
    }

    #[test]
    fn a_restart_at_any_moment_changes_no_report(
        steps in prop::collection::vec(step(), 1..120),
        restarts in prop::collection::vec(0usize..120, 0..4),
    ) {
        let mut steady = Node::new();
        let mut restarted = Node::new();
        for (place, step) in steps.iter().enumerate() {
            if restarts.contains(&place) {
                restarted.restart();
            }
            steady.step(step);
            restarted.step(step);
        }
        let seqs: Vec<u64> = restarted.reports.iter().map(|report| report.seq).collect();
        prop_assert!(seqs.is_sorted_by(|a, b| a < b));
        for report in steady.reports.iter_mut().chain(&mut restarted.reports) {
            report.seq = 0;
        }
        prop_assert_eq!(steady.reports, restarted.reports);
    }

    #[test]
    fn nothing_is_due_before_the_time_that_was_named(steps in prop::collection::vec(step(), 1..120)) {
        let mut node = Node::new();
        for step in &steps {
            node.step(step);
            let now = node.now();
            let _ = node.tracker.poll(now);
            let due = node.tracker.next_due();
            prop_assert!(due > now.mono, "{due:?} is not after {:?}", now.mono);
            let almost = due - secs(1);
            if almost > now.mono {
                let mut other = node.tracker.clone();
                let wall = now.wall + (almost - now.mono);
                prop_assert_eq!(other.poll(Now { wall, mono: almost }), vec![]);
            }
        }
    }

    #[test]
    fn every_report_can_be_read(steps in prop::collection::vec(step(), 1..120)) {
        let mut node = Node::new();
        for step in &steps {
            node.step(step);
        }
        for report in &node.reports {
            let line = report.encode();
            let read = Report::decode(&line);
            prop_assert!(read.is_ok(), "{:?}: {}", read, line);
        }
    }
}
