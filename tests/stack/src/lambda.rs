//! Turns a Lambda binary into a function that can be invoked, as Lambda does it: over the Runtime API, one invocation
//! at a time in each of its processes, with more processes where more come at once.
//!
//! A failure is reported and, if the invocation is asynchronous, retried. A process that crashed, hung or could
//! not start is replaced by the next invocation.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

mod api;
mod sandbox;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc::UnboundedSender, watch};

use self::sandbox::Sandbox;
use super::child::Launcher;

/// How long a process may take until it asks for its first invocation.
pub const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What Lambda needs to know of a function.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Its binary.
    pub program: PathBuf,
    /// Its environment, besides what Lambda sets.
    pub environment: Vec<(String, String)>,
    /// How long an invocation may last.
    pub timeout: Duration,
    /// How many invocations at once.
    pub concurrency: usize,
    /// What is waited before each further try of an event; Lambda has one minute, then two.
    pub retries: Vec<Duration>,
}

/// Why an invocation has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The process could not be started, or ended before it asked for an invocation.
    #[error("could not start: {0}")]
    Init(String),
    /// The function answered with an error.
    #[error("{0}")]
    Error(String),
    /// The process ended instead of answering.
    #[error("its process ended: {0}")]
    Crashed(String),
    /// No answer came in time.
    #[error("no answer within {}s", .0.as_secs())]
    TimedOut(Duration),
    /// The function is being stopped.
    #[error("stopped")]
    Stopped,
}

/// What a function reports besides its answers.
#[derive(Debug, Clone)]
pub enum FunctionUpdate {
    /// A line of its log.
    Log(String),
    /// A line of its stderr.
    Stderr(String),
    /// An event failed; whether it is tried again.
    Failed {
        /// Why.
        why: Failure,
        /// After how long.
        again: Option<Duration>,
    },
}

/// A process of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// From its start to its first question for work.
    pub init: Duration,
}

/// A function. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Function(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spec: Spec,
    launcher: Launcher,
    updates: UnboundedSender<(String, FunctionUpdate)>,
    idle: Mutex<Vec<Sandbox>>,
    processes: Mutex<Vec<Process>>,
    slots: Semaphore,
    stopping: watch::Sender<bool>,
}

impl Function {
    /// A function, of which no process runs yet. Its updates come with its name.
    pub fn new(spec: Spec, launcher: Launcher, updates: UnboundedSender<(String, FunctionUpdate)>) -> Self {
        let slots = Semaphore::new(spec.concurrency);
        let (stopping, _) = watch::channel(false);
        let (idle, processes) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { spec, launcher, updates, idle, processes, slots, stopping }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// Its processes, the newest last.
    pub fn processes(&self) -> Vec<Process> {
        lock(&self.0.processes).clone()
    }

    /// Invokes it and waits for the answer.
    pub async fn invoke(&self, payload: Bytes) -> Result<Bytes, Failure> {
        let _slot = self.0.slots.acquire().await.map_err(|_| Failure::Stopped)?;
        let mut stopping = self.0.stopping.subscribe();
        let invocation = async {
            let mut sandbox = self.sandbox().await?;
            let answer = sandbox.invoke(payload, self.0.spec.timeout).await;
            if matches!(answer, Ok(_) | Err(Failure::Error(_))) {
                lock(&self.0.idle).push(sandbox);
            } else {
                self.end(sandbox).await;
            }
            answer
        };
        tokio::select! {
            answer = invocation => answer,
            // Its process dies with the future that owns it.
            _ = stopping.wait_for(|stopping| *stopping) => Err(Failure::Stopped),
        }
    }

    /// Hands it an event and waits for nothing.
    pub fn send(&self, payload: Bytes) {
        let function = self.clone();
        tokio::spawn(async move { function.deliver(payload).await });
    }

    async fn deliver(&self, payload: Bytes) {
        let mut waits = self.0.spec.retries.iter().copied();
        loop {
            let why = match self.invoke(payload.clone()).await {
                Ok(_) | Err(Failure::Stopped) => return,
                Err(why) => why,
            };
            let again = waits.next();
            self.report(FunctionUpdate::Failed { why, again });
            let Some(wait) = again else { return };
            tokio::time::sleep(wait).await;
        }
    }

    /// Ends all its processes, and answers nothing any more.
    pub async fn stop(&self) {
        self.0.stopping.send_replace(true);
        self.0.slots.close();
        let idle = std::mem::take(&mut *lock(&self.0.idle));
        for sandbox in idle {
            self.end(sandbox).await;
        }
    }

    /// A process that has nothing to do.
    async fn sandbox(&self) -> Result<Sandbox, Failure> {
        loop {
            let Some(mut sandbox) = lock(&self.0.idle).pop() else { break };
            if sandbox.is_alive() {
                return Ok(sandbox);
            }
            self.end(sandbox).await;
        }
        let updates = {
            let (updates, name) = (self.0.updates.clone(), self.0.spec.name.clone());
            move |update| {
                let _ = updates.send((name.clone(), update));
            }
        };
        let sandbox = Sandbox::start(&self.0.spec, &self.0.launcher, updates).await?;
        lock(&self.0.processes).push(sandbox.process());
        Ok(sandbox)
    }

    async fn end(&self, sandbox: Sandbox) {
        let pid = sandbox.process().pid;
        sandbox.end().await;
        lock(&self.0.processes).retain(|process| process.pid != pid);
    }

    fn report(&self, update: FunctionUpdate) {
        let _ = self.0.updates.send((self.0.spec.name.clone(), update));
    }
}

/// Nothing panics while it holds one of these, and nothing is half done in them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
