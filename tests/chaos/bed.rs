//! A stack whose time is the test's: the functions' binaries, an embedded DynamoDB, an emulated AWS behind its front, and
//! a queue of what is to be delivered, one after the other.

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
    policy::Policy,
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::Clock,
    store::{CaseKey, Store},
    subscription::{self, Batch, LogEvent, our_patterns},
};
use nodemend_stack::{
    child::Launcher,
    dynamodb,
    emulator::{self, Emulator},
    fleet::{Fleet, GROUP},
    front::{self, Calls, Happened},
    lambda::{Failure, Function, NodeUpdate},
    node::Node,
    stack::{self, FUNCTIONS},
    wire::Wire,
};
use nodemend_testkit::filter_pattern::Pattern;
use tokio::sync::mpsc::{self, UnboundedReceiver};

const INTAKE: usize = 0;
const REPAIR: usize = 1;
const AUDIT: usize = 2;

/// Longer than Lambda waits before it tries an event again: word that a newcomer is ready may come so late.
const GRACE: SignedDuration = SignedDuration::from_mins(10);
const MINUTE: SignedDuration = SignedDuration::from_secs(60);
/// Lambda tries an event again after one minute, and after two more.
const RETRIES: [SignedDuration; 2] = [MINUTE, SignedDuration::from_secs(120)];
/// A call that never left is told as missing half an hour later; nothing takes longer.
const PATIENCE: SignedDuration = SignedDuration::from_mins(90);

/// Which function dies where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Death {
    pub(crate) function: usize,
    pub(crate) point: Point,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} died {}", FUNCTIONS[self.function], self.point)
    }
}

/// What a repair came to.
#[derive(Debug)]
pub(crate) struct Ran {
    /// How many calls reached AWS.
    pub(crate) calls: usize,
    /// How many calls are recorded that had no answer.
    pub(crate) lost: usize,
    /// What each function awaited, where that was counted.
    pub(crate) awaits: [Vec<String>; 3],
}

/// Something to be delivered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Parcel {
    at: Timestamp,
    order: u64,
    function: usize,
    payload: String,
    tries: usize,
}

pub(crate) struct Bed {
    folder: tempfile::TempDir,
    launcher: Launcher,
    emulator: Emulator,
    aws: SocketAddr,
    dynamodb: SocketAddr,
    store: DynamoStore,
    cluster: ClusterName,
    fleet: Fleet,
    /// The node that is to fail next.
    next: Node,
    happened: UnboundedReceiver<Happened>,
    calls: Calls,
    say: mpsc::UnboundedSender<(String, NodeUpdate)>,
    words: UnboundedReceiver<(String, NodeUpdate)>,
    well: [Function; 3],
    runs: usize,
    queue: BinaryHeap<Reverse<Parcel>>,
    order: u64,
}

fn nodemend() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_nodemend"))
}

impl Bed {
    pub(crate) async fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        failpoints::use_clock(&folder.path().join("clock"));
        failpoints::pass_to("2026-09-01T00:00:00Z".parse().expect("a time"));
        let launcher = Launcher::new(nodemend());
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/cache");
        let python =
            emulator::prepare(&launcher, &cache, Path::new("python3")).await.expect("an emulator's parts");
        let emulator = Emulator::start(&launcher, &python).await.expect("an emulator");
        let (tell, happened) = mpsc::unbounded_channel();
        let calls = Calls::default();
        let aws = front::serve(emulator.address, calls.clone(), tell).await.expect("a front");
        let dynamodb = dynamodb::serve().expect("a database");
        let store = dynamodb::store(dynamodb).await.expect("tables");
        let cluster = ClusterName::new("local").expect("a name");
        let mut policy = Policy::eks_defaults();
        nodemend_stack::shorten(&mut policy, GRACE);
        // Nobody plays the nodes that are well.
        policy.silence.agent_silent_after = None;
        store.put_policy(&cluster, &policy, "chaos", SystemClock.now()).await.expect("a policy");
        let fleet = Fleet::create(Wire::to(aws), cluster.clone(), 0, 2).await.expect("a group");
        let first = fleet.members().await.expect("members").remove(0);
        let next = fleet.look_up(&first).await.expect("a node");
        let (say, words) = mpsc::unbounded_channel();
        let environment = |function: usize| {
            let clock = (failpoints::CLOCK.to_owned(), path_text(&folder.path().join("clock")));
            stack::environment(FUNCTIONS[function], aws, dynamodb, &[clock])
        };
        let well = [INTAKE, REPAIR, AUDIT].map(|function| {
            let program = program(FUNCTIONS[function]);
            let spec = stack::spec(FUNCTIONS[function], &program, environment(function));
            Function::new(spec, launcher.clone(), say.clone())
        });
        Self {
            folder,
            launcher,
            emulator,
            aws,
            dynamodb,
            store,
            cluster,
            fleet,
            next,
            happened,
            calls,
            say,
            words,
            well,
            runs: 0,
            queue: BinaryHeap::new(),
            order: 0,
        }
    }

    /// A function in processes of its own, whose awaits are logged and of which one may be its last.
    fn function(&self, function: usize, at: Option<Point>, log: &Path) -> Function {
        let mut more = vec![
            (failpoints::CLOCK.to_owned(), path_text(&self.folder.path().join("clock"))),
            (failpoints::LOG.to_owned(), path_text(log)),
        ];
        more.extend(at.map(|at| (failpoints::AT.to_owned(), at.to_string())));
        let name = FUNCTIONS[function];
        let environment = stack::environment(name, self.aws, self.dynamodb, &more);
        let spec = stack::spec(name, &program(name), environment);
        Function::new(spec, self.launcher.clone(), self.say.clone())
    }

    /// One repair, in which a function may die at an await that should be the named one.
    pub(crate) async fn repair(&mut self, death: Option<(Death, &String)>) -> Result<Ran, String> {
        let log = self.log(0);
        let mut functions = self.well.clone();
        if let Some((death, _)) = death {
            functions[death.function] = self.function(death.function, Some(death.point), &log);
        }
        let ran = self.run(&functions, death.map(|(death, _)| death.function)).await;
        if let Some((death, what)) = death {
            functions[death.function].stop().await;
            let logged = fs::read_to_string(&log).map_err(|_| "no failpoints are built in".to_owned())?;
            let mut lines = logged.lines().take_while(|line| *line != failpoints::DIED);
            let met = format!("{} {what}", death.point.number);
            if !logged.lines().any(|line| line == failpoints::DIED) || !lines.any(|line| line == met) {
                return Err(format!("it did not die at {met}: {:?}", logged.lines().collect::<Vec<_>>()));
            }
        }
        ran.map_err(|why| format!("{why}\n  {}", self.said().join("\n  ")))
    }

    /// One repair in which nothing dies, and what each function awaits in it.
    pub(crate) async fn repair_counted(&mut self) -> Result<Ran, String> {
        let logs = [INTAKE, REPAIR, AUDIT].map(|function| self.log(function));
        let functions =
            [INTAKE, REPAIR, AUDIT].map(|function| self.function(function, None, &logs[function]));
        let mut ran = self.run(&functions, None).await?;
        for (function, log) in logs.iter().enumerate() {
            functions[function].stop().await;
            let logged = fs::read_to_string(log).map_err(|_| "no failpoints are built in".to_owned())?;
            let what = |line: &str| line.split_once(' ').map(|(_, what)| what.to_owned());
            ran.awaits[function] = logged.lines().filter_map(what).collect();
        }
        Ok(ran)
    }

    fn log(&self, function: usize) -> PathBuf {
        self.folder.path().join(format!("awaits-{}-{function}", self.runs))
    }

    /// What the functions have said since it was last asked for, but for what they log.
    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Ok((function, word)) = self.words.try_recv() {
            said.push(format!("{function}: {word:?}"));
        }
        said
    }

    /// From the first report to the end.
    async fn run(&mut self, functions: &[Function; 3], mut death: Option<usize>) -> Result<Ran, String> {
        self.runs += 1;
        self.said();
        self.queue.clear();
        let start = SystemClock.now() + PATIENCE;
        failpoints::pass_to(start);
        let mut victim = self.next.clone();
        let line = victim.heartbeat(start);
        self.agent_says(&victim, line, start);
        let fails_at = start + SignedDuration::from_secs(1);
        let line = victim.fail(
            ConditionType::AcceleratedHardwareReady,
            "NvidiaXID79Error",
            "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
            fails_at,
        );
        self.agent_says(&victim, line, fails_at);
        let mut problems = Vec::new();
        // The minute's sweep comes at the very deadline, and one that would find nothing is left out.
        let (mut minute, mut due) = (fails_at + GRACE, None);
        loop {
            let run_once = due.map_or(minute, |due: Timestamp| due.max(minute));
            if self.queue.peek().is_some_and(|Reverse(parcel)| parcel.at <= run_once) {
                let Some(Reverse(parcel)) = self.queue.pop() else { break };
                failpoints::pass_to(parcel.at);
                let answer = functions[parcel.function].invoke(parcel.payload.clone().into()).await;
                if self.died(parcel.function, answer.err(), &mut death, &mut problems) {
                    let at = SystemClock.now() + RETRIES[parcel.tries];
                    self.queue.push(Reverse(Parcel { at, tries: parcel.tries + 1, ..parcel }));
                }
            } else {
                failpoints::pass_to(run_once);
                let swept = functions[REPAIR].invoke(r#"{"detail-type":"Scheduled Event"}"#.into()).await;
                // The next minute's takes up what a death has left.
                self.died(REPAIR, swept.err(), &mut death, &mut problems);
                minute = SystemClock.now().max(run_once + MINUTE);
            }
            self.hear().await?;
            due = self.store.next_due().await.map_err(|error| error.to_string())?;
            if due.is_none() && self.queue.is_empty() {
                break;
            }
            if SystemClock.now() > start + PATIENCE {
                return Err(format!("it goes on, due {due:?}; {problems:?}"));
            }
        }
        if problems.is_empty() { self.judge(&victim).await } else { Err(problems.join("; ")) }
    }

    /// Whether the death that was asked for is why an invocation failed. Anything else is a problem.
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

    /// What has happened in AWS is told, some seconds later each.
    async fn hear(&mut self) -> Result<(), String> {
        while let Ok(happened) = self.happened.try_recv() {
            let now = SystemClock.now();
            let after = |seconds| now + SignedDuration::from_secs(seconds);
            match happened {
                Happened::Called(called) => self.post(after(15), AUDIT, called.event().to_string()),
                Happened::Terminated(activity) => {
                    self.post(after(20), AUDIT, activity.terminated(after(20)).to_string());
                }
                Happened::Launched(activity) => {
                    self.post(after(20), AUDIT, activity.launched(after(20)).to_string());
                    let new = InstanceId::new(&activity.instance_id).map_err(|error| error.to_string())?;
                    let mut new = self.fleet.look_up(&new).await.map_err(|error| error.to_string())?;
                    self.control_plane_says(new.registers(after(40)), after(40));
                    self.control_plane_says(new.ready(after(42)), after(42));
                    let line = new.heartbeat(after(44));
                    self.agent_says(&new, line, after(44));
                    self.next = new;
                }
                Happened::Logged { .. } | Happened::Rebooted { .. } => {}
            }
        }
        Ok(())
    }

    fn post(&mut self, at: Timestamp, function: usize, payload: String) {
        self.order += 1;
        self.queue.push(Reverse(Parcel { at, order: self.order, function, payload, tries: 0 }));
    }

    fn agent_says(&mut self, node: &Node, line: String, at: Timestamp) {
        let source = LogSource::Agents(self.cluster.clone());
        self.log_event(&source, node.instance_id.to_string(), our_patterns::AGENT, line, at);
    }

    fn control_plane_says(&mut self, line: String, at: Timestamp) {
        let source = LogSource::ControlPlane(self.cluster.clone());
        self.log_event(&source, format!("{AUDIT_STREAMS}-local"), our_patterns::CONTROL_PLANE, line, at);
    }

    /// As the subscription passes it on.
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

    /// Whether the repair completed, once.
    async fn judge(&self, victim: &Node) -> Result<Ran, String> {
        let key = CaseKey { cluster: self.cluster.clone(), instance_id: victim.instance_id.clone() };
        let failed = |error: nodemend_ports::store::StoreError| error.to_string();
        let case = self.store.case(&key).await.map_err(failed)?.ok_or("there is no case")?;
        let chain = self.store.chain(&key).await.map_err(failed)?;
        let group = GroupName::new(GROUP).map_err(|error| error.to_string())?;
        let group = Store::group(&self.store, &self.cluster, &group).await.map_err(failed)?;
        let all = self.calls.all();
        let ours: Vec<_> = all
            .iter()
            .filter(|call| call.parameters.to_string().contains(victim.instance_id.as_str()))
            .collect();
        verify_chain(chain.iter().map(|entry| &entry.line)).map_err(|broken| broken.to_string())?;
        let records = chain.iter().map(|entry| Record::read(&entry.line)).collect::<Result<Vec<_>, _>>();
        let records = records.map_err(|error| error.to_string())?;
        let mut steps: BTreeMap<String, usize> = BTreeMap::new();
        for record in &records {
            *steps.entry(record.event_name.clone()).or_default() += 1;
        }
        let wrong = |what: &str| Err(format!("{what}: {steps:?}, {case:?}, {group:?}, {ours:?}"));
        let count = |step: RecordStep| records.iter().filter(|record| record.nodemend.step == step).count();
        if ours.len() != 1 || ours[0].name != "TerminateInstanceInAutoScalingGroup" || ours[0].answer.is_err()
        {
            return wrong("not one call at AWS");
        }
        if case.closed().as_ref().is_none_or(|closed| !closed.outcome.starts_with("replaced by")) {
            return wrong("not replaced");
        }
        if !group.slots().is_empty() || group.failures() > 0 {
            return wrong("a place is kept, or a failure was counted");
        }
        let lost = count(RecordStep::Called) - 1;
        if count(RecordStep::Confirmed) != 1
            || count(RecordStep::Closed) != 1
            || count(RecordStep::Mismatch) != 0
        {
            return wrong("not confirmed and closed once");
        }
        if count(RecordStep::Missing) != lost || lost > 1 || count(RecordStep::Foreign) != 0 {
            return wrong("not one record of the call");
        }
        Ok(Ran { calls: ours.len(), lost, awaits: Default::default() })
    }

    /// The operator's own command finds all trails whole.
    pub(crate) async fn verify(&self) {
        let mut command = tokio::process::Command::new(nodemend());
        command
            .args(["audit", "verify", "--cluster", self.cluster.as_str(), "--format", "json"])
            .env_clear()
            .envs(stack::environment("operator", self.aws, self.dynamodb, &[]))
            .stdin(Stdio::null());
        let output = command.output().await.expect("nodemend runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let unsound = said.lines().filter(|line| !line.contains(r#""problems":[]"#));
        // What never left is told as missing, and that is a problem to look at.
        let unsound: Vec<&str> = unsound.filter(|line| !line.contains("RepairMissing")).collect();
        assert!(unsound.is_empty() && said.lines().count() >= self.runs, "{unsound:?} {output:?}");
    }

    pub(crate) async fn end(self) {
        for function in &self.well {
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
