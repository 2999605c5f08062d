//! `nodemend-agent run`: sources and probes into the tracker, reports into the spool, the spool to the sink.
//!
//! One thread reads, tracks and stores, so that the order of things is the order in which they were seen. A few
//! read probes, which may wait; one delivers, which may wait for hours.

mod deliver;
mod memory;
mod probes;
mod state;
mod watch;

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

use self::{state::Health, watch::Watch};
use crate::{
    causes::chain,
    config::Config,
    detect::{
        Detector,
        rules::{RuleFile, RuleSource, read_rules},
    },
    endpoint,
    identity::{self, Identity},
    metrics::Metrics,
    outbox::Outbox,
    probe::Probe,
    source::Progress,
};

/// Kubernetes kills after its grace period; a report that is not delivered by then waits in the spool.
const DRAIN: Duration = Duration::from_secs(8);
/// Positions alone are worth a write this often: what is read twice changes nothing.
const REMEMBER: Duration = Duration::from_secs(30);
/// Probes speak faster than they are heard only when something hangs.
const SAID: usize = 1_024;

/// Why the agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Who this node is.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// A rule file.
    #[error("{0}")]
    Rules(String),
    /// The state folder.
    #[error("failed to make {path}: {source}")]
    StateDir {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The spool.
    #[error(transparent)]
    Outbox(#[from] crate::outbox::OutboxError),
    /// The pages.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The sink.
    #[error("{0}")]
    Sink(String),
    /// A thread.
    #[error("failed to start a thread: {0}")]
    Thread(io::Error),
}

impl RunError {
    /// Whether what was asked for is at fault, and not the machine.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Identity(_) | Self::Rules(_))
    }
}

/// Runs until `stop` is set.
pub fn run(config: &Config, probes: Vec<Box<dyn Probe>>, stop: &AtomicBool) -> Result<(), RunError> {
    let imds = config.ask_imds.then_some(identity::IMDS);
    let identity = Identity::find(&config.given, &config.root, imds)?;
    let rules = rules(&config.rules)?;
    let detector = Detector::new(&rules).map_err(|error| RunError::Rules(chain(&error)))?;
    let (units, files) = wanted(&rules);
    fs::create_dir_all(&config.state_dir)
        .map_err(|source| RunError::StateDir { path: config.state_dir.display().to_string(), source })?;
    let (outbox, recovered) = Outbox::open(&config.state_dir.join("spool"), config.spool_bytes)?;
    if recovered.waiting > 0 || recovered.damaged > 0 {
        note(&format!(
            "{} reports wait from before, {} places are damaged",
            recovered.waiting, recovered.damaged
        ));
    }
    let outbox = Arc::new(Mutex::new(outbox));
    let metrics = Arc::new(Metrics::default());
    let health = Health::default();
    let mut watch = Watch::open(
        config,
        identity.clone(),
        detector,
        &units,
        &files,
        Arc::clone(&metrics),
        health.clone(),
    )?;
    endpoint::serve(config.listen, Arc::clone(&metrics), health.clone())
        .map_err(|source| RunError::Listen { address: config.listen, source })?;
    let (sender, said) = mpsc::sync_channel(SAID);
    probes::start(probes, config.probe_interval, Arc::clone(&metrics), sender).map_err(RunError::Thread)?;
    let delivery = deliver::start(config, &identity, Arc::clone(&outbox), metrics, health.clone())?;
    let mut remembered = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let round = watch.round(&said, &outbox);
        if round.stored || remembered.elapsed() >= REMEMBER {
            watch.remember();
            remembered = Instant::now();
        }
        if round.progress == Progress::Drained {
            watch.wait();
        }
    }
    watch.round(&said, &outbox);
    watch.remember();
    health.end();
    let end = Instant::now() + DRAIN;
    while !delivery.is_finished() && Instant::now() < end {
        thread::park_timeout(Duration::from_millis(20));
    }
    let waiting = watch::lock(&outbox).waiting();
    if waiting > 0 {
        note(&format!("{waiting} reports wait for the next start"));
    }
    Ok(())
}

/// Reads rule files.
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

/// The units and files that users' rules are about.
fn wanted(rules: &[RuleFile]) -> (Vec<String>, Vec<String>) {
    let (mut units, mut files) = (Vec::new(), Vec::new());
    for source in rules.iter().flat_map(RuleFile::sources) {
        match source {
            RuleSource::Kernel { .. } => {}
            RuleSource::Unit(unit) => units.push(unit.clone()),
            RuleSource::File(path) => files.push(path.clone()),
        }
    }
    (units, files)
}

/// A line for whoever reads the pod's log. Standard output may be the sink.
fn note(text: &str) {
    let text: String =
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    anstream::eprintln!("nodemend-agent: {text}");
}
