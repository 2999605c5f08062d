//! An account of which every answer takes its time, with the audit log of a large cluster.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    case::Consistency,
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId, NodeName},
    node_snapshot::NodeSnapshot,
    status_check::FailedStatusCheck,
    verification::InstanceStatus,
};
use nodemend_ports::{
    clock::Clock,
    cloud::{Cloud, CloudError, MemoryCloud},
    cluster_reader::{ClusterReader, Lines, LogLine, LogPage, LogQuery, ReadError, Streams},
};
use nodemend_testkit::fixture::{AUDIT_STREAM, CONTROL_PLANE_LOGS, at};

use crate::timers::Timers;

/// A page of FilterLogEvents, and of DescribeLogStreams.
const PAGE: SignedDuration = SignedDuration::from_millis(300);
/// The account's quota of FilterLogEvents. A request over it waits.
const PAGES_A_SECOND: usize = 5;
/// A request to EC2, Auto Scaling or EKS, and a GET of one Node.
const REQUEST: SignedDuration = SignedDuration::from_millis(100);
/// A consistent list of 1,000 Nodes.
const LIST: SignedDuration = SignedDuration::from_secs(1);

/// What ends a page, as the API reference has it: so many lines that match, or so many bytes of them.
const LINES_A_PAGE: usize = 10_000;
const BYTES_A_PAGE: usize = 1024 * 1024;
/// 20 GB of audit log a day.
const BYTES_A_SECOND: i64 = 20_000_000_000 / 86_400;
/// A page also ends with "a time-bounded scan window", whose size AWS does not document. This is an assumption.
const SCANNED_A_PAGE: i64 = 50_000_000;

/// Each of the 1,000 nodes has an agent that writes its conditions every five minutes, as node-problem-detector does: all
/// of these lines match the subscription's pattern. They concern no node of these tests, and are not parsed.
const EVERY: SignedDuration = SignedDuration::from_millis(300);
const BYTES_A_LINE: usize = 1_800;

/// The API servers of the cluster, the one of the other tests first.
const STREAMS: [&str; 3] = [AUDIT_STREAM, "kube-apiserver-audit-1", "kube-apiserver-audit-2"];

#[derive(Clone)]
pub(crate) struct Aws {
    pub(crate) cloud: MemoryCloud,
    pub(crate) timers: Timers,
    /// When the last pages were requested.
    quota: Arc<Mutex<VecDeque<Timestamp>>>,
    /// How many requests the Kubernetes API and the log groups got.
    pub(crate) reads: Arc<Mutex<usize>>,
    /// When each call left.
    pub(crate) calls: Arc<Mutex<Vec<(InstanceId, Timestamp)>>>,
}

impl Aws {
    pub(crate) fn new(cloud: &MemoryCloud, timers: &Timers) -> Self {
        Self {
            cloud: cloud.clone(),
            timers: timers.clone(),
            quota: Arc::default(),
            reads: Arc::default(),
            calls: Arc::default(),
        }
    }

    fn count_read(&self) {
        *self.reads.lock().expect("no panic") += 1;
    }

    /// Waits for the quota, and for the answer.
    async fn page(&self) {
        let now = self.timers.clock.now();
        let begin = {
            let mut quota = self.quota.lock().expect("no panic");
            if quota.len() == PAGES_A_SECOND {
                let oldest = quota.pop_front().expect("a page");
                quota.push_back(now.max(oldest + SignedDuration::from_secs(1)));
            } else {
                quota.push_back(now);
            }
            *quota.back().expect("a page")
        };
        self.timers.until(begin + PAGE).await;
    }
}

/// The number of the first line of the agents at that time or later.
fn first_from(time: Timestamp) -> i128 {
    let since = time.duration_since(at(0)).as_nanos();
    since.div_euclid(EVERY.as_nanos()) + i128::from(since.rem_euclid(EVERY.as_nanos()) != 0)
}

fn of_the_agents(number: i128) -> LogLine {
    let millis = i64::try_from(number * EVERY.as_millis()).expect("a time of a test");
    let stream = STREAMS[number.rem_euclid(3).unsigned_abs() as usize].to_owned();
    let written = at(0) + SignedDuration::from_millis(millis);
    LogLine { stream, timestamp: written, ingested: written, message: "-".repeat(BYTES_A_LINE) }
}

impl ClusterReader for Aws {
    async fn node(&self, cluster: &ClusterName, name: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
        // Without access there is no request.
        let node = self.cloud.node(cluster, name).await?;
        self.count_read();
        self.timers.wait(REQUEST).await;
        Ok(node)
    }

    async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        let nodes = self.cloud.nodes(cluster, consistency).await?;
        self.count_read();
        self.timers.wait(LIST).await;
        Ok(nodes)
    }

    async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
        self.count_read();
        self.page().await;
        if query.lines == Lines::All {
            // Every stream is written to at every moment.
            let (timestamp, message) = (query.until - SignedDuration::from_millis(1), "{}".to_owned());
            let stream = match &query.streams {
                Streams::Named(name) => name.clone(),
                Streams::Prefix(_) => STREAMS[0].to_owned(),
            };
            return Ok(LogPage {
                lines: vec![LogLine { stream, timestamp, ingested: timestamp, message }],
                next: None,
            });
        }
        assert_eq!(query.group, CONTROL_PLANE_LOGS);
        let from = next.map_or(query.from, |next| next.parse().expect("our own token"));
        let window = SignedDuration::from_secs(SCANNED_A_PAGE / BYTES_A_SECOND);
        let until = query.until.min(from + window);
        let part = LogQuery { from, until, ..query.clone() };
        let mut lines = self.cloud.log_page(&part, None).await?.lines;
        if query.lines == Lines::Subscribed {
            lines.extend((first_from(from)..first_from(until)).map(of_the_agents));
            lines.sort_by_key(|line| line.timestamp);
        }
        let mut bytes = 0;
        let mut fits = |line: &LogLine| {
            bytes += line.message.len();
            bytes <= BYTES_A_PAGE
        };
        let count = lines.iter().take(LINES_A_PAGE).take_while(|line| fits(line)).count();
        let end = lines.get(count).map_or(until, |excluded| excluded.timestamp);
        lines.truncate(count);
        Ok(LogPage { lines, next: (end < query.until).then(|| end.to_string()) })
    }

    async fn streams(&self, _: &str, _: &str, _: Timestamp) -> Result<Vec<String>, ReadError> {
        self.count_read();
        self.timers.wait(PAGE).await;
        Ok(STREAMS.map(str::to_owned).to_vec())
    }
}

impl Cloud for Aws {
    async fn in_account(&self, _: Option<&AccountId>) -> Result<Self, CloudError> {
        Ok(self.clone())
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        self.timers.wait(REQUEST).await;
        self.cloud.describe_instances(instances).await
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        self.timers.wait(REQUEST).await;
        self.cloud.group(name).await
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        self.timers.wait(REQUEST).await;
        Cloud::cluster(&self.cloud, name).await
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        self.timers.wait(REQUEST).await;
        self.cloud.instance_status(instance_id).await
    }

    async fn failed_status_checks(&self) -> Result<Vec<FailedStatusCheck>, CloudError> {
        self.cloud.failed_status_checks().await
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        self.timers.wait(REQUEST).await;
        self.cloud.console_output(instance_id).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        let left = (call.instance_id().clone(), self.timers.clock.now());
        self.calls.lock().expect("no panic").push(left);
        self.timers.wait(REQUEST).await;
        self.cloud.call(call).await
    }

    fn caller(&self) -> &Caller {
        self.cloud.caller()
    }
}
