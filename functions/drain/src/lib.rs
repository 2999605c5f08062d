//! Drains the node of a termination that a lifecycle hook holds, and completes the hook.
//!
//! - The termination is decided already, and a drain never stops it: the hook is completed at the time limit, even if
//!   pods are left.
//! - Every step can be repeated, and two invocations can drain the same node.

pub mod event;
mod step;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Case,
    drain::{self, Dead, Hook, Left},
    ident::{ClusterName, GroupName, InstanceId, NodeName},
};
use nodemend_ports::{
    clock::Clock,
    cloud::CloudError,
    kubernetes::Kubernetes,
    lifecycle::{HookState, Hooks, Owner},
    store::{CaseKey, Store},
};

pub use self::event::{EventError, HookEvent};

/// The interval of heartbeats to Auto Scaling. A hook's timeout is at least 30 s.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(15);
/// Attempts to complete the hook before the invocation fails, and Lambda retries it.
const MAX_COMPLETIONS: u32 = 4;
/// The wait after a request that failed.
const RETRY: SignedDuration = SignedDuration::from_secs(3);
/// The first wait between these attempts; it doubles with each one.
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(2);

/// The settings of all drains.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster whose nodes are drained.
    pub cluster: ClusterName,
    /// The name of our hook. Other hooks are ignored.
    pub hook: String,
    /// The time limit of a drain, from the time at which the hook holds the termination.
    pub time: SignedDuration,
}

/// Drains nodes.
#[derive(Debug)]
pub struct Drainer<S, H, A, K> {
    store: S,
    hooks: H,
    kubernetes: A,
    clock: K,
    settings: Settings,
}

/// The result of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// The hook.
    pub hook: Hook,
    /// The node, if the instance had one.
    pub node: Option<NodeName>,
    /// How it ended.
    pub outcome: DrainOutcome,
    /// The number of evictions that the API server accepted.
    pub evicted: usize,
    /// The duration.
    pub took: SignedDuration,
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainOutcome {
    /// All pods were evicted, and the termination continued.
    Emptied,
    /// There was nothing to drain, and the termination continued.
    Skipped(Dead),
    /// The termination continued with pods left on the node.
    Incomplete {
        /// The pods that are left on the node, as far as they are known.
        left: Vec<Left>,
        /// The error that prevented the drain, if the pods did not.
        why: Option<String>,
    },
    /// The termination continued: someone else completed the hook, or it timed out.
    Over,
}

/// Why a drain failed, and must be retried.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The event cannot be read.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The cluster of the group could not be read.
    #[error("failed to look up the group of {instance_id}")]
    Group {
        /// The instance.
        instance_id: InstanceId,
        /// The error.
        source: CloudError,
    },
    /// The group has our hook, but no tag of a cluster.
    #[error("failed to find the cluster of group {0}: it has the hook, but no cluster tag")]
    Untagged(GroupName),
    /// The hook could not be completed.
    #[error("failed to complete the lifecycle action of {instance_id}")]
    Completion {
        /// The instance.
        instance_id: InstanceId,
        /// The error.
        source: CloudError,
    },
}

/// The state of a drain in progress.
struct Progress<'a> {
    hook: &'a Hook,
    node: Option<NodeName>,
    deadline: Timestamp,
    next_heartbeat: Timestamp,
    evicted: usize,
}

impl<S: Store, H: Hooks, A: Kubernetes, K: Clock> Drainer<S, H, A, K> {
    /// A drainer on these ports.
    pub fn new(store: S, hooks: H, kubernetes: A, clock: K, settings: Settings) -> Self {
        Self { store, hooks, kubernetes, clock, settings }
    }

    /// Handles one EventBridge event. Returns `None` if there is nothing to drain for us.
    pub async fn handle(
        &self,
        payload: &[u8],
        wait_until: impl AsyncFn(Timestamp),
    ) -> Result<Option<Drained>, DrainError> {
        match HookEvent::read(payload)? {
            HookEvent::Held(hook) if hook.name == self.settings.hook => self.release(hook, wait_until).await,
            HookEvent::Held(_) | HookEvent::Irrelevant => Ok(None),
        }
    }

    /// Drains the node of a termination on hold, and completes the hook.
    async fn release(
        &self,
        hook: Hook,
        wait_until: impl AsyncFn(Timestamp),
    ) -> Result<Option<Drained>, DrainError> {
        let began = self.clock.now();
        // Events come from every group of the account whose hook has this name: it may be another cluster's.
        let owner = self.hooks.owner(&hook.group).await;
        match owner.map_err(|source| DrainError::Group { instance_id: hook.instance_id.clone(), source })? {
            Owner::Cluster(cluster) if cluster == self.settings.cluster => {}
            Owner::Cluster(_) | Owner::NoGroup => return Ok(None),
            // The termination stays on hold until the hook times out: an error, so that an operator notices.
            Owner::Untagged => return Err(DrainError::Untagged(hook.group)),
        }
        // From the start of the hold, so that a retry has no more time than the first invocation; and at most from now,
        // so that another machine's clock cannot extend it beyond this invocation's limit.
        let deadline = (hook.since + self.settings.time).min(began + self.settings.time);
        let mut progress = Progress { hook: &hook, node: None, deadline, next_heartbeat: began, evicted: 0 };
        let outcome = match self.drain(&mut progress, &wait_until).await {
            DrainOutcome::Over => DrainOutcome::Over,
            outcome => match self.complete(&hook, &wait_until).await? {
                HookState::Held => outcome,
                HookState::Over => DrainOutcome::Over,
            },
        };
        let Progress { node, evicted, .. } = progress;
        let took = self.clock.now().duration_since(began);
        Ok(Some(Drained { hook, node, outcome, evicted, took }))
    }

    async fn complete(
        &self,
        hook: &Hook,
        wait_until: &impl AsyncFn(Timestamp),
    ) -> Result<HookState, DrainError> {
        let mut attempts = 1;
        loop {
            match self.hooks.complete(hook).await {
                Ok(state) => return Ok(state),
                Err(source) if attempts >= MAX_COMPLETIONS => {
                    // Lambda retries the event, and the hook times out by itself.
                    return Err(DrainError::Completion { instance_id: hook.instance_id.clone(), source });
                }
                Err(_) => wait_until(self.clock.now() + FIRST_BACKOFF * 2_i32.pow(attempts - 1)).await,
            }
            attempts += 1;
        }
    }

    /// The node's case. If the store fails, Kubernetes alone has to do.
    async fn case(&self, instance_id: &InstanceId) -> Option<Box<Case>> {
        let key = CaseKey { cluster: self.settings.cluster.clone(), instance_id: instance_id.clone() };
        self.store.case(&key).await.ok().flatten()
    }

    /// Sends a heartbeat if one is due. A failed one is repeated soon.
    async fn heartbeat(&self, progress: &mut Progress<'_>) -> HookState {
        let now = self.clock.now();
        if now < progress.next_heartbeat {
            return HookState::Held;
        }
        match self.hooks.heartbeat(progress.hook).await {
            Ok(state) => {
                progress.next_heartbeat = now + HEARTBEAT;
                state
            }
            Err(_) => {
                progress.next_heartbeat = now + RETRY;
                HookState::Held
            }
        }
    }
}

/// Why the case rules a drain out, if it does, and the node's name, if the case has it.
fn known(case: Option<&Case>) -> (Option<Dead>, Option<NodeName>) {
    (case.and_then(drain::dead_by_case), case.and_then(|case| case.node().cloned()))
}
