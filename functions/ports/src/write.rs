//! The one way in which a case is changed, with its group and its audit log.
//!
//! Every write is conditional on the versions that were read. There are two modes, and [`update_group`] for what concerns a
//! group and none of its cases:
//! - [`update`]: read, apply, plan, commit, and retry after a lost race. For facts that no other write changes: a
//!   report, an answer, an event.
//! - [`write_exactly`]: write what was decided on this version, or nothing. For decisions: applied to a later version,
//!   the end of one repair could end the next one.

use jiff::Timestamp;
use nodemend_domain::{
    audit_log::AuditEntry,
    case::{Case, Effects, IllegalTransition},
    group::GroupState,
    ident::{ClusterName, GroupName},
    policy::Policy,
    repair_event::RepairEvent,
};

use crate::store::{CaseKey, CaseWrite, Commit, Store, StoreError};

/// Attempts of one update.
const MAX_ATTEMPTS: usize = 16;

/// Why a case could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The case could not be read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// The store failed. Whether the case is written is unknown.
    #[error("failed to write case {case}")]
    Commit {
        /// The case's id.
        case: String,
        /// The store's error.
        source: StoreError,
    },
    /// Another process wrote the case first, each time.
    #[error("failed to write case {0}: lost the race {MAX_ATTEMPTS} times")]
    Contended(String),
}

impl WriteError {
    /// The ID of the case, if it could be read.
    pub fn case(&self) -> Option<&str> {
        match self {
            Self::Read(_) => None,
            Self::Commit { case, .. } | Self::Contended(case) => Some(case),
        }
    }

    /// Whether a retry can help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(source) | Self::Commit { source, .. } => source.is_retryable(),
            Self::Contended(_) => true,
        }
    }
}

/// The items that an update changes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The case.
    pub key: &'a CaseKey,
    /// The group that changes with it.
    pub group: Option<&'a GroupName>,
    /// Whether to create the case if there is none.
    pub create: bool,
}

impl<'a> Target<'a> {
    /// An existing case alone.
    pub fn case(key: &'a CaseKey) -> Self {
        Self { key, group: None, create: false }
    }

    /// The same, with its group.
    #[must_use]
    pub fn with_group(self, group: Option<&'a GroupName>) -> Self {
        Self { group, ..self }
    }

    /// The same, created if there is none.
    #[must_use]
    pub fn or_new(self) -> Self {
        Self { create: true, ..self }
    }
}

/// The result of an update.
#[derive(Debug)]
pub enum Update {
    /// Written; these events are to be published.
    Written(Vec<RepairEvent>),
    /// Nothing changed, and nothing was written; these events are to be published all the same.
    Unchanged(Vec<RepairEvent>),
    /// There is no such case.
    NoCase,
    /// The case's state does not allow the change: another process was faster.
    Refused(IllegalTransition),
}

impl Update {
    /// The events to publish.
    pub fn into_events(self) -> Vec<RepairEvent> {
        match self {
            Self::Written(events) | Self::Unchanged(events) => events,
            Self::NoCase | Self::Refused(_) => Vec::new(),
        }
    }

    /// Whether there is such a case.
    pub fn found(&self) -> bool {
        !matches!(self, Self::NoCase)
    }
}

/// Reads the case and its group, applies the change, plans the next evaluation and commits. After a lost race it starts
/// again, so the change may be applied several times, each time to the newest version.
pub async fn update<S: Store>(
    store: &S,
    target: Target<'_>,
    policy: &Policy,
    now: Timestamp,
    mut change: impl FnMut(&mut Case, Option<&mut GroupState>) -> Result<Effects, IllegalTransition>,
) -> Result<Update, WriteError> {
    let Target { key, group, create } = target;
    let mut id = key.instance_id.to_string();
    for _ in 0..MAX_ATTEMPTS {
        let known = store.case(key).await?;
        let mut case = match &known {
            Some(case) => case.clone(),
            None if create => Box::new(Case::new(key.cluster.clone(), key.instance_id.clone())),
            None => return Ok(Update::NoCase),
        };
        let known_group = match group {
            Some(name) => Some(store.group(&key.cluster, name).await?),
            None => None,
        };
        let mut state = known_group.clone();
        let Effects { records, events } = match change(&mut case, state.as_mut()) {
            Ok(effects) => effects,
            Err(refused) => return Ok(Update::Refused(refused)),
        };
        case.plan(policy, now);
        if records.is_empty() && known.as_ref() == Some(&case) && known_group == state {
            return Ok(Update::Unchanged(events));
        }
        id = case.id();
        let write = CaseWrite { case: &case, group: state.as_ref(), entries: &records };
        match store.commit(write).await {
            Ok(Commit::Won) => return Ok(Update::Written(events)),
            Ok(Commit::Lost) => {}
            Err(source) => return Err(WriteError::Commit { case: id, source }),
        }
    }
    Err(WriteError::Contended(id))
}

/// Reads a group, applies the change and writes it if that changed anything. After a lost race it starts again. Returns
/// the group as it was before the change that was written; none if nothing changed.
pub async fn update_group<S: Store>(
    store: &S,
    cluster: &ClusterName,
    name: &GroupName,
    mut change: impl FnMut(&mut GroupState) -> bool,
) -> Result<Option<GroupState>, WriteError> {
    for _ in 0..MAX_ATTEMPTS {
        let before = store.group(cluster, name).await?;
        let mut group = before.clone();
        if !change(&mut group) {
            return Ok(None);
        }
        match store.put_group(&group).await? {
            Commit::Won => return Ok(Some(before)),
            Commit::Lost => {}
        }
    }
    Err(WriteError::Contended(name.to_string()))
}

/// Plans the next evaluation and writes this version of the case, or nothing. [`Commit::Lost`] means that another
/// process wrote first: the decision may no longer be right, and is made again. On [`Commit::Won`] the case in memory
/// has the version that was written.
pub async fn write_exactly<S: Store>(
    store: &S,
    case: &mut Case,
    group: Option<&GroupState>,
    records: &[AuditEntry],
    policy: &Policy,
    now: Timestamp,
) -> Result<Commit, StoreError> {
    case.plan(policy, now);
    let commit = store.commit(CaseWrite { case, group, entries: records }).await?;
    if commit == Commit::Won {
        *case = case.next_version();
    }
    Ok(commit)
}
