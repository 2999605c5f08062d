//! Applies what the Kubernetes API answers about the Node object of a case: what is so outweighs what was reported.
//!
//! A snapshot can be newer than every line of the audit log (a consistent read, as verification makes) or older than some
//! (a list from the API server's cache, as reconciling makes). In both cases it heals what a lost line left behind, and it
//! never undoes a later line.

use jiff::{SignedDuration, Timestamp};

use super::{Case, CaseEvent, Condition, SourceState};
use crate::{
    clock::History,
    condition::{ConditionType, Health},
    ident::BootId,
    node_snapshot::{NodeSnapshot, SnapshotCondition},
    observation::{Observation, ObservedCondition},
    policy::Policy,
};

/// How long a read may take: what it finds can have been written since it began.
const READ_DURATION: SignedDuration = SignedDuration::from_secs(120);

/// How current a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It reflects every write that was complete when it was read.
    Latest,
    /// It can be older, as the API server's cache is.
    Cached,
}

/// Why a snapshot proves nothing about a case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotThisNode {
    /// The Node of this name stands for another instance, or for none.
    #[error("the Node {node} has the provider ID of {}, not of {expected}", other.as_deref().unwrap_or("no instance"))]
    OtherInstance {
        /// The Node's name.
        node: String,
        /// The instance of its provider ID.
        other: Option<String>,
        /// The instance of the case.
        expected: String,
    },
}

/// The state of one condition in a Node object.
struct Current<'a> {
    observed: &'a ObservedCondition,
    /// When it began, if that is known.
    since: Option<Timestamp>,
    consistency: Consistency,
}

impl Case {
    /// Applies the Node object of this instance; `None` if there is none. `read_at` is when the read began.
    pub fn apply_snapshot(
        &mut self,
        node: Option<&NodeSnapshot>,
        consistency: Consistency,
        read_at: Timestamp,
        policy: &Policy,
    ) -> Result<Vec<CaseEvent>, NotThisNode> {
        let mut events = Vec::new();
        let Some(node) = node else {
            self.apply_absence(consistency, read_at, policy, &mut events);
            return Ok(events);
        };
        let same_object = self.node_uid.is_some() && self.node_uid == node.uid;
        if node.instance_id.as_ref() != Some(&self.instance_id)
            && !(node.instance_id.is_none() && same_object)
        {
            return Err(NotThisNode::OtherInstance {
                node: node.name.to_string(),
                other: node.instance_id.as_ref().map(ToString::to_string),
                expected: self.instance_id.to_string(),
            });
        }
        self.account.clone_from(&policy.account);
        if self.closed.is_some() {
            let is_ready = |now: &SnapshotCondition| {
                now.observed.condition == ConditionType::Ready && now.observed.health == Health::Healthy
            };
            // A Node object can outlive its instance for a while; one whose kubelet reports does not.
            if node.conditions.iter().any(is_ready) {
                self.note_sign_of_life(read_at);
            }
            return Ok(events);
        }
        self.node = Some(node.name.clone());
        self.joined(node.created.unwrap_or(read_at));
        let is_plausible = |at: &Timestamp| at.duration_since(read_at) <= READ_DURATION;
        let created = node.created.filter(is_plausible).unwrap_or(read_at);
        let new_object = self.node_uid.is_some() && !same_object;
        // A deletion that an object of the same uid contradicts was none, or is still held back by a finalizer.
        if (new_object || self.is_deleted_before(created)) && self.begin_node_object(created) {
            events.push(CaseEvent::Registered);
        }
        if node.uid.is_some() {
            self.node_uid.clone_from(&node.uid);
        }
        // After a reboot the object has the old boot until its kubelet posts the new one. A line of the audit log has a
        // time that shows which it is; a snapshot has none.
        let is_old = |boot_id: &&BootId| self.old_boots.iter().any(|old| old.id == **boot_id);
        if let Some(boot_id) = node.boot_id.as_ref().filter(|boot_id| !is_old(boot_id)) {
            self.apply_boot_id(boot_id, read_at, &mut events);
        }
        // The Node of an instance in a warm pool stays, and is Ready again once that is drawn.
        let is_ready = |now: &&SnapshotCondition| {
            now.observed.condition == ConditionType::Ready && now.observed.health == Health::Healthy
        };
        if let Some(ready) = node.conditions.iter().find(is_ready).and_then(|ready| ready.since) {
            self.leave_warm_pool(ready);
        }
        self.apply_marks(node, consistency, read_at);
        for condition in &node.conditions {
            // Only the node controller sets Unknown, by the control plane's clock. Anything else is dated by the node's own: a
            // time of the future would make later lines look older. A fault of that time is left to the next read.
            let unknown = condition.observed.health == Health::Unknown;
            let since = condition.since.filter(|since| *since <= read_at || unknown && is_plausible(since));
            let is_later = since.is_none() && condition.since.as_ref().is_some_and(is_plausible);
            if is_later && condition.observed.health == Health::Bad {
                continue;
            }
            let current = Current { observed: &condition.observed, since, consistency };
            self.apply_current(current, read_at, policy, &mut events);
        }
        let removed: Vec<_> = self
            .conditions
            .iter()
            .filter(|known| known.is_bad_by_the_control_plane(policy))
            .filter(|known| node.conditions.iter().all(|now| now.observed.condition != known.condition))
            .map(|known| ObservedCondition {
                condition: known.condition.clone(),
                health: Health::Healthy,
                reason: "Removed".to_owned(),
                message: "the Node does not have the condition".to_owned(),
            })
            .collect();
        for observed in &removed {
            let current = Current { observed, since: None, consistency };
            self.apply_current(current, read_at, policy, &mut events);
        }
        Ok(events)
    }

    /// Applies the marks of a Node object alone, if it is this instance's: what people write on it holds for every fault.
    pub fn apply_marks(&mut self, node: &NodeSnapshot, consistency: Consistency, read_at: Timestamp) {
        if self.closed.is_none() && node.instance_id.as_ref() == Some(&self.instance_id) {
            let cached = consistency == Consistency::Cached;
            self.marks.apply_current(node.hold.as_deref(), node.cordoned, cached, read_at);
        }
    }

    /// There is no Node object of this instance. Only a node that has been one can have been deleted.
    fn apply_absence(
        &mut self,
        consistency: Consistency,
        read_at: Timestamp,
        policy: &Policy,
        events: &mut Vec<CaseEvent>,
    ) {
        if self.closed.is_some() || !self.is_named_by_the_control_plane() || self.is_deleted() {
            return;
        }
        let gone = ObservedCondition {
            condition: ConditionType::Ready,
            health: Health::Bad,
            reason: "NodeDeleted".to_owned(),
            message: "the Node object does not exist".to_owned(),
        };
        if consistency == Consistency::Latest {
            let _ = self.apply_conditions(&[gone], read_at, read_at, policy, events);
        }
    }

    /// Applies the state of a condition at the time of reading.
    fn apply_current(
        &mut self,
        Current { observed, since, consistency }: Current<'_>,
        read_at: Timestamp,
        policy: &Policy,
        events: &mut Vec<CaseEvent>,
    ) {
        let known = self.control_plane_history(&observed.condition);
        // A new node is awaited until it is Ready.
        let is_awaited = observed.condition == ConditionType::Ready
            && self.arrival.as_ref().is_some_and(|arrival| arrival.ready.is_none());
        let Some(history) = known else {
            // Nothing was ever reported of a healthy condition: there is nothing to heal.
            if observed.health.is_bad() || is_awaited {
                let at = since.unwrap_or(read_at);
                self.apply_conditions(std::slice::from_ref(observed), at, read_at, policy, events);
            }
            return;
        };
        let Some(reading) = history.read(policy.recovery_hold) else {
            self.apply_conditions(
                std::slice::from_ref(observed),
                since.unwrap_or(read_at),
                read_at,
                policy,
                events,
            );
            return;
        };
        if reading.health.is_bad() == observed.health.is_bad() {
            let last = history.last_change().map(|last| last.at);
            let missed = last.zip(since).filter(|(last, since)| {
                (reading.health, observed.health) == (Health::Unknown, Health::Unknown)
                    && since.duration_since(*last) > policy.recovery_hold
            });
            if let Some(between) = missed {
                self.apply_missed_recovery(observed, between, read_at, policy, events);
            }
            return;
        }
        let at = match since.filter(|since| !history.is_after(*since)) {
            Some(since) => since,
            None if consistency == Consistency::Latest && !history.is_after(read_at) => read_at,
            // A later line is known: the snapshot is older.
            None => return,
        };
        self.apply_conditions(std::slice::from_ref(observed), at, read_at, policy, events);
    }

    /// A condition that was Unknown and is so again since a later time was something else in between. When it was is not
    /// known: it counts as a recovery that held, so that the fault of now has its own grace period.
    fn apply_missed_recovery(
        &mut self,
        observed: &ObservedCondition,
        (last, since): (Timestamp, Timestamp),
        read_at: Timestamp,
        policy: &Policy,
        events: &mut Vec<CaseEvent>,
    ) {
        let recovered = ObservedCondition {
            condition: observed.condition.clone(),
            health: Health::Healthy,
            reason: "Recovered".to_owned(),
            message: format!("it changed between {last} and {since}, and no line of that arrived"),
        };
        let between = last + SignedDuration::from_millis(1);
        self.apply_conditions(&[recovered], between, read_at, policy, events);
        self.apply_conditions(std::slice::from_ref(observed), since, read_at, policy, events);
    }

    /// Notes that the control plane's log has been read, and applied, up to then.
    pub fn record_log_read(&mut self, read_to: Timestamp) {
        self.log_read_to = self.log_read_to.max(Some(read_to));
    }

    /// Whether an observation can be of this instance's Node object.
    pub fn may_concern(&self, observation: &Observation) -> bool {
        match &observation.instance_id {
            Some(instance_id) => *instance_id == self.instance_id,
            None => self.node.as_ref() == Some(&observation.node),
        }
    }

    /// Whether this instance has a Node object, as far as is known: where there is none, its deletion was missed.
    pub fn expects_node_object(&self) -> bool {
        self.closed.is_none()
            && self.departure.is_none()
            && self.is_named_by_the_control_plane()
            && !self.is_deleted()
    }

    /// When the control plane last reported a change of this condition: within one fault it can recover for a while.
    pub fn last_change(&self, condition: &ConditionType) -> Option<Timestamp> {
        Some(self.control_plane_history(condition)?.last_change()?.at)
    }

    /// Whether its node is known to have been Ready by then.
    pub fn was_ready_by(&self, at: Timestamp) -> bool {
        self.ready_known_since().is_some_and(|since| since <= at)
    }

    /// When the present Node object first became Ready, as far as is known.
    pub(super) fn ready_known_since(&self) -> Option<Timestamp> {
        self.control_plane_history(&ConditionType::Ready)?.first_healthy()
    }

    fn control_plane_history(&self, condition: &ConditionType) -> Option<&History> {
        self.conditions.iter().find_map(|known| match &known.state {
            SourceState::ControlPlane(history) if known.condition == *condition => Some(history),
            _ => None,
        })
    }

    /// Whether the latest that is known of its Node object is its deletion.
    fn is_deleted(&self) -> bool {
        self.deleted_at().is_some()
    }

    fn is_deleted_before(&self, created: Timestamp) -> bool {
        self.deleted_at().is_some_and(|deleted| deleted <= created)
    }

    fn deleted_at(&self) -> Option<Timestamp> {
        let last = self.control_plane_history(&ConditionType::Ready)?.last_change()?;
        (&*last.reason == "NodeDeleted").then_some(last.at)
    }
}

impl Condition {
    fn is_bad_by_the_control_plane(&self, policy: &Policy) -> bool {
        match &self.state {
            SourceState::Agent { .. } => false,
            SourceState::ControlPlane(history) => {
                history.read(policy.recovery_hold).is_some_and(|reading| reading.health.is_bad())
            }
        }
    }
}
