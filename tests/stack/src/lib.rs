//! The whole pipeline on this machine, over real sockets: what `nodemend up` runs, and the tests that need it.
//!
//! Nothing of it is in what is installed: the command has it only where it is built with the feature `local`.

pub mod agent;
pub mod child;
pub mod cloudtrail;
pub mod dynamodb;
pub mod emulator;
pub mod fault;
pub mod fleet;
pub mod front;
pub mod ids;
pub mod lambda;
pub mod node;
pub mod outcome;
pub mod pump;
mod screen;
pub mod stack;
pub mod wire;

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

pub use self::screen::Output;
use self::{
    agent::Agent,
    child::Launcher,
    fault::Fault,
    lambda::FunctionUpdate,
    outcome::{Verdict, Watched},
    screen::Screen,
    stack::{Config, Stack, StackError},
};

/// The arguments of `nodemend up`.
#[derive(Debug, Args)]
pub struct Options {
    /// Let an incident happen to a node of the cluster
    #[arg(long, value_enum, value_name = "NAME")]
    pub fault: Option<Fault>,

    /// End when the incident has ended
    #[arg(long, requires = "fault")]
    pub once: bool,

    /// How long a condition must be bad before it is repaired, for whatever the policy names no wait of its own in
    /// nodeRepairConfigOverrides [default: the policy's; EKS's are 30 minutes, 10 for accelerators]
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    pub grace: Option<SignedDuration>,

    /// The policy, YAML or JSON [default: EKS's defaults, with repair enabled]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// How many nodes the cluster has
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub nodes: u16,

    /// Run this machine's nodemend-agent, too, as the agent of one more node; it believes what `nodemend-agent inject`
    /// makes
    #[arg(long)]
    pub agent: bool,

    /// Where nodemend-intake, nodemend-repair and nodemend-confirm are, and nodemend-agent [default: beside nodemend]
    #[arg(long, value_name = "FOLDER")]
    pub functions: Option<PathBuf>,

    /// The Python, 3.10 or later, that the AWS emulator's environment is made with
    #[arg(long, value_name = "FILE", default_value = "python3")]
    pub python: PathBuf,

    /// Where that environment is kept [default: nodemend, in the user's cache]
    #[arg(long, value_name = "FOLDER")]
    pub cache: Option<PathBuf>,
}

/// What its help ends with.
pub const EXAMPLES: &str = "\
Examples:
  nodemend up --fault 01-metadata-service-blocked --grace 20s --once
  nodemend up --fault 07-xid-95-reboot-cures --grace 20s --once --format json | jq 'select(.step == \"called\")'
  nodemend up --policy policy.yaml --nodes 12

The functions are the binaries that Lambda runs; DynamoDB and AWS are emulated, all on 127.0.0.1. Nothing of your AWS
account is read or touched. The emulator (moto) comes from PyPI when it is first needed, into a folder of its own.

Exit codes:
  0  stopped, or with --once: the incident ended as it should, and the trail proves it
  1  with --once: it did not; or something failed
  64 wrong usage or policy, or the functions are not built";

/// With `--once`, how long after its deadline an incident may go on.
const PATIENCE: SignedDuration = SignedDuration::from_secs(120);
/// How long the last step of an incident may take to be shown.
const LAST_STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the stack looks around.
const LOOK: Duration = Duration::from_millis(200);

/// Why there was nothing to watch.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// A file can't be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The policy is wrong.
    #[error("{}: {why}", path.display())]
    Policy {
        /// Which.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// Nobody says where the cache is.
    #[error("failed to find the user's cache: say with --cache where the emulator may be kept")]
    NoCache,
    /// A name of ours is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The stack.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// Something of the system's.
    #[error("failed to run: {0}")]
    System(io::Error),
    /// The output can't be written.
    #[error("failed to write the output: {0}")]
    Output(#[from] io::Error),
    /// The emulator is no more.
    #[error("the AWS emulator ended: {0}")]
    EmulatorEnded(String),
    /// The node is no more.
    #[error("failed to inject the fault: {0}")]
    Fault(#[from] fleet::FleetError),
    /// The store.
    #[error(transparent)]
    Store(#[from] nodemend_ports::store::StoreError),
}

impl UpError {
    /// Whether the command line, or a file that it names, is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Policy { .. }
                | Self::NoCache
                | Self::Stack(StackError::NoFunction(_) | StackError::NoAgent(_))
        )
    }
}

fn length(text: &str) -> Result<SignedDuration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .filter(|length| !length.is_negative())
        .ok_or_else(|| "not a length of time like 24h or 90m".to_owned())
}

/// Runs the stack to its end, and prints what happens; whether that was as it should be.
pub fn run(options: &Options, output: impl Output) -> Result<bool, UpError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(UpError::System)?;
    let ended = runtime.block_on(up(options, output));
    // What still waits for something need not.
    runtime.shutdown_background();
    ended
}

async fn up(options: &Options, output: impl Output) -> Result<bool, UpError> {
    let mut ending = Ending::listen()?;
    let policy = policy(options)?;
    let started = tokio::select! {
        stack = start(options, &policy) => stack?,
        () = ending.requested() => return Ok(!options.once),
    };
    let mut stack = started;
    let mut agent = match agent(options, &stack).await {
        Ok(agent) => agent,
        Err(error) => {
            stack.stop().await;
            return Err(error);
        }
    };
    let screen = Screen::new(output);
    let ended = watch(&mut stack, agent.as_mut(), options, &policy, &mut ending, screen).await;
    if let Some(agent) = agent {
        agent.stop().await;
    }
    stack.stop().await;
    ended
}

/// This machine's agent, where it is wanted.
async fn agent(options: &Options, stack: &Stack) -> Result<Option<Agent>, UpError> {
    let node = stack.fleet.unplayed().await?;
    let Some(node) = node.filter(|_| options.agent) else { return Ok(None) };
    let program = beside(options)?.join(agent::AGENT);
    anstream::eprintln!("nodemend: this machine is {} ({})", node.name, node.instance_id);
    let launcher = Launcher::new(std::env::current_exe().map_err(UpError::System)?);
    Agent::start(&launcher, &program, stack, &node).map(Some).map_err(UpError::System)
}

/// Where the binaries are.
fn beside(options: &Options) -> Result<PathBuf, UpError> {
    let nodemend = std::env::current_exe().map_err(UpError::System)?;
    let beside = nodemend.parent().unwrap_or(Path::new("."));
    Ok(options.functions.clone().unwrap_or_else(|| beside.to_owned()))
}

async fn start(options: &Options, policy: &Policy) -> Result<Stack, UpError> {
    let nodemend = std::env::current_exe().map_err(UpError::System)?;
    let functions = beside(options)?;
    // Told before minutes of setting up.
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
        nodes: options.nodes.into(),
        others: options.agent.into(),
        every: stack::every(grace),
        environment: Vec::new(),
    })
    .await?;
    anstream::eprintln!("nodemend: AWS is at http://{}, DynamoDB at http://{}", stack.aws, stack.dynamodb);
    Ok(stack)
}

/// Shows what happens until the incident has ended, or somebody ends it.
async fn watch(
    stack: &mut Stack,
    mut agent: Option<&mut Agent>,
    options: &Options,
    policy: &Policy,
    ending: &mut Ending,
    mut screen: Screen<impl Output>,
) -> Result<bool, UpError> {
    let target = match options.fault {
        Some(_) => stack.fleet.played().await.into_iter().next(),
        None => None,
    };
    let mut injecting = match (options.fault, &target) {
        (Some(fault), Some(target)) => {
            anstream::eprintln!("nodemend: {} happens to {target}", fault.name());
            Some(inject(fault, stack.fleet.clone(), target.clone(), fault.grace(policy)))
        }
        _ => None,
    };
    let watched = options.fault.zip(target.as_ref()).map(|(fault, target)| Watched {
        key: stack.key(target),
        ending: fault.ending(),
        deadline: SystemClock.now() + fault.grace(policy),
    });
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (well, how) = loop {
        tokio::select! {
            update = stack.updates.recv() => if let Some((function, update)) = update {
                screen.show(&function, update)?;
            },
            episode = stack.troubles.recv() => if let Some(episode) = episode {
                anstream::eprintln!("nodemend: {episode}");
            },
            said = async { agent.as_mut()?.says().await.into() }, if agent.is_some() => if let Some(said) = said {
                screen.show(agent::AGENT, FunctionUpdate::Stderr(said))?;
            },
            ended = stack.emulator.ended() => return Err(UpError::EmulatorEnded(ended)),
            injected = async { injecting.as_mut()?.await.ok() }, if injecting.is_some() => {
                injecting = None;
                if let Some(injected) = injected { injected? }
            }
            () = ending.requested() => break (!options.once, None),
            _ = looks.tick() => if let Some(watched) = watched.as_ref().filter(|_| options.once)
                && let Some((well, how)) = judge(stack, watched).await?
            {
                break (well, Some(how));
            },
        }
    };
    // The store has the end of the case before the function has published it.
    if let (Some(watched), Some(_)) = (&watched, &how) {
        let last_step = async {
            while !screen.has_shown_end(watched)
                && let Some((function, update)) = stack.updates.recv().await
            {
                screen.show(&function, update)?;
            }
            Ok::<(), io::Error>(())
        };
        tokio::time::timeout(LAST_STEP_TIMEOUT, last_step).await.unwrap_or(Ok(()))?;
    }
    screen.end()?;
    if let Some(how) = how {
        anstream::eprintln!("nodemend: {how}");
    }
    Ok(well)
}

/// The incident goes on beside all else.
fn inject(
    fault: Fault,
    fleet: fleet::Fleet,
    target: InstanceId,
    grace: SignedDuration,
) -> tokio::task::JoinHandle<Result<(), fleet::FleetError>> {
    tokio::spawn(async move { fault.inject(&fleet, &target, grace).await })
}

/// Whether the incident ended well, once it has ended.
async fn judge(stack: &Stack, watched: &Watched) -> Result<Option<(bool, String)>, UpError> {
    let now = SystemClock.now();
    let hits = stack.calls().iter().filter(|called| called.hit(watched.key.instance_id.as_str())).count();
    Ok(match watched.judge(&stack.store, hits, now).await? {
        Verdict::Open if now <= watched.deadline + PATIENCE => None,
        Verdict::Open => {
            Some((false, format!("the incident goes on {}s after its deadline", PATIENCE.as_secs())))
        }
        Verdict::Proven(how) => Some((true, how)),
        Verdict::Wrong(how) => Some((false, how)),
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

/// Every condition that is repaired waits so long, and recoveries hold in proportion. No line arrives late here.
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

/// Where programs keep what they can fetch again.
fn cache() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    cache.or_else(|| Some(std::env::home_dir()?.join(".cache"))).map(|cache| cache.join("nodemend"))
}

/// Whoever may end us.
struct Ending {
    signals: [Signal; 3],
    parent: Option<rustix::process::Pid>,
}

impl Ending {
    fn listen() -> Result<Self, UpError> {
        let on = |kind| signal(kind).map_err(UpError::System);
        let signals = [on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?];
        Ok(Self { signals, parent: rustix::process::getppid() })
    }

    /// Returns after a signal, or when the parent process has ended.
    async fn requested(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        let orphaned = async {
            let mut looks = interval(Duration::from_secs(1));
            while rustix::process::getppid() == self.parent {
                looks.tick().await;
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
