//! Tells why a node is, or is not, about to be repaired: the very decision that a sweep would make now. It reads only.

use std::sync::Arc;

use nodemend_adapters::{
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, Store},
    trail::Trail,
};
use nodemend_domain::{
    case::{Case, Fault, State},
    decide::{self, Answer, Decision, Triage},
    group::Whereabouts,
    ident::GroupName,
    policy::Policy,
};

use crate::{RepairError, Repairer, view::View};

/// Everything that a decision rests on.
#[derive(Debug)]
pub struct Explanation {
    /// The case.
    pub case: Box<Case>,
    /// Where it stands.
    pub state: State,
    /// Where AWS has its instance.
    pub whereabouts: Whereabouts,
    /// The group whose rules hold.
    pub group: GroupName,
    /// The policy.
    pub policy: Arc<Policy>,
    /// What is wrong, the earliest deadline first.
    pub faults: Vec<Fault>,
    /// What every guard says of the first of them; where nothing is wrong, of a kubelet that fell silent now.
    pub answers: Vec<Answer>,
    /// What a sweep would decide now.
    pub decision: Decision,
}

impl<S: Store + Trail + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Explains one case; none where it is unknown, or its cluster has no policy.
    pub async fn explain(&self, key: &CaseKey) -> Result<Option<Explanation>, RepairError> {
        let now = self.clock.now();
        let Some(case) = self.store.case(key).await? else {
            return Ok(None);
        };
        let mut view = View::default();
        let Some(policy) = view.policy(&self.store, &key.cluster).await? else {
            return Ok(None);
        };
        let here = self.here(&policy).await?;
        view.locate(&here.cloud, std::slice::from_ref(&case)).await?;
        let around = view.around(&self.store, &here.cloud, &case).await?;
        let surroundings = around.borrow();
        let no_tags = std::collections::BTreeMap::new();
        let tags = surroundings.group.map_or(&no_tags, |group| &group.tags);
        let rules = policy.rules_for(&around.state.name, tags);
        let (state, faults) = case.standing(Some(&rules), &policy, now);
        let subject = faults.first().cloned().unwrap_or_else(|| Fault::supposed(&rules, now));
        let answers = decide::explain(&case, &subject, &surroundings, &policy, now);
        let decision = match decide::triage(&case, &policy, now) {
            Triage::Settled(decision) => decision,
            Triage::NeedsSurroundings => decide::decide(&case, &surroundings, &policy, now),
        };
        let (group, whereabouts) = (around.state.name.clone(), around.whereabouts.clone());
        Ok(Some(Explanation {
            case,
            state,
            whereabouts,
            group,
            policy: policy.clone(),
            faults,
            answers,
            decision,
        }))
    }
}
