//! What the pipeline takes: from a deadline to the call at AWS over 200 repairs, and of each function its binary's size,
//! its start, and its memory. `make measure` runs it, with the functions as they are released.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    ident::{ClusterName, InstanceId},
    policy::{Limit, Policy},
    repair_event::{RepairEvent, Step},
};
use nodemend_ports::audit_log::AuditLog;
use nodemend_stack::{
    child::Launcher,
    emulator,
    fault::Fault,
    lambda::{Function, NodeUpdate},
    stack::{Config, FUNCTIONS, Stack},
};
use tokio::time::{Instant, interval, timeout};

const REPAIRS: usize = 200;
const NODES: usize = 24;
const GRACE: SignedDuration = SignedDuration::from_secs(15);
/// Less than a grace, as the schedule's minute is less than any that a policy has outside of tests: what becomes due is
/// known to a sweep before it is.
const SWEEPS: Duration = Duration::from_secs(10);
const FAULTS: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(900);
/// How long after the last call its case may take to close.
const CLOSING: Duration = Duration::from_secs(60);

const MAX_LATENCY: Duration = Duration::from_secs(1);
const MAX_SIZE: u64 = 8 * 1024 * 1024;
const MAX_INIT: Duration = Duration::from_millis(30);
const MAX_MEMORY: u64 = 40 * 1024;

fn functions() -> PathBuf {
    let told = std::env::var_os("NODEMEND_FUNCTIONS").map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_nodemend")).with_file_name(""))
}

fn policy() -> Policy {
    let mut policy = Policy::eks_defaults();
    nodemend_stack::shorten(&mut policy, GRACE);
    // So many at once are what is wanted here.
    policy.node_repair_config.max_unhealthy_node_threshold = Some(Limit::Percentage(100));
    policy
}

async fn start() -> Stack {
    let nodemend = Path::new(env!("CARGO_BIN_EXE_nodemend"));
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/cache");
    let python =
        emulator::prepare(&Launcher::new(nodemend), &cache, Path::new("python3")).await.expect("an emulator");
    let config = Config {
        launcher: nodemend.to_owned(),
        functions: functions(),
        python,
        cluster: ClusterName::new("local").expect("a name"),
        policy: policy(),
        nodes: NODES,
        others: 0,
        every: SWEEPS,
        environment: Vec::new(),
    };
    Stack::start(config).await.expect("a stack")
}

/// Lets faults happen one after the other, each to a node that is well; when each was called for.
async fn repairs(
    stack: &mut Stack,
    processes: &mut Processes,
    told_of: &mut BTreeMap<InstanceId, Vec<RepairEvent>>,
) -> (BTreeMap<InstanceId, Timestamp>, usize) {
    let mut well: VecDeque<InstanceId> = stack.fleet.played().await.into();
    let (mut broken, mut closed) = (BTreeSet::new(), 0);
    let (mut faults, mut last_call) = (interval(FAULTS), Instant::now());
    while closed < REPAIRS && (broken.len() < REPAIRS || last_call.elapsed() < CLOSING) {
        tokio::select! {
            _ = faults.tick(), if broken.len() < REPAIRS => if let Some(node) = well.pop_front() {
                Fault::Xid79.inject(&stack.fleet, &node, GRACE).await.expect("a fault");
                broken.insert(node);
            },
            word = stack.words.recv() => match word.expect("a word").1 {
                NodeUpdate::Log(line) => if let Ok(told) = serde_json::from_str::<RepairEvent>(&line) {
                    closed += usize::from(told.step == Step::Closed);
                    if told.step == Step::Called {
                        last_call = Instant::now();
                    }
                    if told.detail == "the node is ready" {
                        well.push_back(told.instance_id.clone());
                    }
                    told_of.entry(told.instance_id.clone()).or_default().push(told);
                },
                other => eprintln!("{other:?}"),
            },
            episode = stack.troubles.recv() => panic!("{episode:?}"),
            () = tokio::time::sleep(CLOSING) => {}
        }
        processes.look(&stack.functions);
    }
    let calls = stack.calls();
    let called = calls.iter().filter(|called| called.answer.is_ok());
    let called: BTreeMap<_, _> = called
        .map(|called| {
            (
                InstanceId::new(called.parameters["instanceId"].as_str().expect("an id")).expect("an id"),
                called.at,
            )
        })
        .collect();
    assert_eq!((called.len(), calls.len()), (REPAIRS, REPAIRS), "each node was terminated once");
    (called, closed)
}

/// From the deadline that the trail tells of to the call's arrival at AWS.
async fn latency(stack: &Stack, node: &InstanceId, called: Timestamp) -> Duration {
    let chain = stack.store.chain(&stack.key(node)).await.expect("a trail");
    let deadline = chain.iter().find_map(|entry| {
        let record: serde_json::Value = serde_json::from_str(&entry.line).expect("JSON");
        record.pointer("/nodemend/evidence/faults/0/deadline")?.as_str()?.parse::<Timestamp>().ok()
    });
    let late = called.duration_since(deadline.expect("a deadline"));
    late.try_into().unwrap_or_else(|_| panic!("{node} was called for {late} before its deadline"))
}

/// What was seen of each function's processes.
#[derive(Default)]
struct Processes {
    seen: BTreeMap<(usize, u32), (Duration, u64)>,
    looked: Option<Instant>,
}

impl Processes {
    fn look(&mut self, functions: &[Function; 3]) {
        if self.looked.is_some_and(|looked| looked.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.looked = Some(Instant::now());
        for (number, function) in functions.iter().enumerate() {
            for process in function.processes() {
                let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let kib = peak.and_then(|peak| peak.trim().split(' ').next()?.parse().ok()).unwrap_or(0);
                let seen = self.seen.entry((number, process.pid)).or_insert((process.init, kib));
                seen.1 = seen.1.max(kib);
            }
        }
    }
}

#[test]
#[ignore = "takes eight minutes, and a machine that does nothing else: make measure"]
fn calls_leave_within_a_second_of_their_deadline_and_functions_are_small() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut stack = start().await;
        let mut processes = Processes::default();
        let mut told = BTreeMap::new();
        let took_place = repairs(&mut stack, &mut processes, &mut told);
        let (called, closed) = timeout(PATIENCE, took_place).await.expect("in time");
        let mut latencies = Vec::new();
        for (node, called) in &called {
            let latency = latency(&stack, node, *called).await;
            if latency > MAX_LATENCY {
                println!("{node} was called for at {called}, {latency:?} late:");
                for told in told.get(node).into_iter().flatten() {
                    println!("    {} {:?} {}", told.at, told.step, told.detail);
                }
            }
            latencies.push(latency);
        }
        stack.stop().await;
        latencies.sort_unstable();
        let at = |percent: usize| latencies[(latencies.len() * percent).div_ceil(100) - 1];
        let (median, most) = (at(50), at(99));
        println!("deadline to call, {REPAIRS} repairs: p50 {median:?}, p99 {most:?}, longest {:?}", at(100));
        println!("closed: {closed}");
        let mut failed = most > MAX_LATENCY || closed < REPAIRS;
        for (number, name) in FUNCTIONS.into_iter().enumerate() {
            let size = fs::metadata(functions().join(name)).expect("a binary").len();
            let seen: Vec<_> =
                processes.seen.iter().filter(|((of, _), _)| *of == number).map(|(_, seen)| *seen).collect();
            let mut inits: Vec<_> = seen.iter().map(|(init, _)| *init).collect();
            inits.sort_unstable();
            let init = inits[inits.len() / 2];
            let memory = seen.iter().map(|(_, kib)| *kib).max().expect("a process");
            println!(
                "{name}: {:.1} MiB, init {init:?} (median of {}), at most {:.1} MiB of memory",
                size as f64 / 1024.0 / 1024.0,
                inits.len(),
                memory as f64 / 1024.0,
            );
            failed |= size > MAX_SIZE || init > MAX_INIT || memory > MAX_MEMORY;
        }
        // It has no part in the stack, which has no Kubernetes.
        let drain = fs::metadata(functions().join("nodemend-drain")).expect("a binary").len();
        println!("nodemend-drain: {:.1} MiB", drain as f64 / 1024.0 / 1024.0);
        failed |= drain > MAX_SIZE;
        assert!(!failed, "more than a second, 8 MiB, 30 ms or 40 MiB, or a case that is open");
    });
}
