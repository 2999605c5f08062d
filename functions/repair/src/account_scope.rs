//! Leads a repairer to the account that a cluster is in.

use std::ops::Deref;

use nodemend_domain::policy::Policy;
use nodemend_ports::{audit_log::AuditLog, clock::Clock, cloud::Cloud, store::Store};

use crate::{RepairError, Repairer};

/// The same repairer where the cluster is.
pub(crate) enum Here<'r, S, C, K> {
    /// In nodemend's own account.
    Own(&'r Repairer<S, C, K>),
    /// In another.
    There(Repairer<S, C, K>),
}

impl<S, C, K> Deref for Here<'_, S, C, K> {
    type Target = Repairer<S, C, K>;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Own(repairer) => repairer,
            Self::There(repairer) => repairer,
        }
    }
}

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    pub(crate) async fn here(&self, policy: &Policy) -> Result<Here<'_, S, C, K>, RepairError> {
        Ok(match &policy.account {
            None => Here::Own(self),
            account => {
                Here::There(Self { cloud: self.cloud.in_account(account.as_ref()).await?, ..self.clone() })
            }
        })
    }
}
