//! Starts and connects the parts of the stack: the emulator and its proxy, DynamoDB, the functions, the
//! schedule, the log subscriptions, EventBridge and the nodes.

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
    aws_proxy::{self, AwsEvent, Calls, Capacity},
    child::Launcher,
    cloudtrail::{Identity, RecordedCall, Route},
    dynamodb::{self, DynamoError},
    emulator::{Emulator, EmulatorError},
    fleet::{Fleet, FleetError},
    ids,
    lambda::{Function, FunctionUpdate, Spec},
    log_delivery::LogDelivery,
    query_client::QueryClient,
};

/// The names of the three functions, which are also the names of their binaries.
pub const FUNCTIONS: [&str; 3] = ["nodemend-intake", "nodemend-repair", "nodemend-confirm"];
/// Real CloudTrail delivers an event after minutes; shortened here.
const CLOUDTRAIL_DELAY: Duration = Duration::from_secs(2);
/// A real instance takes minutes to terminate; shortened here.
const TERMINATION_TIME: Duration = Duration::from_secs(1);
/// How long the first report of a node can take until it is in the store.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval of the schedule in a deployment.
const MINUTE: Duration = Duration::from_secs(60);

/// The configuration of a stack.
#[derive(Debug, Clone)]
pub struct Config {
    /// The path of the `nodemend` binary, which starts the child processes.
    pub launcher: PathBuf,
    /// The directory of the functions' binaries.
    pub functions: PathBuf,
    /// The path of a Python interpreter that has moto.
    pub python: PathBuf,
    /// The name of the cluster.
    pub cluster: ClusterName,
    /// The policy of the cluster.
    pub policy: Policy,
    /// The number of simulated nodes.
    pub simulated_nodes: usize,
    /// The number of external nodes, for which other processes report.
    pub external_nodes: usize,
    /// The interval between two invocations of the repair function.
    pub run_interval: Duration,
    /// Environment variables of all functions, in addition to those that a deployment sets.
    pub environment: Vec<(String, String)>,
}

/// The interval of the repair function: a minute, as in a deployment, or less if the grace period is short.
pub fn run_interval(grace: SignedDuration) -> Duration {
    (grace / 4).unsigned_abs().clamp(Duration::from_secs(1), MINUTE)
}

/// The interval between two lines of the control-plane audit log: a log without a line for the settling time
/// counts as behind.
fn audit_line_interval(settling_time: SignedDuration) -> Duration {
    (settling_time / 4).unsigned_abs().clamp(Duration::from_millis(250), MINUTE)
}

/// Why the stack could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The functions are not built.
    #[error(
        "failed to find {}: build the functions with\n  cargo build --release --features lambda -p nodemend-intake -p nodemend-repair -p nodemend-confirm\n\
         or set their directory with --functions", .0.display()
    )]
    NoFunction(PathBuf),
    /// The agent is not built.
    #[error("failed to find {}: build the agent with\n  cargo build --release -p nodemend-agent", .0.display())]
    NoAgent(PathBuf),
    /// The emulator could not be started.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// The proxy could not be started.
    #[error("failed to listen on 127.0.0.1: {0}")]
    Listen(std::io::Error),
    /// DynamoDB could not be started.
    #[error(transparent)]
    Dynamo(#[from] DynamoError),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A filter pattern of the subscriptions is invalid.
    #[error("failed to parse a subscription filter pattern: {0}")]
    Pattern(#[from] PatternError),
    /// The nodes could not be created.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The intake function has applied no report of a node.
    #[error("failed to receive a report of {0} within {within}s", within = REPORT_TIMEOUT.as_secs())]
    NoReport(InstanceId),
}

/// A running stack.
#[derive(Debug)]
pub struct Stack {
    /// The address of the emulated AWS, except DynamoDB.
    pub aws: SocketAddr,
    /// The address of DynamoDB.
    pub dynamodb: SocketAddr,
    /// Where replacements come from.
    pub capacity: Capacity,
    /// A store on the tables in DynamoDB.
    pub store: DynamoStore,
    /// The nodes of the cluster.
    pub fleet: Fleet,
    /// The functions, in the order of [`FUNCTIONS`].
    pub functions: [Function; 3],
    /// The log lines and failures of the functions.
    pub updates: UnboundedReceiver<(String, FunctionUpdate)>,
    /// The errors of the stack itself.
    pub errors: UnboundedReceiver<String>,
    /// The emulator. If it ends, it has failed.
    pub emulator: Emulator,
    cluster: ClusterName,
    calls: Calls,
    tasks: JoinSet<()>,
}

impl Stack {
    /// Starts the stack, and waits until the store has a report of each simulated node.
    pub async fn start(config: Config) -> Result<Self, StackError> {
        let launcher = Launcher::new(&config.launcher);
        let programs = FUNCTIONS.map(|name| config.functions.join(name));
        if let Some(missing) = programs.iter().find(|program| !program.is_file()) {
            return Err(StackError::NoFunction(missing.clone()));
        }
        let dynamodb = dynamodb::serve()?;
        let emulator = Emulator::start(&launcher, &config.python).await?;
        let (event_sender, events) = mpsc::unbounded_channel();
        let calls = Calls::default();
        let (aws, capacity) = aws_proxy::serve(emulator.address, calls.clone(), event_sender)
            .await
            .map_err(StackError::Listen)?;
        let store = dynamodb::store(dynamodb).await?;
        store.put_policy(&config.cluster, &config.policy, "nodemend up", SystemClock.now()).await?;
        let (update_sender, updates) = mpsc::unbounded_channel();
        let (error_sender, errors) = mpsc::unbounded_channel();
        let function = |name: &str, program: &Path| {
            let environment = environment(name, aws, dynamodb, &config.environment);
            Function::new(spec(name, program, environment), launcher.clone(), update_sender.clone())
        };
        let [intake, repair, confirm] = &programs;
        let functions =
            [function(FUNCTIONS[0], intake), function(FUNCTIONS[1], repair), function(FUNCTIONS[2], confirm)];
        let client = QueryClient::new(aws);
        let log_delivery = LogDelivery::new(client.clone(), functions[0].clone(), &config.cluster)?;
        let mut tasks = JoinSet::new();
        let (logged, log_streams) = mpsc::unbounded_channel();
        tasks.spawn(deliver_logs(log_delivery, log_streams, error_sender.clone()));
        let request_errors = error_sender.clone();
        let (fleet_sender, fleet_receiver) = tokio::sync::oneshot::channel();
        tasks.spawn(handle_events(EventHandler {
            events,
            logged,
            confirm: functions[2].clone(),
            errors: error_sender.clone(),
            fleet: fleet_receiver,
        }));
        let fleet =
            Fleet::create(client, config.cluster.clone(), config.simulated_nodes, config.external_nodes)
                .await?;
        let _ = fleet_sender.send(fleet.clone());
        tasks.spawn(schedule(functions[1].clone(), config.run_interval));
        let heartbeats = fleet.clone();
        tasks.spawn(async move {
            let error = heartbeats.send_heartbeats().await;
            let _ = error_sender.send(error.to_string());
        });
        let requests = fleet.clone();
        let line_interval = audit_line_interval(config.policy.settling_time);
        tasks.spawn(async move {
            let error = requests.log_other_requests(line_interval).await;
            let _ = request_errors.send(error.to_string());
        });
        let cluster = config.cluster;
        let stack = Self {
            aws,
            dynamodb,
            capacity,
            store,
            fleet,
            functions,
            updates,
            errors,
            emulator,
            cluster,
            calls,
            tasks,
        };
        for node in stack.fleet.simulated().await {
            stack.wait_for_report(&node).await?;
        }
        Ok(stack)
    }

    /// All calls so far that change something, or tried to, in order.
    pub fn calls(&self) -> Vec<RecordedCall> {
        self.calls.all()
    }

    /// The environment variables of a program that has the IAM role with this name.
    pub fn environment(&self, role: &str) -> Vec<(String, String)> {
        environment(role, self.aws, self.dynamodb, &[])
    }

    /// The key of a node's case.
    pub fn key(&self, instance_id: &InstanceId) -> CaseKey {
        CaseKey { cluster: self.cluster.clone(), instance_id: instance_id.clone() }
    }

    /// Waits until the store has a report of the node's agent.
    async fn wait_for_report(&self, instance_id: &InstanceId) -> Result<(), StackError> {
        let key = self.key(instance_id);
        let reported = async {
            loop {
                if self.store.case(&key).await?.is_some_and(|case| case.agent_last_seen().is_some()) {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let not_reported = || StackError::NoReport(instance_id.clone());
        tokio::time::timeout(REPORT_TIMEOUT, reported).await.unwrap_or_else(|_| Err(not_reported()))
    }

    /// Stops the stack and all its processes.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        for function in &self.functions {
            function.stop().await;
        }
        self.emulator.stop().await;
    }
}

/// The configuration of a function, as in a deployment.
pub fn spec(name: &str, program: &Path, environment: Vec<(String, String)>) -> Spec {
    let is_repair = name == FUNCTIONS[1];
    Spec {
        name: name.to_owned(),
        program: program.to_owned(),
        environment,
        // A run of the repair function waits for the cases that fall due within its minute.
        timeout: Duration::from_secs(if is_repair { 75 } else { 30 }),
        concurrency: if is_repair { 64 } else { 8 },
        // Lambda waits one minute, then two; shortened here.
        retries: vec![Duration::from_secs(1), Duration::from_secs(2)],
    }
}

/// The environment variables of a function: those that a deployment sets, and the AWS endpoints on loopback.
pub fn environment(
    name: &str,
    aws: SocketAddr,
    dynamodb: SocketAddr,
    additional: &[(String, String)],
) -> Vec<(String, String)> {
    let tables = dynamodb::tables();
    let own = [
        (environment::STATE_TABLE, tables.state),
        (environment::AUDIT_LOG_TABLE, tables.audit),
        (environment::REPAIR_ROLE, format!("arn:aws:iam::{}:role/{}", ids::ACCOUNT, FUNCTIONS[1])),
        ("AWS_REGION", ids::REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", Identity::access_key_of(name)),
        ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://{aws}")),
        ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{dynamodb}")),
    ];
    let own = own.into_iter().map(|(variable, value)| (variable.to_owned(), value));
    own.chain(additional.iter().cloned()).collect()
}

/// Invokes the repair function as EventBridge's schedule does.
async fn schedule(repair: Function, run_interval: Duration) {
    let mut ticks = interval(run_interval);
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

/// Delivers the log events of each log stream to which some were added.
async fn deliver_logs(
    mut log_delivery: LogDelivery,
    mut log_streams: UnboundedReceiver<(String, String)>,
    errors: UnboundedSender<String>,
) {
    while let Some((group, stream)) = log_streams.recv().await {
        if let Err(error) = log_delivery.deliver(group, stream).await {
            let _ = errors.send(error.to_string());
        }
    }
}

/// What [`handle_events`] receives from and sends to.
struct EventHandler {
    events: UnboundedReceiver<AwsEvent>,
    logged: UnboundedSender<(String, String)>,
    confirm: Function,
    errors: UnboundedSender<String>,
    fleet: tokio::sync::oneshot::Receiver<Fleet>,
}

/// Handles what happens in AWS: EventBridge's events go to the confirm function, and nodes follow their
/// instances.
async fn handle_events(mut handler: EventHandler) {
    let mut fleet = None;
    let mut delayed = JoinSet::new();
    while let Some(event) = handler.events.recv().await {
        while delayed.try_join_next().is_some() {}
        if let AwsEvent::Logged { group, stream } = event {
            let _ = handler.logged.send((group, stream));
            continue;
        }
        if fleet.is_none() {
            fleet = (&mut handler.fleet).await.ok();
        }
        let Some(fleet) = fleet.clone() else { return };
        let (confirm, errors) = (handler.confirm.clone(), handler.errors.clone());
        let publish = async move |delay: Duration, event: Value| {
            sleep(delay).await;
            confirm.send(event.to_string().into());
        };
        let report_error = move |result: Result<(), FleetError>| {
            if let Err(error) = result {
                let _ = errors.send(error.to_string());
            }
        };
        match event {
            AwsEvent::Logged { .. } => {}
            AwsEvent::Called(call) => {
                delayed.spawn(async move { publish(CLOUDTRAIL_DELAY, call.event()).await });
            }
            AwsEvent::Terminated(activity) => {
                fleet.handle_termination(&activity.instance_id).await;
                delayed.spawn(async move {
                    sleep(TERMINATION_TIME).await;
                    publish(Duration::ZERO, activity.event(SystemClock.now())).await;
                });
            }
            AwsEvent::Launched(activity) => {
                delayed.spawn(async move {
                    sleep(TERMINATION_TIME).await;
                    publish(Duration::ZERO, activity.event(SystemClock.now())).await;
                    // In the warm pool it is stopped.
                    if activity.route != Route::Warmed {
                        report_error(fleet.handle_launch(&activity).await);
                    }
                });
            }
            AwsEvent::LaunchFailed(activity) => {
                delayed.spawn(async move {
                    publish(TERMINATION_TIME, activity.failed_event(SystemClock.now())).await;
                });
            }
            AwsEvent::Rebooted { instance_id } => {
                delayed.spawn(async move { report_error(fleet.handle_reboot(&instance_id).await) });
            }
        }
    }
}
