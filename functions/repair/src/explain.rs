//! Tells why a node is, or is not, about to be repaired: the very decision that a sweep would make now. It reads only.

use std::sync::Arc;

use nodemend_domain::{
    case::{Case, CaseState, Fault},
    decide::{self, Decision, GuardAnswer, Triage},
    group::InstanceLocation,
    ident::GroupName,
    policy::Policy,
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::Clock,
    cloud::Cloud,
    store::{CaseKey, Store},
};

use crate::{RepairError, Repairer, run_cache::RunCache};

/// Everything that a decision rests on.
#[derive(Debug)]
pub struct Explanation {
    /// The case.
    pub case: Box<Case>,
    /// Where it stands.
    pub state: CaseState,
    /// Where AWS has its instance.
    pub location: InstanceLocation,
    /// The group whose rules hold.
    pub group: GroupName,
    /// The policy.
    pub policy: Arc<Policy>,
    /// What is wrong, the earliest deadline first.
    pub faults: Vec<Fault>,
    /// What every guard says of the first of them; where nothing is wrong, of a kubelet that fell silent now.
    pub answers: Vec<GuardAnswer>,
    /// What a sweep would decide now.
    pub decision: Decision,
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Explains one case; none where it is unknown, or its cluster has no policy.
    pub async fn explain(&self, key: &CaseKey) -> Result<Option<Explanation>, RepairError> {
        let now = self.clock.now();
        let Some(case) = self.store.case(key).await? else {
            return Ok(None);
        };
        let mut view = RunCache::default();
        let Some(policy) = view.policy(&self.store, &key.cluster).await? else {
            return Ok(None);
        };
        let here = self.here(&policy).await?;
        view.describe_instances(&here.cloud, std::slice::from_ref(&case)).await?;
        let context = view.context(&self.store, &here.cloud, &case).await?;
        let context = context.borrow();
        let no_tags = std::collections::BTreeMap::new();
        let tags = context.group.map_or(&no_tags, |group| &group.tags);
        let rules = policy.rules_for(context.state.name(), tags);
        let (state, faults) = case.state_and_faults(Some(&rules), &policy, now);
        let subject = faults.first().cloned().unwrap_or_else(|| Fault::hypothetical(&rules, now));
        let answers = decide::explain(&case, &subject, &context, &policy, now);
        let decision = match decide::triage(&case, &policy, now) {
            Triage::Settled(decision) => decision,
            Triage::NeedsContext => decide::decide(&case, &context, &policy, now),
        };
        let (group, location) = (context.state.name().clone(), context.location.clone());
        Ok(Some(Explanation {
            case,
            state,
            location,
            group,
            policy: policy.clone(),
            faults,
            answers,
            decision,
        }))
    }
}
