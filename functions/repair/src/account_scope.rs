//! Selects the repairer for the account that a cluster is in.

use std::ops::Deref;

use nodemend_domain::policy::Policy;
use nodemend_ports::{audit_log::AuditLog, clock::Clock, cloud::Cloud, store::Store};

use crate::{RepairError, Repairer};

/// The repairer whose cloud port calls the cluster's account.
pub(crate) enum AccountScope<'r, S, C, K> {
    /// The cluster is in nodemend's own account.
    Own(&'r Repairer<S, C, K>),
    /// The cluster is in a member account.
    Member(Repairer<S, C, K>),
}

impl<S, C, K> Deref for AccountScope<'_, S, C, K> {
    type Target = Repairer<S, C, K>;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Own(repairer) => repairer,
            Self::Member(repairer) => repairer,
        }
    }
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    pub(crate) async fn account_scope(
        &self,
        policy: &Policy,
    ) -> Result<AccountScope<'_, S, C, K>, RepairError> {
        Ok(match &policy.account {
            None => AccountScope::Own(self),
            account => AccountScope::Member(Self {
                cloud: self.cloud.in_account(account.as_ref()).await?,
                ..self.clone()
            }),
        })
    }
}
