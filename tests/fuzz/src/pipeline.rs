//! Everything at once: a policy, then lines of agents, of the API server and of EventBridge, through the very handlers
//! that Lambda runs, on a clock that the input moves.
//!
//! What can be decoded must be borne: an instant at the end of time, a count without end, a wait of years.

use jiff::{SignedDuration, Timestamp};
use nodemend_confirm::{AutoScalingEvent, ConfirmError, Confirmer};
use nodemend_domain::{
    audit_log::{ApiCall, Caller, verify_chain},
    case::Case,
    ident::{ClusterName, GroupName, InstanceId, Zone},
    policy::Policy,
    report::Report,
};
use nodemend_intake::Intake;
use nodemend_ports::{
    audit_log::AuditLog,
    clock::{Clock, VirtualClock},
    cloud::{Fleet, MemoryCloud},
    config::read_policy,
    store::{CaseKey, MemoryStore},
    subscription::{Batch, LogEvent},
};
use nodemend_repair::Repairer;

const MOST_LINES: usize = 48;
const START: Timestamp = Timestamp::constant(1_787_216_100, 0);

/// The first line is a policy, or is none and EKS's defaults hold. `+N` lets N seconds pass and sweeps.
pub fn hold(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().take(MOST_LINES);
    let first = lines.clone().next().unwrap_or_default();
    let policy = match read_policy(first) {
        Ok(policy) if first.starts_with('{') => {
            lines.next();
            policy
        }
        _ => Policy::eks_defaults(),
    };
    let world = World::new(policy, &text);
    for line in lines {
        world.take(line);
    }
    world.pass(60);
    world.check();
}

struct World {
    clock: VirtualClock,
    store: MemoryStore,
    cloud: MemoryCloud,
    cluster: ClusterName,
}

impl World {
    /// Whatever instance is named is one of the cluster's.
    fn new(policy: Policy, text: &str) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(START);
        let cluster = ClusterName::new("prod").expect("a name");
        let group = GroupName::new("workers").expect("a name");
        let zone = Zone::new("us-east-1a").expect("a name");
        let mut fleet = Fleet::default();
        for at in text.match_indices("i-").map(|(at, _)| at).take(256) {
            let rest = &text[at + 2..];
            let digits = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
            if let Ok(id) = InstanceId::new(&text[at..at + 2 + digits.min(17)])
                && !fleet.knows(&id)
            {
                fleet.join(&group, Some(&cluster), &id, &zone);
            }
        }
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let cloud = MemoryCloud::new(clock.clone(), caller, fleet);
        Self { store: MemoryStore::with_policy(policy), clock, cloud, cluster }
    }

    fn take(&self, line: &str) {
        let now = self.clock.now();
        if let Some(seconds) = line.strip_prefix('+').and_then(|text| text.parse::<u32>().ok()) {
            return self.pass(seconds.min(7 * 24 * 3_600));
        }
        if let Ok(happening) = AutoScalingEvent::read(line.as_bytes()) {
            let audit = Confirmer::new(self.store.clone(), self.cloud.clone());
            match pollster::block_on(audit.take(happening, None, now)) {
                // Lambda would try it again, a minute later.
                Ok(_) | Err(ConfirmError::Early(_)) => return,
                Err(error) => panic!("{error}"),
            }
        }
        let (group, stream) = match Report::decode(line) {
            Ok(report) => (format!("/nodemend/{}/nodes", report.cluster), report.instance_id.to_string()),
            Err(_) => (format!("/aws/eks/{}/cluster", self.cluster), "kube-apiserver-audit-1".to_owned()),
        };
        let batch = Batch {
            owner: "123456789012".into(),
            log_group: group.into(),
            log_stream: stream.into(),
            subscription_filters: Vec::new(),
            events: vec![LogEvent { id: "1".into(), timestamp: now, message: line.into() }],
            rejected: Vec::new(),
        };
        let taken = pollster::block_on(Intake::new(self.store.clone()).take(batch, now)).expect("taken in");
        let counted = taken.reports + taken.observations + taken.irrelevant + taken.rejected.len();
        assert_eq!(counted, 1, "a line vanished");
        for told in &taken.repair_events {
            assert!(!told.detail.contains(char::is_control), "{:?}", told.detail);
            let reason = told.reason.as_deref().unwrap_or_default();
            assert!(!reason.contains(char::is_control), "{reason:?}");
        }
    }

    fn pass(&self, seconds: u32) {
        let now = self.clock.now();
        self.clock.advance_to(now.checked_add(SignedDuration::from_secs(seconds.into())).unwrap_or(now));
        let repairer = Repairer::new(self.store.clone(), self.cloud.clone(), self.clock.clone());
        let swept = pollster::block_on(repairer.run_once()).expect("swept");
        assert!(swept.failures.is_empty(), "{:?}", swept.failures);
    }

    fn check(&self) {
        let calls = self.cloud.calls();
        let mut terminated: Vec<&InstanceId> = calls
            .iter()
            .filter_map(|call| match call {
                ApiCall::TerminateInstanceInAutoScalingGroup { instance_id } => Some(instance_id),
                ApiCall::RebootInstances { .. } => None,
            })
            .collect();
        terminated.sort_unstable();
        assert!(terminated.windows(2).all(|two| two[0] != two[1]), "terminated twice: {calls:?}");
        for case in self.store.cases() {
            // As it is stored: instants to the millisecond, and everything else as it was.
            let stored = |case: &Case| -> Case {
                let text = serde_json::to_string(case).expect("JSON");
                serde_json::from_str(&text).expect("what is stored can be read")
            };
            let once = stored(&case);
            assert_eq!(stored(&once), once);
            let lines = pollster::block_on(self.store.chain(&CaseKey::of(&case))).expect("a memory");
            verify_chain(lines.iter().map(|entry| entry.line.as_str())).expect("a chain that holds");
        }
    }
}
