//! Wires the stack: the emulator, its front, DynamoDB, the functions, the schedule, the subscriptions and the nodes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use nodemend_aws::{clock::SystemClock, dynamodb::DynamoStore};
use nodemend_domain::{
    ident::{ClusterName, InstanceId},
    policy::Policy,
    timestamp,
};
use nodemend_ports::{
    clock::Clock,
    config::environment,
    store::{CaseKey, Store, StoreError},
};
use nodemend_testkit::filter_pattern::PatternError;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    child::Launcher,
    cloudtrail::{Called, Identity},
    dynamodb::{self, DynamoError},
    emulator::{Emulator, EmulatorError},
    fleet::{Fleet, FleetError},
    front::{self, Calls, Happened},
    ids,
    lambda::{Function, FunctionUpdate, Spec},
    pump::Pump,
    wire::Wire,
};

/// The three functions, and what they are named.
pub const FUNCTIONS: [&str; 3] = ["nodemend-intake", "nodemend-repair", "nodemend-confirm"];
/// CloudTrail takes minutes; nobody wants to watch that.
const CLOUDTRAIL_TAKES: Duration = Duration::from_secs(2);
/// So do instances.
const TERMINATION_TAKES: Duration = Duration::from_secs(1);
/// Until the store knows of a node that has spoken.
const REPORTED_WITHIN: Duration = Duration::from_secs(20);
/// An installation's schedule.
const MINUTE: Duration = Duration::from_secs(60);

/// What a stack is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// The `nodemend` by which children are started.
    pub launcher: PathBuf,
    /// Where the functions' binaries are.
    pub functions: PathBuf,
    /// A Python that has moto.
    pub python: PathBuf,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// Its policy.
    pub policy: Policy,
    /// How many nodes it has that are made up.
    pub nodes: usize,
    /// How many more that somebody else plays.
    pub others: usize,
    /// How often the repair function is invoked.
    pub every: Duration,
    /// Variables of all functions' environments, besides those that an installation sets.
    pub environment: Vec<(String, String)>,
}

/// How often repairs are looked for: each minute, as in an installation, and more often where less is waited.
pub fn every(grace: SignedDuration) -> Duration {
    (grace / 4).unsigned_abs().clamp(Duration::from_secs(1), MINUTE)
}

/// How often the API server writes a line: a stream without one for the settling time counts as behind.
fn requests_every(settling: SignedDuration) -> Duration {
    (settling / 4).unsigned_abs().clamp(Duration::from_millis(250), MINUTE)
}

/// Why there is no stack.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The functions are not built.
    #[error(
        "failed to find {}: build the functions with\n  cargo build --release --features lambda -p nodemend-intake -p nodemend-repair -p nodemend-confirm\n\
         or say where they are with --functions", .0.display()
    )]
    NoFunction(PathBuf),
    /// The agent is not built.
    #[error("failed to find {}: build the agent with\n  cargo build --release -p nodemend-agent", .0.display())]
    NoAgent(PathBuf),
    /// The emulator.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// Its front.
    #[error("failed to listen on loopback: {0}")]
    Listen(std::io::Error),
    /// DynamoDB.
    #[error(transparent)]
    Dynamo(#[from] DynamoError),
    /// What is in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pattern of ours.
    #[error("failed to read a filter pattern of ours: {0}")]
    Pattern(#[from] PatternError),
    /// The nodes.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// Intake applies no report of a node.
    #[error("failed to get a report of {0} within {within}s", within = REPORTED_WITHIN.as_secs())]
    NoReport(InstanceId),
}

/// A stack that runs.
#[derive(Debug)]
pub struct Stack {
    /// Where AWS is, DynamoDB apart.
    pub aws: SocketAddr,
    /// Where DynamoDB is.
    pub dynamodb: SocketAddr,
    /// Our own way into it.
    pub store: DynamoStore,
    /// The nodes.
    pub fleet: Fleet,
    /// The functions, in the order of [`FUNCTIONS`].
    pub functions: [Function; 3],
    /// The updates of the functions.
    pub updates: UnboundedReceiver<(String, FunctionUpdate)>,
    /// What goes wrong in the stack itself.
    pub troubles: UnboundedReceiver<String>,
    /// The emulator, which ends when it fails.
    pub emulator: Emulator,
    cluster: ClusterName,
    calls: Calls,
    tasks: JoinSet<()>,
}

impl Stack {
    /// Starts it all. A node that it has is known to the store by then.
    pub async fn start(config: Config) -> Result<Self, StackError> {
        let launcher = Launcher::new(&config.launcher);
        let programs = FUNCTIONS.map(|name| config.functions.join(name));
        if let Some(missing) = programs.iter().find(|program| !program.is_file()) {
            return Err(StackError::NoFunction(missing.clone()));
        }
        let dynamodb = dynamodb::serve()?;
        let emulator = Emulator::start(&launcher, &config.python).await?;
        let (happened, happenings) = mpsc::unbounded_channel();
        let calls = Calls::default();
        let aws =
            front::serve(emulator.address, calls.clone(), happened).await.map_err(StackError::Listen)?;
        let store = dynamodb::store(dynamodb).await?;
        store.put_policy(&config.cluster, &config.policy, "nodemend up", SystemClock.now()).await?;
        let (sender, updates) = mpsc::unbounded_channel();
        let (episode, troubles) = mpsc::unbounded_channel();
        let function = |name: &str, program: &Path| {
            let environment = environment(name, aws, dynamodb, &config.environment);
            Function::new(spec(name, program, environment), launcher.clone(), sender.clone())
        };
        let [intake, repair, audit] = &programs;
        let functions =
            [function(FUNCTIONS[0], intake), function(FUNCTIONS[1], repair), function(FUNCTIONS[2], audit)];
        let wire = Wire::to(aws);
        let pump = Pump::new(wire.clone(), functions[0].clone(), &config.cluster)?;
        let mut tasks = JoinSet::new();
        let (logged, to_pump) = mpsc::unbounded_channel();
        tasks.spawn(pump_all(pump, to_pump, episode.clone()));
        let troubles_of_requests = episode.clone();
        let (arrived, fleet_ready) = tokio::sync::oneshot::channel();
        tasks.spawn(follow(Follower {
            happenings,
            logged,
            audit: functions[2].clone(),
            episode: episode.clone(),
            fleet: fleet_ready,
        }));
        let fleet = Fleet::create(wire, config.cluster.clone(), config.nodes, config.others).await?;
        let _ = arrived.send(fleet.clone());
        tasks.spawn(schedule(functions[1].clone(), config.every));
        let beating = fleet.clone();
        tasks.spawn(async move {
            let error = beating.beat().await;
            let _ = episode.send(error.to_string());
        });
        let (requests, episode) = (fleet.clone(), troubles_of_requests);
        let every = requests_every(config.policy.settling_time);
        tasks.spawn(async move {
            let error = requests.serve_other_requests(every).await;
            let _ = episode.send(error.to_string());
        });
        let cluster = config.cluster;
        let stack = Self {
            aws,
            dynamodb,
            store,
            fleet,
            functions,
            updates,
            troubles,
            emulator,
            cluster,
            calls,
            tasks,
        };
        for node in stack.fleet.played().await {
            stack.hear_of(&node).await?;
        }
        Ok(stack)
    }

    /// Every call so far that changed something, or was to, in order.
    pub fn calls(&self) -> Vec<Called> {
        self.calls.all()
    }

    /// The environment of a program with a role of this name.
    pub fn environment(&self, role: &str) -> Vec<(String, String)> {
        environment(role, self.aws, self.dynamodb, &[])
    }

    /// Under which a node's case is kept.
    pub fn key(&self, instance_id: &InstanceId) -> CaseKey {
        CaseKey { cluster: self.cluster.clone(), instance_id: instance_id.clone() }
    }

    /// Waits until the store knows a node by its name.
    async fn hear_of(&self, instance_id: &InstanceId) -> Result<(), StackError> {
        let key = self.key(instance_id);
        let first_seen = async {
            loop {
                if self.store.case(&key).await?.is_some_and(|case| case.agent_last_seen().is_some()) {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let not_reported = || StackError::NoReport(instance_id.clone());
        tokio::time::timeout(REPORTED_WITHIN, first_seen).await.unwrap_or_else(|_| Err(not_reported()))
    }

    /// Ends it all.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        for function in &self.functions {
            function.stop().await;
        }
        self.emulator.stop().await;
    }
}

/// A function as its installation sets it up.
pub fn spec(name: &str, program: &Path, environment: Vec<(String, String)>) -> Spec {
    let is_repair = name == FUNCTIONS[1];
    Spec {
        name: name.to_owned(),
        program: program.to_owned(),
        environment,
        // A sweep waits for what falls due within its minute.
        timeout: Duration::from_secs(if is_repair { 75 } else { 30 }),
        concurrency: if is_repair { 64 } else { 8 },
        // Lambda waits one minute, then two.
        retries: vec![Duration::from_secs(1), Duration::from_secs(2)],
    }
}

/// A function's environment: as its installation would set it, and AWS on loopback.
pub fn environment(
    name: &str,
    aws: SocketAddr,
    dynamodb: SocketAddr,
    others: &[(String, String)],
) -> Vec<(String, String)> {
    let tables = dynamodb::tables();
    let own = [
        (environment::STATE_TABLE, tables.state),
        (environment::AUDIT_LOG_TABLE, tables.audit),
        (environment::REPAIR_ROLE, format!("arn:aws:iam::{}:role/{}", ids::ACCOUNT, FUNCTIONS[1])),
        ("AWS_REGION", ids::REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", Identity::key_of(name)),
        ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://{aws}")),
        ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{dynamodb}")),
    ];
    let own = own.into_iter().map(|(variable, value)| (variable.to_owned(), value));
    own.chain(others.iter().cloned()).collect()
}

/// EventBridge's schedule.
async fn schedule(repair: Function, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let event = json!({
            "version": "0", "id": ids::uuid(), "detail-type": "Scheduled Event", "source": "aws.events",
            "account": ids::ACCOUNT, "time": timestamp::seconds(SystemClock.now()), "region": ids::REGION,
            "resources": [], "detail": {},
        });
        repair.send(event.to_string().into());
    }
}

/// The subscriptions.
async fn pump_all(
    mut pump: Pump,
    mut logged: UnboundedReceiver<(String, String)>,
    episode: UnboundedSender<String>,
) {
    while let Some((group, stream)) = logged.recv().await {
        if let Err(error) = pump.deliver(group, stream).await {
            let _ = episode.send(error.to_string());
        }
    }
}

struct Follower {
    happenings: UnboundedReceiver<Happened>,
    logged: UnboundedSender<(String, String)>,
    audit: Function,
    episode: UnboundedSender<String>,
    fleet: tokio::sync::oneshot::Receiver<Fleet>,
}

/// What follows from what happened: EventBridge tells audit, and nodes live and die.
async fn follow(mut follower: Follower) {
    let mut fleet = None;
    let mut later = JoinSet::new();
    while let Some(happened) = follower.happenings.recv().await {
        while later.try_join_next().is_some() {}
        if let Happened::Logged { group, stream } = happened {
            let _ = follower.logged.send((group, stream));
            continue;
        }
        if fleet.is_none() {
            fleet = (&mut follower.fleet).await.ok();
        }
        let Some(fleet) = fleet.clone() else { return };
        let (audit, episode) = (follower.audit.clone(), follower.episode.clone());
        let tell = async move |after: Duration, event: Value| {
            sleep(after).await;
            audit.send(event.to_string().into());
        };
        let complain = move |done: Result<(), FleetError>| {
            if let Err(error) = done {
                let _ = episode.send(error.to_string());
            }
        };
        match happened {
            Happened::Logged { .. } => {}
            Happened::Called(called) => {
                later.spawn(async move { tell(CLOUDTRAIL_TAKES, called.event()).await });
            }
            Happened::Terminated(activity) => {
                fleet.terminated(&activity.instance_id).await;
                later.spawn(async move {
                    sleep(TERMINATION_TAKES).await;
                    tell(Duration::ZERO, activity.terminated(SystemClock.now())).await;
                });
            }
            Happened::Launched(activity) => {
                later.spawn(async move {
                    sleep(TERMINATION_TAKES).await;
                    tell(Duration::ZERO, activity.launched(SystemClock.now())).await;
                    complain(fleet.launched(&activity).await);
                });
            }
            Happened::Rebooted { instance_id } => {
                later.spawn(async move { complain(fleet.rebooted(&instance_id).await) });
            }
        }
    }
}
