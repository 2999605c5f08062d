//! Takes a drain from the first look at its node to its last, and says how it ended. Nothing here fails: what can't be
//! done in the time that there is, is told.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    drain::{self, Drain, Evicted, Left, Next, PodId},
    ident::NodeName,
};
use nodemend_ports::{
    clock::Clock,
    kubernetes::{Kubernetes, KubernetesError},
    lifecycle::{HookState, Hooks},
    store::Store,
};

use crate::{Dead, DrainOutcome, Drainer, RETRY, Turn, known};

/// Who is not let in now may be in a moment: a right that was just given takes its time.
const DENIED_PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// Why a drain goes no further.
enum Stop {
    Over,
    Dead(Dead),
    Failed(KubernetesError),
}

impl<S: Store, H: Hooks, A: Kubernetes, K: Clock> Drainer<S, H, A, K> {
    pub(crate) async fn drain(
        &self,
        turn: &mut Turn<'_>,
        wait_until: &impl AsyncFn(Timestamp),
    ) -> DrainOutcome {
        if self.beat(turn).await == HookState::Over {
            return DrainOutcome::Over;
        }
        let (dead, name) = known(self.case(&turn.hook.instance_id).await.as_deref());
        if let Some(dead) = dead {
            return DrainOutcome::Skipped(dead);
        }
        let name = match name {
            Some(name) => name,
            None => match self.private_name(turn, wait_until).await {
                Ok(Some(name)) => name,
                Ok(None) => return DrainOutcome::Skipped(Dead::Nameless),
                Err(why) => return DrainOutcome::Incomplete { left: Vec::new(), why: Some(why) },
            },
        };
        turn.node = Some(name.clone());
        let mut drain = Drain::new(turn.deadline);
        let mut last_seen = Vec::new();
        let mut denied_since = None;
        let outcome = loop {
            if self.beat(turn).await == HookState::Over {
                break DrainOutcome::Over;
            }
            match self.look(turn, &name, &mut drain, &mut last_seen).await {
                Ok(Next::Evict(_)) => denied_since = None,
                Ok(Next::Look(at)) => {
                    denied_since = None;
                    wait_until(at.min(turn.next_beat)).await;
                }
                Ok(Next::Empty) => break DrainOutcome::Emptied,
                Ok(Next::GiveUp(left)) => break DrainOutcome::Incomplete { left, why: None },
                Err(Stop::Over) => break DrainOutcome::Over,
                Err(Stop::Dead(dead)) => break DrainOutcome::Skipped(dead),
                Err(Stop::Failed(error)) => {
                    let now = self.clock.now();
                    let hopeless = match error {
                        KubernetesError::Denied(_) => {
                            now.duration_since(*denied_since.get_or_insert(now)) >= DENIED_PATIENCE
                        }
                        KubernetesError::Unavailable(_) | KubernetesError::Broken(_) => false,
                    };
                    if hopeless || now >= turn.deadline {
                        break DrainOutcome::Incomplete { left: last_seen, why: Some(error.to_string()) };
                    }
                    wait_until((now + RETRY).min(turn.deadline)).await;
                }
            }
        };
        turn.evicted = drain.evicted();
        outcome
    }

    /// Looks at the node and its pods once, and evicts what is to be evicted now.
    async fn look(
        &self,
        turn: &mut Turn<'_>,
        name: &NodeName,
        drain: &mut Drain,
        last_seen: &mut Vec<Left>,
    ) -> Result<Next, Stop> {
        let node = self.kubernetes.node(name).await.map_err(Stop::Failed)?;
        if let Some(dead) = drain::dead_by_node(node.as_ref(), &turn.hook.instance_id) {
            return Err(Stop::Dead(dead));
        }
        if node.is_some_and(|node| !node.cordoned) {
            self.kubernetes.cordon(name).await.map_err(Stop::Failed)?;
        }
        let pods = self.kubernetes.pods(name).await.map_err(Stop::Failed)?;
        *last_seen = drain.left(&pods);
        let next = drain.next(&pods, self.clock.now());
        if let Next::Evict(due) = &next {
            self.evict(turn, due, drain).await?;
        }
        Ok(next)
    }

    async fn evict(&self, turn: &mut Turn<'_>, due: &[PodId], drain: &mut Drain) -> Result<(), Stop> {
        for pod in due {
            if self.clock.now() >= turn.deadline {
                return Ok(());
            }
            if self.beat(turn).await == HookState::Over {
                return Err(Stop::Over);
            }
            let evicted = match self.kubernetes.evict(pod).await {
                Ok(evicted) => evicted,
                Err(error @ KubernetesError::Denied(_)) => return Err(Stop::Failed(error)),
                // One pod that nobody can be asked for must not keep the others.
                Err(error) => Evicted::NotNow { why: error.to_string(), after: None },
            };
            drain.told(pod.clone(), evicted, self.clock.now());
        }
        Ok(())
    }

    /// The name that AWS gave the instance, for one that we never heard of.
    async fn private_name(
        &self,
        turn: &mut Turn<'_>,
        wait_until: &impl AsyncFn(Timestamp),
    ) -> Result<Option<NodeName>, String> {
        loop {
            match self.hooks.private_name(&turn.hook.instance_id).await {
                Ok(name) => return Ok(name),
                Err(error) if self.clock.now() >= turn.deadline => return Err(error.to_string()),
                Err(_) => {
                    wait_until((self.clock.now() + RETRY).min(turn.deadline)).await;
                    let _ = self.beat(turn).await;
                }
            }
        }
    }
}
