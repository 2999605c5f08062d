//! Turns what the control plane's audit log says into what its node's case knows.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Case, CaseEvent, Condition, Found, MAX_CONDITIONS, SourceState};
use crate::{
    clock::{ConditionChange, History},
    condition::{ConditionType, Health},
    ident::BootId,
    observation::{Deleter, Observation, ObservedCondition, StatusWriter, What},
    policy::Policy,
};

impl Case {
    /// Takes what the control plane's audit log says in.
    pub fn apply_observation(&mut self, observation: &Observation, policy: &Policy) -> Vec<CaseEvent> {
        let mut events = Vec::new();
        let at = observation.at;
        if self.closed.is_some() {
            return events;
        }
        self.node.get_or_insert_with(|| observation.node.clone());
        if self.zone.is_none() {
            self.zone.clone_from(&observation.zone);
        }
        match &observation.what {
            What::Conditions { by, conditions } => {
                if *by == StatusWriter::Kubelet {
                    self.kubelet_last_seen = self.kubelet_last_seen.max(Some(at));
                    self.joined(at);
                }
                if let Some(boot_id) = &observation.boot_id {
                    self.apply_boot_id(boot_id, at, &mut events);
                }
                self.apply_conditions(conditions, at, policy, &mut events);
            }
            What::Registered { conditions } => {
                self.registered(at);
                self.registered = self.registered.max(Some(at));
                self.kubelet_last_seen = self.kubelet_last_seen.max(Some(at));
                self.departure.take_if(|departure| departure.at < at && !departure.foreign);
                for condition in &mut self.conditions {
                    if let SourceState::ControlPlane(history) = &mut condition.state {
                        history.restart(at);
                    }
                }
                events.push(CaseEvent::Registered);
                // A kubelet registers before it is ready: that is no trouble to tell of.
                self.apply_conditions(conditions, at, policy, &mut Vec::new());
            }
            // A name comes again. What is older than this instance is the end of the one that had its name before.
            What::Deleted { .. } if self.came_after(at) => {}
            What::Deleted { by, user } => {
                events.push(CaseEvent::Deleted { by: *by, user: user.clone() });
                match by {
                    // The instance may well be running: its node is missing, and that is its trouble.
                    Deleter::Manual => {
                        let gone = ObservedCondition {
                            condition: ConditionType::Ready,
                            health: Health::Bad,
                            reason: "NodeDeleted".to_owned(),
                            message: format!("{user} deleted the Node object"),
                        };
                        self.apply_conditions(&[gone], at, policy, &mut events);
                    }
                    Deleter::CloudController => {
                        self.depart(at, "the cloud controller found its instance gone".to_owned(), false);
                    }
                    Deleter::Karpenter => self.depart(at, "Karpenter removed it".to_owned(), false),
                    Deleter::Eks => self.depart(at, "EKS removed it".to_owned(), false),
                }
            }
        }
        events
    }

    fn apply_boot_id(&mut self, boot_id: &BootId, at: Timestamp, events: &mut Vec<CaseEvent>) {
        let known = self.boot.as_ref().is_some_and(|boot| boot.id == *boot_id || boot.first_seen > at);
        if !known && !self.old_boots.contains(boot_id) {
            self.begin_boot(boot_id.clone(), at, None, events);
        }
    }

    fn apply_conditions(
        &mut self,
        conditions: &[ObservedCondition],
        at: Timestamp,
        policy: &Policy,
        events: &mut Vec<CaseEvent>,
    ) {
        for observed in conditions {
            let place = self.conditions.iter().position(|known| {
                known.condition == observed.condition && matches!(known.state, SourceState::ControlPlane(_))
            });
            let place = match place {
                Some(place) => place,
                None if self.conditions.len() >= MAX_CONDITIONS => continue,
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
            let known = &mut self.conditions[place];
            let SourceState::ControlPlane(history) = &mut known.state else {
                continue;
            };
            let hold = policy.recovery_hold;
            let before = history.read(hold).is_some_and(|reading| reading.health.is_bad());
            let change =
                ConditionChange { at, health: observed.health, reason: observed.reason.as_str().into() };
            let newest = !history.is_after(at);
            if !history.note(change, hold) {
                continue;
            }
            if newest && observed.health.is_bad() {
                let found = Found {
                    reason: observed.reason.as_str().into(),
                    message: observed.message.as_str().into(),
                };
                known.findings = Arc::new([found]);
            }
            let after = history.read(hold).is_some_and(|reading| reading.health.is_bad());
            if newest
                && observed.condition == ConditionType::Ready
                && observed.health == Health::Healthy
                && let Some(arrival) = self.arrival.as_mut().filter(|arrival| arrival.ready.is_none())
            {
                arrival.ready = Some(at);
                events.push(CaseEvent::Ready);
                continue;
            }
            match (before, after) {
                (false, true) => events.push(CaseEvent::Unhealthy(observed.condition.clone())),
                (true, false) => events.push(CaseEvent::Recovered(observed.condition.clone())),
                _ => {}
            }
        }
    }
}
