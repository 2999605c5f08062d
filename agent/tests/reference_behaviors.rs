//! Wrong behavior of other agents, tested against our detector and tracker with real log lines.
//!
//! The comment above a test names the issue. Tests of the functions are in `tests/reference_behaviors.rs`.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use nodemend_agent::{
    detect::Detector,
    finding::FindingChange,
    identity::NodeIdentity,
    signal::{LogLine, Origin},
    tracker::{Now, StartedFrom, Tracker, TrackerConfig},
};
use nodemend_domain::{
    condition::{ConditionType, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    report::ConditionState,
};

const UNREACHABLE: &str =
    "Unable to reach API Server, Get https://172.20.0.1:443/version?timeout=5s: context deadline exceeded";
const REACHED: &str = "Successful communication with the Cluster! Cluster Version is: v1.31";

fn now(seconds: i64) -> Now {
    let wall = Timestamp::from_second(1_790_000_000 + seconds).expect("a time");
    Now { wall, mono: SignedDuration::from_secs(20 + seconds) }
}

fn identity(boot: u8) -> NodeIdentity {
    NodeIdentity {
        cluster: ClusterName::new("prod").expect("a name"),
        node: NodeName::new("ip-10-0-10-170.ec2.internal").expect("a name"),
        instance_id: InstanceId::new("i-08736224042c4ee75").expect("an id"),
        zone: None,
        boot_id: BootId::new(format!("00000000-0000-4000-8000-{boot:012}")).expect("an id"),
    }
}

/// An agent that starts with the machine.
struct TestAgent {
    detector: Detector,
    tracker: Tracker,
}

impl TestAgent {
    fn new() -> Self {
        let before = Tracker::begin(identity(1), TrackerConfig::default(), None, now(0)).0.snapshot();
        let (tracker, started_from) =
            Tracker::begin(identity(2), TrackerConfig::default(), Some(before), now(0));
        assert_eq!(started_from, StartedFrom::NewBoot);
        Self { detector: Detector::new(&[]).expect("a detector"), tracker }
    }

    fn read_line(&mut self, seconds: i64, origin: Origin<'_>, text: &str) {
        let line = LogLine { origin, at: now(seconds).wall, text: Cow::Borrowed(text) };
        let mut changes: Vec<FindingChange> = Vec::new();
        self.detector.detect(&line, &mut changes);
        for change in &changes {
            self.tracker.apply(change, now(seconds));
        }
    }

    fn ipamd(&mut self, seconds: i64, text: &str) {
        self.read_line(seconds, Origin::File("/var/log/aws-routed-eni/ipamd.log".into()), text);
    }

    fn kernel(&mut self, seconds: i64, text: &str) {
        self.read_line(seconds, Origin::Kernel { facility: 0, level: 4 }, text);
    }

    fn condition(&mut self, seconds: i64, condition: ConditionType) -> ConditionState<'static> {
        let _ = self.tracker.poll(now(seconds));
        let states = self.tracker.states();
        states.into_iter().find(|state| state.condition == condition).expect("the condition")
    }

    fn networking(&mut self, seconds: i64) -> Status {
        self.condition(seconds, ConditionType::NetworkingReady).status
    }
}

/// aws/eks-node-monitoring-agent #215: the CNI daemon failed to reach the API server once, at boot, and the node was
/// unhealthy for three days.
#[test]
fn one_line_at_boot_latches_nothing() {
    let mut agent = TestAgent::new();
    agent.ipamd(1, UNREACHABLE);
    for seconds in [1, 2, 60, 301, 3_600, 86_400] {
        assert_eq!(agent.networking(seconds), Status::True, "{seconds}");
    }
}

/// aws/eks-node-monitoring-agent #250 and #215: a raised condition could only be cleared by a restart of the agent.
#[test]
fn a_line_clears_what_lines_raised() {
    let mut agent = TestAgent::new();
    for seconds in [600, 630, 660] {
        agent.ipamd(seconds, UNREACHABLE);
    }
    assert_eq!(agent.networking(661), Status::False);
    agent.ipamd(700, REACHED);
    // At once: whether the recovery lasts is decided by the case.
    assert_eq!(agent.networking(701), Status::True);
}

/// kubernetes/node-problem-detector #215: no line reports the end, so the condition never ended.
#[test]
fn findings_of_lines_clear_after_their_quiet_time() {
    let mut agent = TestAgent::new();
    for seconds in [600, 630, 660] {
        agent.ipamd(seconds, UNREACHABLE);
    }
    assert_eq!(agent.networking(661), Status::False);
    assert_eq!(agent.networking(660 + 299), Status::False);
    assert_eq!(agent.networking(660 + 301), Status::True, "five quiet minutes");
}

/// aws/eks-node-monitoring-agent #39, kubernetes-sigs/karpenter #2833: two alternating reasons moved the start each
/// time.
#[test]
fn reasons_that_take_turns_do_not_move_the_start() {
    let mut agent = TestAgent::new();
    let xid = |number| format!("NVRM: Xid (PCI:0000:00:1e): {number}, pid=1234, name=python, as asked for");
    agent.kernel(600, &xid(79));
    let first = agent.condition(600, ConditionType::AcceleratedHardwareReady);
    assert_eq!((first.status, first.since), (Status::False, now(600).wall));
    for turn in 1..40 {
        let seconds = 600 + 30 * turn;
        agent.kernel(seconds, &xid(if turn % 2 == 0 { 79 } else { 74 }));
        let later = agent.condition(seconds, ConditionType::AcceleratedHardwareReady);
        assert_eq!((later.status, later.since), (Status::False, first.since), "{seconds}");
    }
}

/// kubernetes/node-problem-detector #304: after a restart every condition was healthy until a problem was seen again.
#[test]
fn a_restart_of_the_agent_neither_clears_nor_restarts_a_condition() {
    let mut agent = TestAgent::new();
    agent.kernel(600, "NVRM: Xid (PCI:0000:00:1e): 79, pid=1234, name=python, GPU has fallen off the bus.");
    let before = agent.condition(600, ConditionType::AcceleratedHardwareReady);
    assert_eq!(before.status, Status::False);
    let state = agent.tracker.snapshot();
    let (tracker, started_from) =
        Tracker::begin(identity(2), TrackerConfig::default(), Some(state), now(900));
    assert_eq!(started_from, StartedFrom::SavedState);
    agent.tracker = tracker;
    let after = agent.condition(900, ConditionType::AcceleratedHardwareReady);
    assert_eq!((after.status, after.since), (Status::False, before.since));
}
