//! The whole pipeline on this machine, over real sockets: for `nodemend up`, and for the tests that need it.
//!
//! Nothing of it is deployed: `nodemend` includes it only if it is built with the feature `local`.

pub mod agent;
pub mod aws_proxy;
pub mod child;
pub mod cloudtrail;
mod display;
pub mod dynamodb;
pub mod emulator;
pub mod fault;
pub mod fleet;
pub mod ids;
pub mod lambda;
pub mod log_delivery;
pub mod node;
pub mod outcome;
pub mod query_client;
pub mod stack;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use jiff::SignedDuration;
use nodemend_aws::clock::SystemClock;
use nodemend_domain::{
    condition::ConditionType,
    ident::{ClusterName, InstanceId, InvalidName},
    policy::Policy,
};
use nodemend_ports::{clock::Clock, config};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

pub use self::display::Output;
use self::{
    agent::Agent,
    child::Launcher,
    display::Display,
    fault::Fault,
    lambda::FunctionUpdate,
    outcome::{Incident, Outcome},
    stack::{Config, Stack, StackError},
};

/// The arguments of `nodemend up`.
#[derive(Debug, Args)]
pub struct Options {
    /// Inject this incident into a node of the cluster
    #[arg(long, value_enum, value_name = "NAME")]
    pub fault: Option<Fault>,

    /// Exit when the incident of --fault has ended
    #[arg(long, requires = "fault")]
    pub once: bool,

    /// The grace period: how long a condition must be bad before its node is repaired. A wait that the policy
    /// sets in nodeRepairConfigOverrides is not changed [default: the policy's; EKS's are 30 minutes, and 10
    /// for accelerators]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub grace: Option<SignedDuration>,

    /// The policy, YAML or JSON [default: EKS's defaults, with repair enabled]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// The number of simulated nodes in the cluster
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub nodes: u16,

    /// Also run nodemend-agent on this machine, as the agent of one more node. It accepts the faults that
    /// `nodemend-agent inject` makes
    #[arg(long)]
    pub agent: bool,

    /// The directory with nodemend-intake, nodemend-repair and nodemend-confirm, and with nodemend-agent for
    /// --agent [default: the directory of nodemend]
    #[arg(long, value_name = "DIRECTORY")]
    pub functions: Option<PathBuf>,

    /// The Python interpreter, 3.10 or later, that creates the virtual environment of the AWS emulator
    #[arg(long, value_name = "FILE", default_value = "python3")]
    pub python: PathBuf,

    /// The directory for the virtual environment [default: nodemend in the user's cache directory]
    #[arg(long, value_name = "DIRECTORY")]
    pub cache: Option<PathBuf>,
}

/// The end of the help.
pub const EXAMPLES: &str = "\
The functions are the binaries that Lambda runs: nodemend-intake,
nodemend-repair and nodemend-confirm. DynamoDB and AWS are emulated, and all
servers listen on 127.0.0.1. Nothing in your AWS account is read or changed.
The AWS emulator (moto) is installed from PyPI at the first use, into a
directory of its own.

Examples:
  nodemend up --fault 01-metadata-service-blocked --grace 20s --once
  nodemend up --fault 07-xid-95-reboot-cures --grace 20s --once \\
    --format json | jq 'select(.step == \"called\")'
  nodemend up --fault capacity-outage --grace 20s --once
  nodemend up --policy policy.yaml --nodes 12

Exit codes:
  0   stopped, or with --once: the incident ended as expected, and the audit
      log confirms it
  1   with --once: it did not; or a failure
  64  usage or configuration error";

/// With `--once`, how long an incident can continue after its deadline.
const INCIDENT_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
/// How long the last step of an incident can take until it is printed.
const LAST_STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the outcome of the incident is evaluated.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Why `nodemend up` failed.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// A file could not be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The policy is invalid.
    #[error("{}: {why}", path.display())]
    Policy {
        /// The path of the policy.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// The cluster is too small for the incident.
    #[error("{} needs {needed} nodes: set --nodes to {needed} or more", fault.name(), needed = fault.nodes())]
    TooFewNodes {
        /// The incident.
        fault: Fault,
    },
    /// The user's cache directory is unknown.
    #[error("failed to find the user's cache directory: set a directory for the emulator with --cache")]
    NoCache,
    /// A name of the stack is invalid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The stack could not be started.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The operating system refused something that the stack needs, such as a process.
    #[error("failed to run the stack: {0}")]
    System(io::Error),
    /// The output could not be written.
    #[error("failed to write the output: {0}")]
    Output(#[from] io::Error),
    /// The emulator ended by itself.
    #[error("the AWS emulator ended: {0}")]
    EmulatorEnded(String),
    /// The incident could not be injected.
    #[error("failed to inject the incident: {0}")]
    Fault(#[from] fleet::FleetError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] nodemend_ports::store::StoreError),
}

impl UpError {
    /// Whether it is a usage or configuration error.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Policy { .. }
                | Self::TooFewNodes { .. }
                | Self::NoCache
                | Self::Stack(StackError::NoFunction(_) | StackError::NoAgent(_))
        )
    }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .filter(|duration| !duration.is_negative())
        .ok_or_else(|| "not a duration like 24h or 90m".to_owned())
}

/// Runs the stack until it is stopped, or with `--once` until the incident has ended, and prints the steps.
/// Returns whether the exit code is 0.
pub fn run(options: &Options, output: impl Output) -> Result<bool, UpError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(UpError::System)?;
    let result = runtime.block_on(up(options, output));
    // Tasks that still run are not waited for.
    runtime.shutdown_background();
    result
}

async fn up(options: &Options, output: impl Output) -> Result<bool, UpError> {
    if let Some(fault) = options.fault.filter(|fault| usize::from(options.nodes) < fault.nodes()) {
        return Err(UpError::TooFewNodes { fault });
    }
    let mut stop = StopRequests::listen()?;
    let policy = policy(options)?;
    let started = tokio::select! {
        stack = start(options, &policy) => stack?,
        () = stop.received() => return Ok(!options.once),
    };
    let mut stack = started;
    let mut agent = match agent(options, &stack).await {
        Ok(agent) => agent,
        Err(error) => {
            stack.stop().await;
            return Err(error);
        }
    };
    let display = Display::new(output);
    let result = watch(&mut stack, agent.as_mut(), options, &policy, &mut stop, display).await;
    if let Some(agent) = agent {
        agent.stop().await;
    }
    stack.stop().await;
    result
}

/// Starts the agent on this machine, if `--agent` is set.
async fn agent(options: &Options, stack: &Stack) -> Result<Option<Agent>, UpError> {
    let node = stack.fleet.external().await?;
    let Some(node) = node.filter(|_| options.agent) else { return Ok(None) };
    let program = binary_directory(options)?.join(agent::AGENT);
    anstream::eprintln!("nodemend: this machine reports as node {} ({})", node.name, node.instance_id);
    let launcher = Launcher::new(std::env::current_exe().map_err(UpError::System)?);
    Agent::start(&launcher, &program, stack, &node).map(Some).map_err(UpError::System)
}

/// The directory of the functions' and the agent's binaries.
fn binary_directory(options: &Options) -> Result<PathBuf, UpError> {
    let nodemend = std::env::current_exe().map_err(UpError::System)?;
    let own = nodemend.parent().unwrap_or(Path::new("."));
    Ok(options.functions.clone().unwrap_or_else(|| own.to_owned()))
}

async fn start(options: &Options, policy: &Policy) -> Result<Stack, UpError> {
    let nodemend = std::env::current_exe().map_err(UpError::System)?;
    let functions = binary_directory(options)?;
    // Checked first: the installation of the emulator can take minutes.
    if options.agent && !functions.join(agent::AGENT).is_file() {
        return Err(StackError::NoAgent(functions.join(agent::AGENT)).into());
    }
    if let Some(missing) =
        stack::FUNCTIONS.map(|name| functions.join(name)).into_iter().find(|path| !path.is_file())
    {
        return Err(StackError::NoFunction(missing).into());
    }
    let cache = options.cache.clone().or_else(cache).ok_or(UpError::NoCache)?;
    let launcher = Launcher::new(&nodemend);
    let python = emulator::prepare(&launcher, &cache, &options.python).await.map_err(StackError::Emulator)?;
    let grace = options.grace.unwrap_or(SignedDuration::from_hours(1));
    let stack = Stack::start(Config {
        launcher: nodemend,
        functions,
        python,
        cluster: ClusterName::new("local")?,
        policy: policy.clone(),
        simulated_nodes: options.nodes.into(),
        external_nodes: options.agent.into(),
        run_interval: stack::run_interval(grace),
        environment: Vec::new(),
    })
    .await?;
    anstream::eprintln!(
        "nodemend: AWS endpoint http://{}, DynamoDB endpoint http://{}",
        stack.aws,
        stack.dynamodb
    );
    Ok(stack)
}

/// Prints what happens until the stack is stopped, or with `--once` until the incident has ended.
async fn watch(
    stack: &mut Stack,
    mut agent: Option<&mut Agent>,
    options: &Options,
    policy: &Policy,
    stop: &mut StopRequests,
    mut display: Display<impl Output>,
) -> Result<bool, UpError> {
    let (mut injecting, mut incidents) = (None, Vec::new());
    if let Some(fault) = options.fault {
        let targets: Vec<InstanceId> =
            stack.fleet.simulated().await.into_iter().take(fault.nodes()).collect();
        let names: Vec<&str> = targets.iter().map(InstanceId::as_str).collect();
        anstream::eprintln!("nodemend: injecting {} into {}", fault.name(), names.join(" and "));
        incidents.extend(targets.iter().map(|target| Incident {
            key: stack.key(target),
            expected_end: fault.expected_end(),
            deadline: SystemClock.now() + fault.grace(policy) + fault.delay(fault.grace(policy)),
        }));
        injecting = Some(inject(fault, stack, targets, fault.grace(policy)));
    }
    let mut polls = interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (succeeded, result) = loop {
        tokio::select! {
            update = stack.updates.recv() => if let Some((function, update)) = update {
                display.show(&function, update)?;
            },
            error = stack.errors.recv() => if let Some(error) = error {
                anstream::eprintln!("nodemend: {error}");
            },
            line = async { agent.as_mut()?.next_line().await.into() }, if agent.is_some() => {
                if let Some(line) = line {
                    display.show(agent::AGENT, FunctionUpdate::Stderr(line))?;
                }
            }
            status = stack.emulator.ended() => return Err(UpError::EmulatorEnded(status)),
            injected = async { injecting.as_mut()?.await.ok() }, if injecting.is_some() => {
                injecting = None;
                if let Some(injected) = injected { injected? }
            }
            () = stop.received() => break (!options.once, None),
            _ = polls.tick() => if options.once
                && let Some((succeeded, result)) = evaluate_all(stack, &incidents).await?
            {
                break (succeeded, Some(result));
            },
        }
    };
    // The end of the case is in the store before the function logs it.
    if result.is_some() {
        let last_step = async {
            while !incidents.iter().all(|incident| display.has_shown_end(incident))
                && let Some((function, update)) = stack.updates.recv().await
            {
                display.show(&function, update)?;
            }
            Ok::<(), io::Error>(())
        };
        tokio::time::timeout(LAST_STEP_TIMEOUT, last_step).await.unwrap_or(Ok(()))?;
    }
    display.end()?;
    if let Some(result) = result {
        anstream::eprintln!("nodemend: {result}");
    }
    Ok(succeeded)
}

/// Injects the incident in a task of its own.
fn inject(
    fault: Fault,
    stack: &Stack,
    targets: Vec<InstanceId>,
    grace: SignedDuration,
) -> tokio::task::JoinHandle<Result<(), fleet::FleetError>> {
    let (fleet, capacity) = (stack.fleet.clone(), stack.capacity.clone());
    tokio::spawn(async move { fault.inject(&fleet, &capacity, &targets, grace).await })
}

/// Whether all incidents ended as expected, and the sentence to print. None while one continues, and none has failed.
async fn evaluate_all(stack: &Stack, incidents: &[Incident]) -> Result<Option<(bool, String)>, UpError> {
    let mut last = None;
    for incident in incidents {
        match evaluate(stack, incident).await? {
            Some((true, result)) => last = Some((true, result)),
            other => return Ok(other),
        }
    }
    Ok(match (incidents.len(), last) {
        (2.., Some(_)) => Some((
            true,
            format!(
                "passed: {} nodes, one call each in AWS and in the audit log, confirmed by CloudTrail",
                incidents.len()
            ),
        )),
        (_, last) => last,
    })
}

/// Whether the incident ended as expected, and the sentence to print. None while it continues.
async fn evaluate(stack: &Stack, incident: &Incident) -> Result<Option<(bool, String)>, UpError> {
    let now = SystemClock.now();
    let instance_id = incident.key.instance_id.as_str();
    let calls = stack.calls().iter().filter(|call| call.affects(instance_id)).count();
    Ok(match incident.evaluate(&stack.store, calls, now).await? {
        Outcome::Pending if now <= incident.deadline + INCIDENT_TIMEOUT => None,
        Outcome::Pending => Some((
            false,
            format!("failed: the incident has not ended {}s after its deadline", INCIDENT_TIMEOUT.as_secs()),
        )),
        Outcome::Passed(result) => Some((true, result)),
        Outcome::Failed(result) => Some((false, result)),
    })
}

fn policy(options: &Options) -> Result<Policy, UpError> {
    let mut policy = match &options.policy {
        Some(path) => {
            let text =
                fs::read_to_string(path).map_err(|source| UpError::Read { path: path.clone(), source })?;
            config::read_policy(&text)
                .map_err(|error| UpError::Policy { path: path.clone(), why: error.to_string() })?
        }
        None => Policy::eks_defaults(),
    };
    if let Some(grace) = options.grace {
        shorten(&mut policy, grace);
    }
    Ok(policy)
}

/// Sets the grace period of all conditions, and shortens the recovery hold in proportion. The settling time
/// is at most the grace period: no line arrives late here.
pub fn shorten(policy: &mut Policy, grace: SignedDuration) {
    let conditions = ConditionType::AGENT.into_iter().chain([ConditionType::Ready]);
    policy.grace.conditions = conditions.map(|condition| (condition, grace)).collect();
    policy.grace.reasons.clear();
    for rule in &mut policy.groups {
        rule.grace = None;
    }
    policy.settling_time = policy.settling_time.min(grace.max(SignedDuration::from_secs(1)));
    policy.outage.cooldown = policy.outage.cooldown.min(grace.max(SignedDuration::from_secs(1)));
    policy.recovery_hold = policy.recovery_hold.min((grace / 4).max(SignedDuration::from_secs(1)));
}

/// The directory `nodemend` in the user's cache directory.
fn cache() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    cache.or_else(|| Some(std::env::home_dir()?.join(".cache"))).map(|cache| cache.join("nodemend"))
}

/// The signals that stop the stack, and the parent process, whose end stops it too.
struct StopRequests {
    signals: [Signal; 3],
    parent: Option<rustix::process::Pid>,
}

impl StopRequests {
    fn listen() -> Result<Self, UpError> {
        let on = |kind| signal(kind).map_err(UpError::System);
        let signals = [on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?];
        Ok(Self { signals, parent: rustix::process::getppid() })
    }

    /// Returns after a signal, or when the parent process has ended.
    async fn received(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        let orphaned = async {
            let mut polls = interval(Duration::from_secs(1));
            while rustix::process::getppid() == self.parent {
                polls.tick().await;
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = orphaned => {}
        }
    }
}
