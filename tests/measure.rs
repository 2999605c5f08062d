//! Measures what our own code adds between deadline and call, over 200 repairs in the local stack, and the binary size, the
//! start time and the memory of the functions. `make measure` runs it with the release build of the functions.
//!
//! - All of these faults are an agent's, so each is verified by its own log stream. The emulators answer within
//!   milliseconds: what AWS, the Kubernetes API and the control plane's log group take is not in the numbers. It is in the
//!   test `deadline_to_call` of the repair function.
//! - The stack has no Kubernetes: of the reconcile and drain functions only the size is measured.

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
    lambda::{Function, FunctionUpdate},
    stack::{Config, FUNCTIONS, Stack},
};
use tokio::time::{Instant, interval, timeout};

const REPAIRS: usize = 200;
const NODES: usize = 24;
const GRACE: SignedDuration = SignedDuration::from_secs(15);
/// Less than the grace period, as a minute is less than every grace period of a real policy: a run knows each case before
/// it is due.
const RUN_INTERVAL: Duration = Duration::from_secs(10);
const FAULTS: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(900);
/// How long after the last call its case may take to close.
const CLOSING: Duration = Duration::from_secs(60);

const MAX_LATENCY: Duration = Duration::from_secs(1);
const MAX_SIZE: u64 = 8 * 1024 * 1024;
const MAX_INIT: Duration = Duration::from_millis(30);
const MAX_MEMORY: u64 = 40 * 1024;

fn functions() -> PathBuf {
    let directory = std::env::var_os("NODEMEND_FUNCTIONS").map(PathBuf::from);
    directory.unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_nodemend")).with_file_name(""))
}

fn policy() -> Policy {
    let mut policy = Policy::eks_defaults();
    nodemend_stack::shorten(&mut policy, GRACE);
    // Many nodes are unhealthy at the same time.
    policy.outage.gradual = false;
    policy.outage.max_unhealthy = 1_000;
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
        simulated_nodes: NODES,
        external_nodes: 0,
        run_interval: RUN_INTERVAL,
        environment: Vec::new(),
    };
    Stack::start(config).await.expect("a stack")
}

/// Injects one fault after the other, each into a healthy node; the time of each call.
async fn repairs(
    stack: &mut Stack,
    processes: &mut Processes,
    published: &mut BTreeMap<InstanceId, Vec<RepairEvent>>,
) -> (BTreeMap<InstanceId, Timestamp>, usize) {
    let mut healthy: VecDeque<InstanceId> = stack.fleet.simulated().await.into();
    let (mut broken, mut closed) = (BTreeSet::new(), 0);
    let (mut faults, mut last_call) = (interval(FAULTS), Instant::now());
    while closed < REPAIRS && (broken.len() < REPAIRS || last_call.elapsed() < CLOSING) {
        tokio::select! {
            _ = faults.tick(), if broken.len() < REPAIRS => if let Some(node) = healthy.pop_front() {
                let nodes = std::slice::from_ref(&node);
                Fault::Xid79.inject(&stack.fleet, &stack.capacity, nodes, GRACE).await.expect("a fault");
                broken.insert(node);
            },
            update = stack.updates.recv() => match update.expect("an update").1 {
                FunctionUpdate::Log(line) => if let Ok(event) = serde_json::from_str::<RepairEvent>(&line) {
                    closed += usize::from(event.step == Step::Closed);
                    if event.step == Step::Called {
                        last_call = Instant::now();
                    }
                    if event.detail == "the node is ready" {
                        healthy.push_back(event.instance_id.clone());
                    }
                    published.entry(event.instance_id.clone()).or_default().push(event);
                },
                other => eprintln!("{other:?}"),
            },
            error = stack.errors.recv() => panic!("{error:?}"),
            () = tokio::time::sleep(CLOSING) => {}
        }
        processes.sample(&stack.functions);
    }
    let calls = stack.calls();
    let succeeded = calls.iter().filter(|call| call.answer.is_ok());
    let called: BTreeMap<_, _> = succeeded
        .map(|call| {
            (InstanceId::new(call.parameters["instanceId"].as_str().expect("an id")).expect("an id"), call.at)
        })
        .collect();
    assert_eq!((called.len(), calls.len()), (REPAIRS, REPAIRS), "each node was terminated once");
    (called, closed)
}

/// The time from the deadline in the audit log to the call's arrival at AWS.
async fn latency(stack: &Stack, node: &InstanceId, called: Timestamp) -> Duration {
    let chain = stack.store.chain(&stack.key(node)).await.expect("an audit log");
    let deadline = chain.iter().find_map(|entry| {
        let record: serde_json::Value = serde_json::from_str(&entry.line).expect("JSON");
        record.pointer("/nodemend/evidence/faults/0/deadline")?.as_str()?.parse::<Timestamp>().ok()
    });
    let late = called.duration_since(deadline.expect("a deadline"));
    late.try_into().unwrap_or_else(|_| panic!("{node} was called for {late} before its deadline"))
}

/// The start time and the memory of each function's processes.
#[derive(Default)]
struct Processes {
    seen: BTreeMap<(usize, u32), (Duration, u64)>,
    sampled: Option<Instant>,
}

impl Processes {
    fn sample(&mut self, functions: &[Function; 3]) {
        if self.sampled.is_some_and(|sampled| sampled.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.sampled = Some(Instant::now());
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
fn calls_are_made_within_a_second_of_their_deadline_and_functions_are_small() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut stack = start().await;
        let mut processes = Processes::default();
        let mut published = BTreeMap::new();
        let repairs = repairs(&mut stack, &mut processes, &mut published);
        let (called, closed) = timeout(PATIENCE, repairs).await.expect("in time");
        let mut latencies = Vec::new();
        for (node, called) in &called {
            let latency = latency(&stack, node, *called).await;
            if latency > MAX_LATENCY {
                println!("{node} was called for at {called}, {latency:?} late:");
                for event in published.get(node).into_iter().flatten() {
                    println!("    {} {:?} {}", event.at, event.step, event.detail);
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
        for name in ["nodemend-reconcile", "nodemend-drain"] {
            let size = fs::metadata(functions().join(name)).expect("a binary").len();
            println!("{name}: {:.1} MiB", size as f64 / 1024.0 / 1024.0);
            failed |= size > MAX_SIZE;
        }
        assert!(!failed, "more than a second, 8 MiB, 30 ms or 40 MiB, or a case that is open");
    });
}
