//! Runs a Lambda binary as a function that can be invoked. As in Lambda, each process takes one invocation at
//! a time over the Runtime API, and concurrent invocations have a process each.
//!
//! A failure is reported and, if the invocation is asynchronous, retried. After a process has crashed, timed
//! out or failed to start, the next invocation starts another one.
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

/// How long a process can take until it requests its first invocation.
pub const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The configuration of a function.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The name of the function.
    pub name: String,
    /// The path of its binary.
    pub program: PathBuf,
    /// Its environment variables, in addition to those that Lambda sets.
    pub environment: Vec<(String, String)>,
    /// The timeout of an invocation.
    pub timeout: Duration,
    /// The maximum number of concurrent invocations.
    pub concurrency: usize,
    /// The delay before each retry of an event. Lambda waits one minute, then two.
    pub retries: Vec<Duration>,
}

/// Why an invocation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The process could not be started, or ended before it requested an invocation.
    #[error("failed to start: {0}")]
    Init(String),
    /// The function answered with an error.
    #[error("{0}")]
    Error(String),
    /// The process ended instead of answering.
    #[error("the process ended: {0}")]
    Crashed(String),
    /// The function did not answer before its timeout.
    #[error("no answer within {}s", .0.as_secs())]
    TimedOut(Duration),
    /// The function is being stopped.
    #[error("stopped")]
    Stopped,
}

/// A log line or a failure of a function.
#[derive(Debug, Clone)]
pub enum FunctionUpdate {
    /// A line of its log, from stdout.
    Log(String),
    /// A line of its stderr.
    Stderr(String),
    /// The function failed to handle an event.
    Failed {
        /// The cause.
        why: Failure,
        /// The time until the retry; none after the last one.
        retry_in: Option<Duration>,
    },
}

/// A process of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The ID of the process.
    pub pid: u32,
    /// The time from its start to its first request for an invocation.
    pub init: Duration,
}

/// A function. Clones share its processes.
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
    /// A function without a process. Each update is sent with the function's name.
    pub fn new(spec: Spec, launcher: Launcher, updates: UnboundedSender<(String, FunctionUpdate)>) -> Self {
        let slots = Semaphore::new(spec.concurrency);
        let (stopping, _) = watch::channel(false);
        let (idle, processes) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { spec, launcher, updates, idle, processes, slots, stopping }))
    }

    /// The name of the function.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// The processes that run, the newest last.
    pub fn processes(&self) -> Vec<Process> {
        lock(&self.0.processes).clone()
    }

    /// Invokes the function and waits for the answer.
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
            // The process is killed when the future that owns it is dropped.
            _ = stopping.wait_for(|stopping| *stopping) => Err(Failure::Stopped),
        }
    }

    /// Invokes the function asynchronously: with retries, and without an answer.
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
            let retry_in = waits.next();
            self.report(FunctionUpdate::Failed { why, retry_in });
            let Some(wait) = retry_in else { return };
            tokio::time::sleep(wait).await;
        }
    }

    /// Ends all processes. Running and later invocations fail with [`Failure::Stopped`].
    pub async fn stop(&self) {
        self.0.stopping.send_replace(true);
        self.0.slots.close();
        let idle = std::mem::take(&mut *lock(&self.0.idle));
        for sandbox in idle {
            self.end(sandbox).await;
        }
    }

    /// An idle process, or a new one if none is idle.
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

/// A poisoned lock is used all the same: no code panics while it has the lock, and the content is always
/// complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
