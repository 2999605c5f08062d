//! Invariants of the tracker under any sequence of changes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_agent::{
    finding::{Clears, Debounce, DetectedFinding, FindingChange},
    identity::NodeIdentity,
    tracker::{Now, Snapshot, Tracker, TrackerConfig},
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
enum TrackerStep {
    /// Time passes, in seconds.
    Pass(i64),
    /// The wall clock is set by this many seconds.
    Set(i64),
    Raise {
        reason: usize,
        subject: usize,
        is_condition: bool,
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

fn step() -> impl Strategy<Value = TrackerStep> {
    let debounce = prop_oneof![
        Just(Debounce::Once),
        (1u32..4, 1i64..400).prop_map(|(count, window)| Debounce::Times { count, window: secs(window) }),
        (0i64..400).prop_map(|duration| Debounce::Lasting(secs(duration))),
    ];
    let clears = prop_oneof![
        proptest::option::of(1i64..700).prop_map(|quiet| Clears::Explicit { or_quiet: quiet.map(secs) }),
        (1i64..700).prop_map(|quiet| Clears::Quiet(secs(quiet))),
    ];
    let raise = (0..REASONS.len(), 0..SUBJECTS.len(), any::<bool>(), 0i64..900, debounce, clears).prop_map(
        |(reason, subject, is_condition, late, debounce, clears)| {
            // Most lines are read at once.
            let late = if late < 600 { 0 } else { late };
            TrackerStep::Raise { reason, subject, is_condition, late, debounce, clears }
        },
    );
    prop_oneof![
        4 => (1i64..200).prop_map(TrackerStep::Pass),
        1 => (-100_000i64..100_000).prop_map(TrackerStep::Set),
        6 => raise,
        2 => (0..REASONS.len(), 0..SUBJECTS.len()).prop_map(|(reason, subject)| TrackerStep::Clear { reason, subject }),
        4 => Just(TrackerStep::Poll),
    ]
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

/// A tracker with simulated clocks.
struct TrackedNode {
    tracker: Tracker,
    wall: i64,
    mono: i64,
    reports: Vec<Report<'static>>,
}

impl TrackedNode {
    fn new() -> Self {
        let (wall, mono) = (1_790_000_000, 50_000);
        let now = Now { wall: Timestamp::from_second(wall).expect("a time"), mono: secs(mono) };
        let (tracker, _) = Tracker::begin(identity(), TrackerConfig::default(), None, now);
        Self { tracker, wall, mono, reports: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { wall: Timestamp::from_second(self.wall).expect("a time"), mono: secs(self.mono) }
    }

    fn restart(&mut self) {
        let text = self.tracker.snapshot().encode();
        let state = Snapshot::decode(&text).expect("a state");
        assert_eq!(state, self.tracker.snapshot());
        self.tracker = Tracker::begin(identity(), TrackerConfig::default(), Some(state), self.now()).0;
    }

    fn step(&mut self, step: &TrackerStep) {
        let now = self.now();
        match *step {
            TrackerStep::Pass(seconds) => (self.wall, self.mono) = (self.wall + seconds, self.mono + seconds),
            TrackerStep::Set(by) => self.wall += by,
            TrackerStep::Raise { reason, subject, is_condition, late, debounce, clears } => {
                self.tracker.apply(
                    &FindingChange::Raised(DetectedFinding {
                        reason: Cow::Borrowed(REASONS[reason]),
                        condition: ConditionType::AGENT[reason % 2].clone(),
                        severity: if is_condition { Severity::Condition } else { Severity::Event },
                        subject: SUBJECTS[subject].map(str::to_owned),
                        message: "a line".to_owned(),
                        at: now.wall - secs(late),
                        debounce,
                        clears,
                    }),
                    now,
                );
            }
            TrackerStep::Clear { reason, subject } => self.tracker.apply(
                &FindingChange::Cleared {
                    reason: Cow::Borrowed(REASONS[reason]),
                    subject: SUBJECTS[subject].map(str::to_owned),
                    at: now.wall,
                },
                now,
            ),
            TrackerStep::Poll => {
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
    fn a_start_never_moves_later_while_a_condition_stays_unhealthy(steps in prop::collection::vec(step(), 1..120)) {
        let mut node = TrackedNode::new();
        let mut starts: HashMap<ConditionType, SignedDuration> = HashMap::new();
        for step in steps.iter().filter(|step| !matches!(step, TrackerStep::Set(_))) {
            node.step(step);
            // A poll lets a finding end in between.
            node.step(&TrackerStep::Poll);
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
        // With and without steps of the wall clock, all durations in all reports are equal.
        let mut steady = TrackedNode::new();
        let mut stepping = TrackedNode::new();
        for step in steps.iter().chain(&[TrackerStep::Pass(300), TrackerStep::Poll]) {
            stepping.step(step);
            if !matches!(step, TrackerStep::Set(_)) {
                steady.step(step);
            }
        }
        let ages = |node: &TrackedNode| {
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
        let mut node = TrackedNode::new();
        for step in &steps {
            node.step(step);
        }
        for reason in 0..REASONS.len() {
            node.step(&TrackerStep::Clear { reason, subject: 0 });
        }
        node.step(&TrackerStep::Pass(1_400));
        node.step(&TrackerStep::Poll);
        let states = node.tracker.states();
        prop_assert_eq!(states.len(), 5);
        prop_assert!(states.iter().all(|state| state.status == Status::True && state.findings.is_empty()), "{:?}", states);
    }

    #[test]
    fn counts_never_fall_while_a_finding_keeps_its_name(steps in prop::collection::vec(step(), 1..120)) {
        let mut node = TrackedNode::new();
        for step in steps.iter().filter(|step| !matches!(step, TrackerStep::Set(_))) {
            node.step(step);
            // Its start is part of the name: what is raised after the end, however late, has another one.
            if matches!(step, TrackerStep::Clear { .. }) {
                node.step(&TrackerStep::Pass(900));
            }
        }
        node.step(&TrackerStep::Pass(300));
        node.step(&TrackerStep::Poll);
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
        let mut steady = TrackedNode::new();
        let mut restarted = TrackedNode::new();
        for (index, step) in steps.iter().enumerate() {
            if restarts.contains(&index) {
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
        let mut node = TrackedNode::new();
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
        let mut node = TrackedNode::new();
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
