//! Explains why a node is, or is not, going to be repaired: the decision that a run would make now. It only reads.

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

/// A decision with all of its facts.
#[derive(Debug)]
pub struct Explanation {
    /// The case.
    pub case: Box<Case>,
    /// Its state.
    pub state: CaseState,
    /// The location of its instance.
    pub location: InstanceLocation,
    /// The group whose rules apply.
    pub group: GroupName,
    /// The policy.
    pub policy: Arc<Policy>,
    /// The faults, the earliest deadline first.
    pub faults: Vec<Fault>,
    /// The answers of all guards for the first fault or, on a healthy node, for a kubelet that became silent now.
    pub answers: Vec<GuardAnswer>,
    /// The decision of a run now.
    pub decision: Decision,
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Explains one case, or returns `None` if there is no case, or no policy for its cluster.
    pub async fn explain(&self, key: &CaseKey) -> Result<Option<Explanation>, RepairError> {
        let now = self.clock.now();
        let Some(case) = self.store.case(key).await? else {
            return Ok(None);
        };
        let mut cache = RunCache::at(now);
        let Some(policy) = cache.policy(&self.store, &key.cluster).await? else {
            return Ok(None);
        };
        let scope = self.account_scope(&policy).await?;
        cache.describe_instances(&scope.cloud, std::slice::from_ref(&case)).await?;
        let context = cache.context(&self.store, &scope.cloud, &case).await?;
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
