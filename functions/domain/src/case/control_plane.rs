//! Applies what the control plane's audit log reports about a Node object to the case of its instance.
//!
//! A Node object is identified by its name and its uid: what is reported about another object of the same
//! name, or about an object whose instance has registered under another name since, changes nothing here.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Case, CaseEvent, Condition, Found, NodeDeletion, SourceState};
use crate::{
    clock::{ConditionChange, History},
    condition::{ConditionType, Health},
    ident::BootId,
    observation::{Deleter, Observation, ObservedCondition, Removed, StatusWriter, What},
    policy::Policy,
};

impl Case {
    /// Applies an observation that arrived then, by our clock.
    pub fn apply_observation(
        &mut self,
        observation: &Observation,
        arrived: Timestamp,
        policy: &Policy,
    ) -> Vec<CaseEvent> {
        let mut events = Vec::new();
        let at = observation.at;
        if self.is_of_an_earlier_life(at) || !self.is_of_this_node(observation) {
            return events;
        }
        if self.is_about_the_end(observation) {
            // Another repair may await it: it joined, whatever became of it since.
            if observation.becomes_ready() {
                self.note_ready(at);
            }
            return events;
        }
        self.account.clone_from(&policy.account);
        self.note_kubelet_alive(observation, arrived);
        if observation.shows_ready() {
            self.leave_warm_pool(at);
        }
        self.adopt_node(observation);
        if self.zone.is_none() {
            self.zone.clone_from(&observation.zone);
        }
        match &observation.what {
            What::Conditions { by, conditions, removed } => {
                if *by == StatusWriter::Kubelet {
                    self.kubelet_last_seen = self.kubelet_last_seen.max(Some(at));
                    self.joined(at);
                }
                if let Some(boot_id) = &observation.boot_id {
                    self.apply_boot_id(boot_id, at, &mut events);
                }
                self.apply_conditions(conditions, at, arrived, policy, &mut events);
                let removed = self.removed_conditions(*by, removed, conditions);
                self.apply_conditions(&removed, at, arrived, policy, &mut events);
            }
            What::Registered { conditions } => {
                self.registered(at);
                self.kubelet_last_seen = self.kubelet_last_seen.max(Some(at));
                if self.begin_node_object(at) {
                    events.push(CaseEvent::Registered);
                }
                self.note_known_ready();
                // A kubelet registers before it is ready: that is no fault to report.
                self.apply_conditions(conditions, at, arrived, policy, &mut Vec::new());
            }
            What::Created { user, conditions } => {
                if self.begin_node_object(at) {
                    events.push(CaseEvent::Created { user: user.clone() });
                }
                self.apply_conditions(conditions, at, arrived, policy, &mut events);
            }
            What::Marked { by, change } => self.marks.apply(change, by, at),
            // A name comes again. What is older than this instance is the end of the one that had its name before.
            // And in a warm pool there is no node to miss.
            What::Deleted { .. } if self.came_after(at) || self.is_warm() => {}
            What::Deleted { by, user } => {
                let mut changes = Vec::new();
                let how = match by {
                    Deleter::Manual => None,
                    Deleter::CloudController => Some("the cloud controller found its instance gone"),
                    Deleter::Karpenter => Some("Karpenter removed it"),
                    Deleter::Eks => Some("EKS removed it"),
                };
                let first = match how {
                    // The instance may well be running: that its node is missing is its fault.
                    None => {
                        let gone = ObservedCondition {
                            condition: ConditionType::Ready,
                            health: Health::Bad,
                            reason: "NodeDeleted".to_owned(),
                            message: format!("{user} deleted the Node object"),
                        };
                        self.apply_conditions(&[gone], at, arrived, policy, &mut changes)
                    }
                    // The repair function asks Auto Scaling whether it is.
                    Some(how) => {
                        let user = user.clone();
                        self.depart_by_node_deletion(how, NodeDeletion { at, arrived, user, recorded: false })
                    }
                };
                // The same line can be delivered twice, and is read again by verification.
                if first {
                    events.push(CaseEvent::Deleted { by: *by, user: user.clone() });
                }
                events.append(&mut changes);
            }
        }
        // What is reported about an instance that is gone is published once AWS has it after all.
        if self.closed.is_some() { Vec::new() } else { events }
    }

    /// Whether an observation is about the Node object that stands for this instance, or about one that replaces it.
    fn is_of_this_node(&self, observation: &Observation) -> bool {
        let begins = matches!(observation.what, What::Registered { .. } | What::Created { .. });
        if begins {
            return self.registered.is_none_or(|registered| registered <= observation.at);
        }
        let other_object = self.node_uid.as_ref().zip(observation.uid.as_ref()).is_some_and(|(a, b)| a != b);
        let other_name = self.node.as_ref().is_some_and(|node| *node != observation.node);
        !other_object && (!other_name || !self.is_named_by_the_control_plane())
    }

    /// Whether its name is the control plane's. An agent's report names its node, too, but a node can claim any name.
    pub fn is_named_by_the_control_plane(&self) -> bool {
        self.registered.is_some() || self.kubelet_last_seen.is_some() || self.node_uid.is_some()
    }

    /// Takes the name and the uid of the Node object over, where the observation is one to have them from.
    fn adopt_node(&mut self, observation: &Observation) {
        let begins = matches!(observation.what, What::Registered { .. } | What::Created { .. });
        if begins || self.node.is_none() || !self.is_named_by_the_control_plane() {
            self.node = Some(observation.node.clone());
        }
        // A kubelet whose name an older object has writes to that object: its uid is not this instance's.
        let of_the_kubelet = matches!(
            observation.what,
            What::Conditions { by: StatusWriter::Kubelet, .. } | What::Deleted { .. }
        );
        if begins || (self.node_uid.is_none() && observation.instance_id.is_some() && !of_the_kubelet) {
            self.node_uid.clone_from(&observation.uid);
        }
    }

    /// A new Node object stands for this instance: the deletion of the one before is over, and its conditions with it.
    /// Returns whether that is news.
    pub(super) fn begin_node_object(&mut self, at: Timestamp) -> bool {
        if self.registered == Some(at) {
            return false;
        }
        self.registered = self.registered.max(Some(at));
        self.marks.begin_node_object(at);
        self.departure.take_if(|departure| departure.at < at && !departure.is_certain());
        for condition in &mut self.conditions {
            if let SourceState::ControlPlane(history) = &mut condition.state {
                history.restart(at);
            }
        }
        true
    }

    /// The conditions that a write took off the node, as healthy ones: nobody reports them any more. Ready and the pressure
    /// conditions are the kubelet's, and nobody else's to end.
    fn removed_conditions(
        &self,
        by: StatusWriter,
        removed: &Removed,
        reported: &[ObservedCondition],
    ) -> Vec<ObservedCondition> {
        let of_the_control_plane = |known: &&Condition| matches!(known.state, SourceState::ControlPlane(_));
        self.conditions
            .iter()
            .filter(of_the_control_plane)
            .map(|known| &known.condition)
            .filter(|condition| removed.contains(condition))
            .filter(|condition| by != StatusWriter::ThirdParty || !condition.is_kubelets())
            .filter(|condition| reported.iter().all(|reported| reported.condition != **condition))
            .map(|condition| ObservedCondition {
                condition: condition.clone(),
                health: Health::Healthy,
                reason: "Removed".to_owned(),
                message: "the condition was taken off the node".to_owned(),
            })
            .collect()
    }

    /// The kubelet's boot id is attested by the API server: it ends whatever an agent claimed of another boot before.
    pub(super) fn apply_boot_id(&mut self, boot_id: &BootId, at: Timestamp, events: &mut Vec<CaseEvent>) {
        if let Some(boot) = self.boot.as_mut().filter(|boot| boot.id == *boot_id) {
            boot.attested = true;
        }
        let known = self.boot.as_ref().is_some_and(|boot| boot.id == *boot_id || boot.first_seen > at);
        if !known {
            self.begin_boot(boot_id.clone(), at, None, events);
        }
    }

    /// Applies the conditions of one write. Returns whether any of them was not known yet.
    pub(super) fn apply_conditions(
        &mut self,
        conditions: &[ObservedCondition],
        at: Timestamp,
        arrived: Timestamp,
        policy: &Policy,
        events: &mut Vec<CaseEvent>,
    ) -> bool {
        let mut news = false;
        for observed in conditions {
            let index = self.conditions.iter().position(|known| {
                known.condition == observed.condition && matches!(known.state, SourceState::ControlPlane(_))
            });
            let index = match index {
                Some(index) => index,
                None if !self.has_room_for(&observed.condition, false) => continue,
                None => {
                    let mut history = History::default();
                    if let Some(registered) = self.registered {
                        history.restart(registered);
                    }
                    self.conditions.push(Condition {
                        condition: observed.condition.clone(),
                        state: SourceState::ControlPlane(history),
                        findings: Arc::default(),
                    });
                    self.conditions.len() - 1
                }
            };
            let known = &mut self.conditions[index];
            let SourceState::ControlPlane(history) = &mut known.state else {
                continue;
            };
            let hold = policy.recovery_hold;
            let before = history.read(hold).is_some_and(|reading| reading.health.is_bad());
            let reason = observed.reason.as_str().into();
            let change = ConditionChange { at, arrived, health: observed.health, reason };
            let newest = !history.is_after(at);
            if !history.note(change, hold) {
                continue;
            }
            news = true;
            if newest && observed.health.is_bad() {
                let found = Found {
                    reason: observed.reason.as_str().into(),
                    message: observed.message.as_str().into(),
                };
                known.findings = Arc::new([found]);
            }
            let after = history.read(hold).is_some_and(|reading| reading.health.is_bad());
            // It has been Ready, whatever was reported before this line arrived.
            if observed.condition == ConditionType::Ready
                && observed.health == Health::Healthy
                && self.note_ready(at)
            {
                events.push(CaseEvent::Ready);
                continue;
            }
            match (before, after) {
                (false, true) => events.push(CaseEvent::Unhealthy(observed.condition.clone())),
                (true, false) => events.push(CaseEvent::Recovered(observed.condition.clone())),
                _ => {}
            }
        }
        news
    }
}
