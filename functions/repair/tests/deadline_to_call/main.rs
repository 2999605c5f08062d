//! How long a call leaves after its deadline: 200 repairs of a cluster with 1,000 nodes and 20 GB of audit log a day.
//!
//! The clock is virtual, so the numbers are the same on every machine. They count what is waited for: the answers of the
//! Kubernetes API, the log groups and AWS, and the quota of the log groups, which reconciling uses, too. They do not count
//! what the processor does.

mod aws;
mod timers;

use futures_util::future::join;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::{ConditionType, Health},
    ident::GroupName,
    node_snapshot::{NodeSnapshot, SnapshotCondition},
    observation::ObservedCondition,
};
use nodemend_ports::clock::Clock;
use nodemend_reconcile::{ControlPlaneLogs, ReconcileTarget, Reconciler};
use nodemend_repair::Repairer;
use nodemend_testkit::{
    Deployment,
    faults::{Fate, Faults, Faulty},
    fixture::{
        at, cluster, control_plane_payload, group_named, instance, kubelet_ready, minutes, node,
        node_controller_unknown, policy_with_limit, zone,
    },
};

use self::{aws::Aws, timers::Timers};

const NODES: u64 = 1_000;
const REPAIRS: usize = 200;
/// Repairs that are due in the same second.
const BURST: u64 = 5;
/// When the nodes become unreachable, in seconds.
const FAULT: i64 = 300;
/// The schedule of reconciling, in seconds.
const EVERY: i64 = 300;
/// A read or write of the store.
const STORE: SignedDuration = SignedDuration::from_millis(5);

/// How the cluster can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Api,
    LogGroups,
}

/// Which nodes are due in the same second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bursts {
    AcrossGroups,
    InOneGroup,
}

/// A cluster in which nodes become unreachable at the same time.
struct Incident {
    deployment: Deployment,
    timers: Timers,
    aws: Aws,
    numbers: Vec<u64>,
}

impl Incident {
    /// The node controller reports so many nodes unreachable, and their lines are delivered within two seconds.
    fn new(access: Access, nodes: u64, bursts: Bursts) -> Self {
        let deployment = Deployment::new(NODES, policy_with_limit(1_000));
        for other in 1..=BURST {
            let (group, instance): (GroupName, _) =
                (group_named(&format!("workers-{other}")), instance(NODES + other));
            deployment.cloud.change(|fleet| fleet.join(&group, Some(&cluster()), &instance, &zone()));
        }
        let timers = Timers::new(&deployment.clock);
        let aws = Aws::new(&deployment.cloud, &timers);
        let first = if bursts == Bursts::AcrossGroups { NODES + 1 } else { 1 };
        let numbers: Vec<u64> = (first..first + nodes).collect();
        let ready: Vec<String> = numbers.iter().map(|number| kubelet_ready(*number, at(0), "True")).collect();
        deployment.deliver(&control_plane_payload(&ready), at(0));
        if access == Access::Api {
            for number in &numbers {
                let node = unreachable_node(*number, at(FAULT));
                deployment.cloud.cluster_state().set_node(at(0), node);
            }
        }
        let lines = numbers.iter().map(|number| node_controller_unknown(*number, at(FAULT)));
        let delivered = at(FAULT + 2);
        deployment.clock.advance_to(delivered);
        deployment.deliver(&control_plane_payload(&lines.collect::<Vec<_>>()), delivered);
        Self { deployment, timers, aws, numbers }
    }

    fn deadline(&self, number: u64) -> Timestamp {
        self.deployment.faults(number, self.deployment.clock.now())[0].deadline.expect("a deadline")
    }

    /// A store that takes its time.
    fn store(&self) -> Faulty<nodemend_ports::store::MemoryStore> {
        let clock = self.deployment.clock.clone();
        let takes = Faults::drawn(move |_| {
            clock.advance_to(clock.now() + STORE);
            Fate::Proceed
        });
        Faulty::new(self.deployment.store.clone(), takes)
    }

    /// One run of the reconcile function.
    async fn reconcile(&self, now: Timestamp) {
        self.timers.until(now).await;
        let reconciler = Reconciler::new(self.store(), self.aws.clone(), self.deployment.clock.clone());
        let target = ReconcileTarget { cluster: cluster(), control_plane_logs: ControlPlaneLogs::Enabled };
        let report = Box::pin(reconciler.run(&target)).await.expect("a run");
        assert!(report.failures.is_empty(), "{:?}", report.failures);
    }

    /// The repair function waits for the deadlines while reconciling goes on. Returns how long after its deadline each call
    /// left.
    fn repair(&self, first_reconciled: i64) -> Vec<SignedDuration> {
        let deadline = self.deadline(self.numbers[0]);
        let begin = deadline - SignedDuration::from_secs(30);
        let end = begin + SignedDuration::from_secs(65);
        let reconcile_from = async |mut next: Timestamp, until: Timestamp| {
            while next < until {
                self.reconcile(next).await;
                next += SignedDuration::from_secs(EVERY);
            }
            next
        };
        let next = self.timers.run(reconcile_from(at(first_reconciled), begin));
        let repairer = Repairer::new(self.store(), self.aws.clone(), self.deployment.clock.clone());
        self.timers.run(join(
            async {
                self.timers.until(begin).await;
                let wait = async |until| self.timers.until(until).await;
                let failed = |report: &nodemend_repair::RunReport| {
                    assert!(report.failures.is_empty(), "{:?}", report.failures);
                };
                Box::pin(repairer.run_until(end, wait, failed)).await.expect("a run");
            },
            reconcile_from(next, end),
        ));
        let calls = self.aws.calls.lock().expect("no panic").clone();
        assert_eq!(calls.len(), self.numbers.len(), "each node is replaced once");
        calls.iter().map(|(_, left)| left.duration_since(deadline)).collect()
    }
}

/// A node as the Kubernetes API returns it.
fn unreachable_node(number: u64, since: Timestamp) -> NodeSnapshot {
    let observed = ObservedCondition {
        condition: ConditionType::Ready,
        health: Health::Unknown,
        reason: "NodeStatusUnknown".to_owned(),
        message: String::new(),
    };
    NodeSnapshot {
        name: node(number),
        uid: None,
        instance_id: Some(instance(number)),
        boot_id: None,
        created: Some(at(-86_400)),
        conditions: vec![SnapshotCondition { observed, since: Some(since) }],
        hold: None,
        cordoned: false,
    }
}

/// Repairs nodes until there are 200 calls: half of them one at a time, the others in bursts. Each incident has another
/// distance to the runs of reconciling. Returns the 99th percentile of the time from deadline to call.
fn measure(access: Access, bursts: Bursts) -> SignedDuration {
    let mut latencies = Vec::new();
    for incident in 0.. {
        if latencies.len() == REPAIRS {
            break;
        }
        let nodes = if incident % 6 == 0 { BURST } else { 1 };
        // The distances are spread evenly over the schedule, in no order.
        let first_reconciled = FAULT + 20 + incident * 97 % EVERY;
        let incident = Incident::new(access, nodes, bursts);
        latencies.extend(incident.repair(first_reconciled));
    }
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[(latencies.len() * percent).div_ceil(100) - 1];
    println!(
        "deadline to call, {} repairs by {access:?}, bursts {bursts:?}: p50 {:#}, p99 {:#}, longest {:#}",
        latencies.len(),
        percentile(50),
        percentile(99),
        percentile(100)
    );
    percentile(99)
}

#[test]
fn with_the_kubernetes_api_calls_leave_within_two_seconds() {
    for bursts in [Bursts::AcrossGroups, Bursts::InOneGroup] {
        assert!(measure(Access::Api, bursts) <= SignedDuration::from_secs(2));
    }
}

#[test]
fn with_the_log_groups_calls_leave_within_five_seconds() {
    for bursts in [Bursts::AcrossGroups, Bursts::InOneGroup] {
        assert!(measure(Access::LogGroups, bursts) <= SignedDuration::from_secs(5));
    }
}

#[test]
fn a_run_with_nothing_due_reads_neither_the_kubernetes_api_nor_a_log_group() {
    for access in [Access::Api, Access::LogGroups] {
        let incident = Incident::new(access, BURST, Bursts::AcrossGroups);
        let repairer = Repairer::new(
            incident.deployment.store.clone(),
            incident.aws.clone(),
            incident.deployment.clock.clone(),
        );
        for minute in 6..34 {
            incident.deployment.clock.advance_to(minutes(minute));
            incident.timers.run(Box::pin(repairer.run_once())).expect("a run");
        }
        assert_eq!(*incident.aws.reads.lock().expect("no panic"), 0, "{access:?}");
        incident.deployment.clock.advance_to(minutes(36));
        incident.timers.run(Box::pin(repairer.run_once())).expect("a run");
        assert!(*incident.aws.reads.lock().expect("no panic") > 0, "{access:?}");
    }
}

#[test]
fn cases_that_are_due_at_the_same_time_share_what_they_read() {
    let reads = |nodes| {
        let incident = Incident::new(Access::LogGroups, nodes, Bursts::AcrossGroups);
        let deadline = incident.deadline(incident.numbers[0]);
        let minute = SignedDuration::from_mins(1);
        incident.timers.run(Box::pin(incident.reconcile(deadline - minute)));
        incident.timers.run(incident.timers.until(deadline));
        let before = *incident.aws.reads.lock().expect("no panic");
        let clock = incident.deployment.clock.clone();
        let repairer = Repairer::new(incident.deployment.store.clone(), incident.aws.clone(), clock);
        incident.timers.run(Box::pin(repairer.run_once())).expect("a run");
        assert_eq!(incident.aws.calls.lock().expect("no panic").len(), incident.numbers.len());
        *incident.aws.reads.lock().expect("no panic") - before
    };
    assert_eq!(reads(BURST), reads(1));
}
