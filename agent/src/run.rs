//! Runs the agent: sources and probes to the tracker, reports to the spool, the spool to the sink.
//!
//! One thread reads, tracks and stores, so reports keep the order in which problems were seen. A few threads read
//! probes, which may block. One delivers, which may take hours.

mod deliver;
mod health;
mod pipeline;
mod probes;
mod saved_state;

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use self::{
    health::AgentHealth,
    pipeline::{Followed, Pipeline},
};
use crate::{
    causes::chain,
    config::Config,
    detect::{
        Detector,
        rules::{RuleFile, RuleSource, read_rules},
    },
    endpoint,
    identity::{self, NodeIdentity},
    metrics::Metrics,
    outbox::Outbox,
    probe::Probe,
    source::Progress,
    sync::lock,
};

/// Kubernetes kills the container after its grace period. Reports that are not delivered by then stay in the spool.
const DRAIN: Duration = Duration::from_secs(8);
/// How often positions are stored without new reports. Reading lines twice changes nothing.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);
/// The queue of probe results is full only if something hangs.
const RESULT_QUEUE: usize = 1_024;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// A rule file is invalid.
    #[error("{0}")]
    Rules(String),
    /// The state directory cannot be created.
    #[error("failed to create {path}: {source}")]
    StateDir { path: String, source: io::Error },
    #[error(transparent)]
    Outbox(#[from] crate::outbox::OutboxError),
    /// The address of `/healthz` and `/metrics` is not available.
    #[error("failed to listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    /// The sink is not available.
    #[error("{0}")]
    Sink(String),
    #[error("failed to start a thread: {0}")]
    Thread(io::Error),
}

impl RunError {
    /// Whether the configuration is wrong, rather than the machine.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Identity(_) | Self::Rules(_))
    }
}

/// Runs until `stop` is set.
pub fn run(config: &Config, probes: Vec<Box<dyn Probe>>, stop: &AtomicBool) -> Result<(), RunError> {
    let imds = config.query_imds.then_some(identity::IMDS);
    let identity = NodeIdentity::find(&config.overrides, &config.root, imds)?;
    let rules = rules(&config.rules)?;
    let detector = Detector::new(&rules).map_err(|error| RunError::Rules(chain(&error)))?;
    let followed = followed(&rules);
    fs::create_dir_all(&config.state_dir)
        .map_err(|source| RunError::StateDir { path: config.state_dir.display().to_string(), source })?;
    let (outbox, recovered) = Outbox::open(&config.state_dir.join("spool"), config.spool_bytes)?;
    if recovered.waiting > 0 {
        info!(reports = recovered.waiting, "reports of an earlier run wait for delivery");
    }
    if recovered.damaged > 0 {
        warn!(sections = recovered.damaged, "damaged sections of the spool were skipped");
    }
    let outbox = Arc::new(Mutex::new(outbox));
    let metrics = Arc::new(Metrics::default());
    let health = AgentHealth::default();
    let mut pipeline =
        Pipeline::open(config, identity.clone(), detector, &followed, Arc::clone(&metrics), health.clone())?;
    endpoint::serve(config.listen, Arc::clone(&metrics), health.clone())
        .map_err(|source| RunError::Listen { address: config.listen, source })?;
    let (sender, results) = mpsc::sync_channel(RESULT_QUEUE);
    probes::start(probes, config.probe_interval, Arc::clone(&metrics), sender).map_err(RunError::Thread)?;
    let delivery = deliver::start(config, &identity, Arc::clone(&outbox), metrics, health.clone())?;
    let mut saved = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let round = pipeline.round(&results, &outbox);
        if round.stored || saved.elapsed() >= SAVE_INTERVAL {
            pipeline.save_state();
            saved = Instant::now();
        }
        if round.progress == Progress::Drained {
            pipeline.wait();
        }
    }
    pipeline.round(&results, &outbox);
    pipeline.save_state();
    health.end();
    let end = Instant::now() + DRAIN;
    while !delivery.is_finished() && Instant::now() < end {
        thread::park_timeout(Duration::from_millis(20));
    }
    let waiting = lock(&outbox).waiting();
    if waiting > 0 {
        info!(reports = waiting, "undelivered reports stay in the spool until the next start");
    }
    Ok(())
}

/// Reads and parses the rule files.
pub fn rules(paths: &[impl AsRef<Path>]) -> Result<Vec<RuleFile>, RunError> {
    paths
        .iter()
        .map(|path| {
            let path = path.as_ref();
            let text = fs::read_to_string(path)
                .map_err(|error| RunError::Rules(format!("failed to read {}: {error}", path.display())))?;
            read_rules(&path.display().to_string(), &text).map_err(|error| RunError::Rules(chain(&error)))
        })
        .collect()
}

/// The units and files that users' rules read.
fn followed(rules: &[RuleFile]) -> Followed {
    let (mut units, mut files) = (Vec::new(), Vec::new());
    for source in rules.iter().flat_map(RuleFile::sources) {
        match source {
            RuleSource::Kernel { .. } => {}
            RuleSource::Unit(unit) => units.push(unit.clone()),
            RuleSource::File(path) => files.push(path.clone()),
        }
    }
    Followed { units, files }
}
