//! Turns a termination that a lifecycle hook holds into a node without pods, and lets it go.
//!
//! The termination is decided before anything here begins, and nothing here may stop it: a drain has its time, and at
//! its end the hook is completed whatever is left. Every step may be repeated; of two who drain the same node, both are
//! right.

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

pub use self::event::{EventError, Heard};

/// How often Auto Scaling is told that we are still here. A hook's own time is 30 s at least.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(15);
/// How often the completion is tried before it is left to the next invocation.
const COMPLETIONS: u32 = 4;
/// After a request that failed.
const RETRY: SignedDuration = SignedDuration::from_secs(3);
/// Between them; doubles.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(2);

/// What is the same for every drain.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose nodes.
    pub cluster: ClusterName,
    /// The name of the hook that is ours. Others hold terminations for others' ends.
    pub hook: String,
    /// How long a node is drained, from the moment that the hook holds it.
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

/// What became of a held termination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Which.
    pub hook: Hook,
    /// Its node, where it had one.
    pub node: Option<NodeName>,
    /// How it ended.
    pub outcome: DrainOutcome,
    /// How many evictions the cluster took.
    pub evicted: usize,
    /// How long it took.
    pub took: SignedDuration,
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainOutcome {
    /// The node was empty, and the termination goes on.
    Emptied,
    /// There was nothing to drain, and it goes on.
    Skipped(Dead),
    /// It goes on, though not all is done: these pods, and why nobody could do more.
    Incomplete {
        /// What is left on the node, as far as it is known.
        left: Vec<Left>,
        /// What kept us from more than that, if it was not the pods.
        why: Option<String>,
    },
    /// Somebody else let it go on, or its time was up.
    Over,
}

/// Why a held termination must be looked at again.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// Nobody can say whose group it is.
    #[error("failed to look up the group of {instance_id}")]
    Group {
        /// The instance.
        instance_id: InstanceId,
        /// Why.
        source: CloudError,
    },
    /// It has a hook of ours, and is nobody's.
    #[error("failed to find whose the group {0} is: it has the hook, and no tag of a cluster")]
    Untagged(GroupName),
    /// The hook could not be completed.
    #[error("failed to complete the lifecycle action of {instance_id}")]
    Completion {
        /// The instance.
        instance_id: InstanceId,
        /// Why.
        source: CloudError,
    },
}

/// Where a drain is: what it must not forget from one step to the next.
struct Turn<'a> {
    hook: &'a Hook,
    node: Option<NodeName>,
    deadline: Timestamp,
    next_beat: Timestamp,
    evicted: usize,
}

impl<S: Store, H: Hooks, A: Kubernetes, K: Clock> Drainer<S, H, A, K> {
    /// A drainer on these ports.
    pub fn new(store: S, hooks: H, kubernetes: A, clock: K, settings: Settings) -> Self {
        Self { store, hooks, kubernetes, clock, settings }
    }

    /// Takes one EventBridge event in; nothing where it is not ours to drain.
    pub async fn handle(
        &self,
        payload: &[u8],
        wait_until: impl AsyncFn(Timestamp),
    ) -> Result<Option<Drained>, DrainError> {
        match Heard::read(payload)? {
            Heard::Held(hook) if hook.name == self.settings.hook => self.release(hook, wait_until).await,
            Heard::Held(_) | Heard::Irrelevant => Ok(None),
        }
    }

    /// Drains the node of a held termination, and lets it go on.
    async fn release(
        &self,
        hook: Hook,
        wait_until: impl AsyncFn(Timestamp),
    ) -> Result<Option<Drained>, DrainError> {
        let began = self.clock.now();
        // Every group of the account whose hook has this name is heard of, and may be another cluster's.
        let owner = self.hooks.owner(&hook.group).await;
        match owner.map_err(|source| DrainError::Group { instance_id: hook.instance_id.clone(), source })? {
            Owner::Cluster(cluster) if cluster == self.settings.cluster => {}
            Owner::Cluster(_) | Owner::NoGroup => return Ok(None),
            // Nobody will let it go on before its own time is up, and somebody should know.
            Owner::Nobody => return Err(DrainError::Untagged(hook.group)),
        }
        // From when it is held, so that a second try has no more time than the first; and from now, so that no clock of
        // somebody else's makes it longer than this invocation may take.
        let deadline = (hook.since + self.settings.time).min(began + self.settings.time);
        let mut turn = Turn { hook: &hook, node: None, deadline, next_beat: began, evicted: 0 };
        let outcome = match self.drain(&mut turn, &wait_until).await {
            DrainOutcome::Over => DrainOutcome::Over,
            outcome => match self.complete(&hook, &wait_until).await? {
                HookState::Held => outcome,
                HookState::Over => DrainOutcome::Over,
            },
        };
        let Turn { node, evicted, .. } = turn;
        let took = self.clock.now().duration_since(began);
        Ok(Some(Drained { hook, node, outcome, evicted, took }))
    }

    async fn complete(
        &self,
        hook: &Hook,
        wait_until: &impl AsyncFn(Timestamp),
    ) -> Result<HookState, DrainError> {
        let mut tries = 1;
        loop {
            match self.hooks.complete(hook).await {
                Ok(standing) => return Ok(standing),
                Err(source) if tries >= COMPLETIONS => {
                    // Lambda tries the event again, and Auto Scaling ends the hook by itself when its time is up.
                    return Err(DrainError::Completion { instance_id: hook.instance_id.clone(), source });
                }
                Err(_) => wait_until(self.clock.now() + FIRST_PAUSE * 2_i32.pow(tries - 1)).await,
            }
            tries += 1;
        }
    }

    /// What we know of the node ourselves. Where the store can't say, Kubernetes does.
    async fn case(&self, instance_id: &InstanceId) -> Option<Box<Case>> {
        let key = CaseKey { cluster: self.settings.cluster.clone(), instance_id: instance_id.clone() };
        self.store.case(&key).await.ok().flatten()
    }

    /// Tells Auto Scaling, when it is time to, that we are still here. What it can't be told now it is told soon.
    async fn beat(&self, turn: &mut Turn<'_>) -> HookState {
        let now = self.clock.now();
        if now < turn.next_beat {
            return HookState::Held;
        }
        match self.hooks.heartbeat(turn.hook).await {
            Ok(standing) => {
                turn.next_beat = now + HEARTBEAT;
                standing
            }
            Err(_) => {
                turn.next_beat = now + RETRY;
                HookState::Held
            }
        }
    }
}

/// What our own case says against a drain, and its node's name, if it knows one.
fn known(case: Option<&Case>) -> (Option<Dead>, Option<NodeName>) {
    (case.and_then(drain::dead_by_case), case.and_then(|case| case.node().cloned()))
}
