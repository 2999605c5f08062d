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
    let deployment = Deployment::new(policy, &text);
    for line in lines {
        deployment.take(line);
    }
    deployment.wait(60);
    deployment.check();
}

struct Deployment {
    clock: VirtualClock,
    store: MemoryStore,
    cloud: MemoryCloud,
    cluster: ClusterName,
}

impl Deployment {
    /// Every instance that the text names is in the cluster.
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
            return self.wait(seconds.min(7 * 24 * 3_600));
        }
        if let Ok(event) = AutoScalingEvent::read(line.as_bytes()) {
            let confirmer = Confirmer::new(self.store.clone(), self.cloud.clone());
            match pollster::block_on(confirmer.take(event, None, now)) {
                // Lambda would retry it a minute later.
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
        let result =
            pollster::block_on(Intake::new(self.store.clone()).take(batch, now)).expect("intake succeeds");
        let counted = result.reports + result.observations + result.irrelevant + result.rejected.len();
        assert_eq!(counted, 1, "each line is counted once");
        for event in &result.repair_events {
            assert!(!event.detail.contains(char::is_control), "{:?}", event.detail);
            let reason = event.reason.as_deref().unwrap_or_default();
            assert!(!reason.contains(char::is_control), "{reason:?}");
        }
    }

    fn wait(&self, seconds: u32) {
        let now = self.clock.now();
        self.clock.advance_to(now.checked_add(SignedDuration::from_secs(seconds.into())).unwrap_or(now));
        let repairer = Repairer::new(self.store.clone(), self.cloud.clone(), self.clock.clone());
        let report = pollster::block_on(repairer.run_once()).expect("a run");
        assert!(report.failures.is_empty(), "{:?}", report.failures);
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
            // In stored form: timestamps to the millisecond, and all else unchanged.
            let stored = |case: &Case| -> Case {
                let text = serde_json::to_string(case).expect("JSON");
                serde_json::from_str(&text).expect("a stored case can be read")
            };
            let once = stored(&case);
            assert_eq!(stored(&once), once);
            let lines = pollster::block_on(self.store.chain(&CaseKey::of(&case))).expect("a read");
            verify_chain(lines.iter().map(|entry| entry.line.as_str())).expect("an intact chain");
        }
    }
}
