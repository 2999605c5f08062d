//! The local stack on a clock that the test sets: the functions' binaries, an embedded DynamoDB, an emulated AWS, and a
//! queue of deliveries, which are made one after the other.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use jiff::{SignedDuration, Timestamp};
use nodemend_aws::{
    clock::SystemClock,
    dynamodb::DynamoStore,
    failpoints::{self, Point},
};
use nodemend_domain::{
    audit_log::{Record, RecordStep, verify_chain},
    condition::ConditionType,
    ident::{ClusterName, GroupName, InstanceId},
    log_source::{AUDIT_STREAMS, LogSource},
    policy::{Policy, VerificationPolicy},
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::Clock,
    store::{CaseKey, Store},
    subscription::{self, Batch, LogEvent, our_patterns},
};
use nodemend_stack::{
    aws_proxy::{self, AwsEvent, Calls},
    child::Launcher,
    dynamodb,
    emulator::{self, Emulator},
    fleet::{Fleet, GROUP},
    lambda::{Failure, Function, FunctionUpdate},
    node::Node,
    query_client::QueryClient,
    stack::{self, FUNCTIONS},
};
use nodemend_testkit::filter_pattern::Pattern;
use tokio::sync::mpsc::{self, UnboundedReceiver};

const INTAKE: usize = 0;
const REPAIR: usize = 1;
const CONFIRM: usize = 2;

/// Longer than all of Lambda's retries of an event: the event that a new node is ready may come so late.
const GRACE: SignedDuration = SignedDuration::from_mins(10);
const MINUTE: SignedDuration = SignedDuration::from_secs(60);
/// Lambda retries an event after one minute, and after two more.
const RETRIES: [SignedDuration; 2] = [MINUTE, SignedDuration::from_secs(120)];
/// A call that was never sent is reported missing half an hour later; nothing takes longer.
const PATIENCE: SignedDuration = SignedDuration::from_mins(120);

/// The function that is killed, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Crash {
    pub(crate) function: usize,
    pub(crate) point: Point,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} died {}", FUNCTIONS[self.function], self.point)
    }
}

/// The result of a repair.
#[derive(Debug)]
pub(crate) struct RepairResult {
    /// How many calls reached AWS.
    pub(crate) calls: usize,
    /// How many calls are recorded as unanswered.
    pub(crate) unanswered: usize,
    /// The awaits of each function, if they were counted.
    pub(crate) awaits: [Vec<String>; 3],
}

/// An event or payload that is to be delivered to a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Delivery {
    at: Timestamp,
    order: u64,
    function: usize,
    payload: String,
    tries: usize,
}

pub(crate) struct Environment {
    directory: tempfile::TempDir,
    launcher: Launcher,
    emulator: Emulator,
    aws: SocketAddr,
    dynamodb: SocketAddr,
    store: DynamoStore,
    cluster: ClusterName,
    fleet: Fleet,
    /// The node that is to fail next.
    next: Node,
    events: UnboundedReceiver<AwsEvent>,
    calls: Calls,
    sender: mpsc::UnboundedSender<(String, FunctionUpdate)>,
    updates: UnboundedReceiver<(String, FunctionUpdate)>,
    /// The functions without failpoints.
    plain: [Function; 3],
    runs: usize,
    queue: BinaryHeap<Reverse<Delivery>>,
    order: u64,
}

fn nodemend() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_nodemend"))
}

impl Environment {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        failpoints::use_clock(&directory.path().join("clock"));
        failpoints::pass_to("2026-09-01T00:00:00Z".parse().expect("a time"));
        let launcher = Launcher::new(nodemend());
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/cache");
        let python = emulator::prepare(&launcher, &cache, Path::new("python3"))
            .await
            .expect("the emulator's packages");
        let emulator = Emulator::start(&launcher, &python).await.expect("an emulator");
        let (event_sender, events) = mpsc::unbounded_channel();
        let calls = Calls::default();
        let (aws, _) =
            aws_proxy::serve(emulator.address, calls.clone(), event_sender).await.expect("a proxy");
        let dynamodb = dynamodb::serve().expect("a database");
        let store = dynamodb::store(dynamodb).await.expect("tables");
        let cluster = ClusterName::new("local").expect("a name");
        let mut policy = Policy::eks_defaults();
        nodemend_stack::shorten(&mut policy, GRACE);
        // What the functions receive here is in no log group: verification reads, and finds nothing to read.
        policy.verification = VerificationPolicy::Preferred;
        // The healthy nodes have no agents.
        policy.silence.agent_silent_after = None;
        store.put_policy(&cluster, &policy, "chaos", SystemClock.now()).await.expect("a policy");
        let fleet = Fleet::create(QueryClient::new(aws), cluster.clone(), 0, 2).await.expect("a group");
        let first = fleet.members().await.expect("members").remove(0);
        let next = fleet.describe_node(&first).await.expect("a node");
        let (sender, updates) = mpsc::unbounded_channel();
        let environment = |function: usize| {
            let clock = (failpoints::CLOCK.to_owned(), path_text(&directory.path().join("clock")));
            stack::environment(FUNCTIONS[function], aws, dynamodb, &[clock])
        };
        let plain = [INTAKE, REPAIR, CONFIRM].map(|function| {
            let program = program(FUNCTIONS[function]);
            let spec = stack::spec(FUNCTIONS[function], &program, environment(function));
            Function::new(spec, launcher.clone(), sender.clone())
        });
        Self {
            directory,
            launcher,
            emulator,
            aws,
            dynamodb,
            store,
            cluster,
            fleet,
            next,
            events,
            calls,
            sender,
            updates,
            plain,
            runs: 0,
            queue: BinaryHeap::new(),
            order: 0,
        }
    }

    /// A function in processes of its own, which log their awaits and die at the given one.
    fn function(&self, function: usize, at: Option<Point>, log: &Path) -> Function {
        let mut more = vec![
            (failpoints::CLOCK.to_owned(), path_text(&self.directory.path().join("clock"))),
            (failpoints::LOG.to_owned(), path_text(log)),
        ];
        more.extend(at.map(|at| (failpoints::AT.to_owned(), at.to_string())));
        let name = FUNCTIONS[function];
        let environment = stack::environment(name, self.aws, self.dynamodb, &more);
        let spec = stack::spec(name, &program(name), environment);
        Function::new(spec, self.launcher.clone(), self.sender.clone())
    }

    /// One repair, in which a function may be killed at an await, which must have the given name.
    pub(crate) async fn repair(&mut self, crash: Option<(Crash, &String)>) -> Result<RepairResult, String> {
        let log = self.log(0);
        let mut functions = self.plain.clone();
        if let Some((crash, _)) = crash {
            functions[crash.function] = self.function(crash.function, Some(crash.point), &log);
        }
        let result = self.run(&functions, crash.map(|(crash, _)| crash.function)).await;
        if let Some((crash, what)) = crash {
            functions[crash.function].stop().await;
            let Ok(logged) = fs::read_to_string(&log) else {
                let why = result.err().unwrap_or_else(|| "no failpoints are built in".to_owned());
                return Err(format!("it was not invoked: {why}"));
            };
            let mut lines = logged.lines().take_while(|line| *line != failpoints::DIED);
            let expected = format!("{} {what}", crash.point.number);
            if !logged.lines().any(|line| line == failpoints::DIED) || !lines.any(|line| line == expected) {
                return Err(format!(
                    "it did not die at {expected}: {:?}",
                    logged.lines().collect::<Vec<_>>()
                ));
            }
        }
        result.map_err(|why| format!("{why}\n  {}", self.take_updates().join("\n  ")))
    }

    /// One repair without a crash, and the awaits of each function in it.
    pub(crate) async fn repair_counted(&mut self) -> Result<RepairResult, String> {
        let logs = [INTAKE, REPAIR, CONFIRM].map(|function| self.log(function));
        let functions =
            [INTAKE, REPAIR, CONFIRM].map(|function| self.function(function, None, &logs[function]));
        let mut result = self.run(&functions, None).await?;
        for (function, log) in logs.iter().enumerate() {
            functions[function].stop().await;
            let logged = fs::read_to_string(log).map_err(|_| "no failpoints are built in".to_owned())?;
            let what = |line: &str| line.split_once(' ').map(|(_, what)| what.to_owned());
            result.awaits[function] = logged.lines().filter_map(what).collect();
        }
        Ok(result)
    }

    fn log(&self, function: usize) -> PathBuf {
        self.directory.path().join(format!("awaits-{}-{function}", self.runs))
    }

    /// The updates that the functions have sent since the last call.
    fn take_updates(&mut self) -> Vec<String> {
        let mut updates = Vec::new();
        while let Ok((function, update)) = self.updates.try_recv() {
            updates.push(format!("{function}: {update:?}"));
        }
        updates
    }

    /// A whole repair, from the first report to the closed case.
    async fn run(
        &mut self,
        functions: &[Function; 3],
        mut crash: Option<usize>,
    ) -> Result<RepairResult, String> {
        self.runs += 1;
        self.take_updates();
        self.queue.clear();
        let start = SystemClock.now() + PATIENCE;
        failpoints::pass_to(start);
        let mut failing = self.next.clone();
        let line = failing.heartbeat(start);
        self.agent_reports(&failing, line, start);
        let fails_at = start + SignedDuration::from_secs(1);
        let line = failing.fail(
            ConditionType::AcceleratedHardwareReady,
            "NvidiaXID79Error",
            "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
            fails_at,
        );
        self.agent_reports(&failing, line, fails_at);
        let mut problems = Vec::new();
        // A run comes exactly at the deadline. Runs without a due case are omitted.
        let (mut minute, mut due) = (fails_at + GRACE, None);
        loop {
            let next_run = due.map_or(minute, |due: Timestamp| due.max(minute));
            if self.queue.peek().is_some_and(|Reverse(delivery)| delivery.at <= next_run) {
                let Some(Reverse(delivery)) = self.queue.pop() else { break };
                failpoints::pass_to(delivery.at);
                let answer = functions[delivery.function].invoke(delivery.payload.clone().into()).await;
                if self.died(delivery.function, answer.err(), &mut crash, &mut problems) {
                    let at = SystemClock.now() + RETRIES[delivery.tries];
                    self.queue.push(Reverse(Delivery { at, tries: delivery.tries + 1, ..delivery }));
                }
            } else {
                failpoints::pass_to(next_run);
                let run = functions[REPAIR].invoke(r#"{"detail-type":"Scheduled Event"}"#.into()).await;
                // After a crash, the next run continues the repair.
                self.died(REPAIR, run.err(), &mut crash, &mut problems);
                minute = SystemClock.now().max(next_run + MINUTE);
            }
            self.deliver_events().await?;
            due = self.store.next_due().await.map_err(|error| error.to_string())?;
            if due.is_none() && self.queue.is_empty() {
                break;
            }
            if SystemClock.now() > start + PATIENCE {
                let key = CaseKey { cluster: self.cluster.clone(), instance_id: failing.instance_id.clone() };
                let case = self.store.case(&key).await.map_err(|error| error.to_string())?;
                let case = serde_json::to_string(&case).unwrap_or_default();
                return Err(format!("it does not end, due {due:?}; {problems:?}; {case}"));
            }
        }
        if problems.is_empty() { self.check(&failing).await } else { Err(problems.join("; ")) }
    }

    /// Whether an invocation failed because its process was killed on purpose. Any other failure is a problem.
    fn died(
        &self,
        function: usize,
        failure: Option<Failure>,
        awaited: &mut Option<usize>,
        problems: &mut Vec<String>,
    ) -> bool {
        match failure {
            None => false,
            Some(Failure::Crashed(_) | Failure::Init(_)) if *awaited == Some(function) => {
                *awaited = None;
                true
            }
            Some(why) => {
                problems.push(format!("{} at {}: {why}", FUNCTIONS[function], SystemClock.now()));
                false
            }
        }
    }

    /// Queues the events about what happened in AWS, each some seconds later.
    async fn deliver_events(&mut self) -> Result<(), String> {
        while let Ok(event) = self.events.try_recv() {
            let now = SystemClock.now();
            let after = |seconds| now + SignedDuration::from_secs(seconds);
            match event {
                AwsEvent::Called(call) => self.post(after(15), CONFIRM, call.event().to_string()),
                AwsEvent::Terminated(activity) => {
                    self.post(after(20), CONFIRM, activity.event(after(20)).to_string());
                }
                AwsEvent::Launched(activity) => {
                    self.post(after(20), CONFIRM, activity.event(after(20)).to_string());
                    let new = InstanceId::new(&activity.instance_id).map_err(|error| error.to_string())?;
                    let mut new = self.fleet.describe_node(&new).await.map_err(|error| error.to_string())?;
                    self.control_plane_logs(new.registration(after(40)), after(40));
                    self.control_plane_logs(new.ready(after(42)), after(42));
                    let line = new.heartbeat(after(44));
                    self.agent_reports(&new, line, after(44));
                    self.next = new;
                }
                AwsEvent::Logged { .. } | AwsEvent::Rebooted { .. } | AwsEvent::LaunchFailed(_) => {}
            }
        }
        Ok(())
    }

    fn post(&mut self, at: Timestamp, function: usize, payload: String) {
        self.order += 1;
        self.queue.push(Reverse(Delivery { at, order: self.order, function, payload, tries: 0 }));
    }

    fn agent_reports(&mut self, node: &Node, line: String, at: Timestamp) {
        let source = LogSource::Agents(self.cluster.clone());
        self.log_event(&source, node.instance_id.to_string(), our_patterns::AGENT, line, at);
    }

    fn control_plane_logs(&mut self, line: String, at: Timestamp) {
        let source = LogSource::ControlPlane(self.cluster.clone());
        self.log_event(&source, format!("{AUDIT_STREAMS}-local"), our_patterns::CONTROL_PLANE, line, at);
    }

    /// Queues the payload of a log line, which must match the filter of its subscription.
    fn log_event(&mut self, source: &LogSource, stream: String, pattern: &str, line: String, at: Timestamp) {
        assert!(Pattern::parse(pattern).expect("a pattern").matches(&line), "{line}");
        let payload = subscription::encode(&Batch {
            owner: nodemend_stack::ids::ACCOUNT.into(),
            log_group: source.to_string().into(),
            log_stream: stream.into(),
            subscription_filters: vec!["nodemend".into()],
            events: vec![LogEvent {
                id: format!("{:056}", self.order).into(),
                timestamp: at,
                message: line.into(),
            }],
            rejected: Vec::new(),
        });
        self.post(at, INTAKE, payload);
    }

    /// Checks that the repair was completed once.
    async fn check(&self, failing: &Node) -> Result<RepairResult, String> {
        let key = CaseKey { cluster: self.cluster.clone(), instance_id: failing.instance_id.clone() };
        let failed = |error: nodemend_ports::store::StoreError| error.to_string();
        let case = self.store.case(&key).await.map_err(failed)?.ok_or("there is no case")?;
        let chain = self.store.chain(&key).await.map_err(failed)?;
        let group = GroupName::new(GROUP).map_err(|error| error.to_string())?;
        let group = Store::group(&self.store, &self.cluster, &group).await.map_err(failed)?;
        let all = self.calls.all();
        let ours: Vec<_> = all
            .iter()
            .filter(|call| call.parameters.to_string().contains(failing.instance_id.as_str()))
            .collect();
        verify_chain(chain.iter().map(|entry| &entry.line)).map_err(|broken| broken.to_string())?;
        let records = chain.iter().map(|entry| Record::read(&entry.line)).collect::<Result<Vec<_>, _>>();
        let records = records.map_err(|error| error.to_string())?;
        let mut steps: BTreeMap<String, usize> = BTreeMap::new();
        for record in &records {
            *steps.entry(record.event_name.clone()).or_default() += 1;
        }
        let violation = |what: &str| Err(format!("{what}: {steps:?}, {case:?}, {group:?}, {ours:?}"));
        let count = |step: RecordStep| records.iter().filter(|record| record.nodemend.step == step).count();
        if ours.len() != 1 || ours[0].name != "TerminateInstanceInAutoScalingGroup" || ours[0].answer.is_err()
        {
            return violation("not one call at AWS");
        }
        if case.closed().as_ref().is_none_or(|closed| !closed.outcome.starts_with("replaced by")) {
            return violation("not replaced");
        }
        if !group.slots().is_empty() || group.failures() > 0 {
            return violation("a slot is kept, or a failure was counted");
        }
        let unanswered = count(RecordStep::Called) - 1;
        if count(RecordStep::Confirmed) != 1
            || count(RecordStep::Closed) != 1
            || count(RecordStep::Mismatch) != 0
        {
            return violation("not confirmed and closed once");
        }
        if count(RecordStep::Missing) != unanswered || unanswered > 1 || count(RecordStep::Foreign) != 0 {
            return violation("not one record of the call");
        }
        Ok(RepairResult { calls: ours.len(), unanswered, awaits: Default::default() })
    }

    /// The operator's command verifies the whole audit log. What it finds that it should not.
    pub(crate) async fn verify(&self) -> Result<(), String> {
        let mut command = tokio::process::Command::new(nodemend());
        command
            .args(["audit", "verify", "--cluster", self.cluster.as_str(), "--format", "json"])
            .env_clear()
            .envs(stack::environment("operator", self.aws, self.dynamodb, &[]))
            .stdin(Stdio::null());
        let output = command.output().await.expect("nodemend runs");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let with_problems = stdout.lines().filter(|line| !line.contains(r#""problems":[]"#));
        // A call that was never sent is reported missing, which is a problem for the command.
        let unexpected: Vec<&str> = with_problems.filter(|line| !line.contains("RepairMissing")).collect();
        let cases = stdout.lines().count();
        if unexpected.is_empty() && cases >= self.runs {
            return Ok(());
        }
        Err(format!(
            "{cases} cases of {} repairs; {unexpected:?}; {}",
            self.runs,
            String::from_utf8_lossy(&output.stderr)
        ))
    }

    pub(crate) async fn stop(self) {
        for function in &self.plain {
            function.stop().await;
        }
        self.emulator.stop().await;
    }
}

fn program(name: &str) -> PathBuf {
    let program = nodemend().with_file_name(name);
    assert!(program.is_file(), "{} is not built", program.display());
    program
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
