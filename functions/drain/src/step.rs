//! Runs one drain, from reading the node to its last pod.
//!
//! Nothing here fails: a drain that cannot be finished within its time limit is an outcome.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    drain::{self, Drain, Evicted, Left, Next, PodId},
    ident::NodeName,
};
use nodemend_ports::{
    cause::chain,
    clock::Clock,
    kubernetes::{Kubernetes, KubernetesError},
    lifecycle::{HookState, Hooks},
    store::Store,
};

use crate::{Dead, DrainOutcome, Drainer, Progress, RETRY, known};

/// How long refused requests are retried: a new access entry takes a while to become effective.
const DENIED_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

/// Why a drain stops.
enum Stop {
    Over,
    Dead(Dead),
    Failed(KubernetesError),
}

impl<S: Store, H: Hooks, A: Kubernetes, K: Clock> Drainer<S, H, A, K> {
    pub(crate) async fn drain(
        &self,
        progress: &mut Progress<'_>,
        wait_until: &impl AsyncFn(Timestamp),
    ) -> DrainOutcome {
        if self.heartbeat(progress).await == HookState::Over {
            return DrainOutcome::Over;
        }
        let (dead, name) = known(self.case(&progress.hook.instance_id).await.as_deref());
        if let Some(dead) = dead {
            return DrainOutcome::Skipped(dead);
        }
        let name = match name {
            Some(name) => name,
            None => match self.private_name(progress, wait_until).await {
                Ok(Some(name)) => name,
                Ok(None) => return DrainOutcome::Skipped(Dead::Nameless),
                Err(why) => return DrainOutcome::Incomplete { left: Vec::new(), why: Some(why) },
            },
        };
        progress.node = Some(name.clone());
        let mut drain = Drain::new(progress.deadline);
        let mut last_seen = Vec::new();
        let mut denied_since = None;
        let outcome = loop {
            if self.heartbeat(progress).await == HookState::Over {
                break DrainOutcome::Over;
            }
            match self.evaluate(progress, &name, &mut drain, &mut last_seen).await {
                Ok(Next::Evict(_)) => denied_since = None,
                Ok(Next::Wait(at)) => {
                    denied_since = None;
                    wait_until(at.min(progress.next_heartbeat)).await;
                }
                Ok(Next::Empty) => break DrainOutcome::Emptied,
                Ok(Next::GiveUp(left)) => break DrainOutcome::Incomplete { left, why: None },
                Err(Stop::Over) => break DrainOutcome::Over,
                Err(Stop::Dead(dead)) => break DrainOutcome::Skipped(dead),
                Err(Stop::Failed(error)) => {
                    let now = self.clock.now();
                    let give_up = match error {
                        KubernetesError::Denied(_) => {
                            now.duration_since(*denied_since.get_or_insert(now)) >= DENIED_TIMEOUT
                        }
                        KubernetesError::Unavailable(_)
                        | KubernetesError::Unreachable(_)
                        | KubernetesError::Broken(_) => false,
                    };
                    if give_up || now >= progress.deadline {
                        break DrainOutcome::Incomplete { left: last_seen, why: Some(chain(&error)) };
                    }
                    wait_until((now + RETRY).min(progress.deadline)).await;
                }
            }
        };
        progress.evicted = drain.evicted();
        outcome
    }

    /// Reads the node and its pods once, and evicts the pods that are due.
    async fn evaluate(
        &self,
        progress: &mut Progress<'_>,
        name: &NodeName,
        drain: &mut Drain,
        last_seen: &mut Vec<Left>,
    ) -> Result<Next, Stop> {
        let node = self.kubernetes.node(name).await.map_err(Stop::Failed)?;
        if let Some(dead) = drain::dead_by_node(node.as_ref(), &progress.hook.instance_id) {
            return Err(Stop::Dead(dead));
        }
        if node.is_some_and(|node| !node.cordoned) {
            self.kubernetes.cordon(name).await.map_err(Stop::Failed)?;
        }
        let pods = self.kubernetes.pods(name).await.map_err(Stop::Failed)?;
        *last_seen = drain.left(&pods);
        let next = drain.next(&pods, self.clock.now());
        if let Next::Evict(due) = &next {
            self.evict(progress, due, drain).await?;
        }
        Ok(next)
    }

    async fn evict(&self, progress: &mut Progress<'_>, due: &[PodId], drain: &mut Drain) -> Result<(), Stop> {
        for pod in due {
            if self.clock.now() >= progress.deadline {
                return Ok(());
            }
            if self.heartbeat(progress).await == HookState::Over {
                return Err(Stop::Over);
            }
            let evicted = match self.kubernetes.evict(pod).await {
                Ok(evicted) => evicted,
                Err(error @ KubernetesError::Denied(_)) => return Err(Stop::Failed(error)),
                // An error for one pod must not stop the others.
                Err(error) => Evicted::NotNow { why: chain(&error), after: None },
            };
            drain.record_answer(pod.clone(), evicted, self.clock.now());
        }
        Ok(())
    }

    /// The instance's private DNS name, for an instance without a case.
    async fn private_name(
        &self,
        progress: &mut Progress<'_>,
        wait_until: &impl AsyncFn(Timestamp),
    ) -> Result<Option<NodeName>, String> {
        loop {
            match self.hooks.private_name(&progress.hook.instance_id).await {
                Ok(name) => return Ok(name),
                Err(error) if self.clock.now() >= progress.deadline => return Err(chain(&error)),
                Err(_) => {
                    wait_until((self.clock.now() + RETRY).min(progress.deadline)).await;
                    let _ = self.heartbeat(progress).await;
                }
            }
        }
    }
}
